// Keys of application servers and operators: who has which, a new one, an end to one.

import { type FormEvent, type ReactElement, useId, useRef, useState } from "react";

import { words } from "../rest.js";
import { Copied, useCopy } from "../ui/copy.js";
import { Dialog } from "../ui/dialog.js";
import type { KeyInfo, NewKey, OperateApi } from "./api.js";
import { TenantField } from "./find.js";
import { moment } from "./format.js";
import { Frame } from "./frame.js";
import { Failure } from "./overview.js";
import { usePolled } from "./poll.js";

const REFRESH_MS = 10_000;

export function Keys({ api, isOperator }: { readonly api: OperateApi; readonly isOperator: boolean }): ReactElement {
  const [tenant, setTenant] = useState("");
  const [isCreating, setIsCreating] = useState(false);
  const [revoked, setRevoked] = useState<KeyInfo>();
  const scope = tenant === "" ? undefined : tenant;
  const { value, error, refresh } = usePolled<readonly KeyInfo[]>(`keys ${tenant}`, REFRESH_MS, (_before, signal) =>
    api.keys(scope, signal),
  );
  const whose = isOperator ? (scope === undefined ? "Operator keys" : `API keys of ${tenant}`) : "API keys";
  return (
    <>
      <header className="operate-head">
        <h1>Keys</h1>
        <button type="button" className="primary" onClick={() => setIsCreating(true)}>
          New key…
        </button>
      </header>
      {isOperator && (
        <div className="find">
          <TenantField api={api} value={tenant} onChange={setTenant} none="Operator keys" />
        </div>
      )}
      {error !== undefined && <Failure text={error} />}
      {value === undefined ? (
        error === undefined && <p className="loading">Asking…</p>
      ) : value.length === 0 ? (
        <p className="notice">{whose}: there are none.</p>
      ) : (
        <KeyTable title={whose} keys={value} onRevoke={setRevoked} />
      )}
      {isCreating && (
        <Create
          api={api}
          tenant={scope}
          title={
            isOperator && scope === undefined
              ? "New operator key"
              : `New API key${scope === undefined ? "" : ` of ${scope}`}`
          }
          onClose={() => {
            setIsCreating(false);
            refresh();
          }}
        />
      )}
      {revoked !== undefined && (
        <Revoke
          api={api}
          info={revoked}
          onClose={() => {
            setRevoked(undefined);
            refresh();
          }}
        />
      )}
    </>
  );
}

function KeyTable(props: {
  readonly title: string;
  readonly keys: readonly KeyInfo[];
  readonly onRevoke: (key: KeyInfo) => void;
}): ReactElement {
  const { title, keys, onRevoke } = props;
  const now = Date.now();
  return (
    <Frame name={title}>
      <thead>
        <tr>
          <th scope="col">Key</th>
          <th scope="col">Used for</th>
          <th scope="col">Made</th>
          <th scope="col">
            <span className="for-readers">Actions</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {keys.map((key) => (
          <tr key={key.id}>
            <th scope="row">
              <code>mr_{key.id}_…</code>
            </th>
            <td>{key.label ?? "–"}</td>
            <td>{moment(key.created_ms, now)}</td>
            <td className="number">
              <button type="button" aria-label={`Revoke ${key.label ?? key.id}`} onClick={() => onRevoke(key)}>
                Revoke…
              </button>
            </td>
          </tr>
        ))}
      </tbody>
    </Frame>
  );
}

function Create(props: {
  readonly api: OperateApi;
  readonly tenant: string | undefined;
  readonly title: string;
  readonly onClose: () => void;
}): ReactElement {
  const { api, tenant, title, onClose } = props;
  const [label, setLabel] = useState("");
  const [error, setError] = useState<string>();
  const [isBusy, setIsBusy] = useState(false);
  const [made, setMade] = useState<NewKey>();
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const [outcome, copy] = useCopy(() => {
    field.current?.focus();
    field.current?.select();
  });
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setIsBusy(true);
    setError(undefined);
    try {
      setMade(await api.createKey(tenant, label.trim()));
    } catch (failure) {
      setError(words(failure));
    }
    setIsBusy(false);
  };
  if (made !== undefined) {
    return (
      <Dialog title="The new key" onClose={onClose}>
        <div className="labelled">
          <label htmlFor={`${id}-key`}>It is shown this once and stored nowhere: keep it</label>
          <input
            ref={field}
            id={`${id}-key`}
            className="secret"
            readOnly
            value={made.key}
            onFocus={(event) => event.target.select()}
          />
        </div>
        <footer>
          <Copied outcome={outcome} />
          <button type="button" onClick={() => void copy(made.key)}>
            Copy
          </button>
          <button type="button" className="primary" onClick={onClose}>
            I have it
          </button>
        </footer>
      </Dialog>
    );
  }
  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={(event) => void submit(event)}>
        <div className="labelled">
          <label htmlFor={`${id}-label`}>Used for</label>
          <input id={`${id}-label`} value={label} maxLength={256} onChange={(event) => setLabel(event.target.value)} />
        </div>
        <footer>
          {error !== undefined && <Failure text={error} />}
          <button type="submit" className="primary" disabled={isBusy}>
            Create key
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

function Revoke({
  api,
  info,
  onClose,
}: {
  readonly api: OperateApi;
  readonly info: KeyInfo;
  readonly onClose: () => void;
}): ReactElement {
  const [error, setError] = useState<string>();
  const [isBusy, setIsBusy] = useState(false);
  const revoke = async () => {
    setIsBusy(true);
    try {
      await api.revokeKey(info.id);
      onClose();
    } catch (failure) {
      setError(words(failure));
      setIsBusy(false);
    }
  };
  return (
    <Dialog title={`Revoke ${info.label ?? info.id}?`} onClose={onClose}>
      <p className="warning">Whoever uses it is refused from then on. It cannot be taken back.</p>
      <footer>
        {error !== undefined && <Failure text={error} />}
        <button type="button" className="danger" disabled={isBusy} onClick={() => void revoke()}>
          Revoke
        </button>
      </footer>
    </Dialog>
  );
}
