import { expect, test } from "./support/world.js";

test("two browsers chat", async ({ world }) => {
  const alice = await world.person("alice");
  const bob = await world.person("bob");
  await alice.opened("General");
  await bob.opened("General");
  await expect(alice.log).toContainText("Nothing was said here yet");

  await alice.say("Hello, Bob");
  await expect(alice.message("Hello, Bob").getByRole("img", { name: "Sent" })).toBeVisible();
  await expect(bob.message("Hello, Bob")).toBeVisible();
  await expect(bob.log.getByText("Today")).toBeVisible();
  await bob.field.fill("two");
  await bob.field.press("Shift+Enter");
  await bob.field.pressSequentially("lines");
  await bob.field.press("Enter");
  await expect(alice.message("two\nlines")).toBeVisible();
  await expect(alice.message("two\nlines").getByText("Bob", { exact: true })).toBeVisible();
  await expect(bob.field).toHaveValue("");
  await expect(bob.field).toBeFocused();

  // All of it is there for who comes later, and after a reload.
  const carol = await world.person("carol");
  await expect(carol.message("two\nlines")).toBeVisible();
  await bob.page.reload();
  await expect(bob.message("two\nlines")).toBeVisible();
  expect(await bob.texts()).toEqual(["Hello, Bob", "two\nlines"]);
});

test("a one-click address signs in, and leaves no credential in the address", async ({ world }) => {
  const { console: address, api } = world.server.ready;
  const alice = await world.person("alice", { fragment: address.slice(address.indexOf("#") + 1) });
  await alice.opened("General");
  expect(alice.page.url()).toBe(`${api}/#/chat/general`);
  expect(await alice.page.evaluate(() => history.length)).toBeLessThanOrEqual(2);
  // As former versions of the page left it.
  await alice.page.evaluate(() =>
    localStorage.setItem("millrace.read.1.alice", '[["general",{"epoch":1,"offset":1}]]'),
  );
  await alice.page.getByRole("button", { name: "Sign out" }).click();
  await expect(alice.page.getByRole("textbox", { name: "Access token or key" })).toBeVisible();
  expect(await alice.page.evaluate(() => sessionStorage.length)).toBe(0);
  const left = await alice.page.evaluate(() => Object.keys(localStorage).join());
  expect(left, "names of channels stay with nobody").not.toContain("millrace.read.");
  // A link is good for one time, and one that carries credentials itself for none.
  const again = async (fragment: string, said: string) => {
    await alice.page.goto("about:blank");
    await alice.page.goto(`${api}/#${fragment}`);
    await expect(alice.page.getByRole("alert")).toContainText(said);
    expect(alice.page.url()).toBe(`${api}/`);
  };
  await again(address.slice(address.indexOf("#") + 1), "was used before");
  await again("code=mrc_nonsense", "was used before");
  await again(`token=${world.server.ready.token}`, "signs nobody in");

  const field = alice.page.getByRole("textbox", { name: "Access token or key" });
  await field.fill("nonsense");
  await alice.page.getByRole("button", { name: "Sign in" }).click();
  await expect(alice.page.getByRole("alert")).toContainText("neither an access token nor a key");
  await field.fill(`${world.server.ready.token}x`);
  await alice.page.getByRole("button", { name: "Sign in" }).click();
  await expect(alice.page.getByRole("alert")).toBeVisible();
  await field.fill(JSON.stringify(await world.signIn("bob")));
  await alice.page.getByRole("button", { name: "Sign in" }).click();
  await alice.opened("General");
  await expect(alice.page.getByRole("banner")).toContainText("Bob");
});

test("what is read in one browser is read in the other", async ({ world }) => {
  await world.api("POST", "/v1/channels", {
    kind: "group",
    name: "news",
    members: [{ user: "alice", role: "owner" }, { user: "bob" }],
  });
  await world.api("POST", "/v1/channels/news/messages", { user: "bob", text: "one" });
  await world.api("POST", "/v1/channels/news/messages", { user: "alice", text: "mine" });
  await world.api("POST", "/v1/channels/news/messages", { user: "bob", text: "two" });
  const [desk, phone] = [await world.person("alice"), await world.person("alice")];
  const onDesk = desk.page.getByRole("link", { name: /^news/ });
  const onPhone = phone.page.getByRole("link", { name: /^news/ });
  await expect(onDesk).toContainText("2 unread");
  await expect(onPhone).toContainText("2 unread");
  await onPhone.click();
  await phone.opened("news");
  await expect(onDesk).not.toContainText("unread");
  // Somebody writes while nobody looks; a page that is loaded anew knows as well.
  await phone.page.getByRole("link", { name: /^General/ }).click();
  await phone.opened("General");
  await world.api("POST", "/v1/channels/news/messages", { user: "bob", text: "three" });
  await expect(onPhone).toContainText("1 unread");
  await desk.page.reload();
  await expect(onDesk).toContainText("1 unread");
  await onDesk.click();
  await desk.opened("news");
  await expect(desk.message("three")).toBeVisible();
  await expect(desk.page.locator(".unread-line")).toHaveText("New");
  await expect(onPhone).not.toContainText("unread");
});

