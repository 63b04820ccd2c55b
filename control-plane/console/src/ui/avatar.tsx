// A user as a coloured letter: the same for the same name, everywhere.

import type { ReactElement } from "react";

const HUES = 8;
const VISIBLE = /[\p{L}\p{N}\p{Extended_Pictographic}]/u;

export function Avatar({ user, name }: { readonly user: string; readonly name?: string | undefined }): ReactElement {
  let sum = 0;
  for (const character of user) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) % 9973;
  // The first one that can be seen: names may begin with marks of direction and the like.
  const [letter = "?"] = VISIBLE.exec(name ?? user) ?? VISIBLE.exec(user) ?? [];
  return (
    <span className="avatar" data-hue={sum % HUES} aria-hidden="true">
      {letter.toUpperCase()}
    </span>
  );
}
