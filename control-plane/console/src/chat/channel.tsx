// One channel: its head, its messages, and where to write.

import { Code } from "@millrace/client";
import { type UseChannel, useChannel } from "@millrace/client/react";
import { type ReactElement, useEffect, useRef, useState } from "react";

import { type ChannelInfo, words } from "../rest.js";
import { formatRoute } from "../route.js";
import { useStore } from "../store.js";
import { Icon } from "../ui/icons.js";
import { Name } from "../ui/name.js";
import { Composer } from "./composer.js";
import { useChat } from "./context.js";
import { peerOf, titleOf } from "./directory.js";
import { Members } from "./members.js";
import { Messages } from "./messages.js";
import { useUnsent } from "./unsent.js";

export function ChannelPane({ name }: { readonly name: string }): ReactElement {
  const { me, directory } = useChat();
  const { channels } = useStore(directory.listing);
  const names = useStore(directory.names);
  const listed = channels.find((channel) => channel.name === name);
  // One that is gone keeps what it was called while somebody looks at it.
  const known = useRef(listed);
  if (listed !== undefined) known.current = listed;
  const info = known.current;
  const title = info === undefined ? name : titleOf(info, me.user, names);
  const channel = useChannel(name);
  const [sent, setSent] = useState(0);
  const [showsMembers, setShowsMembers] = useState(false);
  const { status, entries, send } = channel;

  useEffect(() => {
    // Names of those who speak.
    if (status === "subscribed") directory.members(name).catch(() => {});
    if (status === "ended") void directory.load();
  }, [status, directory, name]);
  useUnsent(entries);

  const onSend = (text: string) => {
    // What became of it is told by its line.
    send(text).catch(() => {});
    setSent((count) => count + 1);
  };
  return (
    <section className="pane" aria-label={title}>
      <header className="pane-head">
        <a className="button quiet narrow-only" href={formatRoute("chat")} aria-label="All channels">
          <Icon name="back" />
        </a>
        <h2>
          <ChannelSign info={info} />
          <span className="title" title={title}>
            <Name text={title} />
          </span>
        </h2>
        {info !== undefined && <span className="about">{about(info, me.user)}</span>}
        <button
          type="button"
          className="quiet"
          aria-pressed={showsMembers}
          aria-label="Members"
          title="Members"
          onClick={() => setShowsMembers(!showsMembers)}
        >
          <Icon name="people" />
        </button>
      </header>
      <div className="pane-body">
        <div className="talk">
          <Messages name={name} title={title} channel={channel} sent={sent} />
          <Foot name={name} title={title} channel={channel} isListed={listed !== undefined} onSend={onSend} />
        </div>
        {showsMembers && <Members name={name} title={title} info={info} onClose={() => setShowsMembers(false)} />}
      </div>
    </section>
  );
}

export function ChannelSign({ info }: { readonly info: ChannelInfo | undefined }): ReactElement {
  return (
    <span className="sign" aria-hidden="true">
      {info?.kind === "dm" ? "@" : info?.kind === "broadcast" ? "»" : "#"}
    </span>
  );
}

function about(info: ChannelInfo, me: string): string {
  if (info.kind === "dm") return peerOf(info.name, me) ?? "";
  const isNamed = (info.display_name ?? info.name).toLowerCase() === info.name.toLowerCase();
  const history = { durable: "", windowed: "stored within a second", none: "keeps no history" }[info.history];
  const kind = info.kind === "broadcast" ? "broadcast" : "";
  return [isNamed ? "" : info.name, kind, history].filter((part) => part !== "").join(" · ");
}

/** Where to write, or why not. */
function Foot(props: {
  readonly name: string;
  readonly title: string;
  readonly channel: UseChannel;
  readonly isListed: boolean;
  readonly onSend: (text: string) => void;
}): ReactElement {
  const { name, title, channel, onSend } = props;
  const { status, canPublish, error } = channel;
  if (status === "ended") {
    return (
      <div className="composer closed" role="status">
        <p>{whyEnded(error)}</p>
      </div>
    );
  }
  if (status === "subscribed" && !canPublish) {
    return (
      <div className="composer closed" role="status">
        <p>You can read this channel, but not write to it.</p>
      </div>
    );
  }
  return <Composer name={name} title={title} onSend={onSend} />;
}

function whyEnded(error: UseChannel["error"]): string {
  switch (error?.code) {
    case Code.Removed:
      return "You were removed from this channel. What you see was said before.";
    case Code.NoAccess:
      return "There is no such channel, or you are not a member of it.";
    case Code.Archived:
      return "This channel is archived: nothing is said here any more.";
    default:
      return error === undefined ? "This channel is closed." : words(error);
  }
}