test("channels, direct messages, and what is unread", async ({ world }) => {
  const alice = await world.person("alice");
  const bob = await world.person("bob");
  await alice.opened("General");
  await bob.opened("General");
  const { page } = alice;

  await page.getByRole("button", { name: "New channel" }).click();
  const dialog = page.getByRole("dialog", { name: "New channel" });
  await dialog.getByLabel("Name").fill("with blanks in it");
  await dialog.getByRole("button", { name: "Create channel" }).click();
  await expect(dialog.getByRole("alert")).toBeVisible();
  await expect(dialog.getByLabel("Name")).toHaveAttribute("aria-invalid", "true");
  await dialog.getByLabel("Name").fill("plans");
  await dialog.getByLabel("Shown as").fill("Our plans");
  await dialog.getByRole("button", { name: "Create channel" }).click();
  await alice.opened("Our plans");
  await page.getByRole("button", { name: "Members", exact: true }).click();
  const members = page.getByRole("complementary", { name: "Members" });
  await members.getByLabel("Invite").fill("bob");
  await members.getByRole("button", { name: "Invite" }).click();
  await expect(members.getByRole("listitem")).toHaveCount(2);
  await expect(bob.page.getByRole("link", { name: "Our plans" })).toBeVisible();

  await bob.page.getByRole("button", { name: "New direct message" }).click();
  await bob.page.getByLabel("To").fill("alice");
  await bob.page.getByRole("button", { name: "Open" }).click();
  await bob.opened("Alice");
  await bob.say("psst");
  await bob.say("are you there?");
  const link = page.getByRole("link", { name: /^Bob/ });
  await expect(link).toContainText("2 unread");
  await expect(page).toHaveTitle("(2) Millrace");
  await page.keyboard.press("Alt+Shift+ArrowDown");
  await alice.opened("Bob");
  await expect(alice.message("are you there?")).toBeVisible();
  await expect(link).not.toContainText("unread");
  await expect(page).toHaveTitle("Millrace");

  // By keys alone.
  await page.keyboard.press("Control+k");
  await page.keyboard.type("gen");
  await page.keyboard.press("Enter");
  await alice.opened("General");
  await page.keyboard.press("Alt+ArrowDown");
  await alice.opened("Our plans");
  await page.keyboard.press("Alt+ArrowUp");
  await alice.opened("General");
  await expect(alice.field).toBeFocused();
});

test("of more channels than are followed live, it is said as well what is unread", async ({ world }) => {
  const names = Array.from({ length: 101 }, (_, index) => `c${String(index).padStart(3, "0")}`);
  const members = [{ user: "alice", role: "owner" }, { user: "bob" }];
  for (const name of [...names, "zoo"]) await world.api("POST", "/v1/channels", { kind: "group", name, members });
  await world.api("POST", "/v1/channels/zoo/messages", { user: "bob", text: "one" });
  const alice = await world.person("alice");
  await alice.opened("General");
  const zoo = alice.page.getByRole("link", { name: /^zoo/ });
  await expect(zoo).toContainText("1 unread");
  await expect(alice.page).toHaveTitle("(1) Millrace");
  await world.api("POST", "/v1/channels/zoo/messages", { user: "bob", text: "two" });
  await expect(zoo).toContainText("2 unread", { timeout: 20_000 });
  await zoo.click();
  await alice.opened("zoo");
  await expect(alice.message("two")).toBeVisible();
  await expect(zoo).not.toContainText("unread");
  await alice.page.getByRole("link", { name: /^c000/ }).click();
  await alice.opened("c000");
  await expect(zoo).not.toContainText("unread");
});

test("a narrow screen shows the channels, then one", async ({ world }) => {
  const alice = await world.person("alice", { place: "/chat", viewport: { width: 380, height: 700 } });
  const channel = alice.page.getByRole("link", { name: "General" });
  await channel.click();
  await alice.opened("General");
  await alice.say("from a phone");
  await expect(alice.message("from a phone").getByRole("img", { name: "Sent" })).toBeVisible();
  await alice.page.getByRole("link", { name: "All channels" }).click();
  await expect(channel).toBeVisible();
  await expect(alice.log).toBeHidden();
  const overflow = await alice.page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  expect(overflow).toBe(false);
});

