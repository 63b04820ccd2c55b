// One operation: its fields, its sending, its answer.

import { type FormEvent, type ReactElement, useCallback, useMemo, useRef, useState } from "react";

import { newKey, problemFrom, words } from "../rest.js";
import { formatRoute } from "../route.js";
import { session } from "../session/session.js";
import { Copy } from "../ui/copy.js";
import { Icon } from "../ui/icons.js";
import { Fields, type FormState, ParameterField, Prose } from "./form.js";
import type { Document, Operation } from "./openapi.js";
import { type Answer, Response } from "./response.js";
import type { TryProps } from "./try.js";
import { bodyOf, curl, type Errors, makeRequest, type Request } from "./values.js";

/** A credential that can be shown. */
interface Choice {
  readonly id: string;
  readonly title: string;
  /** As the document names it. */
  readonly kind: string;
  readonly get: () => Promise<string>;
}

function choicesOf({ user, keys }: TryProps): Choice[] {
  const ofKeys = keys.map(({ key, scope }, index) => ({
    id: String(index),
    title: scope === "operator" ? "Operator key" : "API key",
    kind: scope === "operator" ? "operator_key" : "api_key",
    get: async () => key,
  }));
  if (user === undefined) return ofKeys;
  return [
    { id: "user", title: `User ${user.user}`, kind: "access_token", get: () => session.accessToken() },
    ...ofKeys,
  ];
}

const KIND_NAMES: Readonly<Record<string, string>> = {
  operator_key: "an operator key",
  api_key: "an API key",
  access_token: "a user’s access token",
};

export function OperationForm(
  props: TryProps & { readonly document: Document; readonly operation: Operation },
): ReactElement {
  const { document, operation } = props;
  const { method, path, summary, description, parameters, body, credentials } = operation;
  const [values, setValues] = useState<ReadonlyMap<string, string>>(() => initialValues(operation));
  const [written, setWritten] = useState<string>();
  const [errors, setErrors] = useState<Errors>(new Map());
  const [answer, setAnswer] = useState<Answer>();
  const [isBusy, setBusy] = useState(false);
  const shown = useRef<HTMLDivElement>(null);

  const choices = choicesOf(props);
  const fitting = choices.find(({ kind }) => credentials.includes(kind));
  const [chosen, setChosen] = useState<string>();
  const choice = chosen === "none" ? undefined : (choices.find(({ id }) => id === chosen) ?? fitting);
  const lacks = credentials.length > 0 && fitting === undefined;

  const set = useCallback((place: string, value: string | undefined) => {
    setValues((before) => {
      const next = new Map(before);
      if (value === undefined) next.delete(place);
      else next.set(place, value);
      return next;
    });
    setErrors((before) => new Map([...before].filter(([other]) => other !== place)));
  }, []);
  const form: FormState = { document, values, errors, set };
  const made = useMemo(() => makeRequest(document, operation, values, written), [document, operation, values, written]);

  const send = async (event: FormEvent) => {
    event.preventDefault();
    if ("errors" in made) return setErrors(made.errors);
    setBusy(true);
    setErrors(new Map());
    try {
      const answer = await fetchAnswer(made.request, await choice?.get());
      setAnswer(answer);
      if (answer.status >= 400) setErrors(errorsOf(answer, operation));
      // Named anew, it is another request.
      if (values.get("Idempotency-Key")) set("Idempotency-Key", newKey());
    } catch (failure) {
      setErrors(new Map([["", words(failure)]]));
    } finally {
      setBusy(false);
      shown.current?.scrollIntoView({ block: "nearest", behavior: "smooth" });
    }
  };
  const schema = body === undefined ? undefined : document.resolve(body);
  return (
    <article className="operation" aria-label={summary}>
      <a className="button quiet narrow-only" href={formatRoute("try")} aria-label="All operations">
        <Icon name="back" />
      </a>
      <h2>{summary}</h2>
      <p className="target">
        <span className="method" data-method={method}>
          {method}
        </span>
        <code>{path}</code>
      </p>
      {description !== "" && (
        <p className="said">
          <Prose text={description} />
        </p>
      )}
      <form onSubmit={(event) => void send(event)} noValidate>
        <div className="labelled">
          <label htmlFor="as">As</label>
          <select id="as" value={choice?.id ?? "none"} onChange={(event) => setChosen(event.target.value)}>
            {choices.map(({ id, title }) => (
              <option key={id} value={id}>
                {title}
              </option>
            ))}
            <option value="none">Nobody</option>
          </select>
          <small>
            {credentials.length === 0
              ? "It needs no credential."
              : `It takes ${credentials.map((kind) => KIND_NAMES[kind] ?? kind).join(" or ")}.`}
            {lacks && <strong className="failure"> You have signed in with none of them.</strong>}
          </small>
        </div>
        {parameters.map((parameter) => (
          <ParameterField key={`${parameter.in} ${parameter.name}`} parameter={parameter} form={form} />
        ))}
        {schema !== undefined && (
          <section aria-label="Body">
            <header className="body-head">
              <h3>Body</h3>
              <label>
                <input
                  type="checkbox"
                  checked={written !== undefined}
                  onChange={(event) => {
                    const isWritten = event.target.checked;
                    const body = bodyOf(document, schema, values) ?? {};
                    setWritten(isWritten ? JSON.stringify(body, undefined, 2) : undefined);
                    setErrors(new Map());
                  }}
                />
                as JSON
              </label>
            </header>
            {written === undefined ? (
              <Fields form={form} place="" schema={schema} />
            ) : (
              <Written text={written} errors={errors} onChange={setWritten} />
            )}
          </section>
        )}
        {errors.has("") && (
          <p className="failure" role="alert">
            {errors.get("")}
          </p>
        )}
        <button type="submit" className="primary" disabled={isBusy}>
          {isBusy ? "Sending…" : "Send"}
        </button>
      </form>
      <div ref={shown}>{answer !== undefined && <Response answer={answer} />}</div>
      {"request" in made && (
        <section className="curl" aria-label="The same in a shell">
          <h3>The same in a shell</h3>
          <div className="code">
            <Copy text={curl(location.origin, made.request, choice !== undefined)} />
            {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reachable by keyboard */}
            <pre tabIndex={0}>{curl(location.origin, made.request, choice !== undefined)}</pre>
          </div>
        </section>
      )}
    </article>
  );
}

