// Webhooks, as an operator sees them: one that works, one that does not, a test, off and on.

import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";

import { AxeBuilder } from "@axe-core/playwright";
import type { Page } from "@playwright/test";

import { expect, test } from "./support/world.js";

const PICTURES = fileURLToPath(new URL("../build/screenshots", import.meta.url));

/** An endpoint that answers with the status it has at the time. */
async function endpoint() {
  const told: { readonly type: string; readonly signature: string }[] = [];
  const state = { status: 204, told, url: "", close: () => {} };
  const server = createServer((request: IncomingMessage, response) => {
    let body = "";
    request.on("data", (part: Buffer) => {
      body += part.toString();
    });
    request.on("end", () => {
      const { type } = JSON.parse(body) as { type: string };
      told.push({ type, signature: String(request.headers["webhook-signature"]) });
      response.writeHead(state.status).end();
    });
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`;
  state.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return state;
}

async function check(page: Page, name: string): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  expect(
    serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`),
    name,
  ).toEqual([]);
  await page.screenshot({ path: `${PICTURES}/${name}.png`, animations: "disabled", caret: "hide" });
}

const go = (page: Page, place: string) =>
  page.evaluate((where) => {
    location.hash = where;
  }, place);

for (const scheme of ["light", "dark"] as const) {
  test(`a webhook in ${scheme} is made, tested, seen to fail, and turned off`, async ({ world }) => {
    const receiver = await endpoint();
    const { operator_key: operator, api_key: key } = world.server.ready;
    const { page } = await world.person("operator", { given: { keys: [operator, key] }, colorScheme: scheme });
    await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
    await go(page, "#/operate/webhooks");
    await expect(page.getByText("no application is told what happens")).toBeVisible();

    await page.getByRole("button", { name: "New webhook…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Endpoint").fill("https://10.0.0.1/");
    await dialog.getByLabel("Used for").fill("the search index");
    await dialog.getByRole("checkbox", { name: "message.sent" }).uncheck();
    await dialog.getByRole("button", { name: "Create webhook" }).click();
    await expect(dialog.getByRole("alert")).toContainText("no public address");
    await check(page, `new-webhook-${scheme}`);
    await dialog.getByLabel("Endpoint").fill(receiver.url);
    await dialog.getByRole("button", { name: "Create webhook" }).click();
    await expect(dialog.getByLabel(/shown this once/)).toHaveValue(/^whsec_/);
    await dialog.getByRole("button", { name: "I have it" }).click();

    await page.getByRole("link", { name: receiver.url }).click();
    await expect(page.getByRole("heading", { name: "the search index", level: 1 })).toBeVisible();
    await page.getByRole("button", { name: "Send a test" }).click();
    await expect(page.getByRole("status")).toContainText("took the test: 204");
    expect(receiver.told).toEqual([{ type: "webhook.test", signature: expect.stringMatching(/^v1,/) }]);
    await world.api("PUT", "/v1/users/eve", { display_name: "Eve" });
    const requests = page.getByRole("region", { name: "Requests" });
    await expect(requests.getByRole("row", { name: /user\.created/ })).toContainText("Delivered");
    expect(receiver.told.map(({ type }) => type)).toEqual(["webhook.test", "user.created"]);

    receiver.status = 503;
    await world.api("PUT", "/v1/users/eve", { display_name: "Eva" });
    await expect(requests.getByRole("row", { name: /user\.updated/ }).first()).toContainText(
      "the endpoint answered 503",
    );
    await expect(page.getByText("Failing", { exact: true })).toBeVisible();
    await check(page, `webhook-${scheme}`);
    await page.getByRole("button", { name: "Send a test" }).click();
    await expect(page.getByRole("status")).toContainText("did not take the test: the endpoint answered 503");

    await page.getByRole("button", { name: "Turn off" }).click();
    await expect(page.getByRole("button", { name: "Turn on" })).toBeVisible();
    receiver.status = 204;
    await page.getByRole("button", { name: "Turn on" }).click();
    // What waited is told at once, and not when its next attempt was to be.
    await expect(requests.getByRole("row", { name: /user\.updated.*Delivered/ })).toBeVisible();

    await page.getByRole("link", { name: "All webhooks" }).click();
    await expect(page.getByRole("row", { name: /the search index/ })).toContainText("On");
    await check(page, `webhooks-${scheme}`);
    await page.getByRole("link", { name: receiver.url }).click();
    await page.getByRole("button", { name: "Remove…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
    await expect(page.getByText("no application is told what happens")).toBeVisible();
    receiver.close();
  });
}

test("an operator without a tenant's key is told what is missing", async ({ world }) => {
  const { page } = await world.person("operator", { given: { keys: [world.server.ready.operator_key] } });
  await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
  await go(page, "#/operate/webhooks");
  await expect(page.getByText("sign in with an API key")).toBeVisible();
});
