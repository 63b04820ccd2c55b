// The state of a client's connection, for applications that show it.

import type { MillraceError } from "./error.js";

/** What a client's connection does. */
export type State =
  /** Nothing was asked of the client yet. */
  | { readonly kind: "idle" }
  /** It connects for the first time. */
  | { readonly kind: "connecting" }
  /** It is up. */
  | {
      readonly kind: "connected";
      /** Names the session in logs and support cases: 32 hex digits. */
      readonly session: string;
      /** Name of the node. */
      readonly node: string;
    }
  /** It was lost, or could not be made, and is tried again. */
  | {
      readonly kind: "reconnecting";
      /** Which try comes next, counted from 1 since the connection last held. */
      readonly attempt: number;
      /** How long from this state's beginning until the try. */
      readonly delayMs: number;
      /** What ended the last one. */
      readonly error: MillraceError;
    }
  /** It is closed for good. */
  | {
      readonly kind: "closed";
      /** What ended it; `undefined` if the application did, and every message had its end. */
      readonly error: MillraceError | undefined;
    };
