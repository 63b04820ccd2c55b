// Who is signed in, in this tab: a user's token with what renews it, and keys of servers. Kept in the tab's session storage, so
// that a reload keeps it and another tab or a closed one does not have it.

import { ask, call, isPassing, newKey, Problem, type TokenPair, Unreachable, words } from "../rest.js";
import { Store } from "../store.js";
import { exchangeKey, type Given, readClaims } from "./credential.js";

/** A user who is signed in. */
export interface SignedInUser {
  readonly tenant: number;
  readonly user: string;
  readonly displayName: string | undefined;
}

/** A key of an application server or an operator. */
export interface Key {
  readonly key: string;
  readonly scope: "operator" | "application";
}

export type SessionState =
  /** `notice` says why, if it was not wanted. */
  | { readonly kind: "signed-out"; readonly notice: string | undefined }
  /** The server is asked whether credentials hold; `waits` says why that takes long. */
  | { readonly kind: "checking"; readonly waits: string | undefined }
  /** `notice` says what became of another sign-in that was tried meanwhile. */
  | {
      readonly kind: "signed-in";
      readonly user: SignedInUser | undefined;
      readonly keys: readonly Key[];
      readonly notice?: string | undefined;
    };

const STORAGE_KEY = "millrace.session";
const RETRY_MS = 1_000;
/** How often in a row a new token is tried that the server calls worn: one that lives for seconds may end on its way. */
const TRIES_MAX = 3;
const OTHER = "somebody else has signed in";
const CODE_OVER = "This link was used before, or is too old. `millrace console` prints a new one.";
/** What the chat keeps of channels beside the sign-in begins so. */
const READ_KEY = "millrace.read.";
/** A token is renewed in the last part of its life. */
const RENEW_AFTER = 0.6;

/** A sign-in is over: its token is refused, and nothing renews it, or what would is refused, too. */
class Over extends Error {
  override readonly name = "Over";

  constructor(readonly refusal: Problem) {
    super(`Your sign-in has ended: ${refusal.message}`, { cause: refusal });
  }
}

interface ExchangedCode {
  readonly token: string | null;
  readonly refresh_token: string | null;
  readonly keys: readonly string[];
}

/** See the top of this file. */
export class Session {
  readonly state = new Store<SessionState>({ kind: "signed-out", notice: undefined });
  private token: string | undefined;
  private refreshToken: string | undefined;
  private keys: readonly Key[] = [];
  private renewing: Promise<string> | undefined;
  /** How far this machine's clock is ahead of the server's, as far as that is known. */
  private aheadMs = 0;
  /** Counts sign-ins: what belongs to an earlier one comes to nothing. */
  private generation = 0;
  /** Counts codes, and whoever signs out: an exchange under way is then of no use. */
  private exchanges = 0;

  /** Goes on as before, or with what this tab kept; without either, `notice` says why nobody is signed in. */
  resume(notice?: string): void {
    if (this.state.get().kind === "signed-in") return;
    const given = stored();
    if (given !== undefined) void this.adopt(given);
    else if (notice !== undefined) this.state.set({ kind: "signed-out", notice });
  }

  /** Signs in with a code out of a link, which is good for one time. Who is signed in stays so until it proves good. */
  async takeCode(code: string): Promise<void> {
    this.exchanges += 1;
    const exchange = this.exchanges;
    this.checking(undefined);
    // However often it is sent, it is one exchange.
    const request = { method: "POST", path: "/v1/sign-in-codes/exchange", body: { code }, idempotencyKey: newKey() };
    for (;;) {
      try {
        const given = await call<ExchangedCode>(request);
        if (exchange !== this.exchanges) return;
        const { token, refresh_token: refreshToken, keys } = given;
        await this.adopt({ token: token ?? undefined, refreshToken: refreshToken ?? undefined, keys });
        return;
      } catch (error) {
        if (exchange !== this.exchanges) return;
        // An earlier try of this very exchange may still be under way.
        if (!isPassing(error)) {
          this.codeIsOver();
          return;
        }
        this.checking(words(error));
        await aMoment();
        if (exchange !== this.exchanges) return;
      }
    }
  }

  /** The server is asked; what is signed in already is shown meanwhile. */
  private checking(waits: string | undefined): void {
    if (this.state.get().kind !== "signed-in") this.state.set({ kind: "checking", waits });
  }

  private codeIsOver(): void {
    const state = this.state.get();
    if (state.kind === "signed-in") this.state.set({ ...state, notice: CODE_OVER });
    else if (this.token === undefined && this.keys.length === 0) {
      this.state.set({ kind: "signed-out", notice: undefined });
      this.resume(CODE_OVER);
    }
    // Else what this tab kept is being checked, which says how that goes.
  }

  /** The notice was read. */
  dismiss(): void {
    const state = this.state.get();
    if (state.kind === "signed-in") this.state.set({ ...state, notice: undefined });
  }

