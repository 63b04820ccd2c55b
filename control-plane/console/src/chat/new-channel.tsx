// A channel, or a dm, that is to be.

import { type FormEvent, type ReactElement, useState } from "react";

import { type ChannelInfo, Problem, words } from "../rest.js";
import { go } from "../route.js";
import { session } from "../session/session.js";
import { Dialog } from "../ui/dialog.js";
import { useChat } from "./context.js";

/** What each field is called in a problem. */
type Errors = Readonly<Record<string, string>>;

function errorsOf(failure: unknown): Errors {
  if (!(failure instanceof Problem) || failure.errors.length === 0) return { "": words(failure) };
  return Object.fromEntries(failure.errors.map(({ field, message }) => [field.split("/")[1] ?? "", `It ${message}`]));
}

export function NewChannel({ onClose }: { readonly onClose: () => void }): ReactElement {
  const [name, setName] = useState("");
  const [displayName, setDisplayName] = useState("");
  const [kind, setKind] = useState("group");
  const [members, setMembers] = useState("");
  const { errors, submit, isBusy } = useCreation(onClose);
  const create = (event: FormEvent) => {
    event.preventDefault();
    const users = members.split(/[\s,]+/).filter((user) => user !== "");
    void submit({
      kind,
      name: name.trim(),
      ...(displayName.trim() === "" ? {} : { display_name: displayName.trim() }),
      members: users.map((user) => ({ user })),
    });
  };
  return (
    <Dialog title="New channel" onClose={onClose}>
      <form onSubmit={create}>
        <Field label="Name" hint="Letters, digits and -_.:@~" error={errors.name}>
          {(props) => (
            <input {...props} value={name} onChange={(event) => setName(event.target.value)} required maxLength={128} />
          )}
        </Field>
        <Field label="Shown as" hint="Any text; the name if empty" error={errors.display_name}>
          {(props) => (
            <input
              {...props}
              value={displayName}
              onChange={(event) => setDisplayName(event.target.value)}
              maxLength={256}
            />
          )}
        </Field>
        <Field label="Kind" hint="In a broadcast, only owners and moderators write" error={errors.kind}>
          {(props) => (
            <select {...props} value={kind} onChange={(event) => setKind(event.target.value)}>
              <option value="group">Group</option>
              <option value="broadcast">Broadcast</option>
            </select>
          )}
        </Field>
        <Field label="Members beside you" hint="Users, with spaces between them" error={errors.members}>
          {(props) => <input {...props} value={members} onChange={(event) => setMembers(event.target.value)} />}
        </Field>
        <Finish error={errors[""]} isBusy={isBusy} text="Create channel" />
      </form>
    </Dialog>
  );
}

export function NewDm({ onClose }: { readonly onClose: () => void }): ReactElement {
  const [user, setUser] = useState("");
  const { me } = useChat();
  const { errors, submit, isBusy } = useCreation(onClose);
  const create = (event: FormEvent) => {
    event.preventDefault();
    // One's own notes are a dm with oneself.
    const users = new Set([me.user, user.trim()]);
    void submit({ kind: "dm", members: [...users].map((user) => ({ user })) });
  };
  return (
    <Dialog title="New direct message" onClose={onClose}>
      <form onSubmit={create}>
        <Field label="To" hint="The other user's id" error={errors.members}>
          {(props) => (
            <input {...props} value={user} onChange={(event) => setUser(event.target.value)} required maxLength={128} />
          )}
        </Field>
        <Finish error={errors[""]} isBusy={isBusy} text="Open" />
      </form>
    </Dialog>
  );
}

function useCreation(onClose: () => void): {
  readonly errors: Errors;
  readonly isBusy: boolean;
  readonly submit: (body: unknown) => Promise<void>;
} {
  const { directory } = useChat();
  const [errors, setErrors] = useState<Errors>({});
  const [isBusy, setBusy] = useState(false);
  const submit = async (body: unknown) => {
    setBusy(true);
    try {
      const made = await session.call<ChannelInfo>({ method: "POST", path: "/v1/channels", body });
      await directory.load();
      onClose();
      go("chat", made.name);
    } catch (failure) {
      setErrors(errorsOf(failure));
      setBusy(false);
    }
  };
  return { errors, isBusy, submit };
}

interface FieldProps {
  readonly id: string;
  readonly "aria-invalid": boolean;
  readonly "aria-describedby": string;
}

function Field(props: {
  readonly label: string;
  readonly hint: string;
  readonly error: string | undefined;
  readonly children: (props: FieldProps) => ReactElement;
}): ReactElement {
  const { label, hint, error, children } = props;
  const id = `new-${label.toLowerCase().replaceAll(" ", "-")}`;
  const isInvalid = error !== undefined;
  return (
    <div className="labelled">
      <label htmlFor={id}>{label}</label>
      {children({ id, "aria-invalid": isInvalid, "aria-describedby": `${id}-hint` })}
      <small id={`${id}-hint`} className={isInvalid ? "failure" : undefined} role={isInvalid ? "alert" : undefined}>
        {error ?? hint}
      </small>
    </div>
  );
}

function Finish(props: {
  readonly error: string | undefined;
  readonly isBusy: boolean;
  readonly text: string;
}): ReactElement {
  return (
    <footer>
      {props.error !== undefined && (
        <p className="failure" role="alert">
          {props.error}
        </p>
      )}
      <button type="submit" className="primary" disabled={props.isBusy}>
        {props.text}
      </button>
    </footer>
  );
}