test("who removes somebody, or leaves, is asked first", async ({ world }) => {
  await world.api("PUT", "/v1/users/bob", { display_name: "Bob" });
  const members = [{ user: "alice", role: "owner" }, { user: "bob" }, { user: "carol", role: "owner" }];
  await world.api("POST", "/v1/channels", { kind: "group", name: "plans", display_name: "Our plans", members });
  const alice = await world.person("alice", { place: "/chat/plans" });
  await alice.opened("Our plans");
  const { page } = alice;
  await page.getByRole("button", { name: "Members", exact: true }).click();
  const list = page.getByRole("complementary", { name: "Members" }).getByRole("listitem");
  await expect(list).toHaveCount(3);
  await page.getByRole("button", { name: "Remove Bob" }).click();
  const removing = page.getByRole("dialog", { name: /^Remove .?Bob.?\?$/ });
  await removing.getByRole("button", { name: "Keep" }).click();
  await expect(list).toHaveCount(3);
  await page.getByRole("button", { name: "Remove Bob" }).click();
  await removing.getByRole("button", { name: "Remove", exact: true }).click();
  await expect(list).toHaveCount(2);
  const leave = page.getByRole("button", { name: "Leave this channel" });
  await leave.click();
  const leaving = page.getByRole("dialog", { name: /^Leave .?Our plans.?\?$/ });
  await page.keyboard.press("Escape");
  await expect(leaving).toBeHidden();
  await expect(page.getByRole("link", { name: "Our plans" })).toBeVisible();
  await leave.click();
  await leaving.getByRole("button", { name: "Leave", exact: true }).click();
  await expect(page.getByRole("link", { name: "Our plans" })).toHaveCount(0);
});

test("a message that is too long is not sent, and stays to be shortened", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  const send = alice.page.getByRole("button", { name: "Send", exact: true });
  // Bytes count: each of these letters is two.
  const most = "é".repeat(8_192);
  await alice.field.fill(`${most}é`);
  await expect(alice.page.getByRole("alert")).toHaveText("Too long to send: 16,386 bytes, 16,384 at most.");
  await expect(alice.field).toHaveAttribute("aria-invalid", "true");
  await expect(send).toBeDisabled();
  await alice.field.press("Enter");
  await expect(alice.field).toHaveValue(`${most}é`);
  await expect(alice.log).toContainText("Nothing was said here yet");
  await alice.field.fill(most);
  await expect(alice.page.getByRole("alert")).toHaveCount(0);
  await send.click();
  await expect(alice.log.getByRole("img", { name: "Sent" })).toBeVisible();
  await expect(alice.field).toHaveValue("");
});

test("a message of many lines is shown whole when somebody asks for it", async ({ world }) => {
  const text = Array.from({ length: 200 }, (_, index) => `line ${index + 1} of it`).join("\n");
  await world.api("POST", "/v1/channels/general/messages", { user: "bob", text });
  await world.api("POST", "/v1/channels/general/messages", { user: "bob", text: "short" });
  const alice = await world.person("alice");
  await alice.opened("General");
  const body = alice.page.locator(".message .body").first();
  await expect(body).toContainText("line 30 of it");
  await expect(body).not.toContainText("line 31 of it");
  await alice.page.getByRole("button", { name: "Show more" }).click();
  await expect(body).toContainText("line 200 of it");
  // It stays so when it was out of sight.
  await alice.log.press("End");
  await expect(alice.message("short")).toBeInViewport();
  await alice.log.press("Home");
  await expect(body).toContainText("line 200 of it");
  await expect(alice.page.getByRole("button", { name: "Show more" })).toHaveCount(0);
});

test("a member who is removed while looking is told, and may come back", async ({ world }) => {
  const bob = await world.person("bob");
  await bob.opened("General");
  await bob.say("still here");
  await expect(bob.message("still here").getByRole("img", { name: "Sent" })).toBeVisible();
  await world.api("DELETE", "/v1/channels/general/members/bob");
  await expect(bob.page.getByText("You were removed from this channel.")).toBeVisible();
  await expect(bob.message("still here")).toBeVisible();
  await expect(bob.field).toBeHidden();
  await expect(bob.page.getByRole("link", { name: "General" })).toBeHidden();

  await world.api("POST", "/v1/channels/general/members", { user: "bob" });
  await expect(bob.page.getByRole("link", { name: "General" })).toBeVisible({ timeout: 20_000 });
  await expect(bob.field).toBeVisible();
  await bob.say("back again");
  await expect(bob.message("back again").getByRole("img", { name: "Sent" })).toBeVisible();
  expect(await bob.texts()).toEqual(["still here", "back again"]);
});
