// Where the user writes. Enter sends, Shift+Enter begins a line; what is not sent yet stays, channel by channel.

import { useMillrace } from "@millrace/client/react";
import { type KeyboardEvent, type ReactElement, useEffect, useId, useLayoutEffect, useRef, useState } from "react";

import { useStore } from "../store.js";
import { Icon } from "../ui/icons.js";
import { isolated } from "../ui/name.js";
import { moved, useConnectionWords } from "./connection.js";
import { useChat } from "./context.js";

const LINES_PX_MAX = 200;
/** Of a node that has not said what it takes yet. */
const PAYLOAD_BYTES_MAX = 16_384;
const utf8 = new TextEncoder();
const count = (number: number) => number.toLocaleString("en");

/** How many bytes a text is, if that is more than so many. */
function bytesOver(text: string, max: number): number | undefined {
  // No character is more than three bytes for each of its units: what is short is not counted at every key.
  if (text.length * 3 <= max) return undefined;
  const bytes = utf8.encode(text).length;
  return bytes > max ? bytes : undefined;
}

export function Composer(props: {
  readonly name: string;
  readonly title: string;
  readonly onSend: (text: string) => void;
}): ReactElement {
  const { name, title, onSend } = props;
  const { drafts } = useChat();
  const client = useMillrace();
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

  const bytesMax = client.payloadBytesMax ?? PAYLOAD_BYTES_MAX;
  const bytes = bytesOver(text, bytesMax);
  const cannotSend = text.trim() === "" || bytes !== undefined;
  const change = (next: string) => {
    setText(next);
    if (next === "") drafts.delete(name);
    else drafts.set(name, next);
  };
  const send = () => {
    if (cannotSend) return;
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
          placeholder={`Message ${isolated(title)}`}
          aria-label={`Message ${title}`}
          aria-describedby={hintId}
          aria-invalid={bytes !== undefined}
          onChange={(event) => change(event.target.value)}
          onKeyDown={onKeyDown}
        />
        <button type="button" className="primary" aria-label="Send" disabled={cannotSend} onClick={send}>
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
        {bytes !== undefined && (
          <span id={hintId} className="failure" role="alert">
            {`Too long to send: ${count(bytes)} bytes, ${count(bytesMax)} at most.`}
          </span>
        )}
        {bytes === undefined && said === undefined && (
          <span id={hintId} className="hint">
            <kbd>Enter</kbd> sends, <kbd>Shift</kbd>+<kbd>Enter</kbd> begins a line
          </span>
        )}
      </div>
    </div>
  );
}