  /**
   * Signs in with what was given, beside what is there already, as far as the server takes it. What was `typed` may never have been
   * good; all else was, once.
   *
   * @returns Whether all of it was taken; if nothing was, the state says why.
   */
  async adopt(given: Given, origin: "issued" | "typed" = "issued"): Promise<boolean> {
    this.generation += 1;
    const { generation } = this;
    // What one user has open is closed before another one's token is there to be used.
    if (!this.isShown(given.token)) this.state.set({ kind: "checking", waits: undefined });
    const kept = this.keys.map(({ key }) => key);
    if (given.token !== undefined) {
      this.token = given.token;
      this.refreshToken = given.refreshToken;
    }
    this.keep([...kept, ...given.keys]);
    for (;;) {
      try {
        const keys = await Promise.all([...new Set([...kept, ...given.keys])].map(checkKey));
        const notices = keys.filter((key): key is Problem => key instanceof Problem).map((problem) => problem.message);
        let user: SignedInUser | undefined;
        if (this.token !== undefined) {
          try {
            user = await this.checkUser();
          } catch (error) {
            if (generation !== this.generation || !isFinal(error)) throw error;
            notices.push(error instanceof Over && origin === "typed" ? error.refusal.message : words(error));
            this.token = undefined;
            this.refreshToken = undefined;
          }
        }
        if (generation !== this.generation) return false;
        this.keys = keys.filter((key): key is Key => !(key instanceof Problem));
        this.keep(this.keys.map(({ key }) => key));
        if (user === undefined && this.keys.length === 0) this.forget(notices[0]);
        else this.state.set({ kind: "signed-in", user, keys: this.keys });
        return notices.length === 0;
      } catch (error) {
        if (generation !== this.generation) return false;
        this.checking(words(error));
        await aMoment();
        if (generation !== this.generation) return false;
      }
    }
  }

  /** Whether somebody is signed in who stays so with this token. */
  private isShown(token: string | undefined): boolean {
    const state = this.state.get();
    if (state.kind !== "signed-in" || token === undefined || state.user === undefined)
      return state.kind === "signed-in";
    const claims = readClaims(token);
    return claims?.tenant === state.user.tenant && claims.user === state.user.user;
  }

  /** Signs in as a user of a key's tenant. */
  async impersonate(key: string, user: string): Promise<void> {
    const body = { user, device: "console" };
    const { generation } = this;
    const pair = await call<TokenPair>({ method: "POST", path: "/v1/tokens", body, credential: key });
    if (generation !== this.generation) throw new Error(OTHER);
    await this.adopt({ token: pair.token, refreshToken: pair.refresh_token, keys: [] });
  }

  /** Signs out: here at once, and on the server, where nobody who copied them can renew these tokens any more. */
  signOut(): void {
    const { token, refreshToken } = this;
    this.end();
    forgetRead();
    // A token that nothing renews was made by somebody else, who may use it elsewhere; it ends by itself.
    if (token !== undefined && refreshToken !== undefined) revoke(token, refreshToken).catch(() => {});
  }

  /** Forgets everything; a code that is being exchanged, too. */
  end(notice?: string): void {
    this.exchanges += 1;
    this.forget(notice);
  }

  private forget(notice: string | undefined): void {
    this.generation += 1;
    this.token = undefined;
    this.refreshToken = undefined;
    this.keys = [];
    this.keep([]);
    this.state.set({ kind: "signed-out", notice });
  }

  /**
   * An access token that holds for a while. `worn` is one that is known not to, whatever the clock says.
   *
   * @throws {Error} if there is none any more; the state says why.
   */
  async accessToken(worn?: string): Promise<string> {
    const { token } = this;
    if (token === undefined) throw new Error("nobody is signed in");
    const claims = readClaims(token);
    const life = (claims?.expiresMs ?? 0) - (claims?.issuedMs ?? 0);
    const isYoung = claims !== undefined && Date.now() - this.aheadMs < claims.issuedMs + life * RENEW_AFTER;
    if ((isYoung && token !== worn) || this.refreshToken === undefined) return token;
    return this.renew();
  }

  /** For a client of the SDK: it asks once at first, and then only when the token that it got is old or was refused. */
  tokens(): () => Promise<string> {
    let given: string | undefined;
    return async () => {
      given = await this.accessToken(given);
      return given;
    };
  }

