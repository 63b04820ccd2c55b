// A user as a coloured letter: the same for the same name, everywhere.

import type { ReactElement } from "react";

const HUES = 8;

export function Avatar({ user, name }: { readonly user: string; readonly name?: string | undefined }): ReactElement {
  let sum = 0;
  for (const character of user) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) % 9973;
  const [letter = "?"] = name ?? user;
  return (
    <span className="avatar" data-hue={sum % HUES} aria-hidden="true">
      {letter.toUpperCase()}
    </span>
  );
}
