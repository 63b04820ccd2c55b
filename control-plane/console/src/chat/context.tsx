// What the parts of the chat share.

import { createContext, useContext } from "react";

import type { SignedInUser } from "../session/session.js";
import type { Directory } from "./directory.js";

export interface ChatContext {
  readonly me: SignedInUser;
  readonly directory: Directory;
  /** What is not sent yet, by channel: this user's, and gone with them. */
  readonly drafts: Map<string, string>;
}

export const Context = createContext<ChatContext | undefined>(undefined);

export function useChat(): ChatContext {
  const context = useContext(Context);
  if (context === undefined) throw new Error("useChat is used outside of the chat");
  return context;
}
