// Light or dark: as the system has it, unless somebody chose.

import { Store } from "./store.js";

export type Theme = "system" | "light" | "dark";

const KEY = "millrace.theme";

export const theme = new Store<Theme>(stored());

export function setTheme(next: Theme): void {
  try {
    if (next === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    // A browser that keeps nothing still shows it.
  }
  theme.set(next);
  applyTheme();
}

export function applyTheme(): void {
  document.documentElement.dataset.theme = theme.get();
}

function stored(): Theme {
  try {
    const found = localStorage.getItem(KEY);
    return found === "light" || found === "dark" ? found : "system";
  } catch {
    return "system";
  }
}
