// Who is in a channel; for those who may: invite and remove.

import { type FormEvent, type ReactElement, useCallback, useEffect, useState } from "react";

import { type ChannelInfo, type Member, type Role, segment, words } from "../rest.js";
import { go } from "../route.js";
import { session } from "../session/session.js";
import { Avatar } from "../ui/avatar.js";
import { Dialog } from "../ui/dialog.js";
import { Icon } from "../ui/icons.js";
import { isolated, Name } from "../ui/name.js";
import { useChat } from "./context.js";

const RANK: Readonly<Record<Role, number>> = { owner: 0, moderator: 1, member: 2, reader: 3 };
const ROLES = Object.keys(RANK) as Role[];

/** Whether a role may give, or take, another. */
const reaches = (own: Role | undefined, role: Role): boolean =>
  own !== undefined && RANK[own] <= RANK.moderator && RANK[own] <= RANK[role];

/** Who is to be in the channel no more. */
interface Leaving {
  readonly user: string;
  /** `undefined` for the user themselves. */
  readonly name: string | undefined;
}

export function Members(props: {
  readonly name: string;
  readonly title: string;
  readonly info: ChannelInfo | undefined;
  readonly onClose: () => void;
}): ReactElement {
  const { name, title, info, onClose } = props;
  const { me, directory } = useChat();
  const [members, setMembers] = useState<readonly Member[]>();
  const [error, setError] = useState<string>();
  const [leaving, setLeaving] = useState<Leaving>();
  const own = members?.find(({ user }) => user === me.user)?.role;
  const isDm = info?.kind === "dm";

  const load = useCallback(
    async (signal?: AbortSignal) => {
      try {
        setMembers(await directory.members(name, signal));
        setError(undefined);
      } catch (failure) {
        if (!signal?.aborted) setError(words(failure));
      }
    },
    [directory, name],
  );
  useEffect(() => {
    const stop = new AbortController();
    void load(stop.signal);
    return () => stop.abort();
  }, [load]);

  const remove = async (user: string) => {
    try {
      await session.call({ method: "DELETE", path: `/v1/channels/${segment(name)}/members/${segment(user)}` });
      if (user === me.user) {
        go("chat");
        await directory.load();
      } else {
        await load();
      }
    } catch (failure) {
      setError(words(failure));
    }
  };
  return (
    <aside className="members" aria-label="Members">
      <header>
        <h3>Members</h3>
        <button type="button" className="quiet" aria-label="Close members" onClick={onClose}>
          <Icon name="close" />
        </button>
      </header>
      {error !== undefined && (
        <p className="failure" role="alert">
          {error}
        </p>
      )}
      {members === undefined && error === undefined && <p className="loading">Loading members…</p>}
      <ul>
        {members?.map(({ user, role, display_name: displayName }) => (
          <li key={user}>
            <Avatar user={user} name={displayName} />
            <span className="who">
              <Name text={displayName ?? user} />
              <small>{displayName === undefined || displayName === user ? role : `${user} · ${role}`}</small>
            </span>
            {!isDm && user !== me.user && reaches(own, role) && (
              <button
                type="button"
                className="quiet"
                aria-label={`Remove ${displayName ?? user}`}
                title="Remove"
                onClick={() => setLeaving({ user, name: displayName ?? user })}
              >
                <Icon name="close" />
              </button>
            )}
          </li>
        ))}
      </ul>
      {!isDm && own !== undefined && RANK[own] <= RANK.moderator && <Invite {...{ name, own, onDone: load }} />}
      {!isDm && own !== undefined && (
        <button type="button" className="leave" onClick={() => setLeaving({ user: me.user, name: undefined })}>
          <Icon name="leave" />
          Leave this channel
        </button>
      )}
      {leaving !== undefined && (
        <AskLeaving
          leaving={leaving}
          title={title}
          onRemove={() => {
            setLeaving(undefined);
            void remove(leaving.user);
          }}
          onClose={() => setLeaving(undefined)}
        />
      )}
    </aside>
  );
}

function AskLeaving(props: {
  readonly leaving: Leaving;
  readonly title: string;
  readonly onRemove: () => void;
  readonly onClose: () => void;
}): ReactElement {
  const { leaving, title, onRemove, onClose } = props;
  const { name } = leaving;
  return (
    <Dialog title={name === undefined ? `Leave ${isolated(title)}?` : `Remove ${isolated(name)}?`} onClose={onClose}>
      {name === undefined ? (
        <p>You see and hear no more of it until somebody invites you again.</p>
      ) : (
        <p>
          <Name text={name} /> sees and hears no more of <Name text={title} /> until somebody invites them again.
        </p>
      )}
      <footer>
        <button type="button" onClick={onClose}>
          {name === undefined ? "Stay" : "Keep"}
        </button>
        <button type="button" className="danger" onClick={onRemove}>
          {name === undefined ? "Leave" : "Remove"}
        </button>
      </footer>
    </Dialog>
  );
}

function Invite(props: {
  readonly name: string;
  readonly own: Role;
  readonly onDone: () => Promise<void>;
}): ReactElement {
  const { name, own, onDone } = props;
  const [user, setUser] = useState("");
  const [role, setRole] = useState<Role>("member");
  const [error, setError] = useState<string>();
  const invite = async (event: FormEvent) => {
    event.preventDefault();
    try {
      const body = { user: user.trim(), role };
      await session.call({ method: "POST", path: `/v1/channels/${segment(name)}/members`, body });
      setUser("");
      setError(undefined);
      await onDone();
    } catch (failure) {
      setError(words(failure));
    }
  };
  return (
    <form className="invite" onSubmit={(event) => void invite(event)}>
      <label>
        Invite
        <input
          value={user}
          onChange={(event) => setUser(event.target.value)}
          placeholder="User"
          required
          maxLength={128}
        />
      </label>
      <label>
        as
        <select value={role} onChange={(event) => setRole(event.target.value as Role)}>
          {ROLES.filter((one) => reaches(own, one)).map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </label>
      <button type="submit">Invite</button>
      {error !== undefined && (
        <p className="failure" role="alert">
          {error}
        </p>
      )}
    </form>
  );
}
