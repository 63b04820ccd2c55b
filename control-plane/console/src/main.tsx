// The console: a page over the REST API and the SDK, and nothing that is not open to every client.

import "./style/main.css";

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./app.js";
import { followAddress } from "./route.js";
import { parseFragment } from "./session/credential.js";
import { session } from "./session/session.js";
import { applyTheme } from "./theme.js";
import { Boundary } from "./ui/boundary.js";

/** Takes credentials out of the address before anybody sees, copies or bookmarks them; whether there were any. */
function takeCredentials(): boolean {
  const given = parseFragment(location.hash);
  if (given === undefined) return false;
  history.replaceState(null, "", location.pathname);
  void session.adopt(given);
  return true;
}

applyTheme();
if (!takeCredentials()) session.resume();
addEventListener("hashchange", takeCredentials);
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
