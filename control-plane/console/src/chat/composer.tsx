// Where the user writes. Enter sends, Shift+Enter begins a line; what is not sent yet stays, channel by channel.

import { type KeyboardEvent, type ReactElement, useEffect, useId, useLayoutEffect, useRef, useState } from "react";

import { useStore } from "../store.js";
import { Icon } from "../ui/icons.js";
import { moved, useConnectionWords } from "./connection.js";
import { useChat } from "./context.js";

const LINES_PX_MAX = 200;

export function Composer(props: {
  readonly name: string;
  readonly title: string;
  readonly onSend: (text: string) => void;
}): ReactElement {
  const { name, title, onSend } = props;
  const { drafts } = useChat();
  const [text, setText] = useState(drafts.get(name) ?? "");
  const field = useRef<HTMLTextAreaElement>(null);
  const hintId = useId();
  const said = useConnectionWords();
  const hasMoved = useStore(moved);

  // biome-ignore lint/correctness/useExhaustiveDependencies: the text decides how high the field is
  useLayoutEffect(() => {
    const box = field.current;
    if (box === null) return;
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight, LINES_PX_MAX)}px`;
  }, [text]);
  useEffect(() => {
    // A keyboard on glass would cover what the user came to read.
    if (matchMedia("(hover: hover)").matches) field.current?.focus();
  }, []);

  const change = (next: string) => {
    setText(next);
    if (next === "") drafts.delete(name);
    else drafts.set(name, next);
  };
  const send = () => {
    if (text.trim() === "") return;
    onSend(text);
    change("");
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // While an input method composes, Enter is its own.
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <div className="composer">
      <div className="field">
        <textarea
          ref={field}
          rows={1}
          value={text}
          placeholder={`Message ${title}`}
          aria-label={`Message ${title}`}
          aria-describedby={hintId}
          onChange={(event) => change(event.target.value)}
          onKeyDown={onKeyDown}
        />
        <button type="button" className="primary" aria-label="Send" disabled={text.trim() === ""} onClick={send}>
          <Icon name="send" />
        </button>
      </div>
      <div className="status-line">
        <span role="status">
          {hasMoved ? "The server is at another address now." : said}
          {hasMoved && (
            <button type="button" className="link" onClick={() => location.reload()}>
              Load the page again
            </button>
          )}
        </span>
        {said === undefined && (
          <span id={hintId} className="hint">
            <kbd>Enter</kbd> sends, <kbd>Shift</kbd>+<kbd>Enter</kbd> begins a line
          </span>
        )}
      </div>
    </div>
  );
}