  /** Calls the API as the user, with a token that holds. What one user asked for is never asked as another. */
  async call<T>(request: Omit<Parameters<typeof call>[0], "credential">): Promise<T> {
    const { generation } = this;
    let worn: string | undefined;
    for (let time = 1; ; time++) {
      const credential = await this.accessToken(worn);
      if (generation !== this.generation) throw new Error(OTHER);
      try {
        return await call<T>({ ...request, credential });
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 401) throw error;
        if (generation !== this.generation) throw new Error(OTHER, { cause: error });
        if (this.refreshToken === undefined) throw this.over(error);
        if (time === TRIES_MAX) throw error;
        worn = credential;
      }
    }
  }

  /** The server refuses what the user is signed in with. */
  private over(refusal: Problem): Over {
    const over = new Over(refusal);
    if (this.state.get().kind === "signed-in") this.end(over.message);
    return over;
  }

  private async checkUser(): Promise<SignedInUser> {
    const claims = readClaims(this.token ?? "");
    if (claims === undefined) throw new Over(new Problem(401, "", "the access token cannot be read", []));
    const { tenant, user } = claims;
    const path = `/v1/users/${encodeURIComponent(user)}`;
    const { display_name: displayName } = await this.call<{ display_name: string | null }>({ path });
    return { tenant, user, displayName: displayName ?? undefined };
  }

  /** Exchanges the refresh token; once for all who wait. */
  private renew(): Promise<string> {
    this.renewing ??= this.exchange().finally(() => {
      this.renewing = undefined;
    });
    return this.renewing;
  }

  private async exchange(): Promise<string> {
    const { refreshToken, generation } = this;
    if (refreshToken === undefined) throw new Error("nobody is signed in");
    try {
      const { pair, serverMs } = await refreshed(refreshToken);
      if (generation !== this.generation) throw new Error(OTHER);
      this.token = pair.token;
      this.refreshToken = pair.refresh_token;
      // A clock that is wrong would call each token old, or none.
      this.aheadMs = Date.now() - (serverMs ?? Date.now());
      this.keep(this.keys.map(({ key }) => key));
      return pair.token;
    } catch (error) {
      if (!(error instanceof Problem) || isPassing(error) || generation !== this.generation) throw error;
      throw this.over(error);
    }
  }

  private keep(keys: readonly string[]): void {
    try {
      if (this.token === undefined && keys.length === 0) sessionStorage.removeItem(STORAGE_KEY);
      else {
        const { token, refreshToken } = this;
        sessionStorage.setItem(STORAGE_KEY, JSON.stringify({ token, refreshToken, keys }));
      }
    } catch {
      // A browser that keeps nothing asks again after a reload.
    }
  }
}

/** Former versions of this page kept how far channels were read in the browser: it does not stay for the next who signs in. */
function forgetRead(): void {
  try {
    const names = Array.from({ length: localStorage.length }, (_, index) => localStorage.key(index) ?? "");
    for (const name of names) if (name.startsWith(READ_KEY)) localStorage.removeItem(name);
  } catch {
    // A browser that keeps nothing has nothing to forget.
  }
}

/**
 * Exchanges a refresh token, until there is an access token that holds. `serverMs` is the server's time when it answered.
 *
 * A tab that was duplicated, or did not hear the answer, asks for the same exchange: a second one would end the sign-in. What it then
 * gets may be long over, but what renews it leads on to the newest.
 */
async function refreshed(refreshToken: string): Promise<{ pair: TokenPair; serverMs: number | undefined }> {
  let newest = refreshToken;
  for (;;) {
    const request = { refresh_token: newest };
    const idempotencyKey = exchangeKey(newest);
    try {
      const answer = await ask<TokenPair>({
        method: "POST",
        path: "/v1/tokens/refresh",
        body: request,
        idempotencyKey,
      });
      const { issuedMs, expiresMs } = readClaims(answer.body.token) ?? { issuedMs: undefined, expiresMs: 0 };
      if (!answer.isRepeated) return { pair: answer.body, serverMs: issuedMs };
      if (answer.serverMs !== undefined && answer.serverMs < expiresMs) {
        return { pair: answer.body, serverMs: answer.serverMs };
      }
      newest = answer.body.refresh_token;
    } catch (error) {
      // The page before a reload, or another tab, is at this very exchange.
      if (!(error instanceof Problem) || error.status !== 409) throw error;
      await aMoment();
    }
  }
}

/** Ends a sign-in on the server. */
async function revoke(token: string, refreshToken: string): Promise<void> {
  const end = (credential: string) => call<void>({ method: "POST", path: "/v1/tokens/revoke", body: {}, credential });
  try {
    await end(token);
  } catch (error) {
    // One that is over cannot end what renews it, but its successor can.
    if (!(error instanceof Problem) || error.status !== 401) throw error;
    await end((await refreshed(refreshToken)).pair.token);
  }
}

/** Whose key it is, or why it is nobody's. */
async function checkKey(key: string): Promise<Key | Problem> {
  try {
    await call({ path: "/v1/tenants", query: { limit: 1 }, credential: key });
    return { key, scope: "operator" };
  } catch (error) {
    if (error instanceof Problem && error.status === 403) return { key, scope: "application" };
    if (error instanceof Problem && !isPassing(error)) return error;
    throw error instanceof Problem ? new Unreachable(error.message, { cause: error }) : error;
  }
}

function stored(): Given | undefined {
  try {
    const found = JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "null") as Partial<Given> | null;
    if (found === null || typeof found !== "object") return undefined;
    const { token, refreshToken, keys } = found;
    return { token, refreshToken, keys: Array.isArray(keys) ? keys.filter((key) => typeof key === "string") : [] };
  } catch {
    return undefined;
  }
}

/** Whether what was shown to the server is good for nothing: with what renews it, a token that is refused is only worn. */
function isFinal(error: unknown): boolean {
  return error instanceof Over || (error instanceof Problem && error.status !== 401 && !isPassing(error));
}

const aMoment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, RETRY_MS));

/** The session of this tab. */
export const session = new Session();
