// What somebody writes is text, in every field and everywhere it is shown. `support/fields.ts` lists the fields; one that is in the
// sources and not in the list fails here.

import { ATTEMPTS, FIELDS, type Field, inSources, type Visit } from "./support/fields.js";
import { expect, type Person, test, type World } from "./support/world.js";

/** Nothing of what was written runs, or is there as anything but text. */
async function isWhole({ page }: Person): Promise<void> {
  const found = await page.evaluate(() => {
    const foreign =
      "script:not([src^='/console/']), iframe, img:not([src^='/console/']), [onerror], [onload], [onmouseover], object, embed";
    return {
      hacked: (window as { hacked?: number }).hacked,
      foreign: [...document.querySelectorAll(foreign)].map(({ outerHTML }) => outerHTML),
      links: [...document.querySelectorAll("a")].map(({ href }) => href).filter((href) => !/^https?:\/\//.test(href)),
    };
  });
  expect(found).toEqual({ hacked: undefined, foreign: [], links: [] });
}

/** Somebody who may do everything. */
async function everybody(world: World): Promise<Person> {
  const { operator_key, api_key } = world.server.ready;
  const given = { ...(await world.signIn("alice")), keys: [operator_key, api_key] };
  const alice = await world.person("alice", { given, place: "/chat/general" });
  await alice.opened("General");
  return alice;
}

async function attack({ open, name, submit, refuses = false }: Field, visit: Visit): Promise<void> {
  const { page } = visit.person;
  for (const text of ATTEMPTS) {
    const field = await open(visit);
    await expect(field, name).toBeEditable();
    if (refuses) {
      await field.pressSequentially(text);
      expect(await field.inputValue(), name).not.toContain("<");
    } else {
      await field.fill(text);
      await expect(field, name).toHaveValue(text);
    }
    await isWhole(visit.person);
    await submit?.(visit, text);
    await isWhole(visit.person);
    if ((await page.getByRole("dialog").count()) > 0) await page.keyboard.press("Escape");
    await expect(page.getByRole("dialog")).toHaveCount(0);
  }
}

test("every text field of the sources is in the list of those that are tried", () => {
  const listed = new Map<string, number>();
  for (const { source } of FIELDS) listed.set(source, (listed.get(source) ?? 0) + 1);
  expect(Object.fromEntries(inSources())).toEqual(Object.fromEntries([...listed].sort()));
});

for (const view of ["sign-in", "chat", "try", "operate"] as const) {
  test(`scripts in every text field of ${view} stay text`, async ({ world }) => {
    test.setTimeout(180_000);
    const person = view === "sign-in" ? await world.person("stranger", { fragment: "" }) : await everybody(world);
    for (const field of FIELDS.filter((field) => field.view === view)) {
      await test.step(field.name, () => attack(field, { world, person, page: person.page }));
    }
  });
}

test("scripts that others wrote stay text wherever they are shown", async ({ world }) => {
  const [attempt = ""] = ATTEMPTS;
  const everything = ATTEMPTS.join(" ");
  const shown = everything.slice(0, 250);
  await world.api("PUT", "/v1/users/bob", { display_name: shown });
  await world.api("POST", "/v1/channels", {
    name: "marked",
    kind: "group",
    display_name: shown,
    metadata: { [attempt]: everything },
    members: [{ user: "alice", role: "owner" }, { user: "bob" }],
  });
  for (const text of ATTEMPTS) await world.api("POST", "/v1/channels/marked/messages", { user: "bob", text });
  const alice = await everybody(world);
  const { page } = alice;
  const go = (place: string) =>
    page.evaluate((where) => {
      location.hash = where;
    }, place);

  await page.getByRole("link", { name: shown.slice(0, 30) }).click();
  await alice.opened(shown);
  await expect.poll(() => alice.texts()).toEqual(ATTEMPTS);
  const link = alice.message("onmouseover").getByRole("link");
  await expect(link).toHaveText("https://example.com/");
  await expect(link).toHaveAttribute("rel", "noopener noreferrer");
  await isWhole(alice);
  await page.getByRole("button", { name: "Members", exact: true }).click();
  await expect(page.getByRole("complementary", { name: "Members" })).toContainText(shown);
  await isWhole(alice);

  await go("#/try/get_channel");
  await page
    .getByRole("article")
    .getByLabel(/^channel/)
    .fill("marked");
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.getByRole("region", { name: "Answer" })).toContainText(attempt);
  await isWhole(alice);

  // Places are text, too.
  await go(`#/chat/${encodeURIComponent(attempt)}`);
  await expect(page.getByText("There is no such channel")).toBeVisible();
  await isWhole(alice);
  await go(`#/try/${encodeURIComponent(attempt)}`);
  await expect(page.getByRole("searchbox")).toBeVisible();
  await isWhole(alice);
  for (const place of ["nodes", "webhooks", "find/user/dev"]) {
    await go(`#/operate/${encodeURIComponent(`${place}/${attempt}`)}`);
    await expect(page.getByRole("alert").first()).toBeVisible();
    await isWhole(alice);
  }
});
