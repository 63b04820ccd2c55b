//! What the SDK says, as events are written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_client::{Advice, Error, Event, HistoryClass, Message, Position, Skipped, State};
use serde_json::{Value, json};

pub(crate) fn position(position: Position) -> Value {
    json!({ "epoch": position.epoch.get(), "offset": position.offset })
}

pub(crate) fn history(class: HistoryClass) -> &'static str {
    match class {
        HistoryClass::Durable => "durable",
        HistoryClass::Windowed => "windowed",
        HistoryClass::None => "none",
    }
}

pub(crate) fn message(message: &Message) -> Value {
    let mut value = json!({
        "position": position(message.position),
        "time_ms": message.time_ms,
        "user": &*message.user,
        "producer": message.producer.get().to_string(),
        "sequence": message.sequence.get(),
    });
    match std::str::from_utf8(&message.body) {
        Ok(text) => value["text"] = text.into(),
        Err(_) => value["base64"] = STANDARD.encode(&message.body).into(),
    }
    value
}

/// The event without its client and channel.
pub(crate) fn event(event: &Event) -> Value {
    let tell = |name: &str, mut value: Value| {
        value["event"] = name.into();
        value
    };
    match event {
        Event::Message(one) => tell("message", message(one)),
        Event::Skipped(skipped) => tell(
            "skipped",
            match skipped {
                Skipped::SlowConsumer { first, last } => {
                    json!({ "reason": "slow-consumer", "first": position(*first), "last": position(*last) })
                }
                Skipped::QueueFull { messages } => json!({ "reason": "queue-full", "messages": messages }),
                _ => json!({ "reason": "interrupted" }),
            },
        ),
        Event::Reset { reason, position: at } => {
            tell("reset", json!({ "code": reason.number(), "position": position(*at) }))
        }
        Event::CanPublish(can_publish) => tell("can_publish", json!({ "can_publish": can_publish })),
        Event::Ended(why) => tell("ended", json!({ "error": error(why) })),
        other => tell("unknown", json!({ "debug": format!("{other:?}") })),
    }
}

pub(crate) fn state(state: &State) -> Value {
    match state {
        State::Connecting => json!({ "state": "connecting" }),
        State::Connected { session, node } => {
            json!({ "state": "connected", "session": session.to_string(), "node": &**node })
        }
        State::Reconnecting { attempt, delay, error: why } => json!({
            "state": "reconnecting",
            "attempt": attempt,
            "delay_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "error": error(why),
        }),
        State::Closed { error: Some(why) } => json!({ "state": "closed", "error": error(why) }),
        State::Closed { error: None } => json!({ "state": "closed" }),
        other => json!({ "state": "unknown", "debug": format!("{other:?}") }),
    }
}

pub(crate) fn error(error: &Error) -> Value {
    let mut value = json!({ "kind": kind(error), "advice": advice(error.advice()), "message": chain(error) });
    if let Some(code) = error.code_number() {
        value["code"] = code.into();
    }
    if let Some(retry_after) = error.retry_after() {
        value["retry_after_ms"] = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).into();
    }
    if let Error::Unconfirmed { cause } = error {
        value["cause"] = self::error(cause);
    }
    value
}

/// The error and what caused it, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Refused { .. } => "refused",
        Error::Unconfirmed { .. } => "unconfirmed",
        Error::Connect { .. } => "connect",
        Error::Disconnected { .. } => "disconnected",
        Error::Protocol(_) => "protocol",
        Error::Url(_) => "url",
        Error::Name(_) => "name",
        Error::TooLarge { .. } => "too-large",
        Error::Token(_) => "token",
        Error::TimedOut(_) => "timed-out",
        Error::AlreadySubscribed { .. } => "already-subscribed",
        Error::TooManyRequests => "too-many-requests",
        Error::Closed => "closed",
        // A kind that this driver does not know fails its scenario.
        _ => "unknown",
    }
}

fn advice(advice: Advice) -> &'static str {
    match advice {
        Advice::DoNotRetry => "do-not-retry",
        Advice::Retry => "retry",
        Advice::Reconnect => "reconnect",
        Advice::Reload => "reload",
        Advice::Authenticate => "authenticate",
    }
}
