import { expect, test } from "./support/world.js";

test("an operation is filled in, refused at its fields, mended, and answered", async ({ world }) => {
  const { console: address, api } = world.server.ready;
  const alice = await world.person("alice", { fragment: address.slice(address.indexOf("#") + 1) });
  const { page } = alice;
  await page.getByRole("link", { name: "Try" }).click();
  await page.getByRole("searchbox").fill("create a ch");
  await page.getByRole("link", { name: /Create a channel/ }).click();
  const form = page.getByRole("article", { name: "Create a channel" });
  await expect(form.getByText("Unique in the tenant")).toBeVisible();
  await form.getByLabel("As", { exact: true }).selectOption("API key");
  await form.getByLabel(/^kind/).selectOption("group");
  await form.getByLabel(/^name/).fill("not a name");
  await form.getByRole("button", { name: "Add to members" }).click();
  await form.getByLabel(/^user/).fill("a user");
  await form.getByRole("button", { name: "Send" }).click();
  const answer = page.getByRole("region", { name: "Answer" });
  await expect(answer.locator(".status")).toContainText("422");
  await expect(form.getByLabel(/^name/)).toHaveAttribute("aria-invalid", "true");
  await expect(form.getByLabel(/^user/)).toHaveAttribute("aria-invalid", "true");
  await expect(form.getByLabel(/^kind/)).toHaveAttribute("aria-invalid", "false");

  await form.getByLabel(/^name/).fill("tried");
  await form.getByLabel(/^user/).fill("o'hara@example");
  await form.getByLabel(/^role/).selectOption("owner");
  await form.getByLabel(/^metadata/).fill('{ "why": "it\'s a test" }');
  await form.getByRole("button", { name: "Send" }).click();
  await expect(answer.locator(".status")).toContainText("422");
  await form.getByLabel(/^user/).fill("ohara@example");
  const curl = page.getByRole("region", { name: "The same in a shell" }).locator("pre");
  await expect(curl).toContainText(`curl -X POST '${api}/v1/channels'`);
  await expect(curl).toContainText("it'\\''s a test");
  await expect(curl).toContainText("$MILLRACE_TOKEN");
  await expect(curl).not.toContainText(world.server.ready.api_key);
  await form.getByRole("button", { name: "Send" }).click();
  await expect(answer.locator(".status")).toContainText("201");
  await expect(answer).toContainText('"name": "tried"');
  await answer.getByText(/headers$/).click();
  await expect(answer.getByText("x-request-id")).toBeVisible();
  const made = await world.api<{ metadata: unknown }>("GET", "/v1/channels/tried");
  expect(made.metadata).toEqual({ why: "it's a test" });

  // Parameters in the path and in the query.
  await page.getByRole("searchbox").fill("read messages");
  await page.getByRole("link", { name: /Read messages/ }).click();
  const list = page.getByRole("article", { name: "Read messages" });
  await list.getByRole("button", { name: "Send" }).click();
  await expect(list.getByLabel(/^channel/)).toHaveAttribute("aria-invalid", "true");
  await list.getByLabel(/^channel/).fill("general");
  await list.getByLabel(/^limit/).fill("1000");
  await list.getByRole("button", { name: "Send" }).click();
  await expect(list.getByLabel(/^limit/)).toHaveAttribute("aria-invalid", "true");
  await list.getByLabel(/^limit/).fill("5");
  await list.getByRole("button", { name: "Send" }).click();
  await expect(answer.locator(".status")).toContainText("200");
});

test("a key signs in to Try, and chats as whom it names", async ({ world }) => {
  const { api_key, operator_key } = world.server.ready;
  const server = await world.person("nobody", { given: { keys: [api_key] } });
  const { page } = server;
  await expect(page.getByRole("searchbox")).toBeVisible();
  await page.getByRole("link", { name: "Chat" }).click();
  await page.getByLabel("User").fill("bob");
  await page.getByRole("button", { name: "Chat" }).click();
  await server.opened("General");
  const operator = await world.person("operator", { given: { keys: [operator_key] } });
  await operator.page.getByRole("searchbox").fill("list tenants");
  await operator.page.getByRole("link", { name: /List tenants/ }).click();
  await operator.page.getByRole("button", { name: "Send" }).click();
  await expect(operator.page.getByRole("region", { name: "Answer" })).toContainText('"dev"');
});
