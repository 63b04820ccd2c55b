// One message: who, when, what, and what became of it if it is the user's own.

import type { Entry } from "@millrace/client";
import { memo, type ReactElement } from "react";

import { words } from "../rest.js";
import { Avatar } from "../ui/avatar.js";
import { Icon } from "../ui/icons.js";
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
  readonly onRetry: (key: string) => void;
  readonly onDiscard: (key: string) => void;
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
  const { entry, user, name, day, isFirstUnread, isContinued, isMine } = props;
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
              <strong title={user}>{name}</strong>
              {isMine && <span className="you">you</span>}
              <time dateTime={new Date(entry.timeMs).toISOString()} title={fullTimeOf(entry.timeMs)}>
                {timeOf(entry.timeMs)}
              </time>
            </p>
          )}
          <p className="body" dir="auto">
            <Text text={entry.text} />
          </p>
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
