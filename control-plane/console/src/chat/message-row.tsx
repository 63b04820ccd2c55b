// One message: who, when, what, and what became of it if it is the user's own.

import type { Entry } from "@millrace/client";
import { memo, type ReactElement } from "react";

import { words } from "../rest.js";
import { Avatar } from "../ui/avatar.js";
import { Icon } from "../ui/icons.js";
import { Name } from "../ui/name.js";
import { Text } from "../ui/text.js";
import { dayName, dayNumber, fullTimeOf, timeOf } from "./days.js";

/** Messages of one user within this time stand together. */
const TOGETHER_MS = 5 * 60_000;

export interface RowProps {
  readonly entry: Entry;
  readonly user: string;
  readonly name: string;
  /** Says a day, if the row is its first. */
  readonly day: string | undefined;
  /** The first one that the user has not read. */
  readonly isFirstUnread: boolean;
  /** It goes on with what the same user said just before. */
  readonly isContinued: boolean;
  readonly isMine: boolean;
  /** A long text is shown whole. */
  readonly isWhole: boolean;
  readonly onWhole: (key: string) => void;
  readonly onRetry: (key: string) => void;
  readonly onDiscard: (key: string) => void;
}

/** A longer text is cut until somebody asks for the rest: one message is not the whole page. */
const LINES_MAX = 30;
const CHARACTERS_MAX = 4_000;

/** Where a text is cut; `undefined` if it is shown whole. A few lines or words more are not worth a button. */
export function cutAt(text: string): number | undefined {
  let end = 0;
  let lines = 0;
  for (let at = text.indexOf("\n"); at >= 0 && lines < LINES_MAX + 5; at = text.indexOf("\n", at + 1)) {
    lines += 1;
    if (lines === LINES_MAX) end = at;
  }
  const byLines = lines >= LINES_MAX + 5 ? end : text.length;
  const byLength = text.length > CHARACTERS_MAX + 500 ? CHARACTERS_MAX : text.length;
  const cut = Math.min(byLines, byLength);
  if (cut === text.length) return undefined;
  // Not between the halves of a character.
  return /[\ud800-\udbff]/.test(text.charAt(cut - 1)) ? cut - 1 : cut;
}

export const senderOf = (entry: Entry, me: string): string => entry.message?.user ?? me;

/** What a row shows because of the one before. */
export function placing(
  entry: Entry,
  previous: Entry | undefined,
  me: string,
  nowMs: number,
): Pick<RowProps, "day" | "isContinued"> {
  const isNewDay = previous === undefined || dayNumber(previous.timeMs) !== dayNumber(entry.timeMs);
  const isContinued =
    !isNewDay && senderOf(previous, me) === senderOf(entry, me) && entry.timeMs - previous.timeMs < TOGETHER_MS;
  return { day: isNewDay ? dayName(entry.timeMs, nowMs) : undefined, isContinued };
}

export const MessageRow = memo(function MessageRow(props: RowProps): ReactElement {
  const { entry, user, name, day, isFirstUnread, isContinued, isMine, isWhole, onWhole } = props;
  const cut = isWhole ? undefined : cutAt(entry.text);
  const showsSender = !isContinued || isFirstUnread;
  return (
    <>
      {day !== undefined && (
        <h3 className="day">
          <span>{day}</span>
        </h3>
      )}
      {isFirstUnread && (
        <p className="unread-line">
          <span>New</span>
        </p>
      )}
      <article
        className={showsSender ? "message" : "message continued"}
        data-status={entry.status}
        aria-label={`${name}, ${timeOf(entry.timeMs)}`}
      >
        {showsSender ? (
          <Avatar user={user} name={name} />
        ) : (
          <time className="aside" dateTime={new Date(entry.timeMs).toISOString()} title={fullTimeOf(entry.timeMs)}>
            {timeOf(entry.timeMs)}
          </time>
        )}
        <div className="content">
          {showsSender && (
            <p className="sender">
              {/* Two may have the same name. */}
              <strong title={user}>
                <Name text={name} />
              </strong>
              {isMine && <span className="you">you</span>}
              <time dateTime={new Date(entry.timeMs).toISOString()} title={fullTimeOf(entry.timeMs)}>
                {timeOf(entry.timeMs)}
              </time>
            </p>
          )}
          <p className="body" dir="auto">
            <Text text={cut === undefined ? entry.text : entry.text.slice(0, cut)} />
            {cut !== undefined && "…"}
          </p>
          {cut !== undefined && (
            <button type="button" className="link" onClick={() => onWhole(entry.key)}>
              Show more
            </button>
          )}
          {entry.status === "failed" && <Failure {...props} />}
        </div>
        {entry.isOwn && entry.status !== "failed" && <Fate status={entry.status} />}
      </article>
    </>
  );
});

/** On its way, or there. */
function Fate({ status }: { readonly status: "sending" | "sent" }): ReactElement {
  const said = status === "sending" ? "Sending" : "Sent";
  return (
    <span
      className="fate"
      role="img"
      aria-label={said}
      title={status === "sending" ? "Sending…" : "Stored on the server"}
    >
      <Icon name={status === "sending" ? "clock" : "check"} />
    </span>
  );
}

function Failure({ entry, onRetry, onDiscard }: RowProps): ReactElement {
  const isUncertain = entry.error?.kind === "unconfirmed";
  return (
    <p className="failure" role="alert">
      <Icon name="warning" />
      <span>{isUncertain ? "It is not known whether this was stored." : `Not sent. ${words(entry.error)}`}</span>
      <button type="button" className="link" onClick={() => onRetry(entry.key)}>
        {isUncertain ? "Send again" : "Try again"}
      </button>
      <button type="button" className="link" onClick={() => onDiscard(entry.key)}>
        Discard
      </button>
    </p>
  );
}
