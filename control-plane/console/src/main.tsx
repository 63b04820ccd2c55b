// The console: a page over the REST API and the SDK, and nothing that is not open to every client.

import "./style/main.css";

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./app.js";
import { followAddress } from "./route.js";
import { parseLink } from "./session/credential.js";
import { session } from "./session/session.js";
import { applyTheme } from "./theme.js";
import { Boundary } from "./ui/boundary.js";

const TOKEN_LINK = "A link with a token in it signs nobody in. Paste the token, or ask for a link with a code.";

/** Takes what signs in out of the address before anybody sees, copies or bookmarks it; whether there was anything of the kind. */
function takeLink(event?: HashChangeEvent): boolean {
  const link = parseLink(location.hash);
  if (link === undefined) return false;
  // An open page stays where it is.
  const before = event?.oldURL ? new URL(event.oldURL).hash : "";
  history.replaceState(null, "", location.pathname + (parseLink(before) === undefined ? before : ""));
  if (link.kind === "code") void session.takeCode(link.code);
  else session.resume(TOKEN_LINK);
  return true;
}

applyTheme();
if (!takeLink()) session.resume();
addEventListener("hashchange", takeLink);
followAddress();
const place = document.getElementById("console");
if (place === null) throw new Error("the page has no place for the console");
createRoot(place).render(
  <StrictMode>
    <Boundary>
      <App />
    </Boundary>
  </StrictMode>,
);
