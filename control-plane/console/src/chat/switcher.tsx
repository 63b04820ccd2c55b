// Goes to a channel by a few letters of its name.

import { type KeyboardEvent, type ReactElement, useId, useState } from "react";

import { go } from "../route.js";
import { useStore } from "../store.js";
import { Dialog } from "../ui/dialog.js";
import { Name } from "../ui/name.js";
import { ChannelSign } from "./channel.js";
import { useChat } from "./context.js";
import { titleOf } from "./directory.js";
import { ordered, unreadByChannel } from "./sidebar.js";

const SHOWN_MAX = 12;

export function Switcher({ onClose }: { readonly onClose: () => void }): ReactElement {
  const { me, directory } = useChat();
  const { channels } = useStore(directory.listing);
  const names = useStore(directory.names);
  const unread = useStore(unreadByChannel);
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(0);
  const id = useId();
  const title = (channel: (typeof channels)[number]) => titleOf(channel, me.user, names);
  const wanted = text.trim().toLowerCase();
  const found = ordered(channels, title)
    .filter((channel) => `${title(channel)} ${channel.name}`.toLowerCase().includes(wanted))
    .sort((one, other) => (unread.get(other.name) ?? 0) - (unread.get(one.name) ?? 0))
    .slice(0, SHOWN_MAX);
  const at = Math.min(chosen, found.length - 1);
  const open = (index: number) => {
    const channel = found[index];
    if (channel === undefined) return;
    onClose();
    go("chat", channel.name);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined && found.length > 0) setChosen((at + step + found.length) % found.length);
    else if (event.key === "Enter") open(at);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog title="Go to a channel" onClose={onClose}>
      <input
        type="text"
        role="combobox"
        aria-label="Channel"
        aria-expanded="true"
        aria-controls={id}
        aria-activedescendant={at >= 0 ? `${id}-${at}` : undefined}
        placeholder="A few letters of its name"
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          setChosen(0);
        }}
        onKeyDown={onKeyDown}
      />
      <div className="choices" id={id} role="listbox" aria-label="Channels">
        {found.map((channel, index) => (
          // biome-ignore lint/a11y/useKeyWithClickEvents: the field above has the keys
          <div
            key={channel.name}
            id={`${id}-${index}`}
            role="option"
            tabIndex={-1}
            aria-selected={index === at}
            onClick={() => open(index)}
          >
            <ChannelSign info={channel} />
            <Name text={title(channel)} />
          </div>
        ))}
      </div>
      {found.length === 0 && <p className="empty">No channel of yours has that in its name.</p>}
    </Dialog>
  );
}