/** The whole body as text. Errors have no field of their own here, so all of them stand below. */
function Written(props: {
  readonly text: string;
  readonly errors: Errors;
  readonly onChange: (text: string) => void;
}): ReactElement {
  const errors = [...props.errors].filter(([place]) => place !== "");
  return (
    <div className="labelled">
      <textarea
        className="mono"
        aria-label="Body as JSON"
        rows={10}
        spellCheck={false}
        value={props.text}
        aria-invalid={errors.length > 0}
        onChange={(event) => props.onChange(event.target.value)}
      />
      {errors.map(([place, message]) => (
        <small key={place} className="failure" role="alert">
          <code>{place}</code> {message}
        </small>
      ))}
    </div>
  );
}

/** A request that can be repeated safely is, from the start. */
function initialValues({ parameters }: Operation): ReadonlyMap<string, string> {
  const isNamed = parameters.some(({ name }) => name === "Idempotency-Key");
  return new Map(isNamed ? [["Idempotency-Key", newKey()]] : []);
}

async function fetchAnswer(
  { method, target, headers, body }: Request,
  credential: string | undefined,
): Promise<Answer> {
  const all = new Headers(headers.map(([name, value]): [string, string] => [name, value]));
  if (credential !== undefined) all.set("Authorization", `Bearer ${credential}`);
  const begun = performance.now();
  let response: globalThis.Response;
  let text: string;
  try {
    const init: RequestInit = { method, headers: all, cache: "no-store", credentials: "omit", redirect: "manual" };
    response = await fetch(target, body === undefined ? init : { ...init, body });
    text = await response.text();
  } catch (cause) {
    throw new Error("The server cannot be reached.", { cause });
  }
  const elapsedMs = performance.now() - begun;
  return {
    status: response.status,
    statusText: response.statusText,
    headers: [...response.headers],
    body: text,
    elapsedMs,
  };
}

/** What a problem says, at the fields that it names; what names none that is there, for the request as a whole. */
function errorsOf({ status, body }: Answer, { parameters }: Operation): Errors {
  const problem = problemFrom(status, body);
  const errors = new Map<string, string>();
  const other: string[] = [];
  for (const { field, message } of problem.errors) {
    const inPath = parameters.find(
      ({ in: where, name }) => where === "path" && [name, `?${name}`, `/${name}`].includes(field),
    );
    const header = parameters.find(
      ({ in: where, name }) => where === "header" && name.toLowerCase() === field.toLowerCase(),
    );
    const isKnown = field.startsWith("?") ? parameters.some(({ name }) => `?${name}` === field) : field.startsWith("/");
    if (inPath !== undefined) errors.set(`{${inPath.name}}`, message);
    else if (header !== undefined) errors.set(header.name, message);
    else if (isKnown) errors.set(field, message);
    else other.push(`${field} ${message}`);
  }
  if (problem.errors.length === 0) other.push(problem.message);
  if (other.length > 0) errors.set("", other.join("; "));
  return errors;
}
