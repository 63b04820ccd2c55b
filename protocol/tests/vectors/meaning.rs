//! What a frame means, as JSON in the words of the schema: a union is the key of its member, 64-bit numbers are decimal
//! strings, data are hex digits, `Void` is null.

use millrace_protocol::client::{
    ClientBody, ClientFrame, HistoryClass, HistoryRange, Message, Recovery, ServerBody, ServerFrame, Start, Subscribe,
};
use millrace_protocol::id::Position;
use serde_json::{Map, Value, json};

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn client(frame: &ClientFrame<'_>) -> Value {
    let (member, value) = match &frame.body {
        ClientBody::Hello(hello) => (
            "hello",
            json!({
                "versionMin": hello.version_min,
                "versionMax": hello.version_max,
                "features": hello.features.to_string(),
                "token": hello.token,
                "agent": hello.agent,
                "subscriptions": hello.subscriptions.iter().map(subscribe).collect::<Vec<_>>(),
            }),
        ),
        ClientBody::Subscribe(from) => ("subscribe", subscribe(from)),
        ClientBody::Unsubscribe { channel } => ("unsubscribe", json!({ "channel": channel.to_string() })),
        ClientBody::Publish(publish) => (
            "publish",
            json!({
                "channel": publish.channel.to_string(),
                "producer": publish.producer.to_string(),
                "sequence": publish.sequence.to_string(),
                "body": hex(publish.body),
            }),
        ),
        ClientBody::History(request) => {
            let (key, value) = match request.range {
                HistoryRange::Newest => ("newest", Value::Null),
                HistoryRange::Before(offset) => ("before", json!(offset.to_string())),
                HistoryRange::After(offset) => ("after", json!(offset.to_string())),
            };
            let fields = json!({ "channel": request.channel.to_string(), "messagesMax": request.messages_max });
            ("history", with(fields, key, value))
        }
        ClientBody::Refresh { token } => ("refresh", json!({ "token": token })),
        ClientBody::Pong => ("pong", Value::Null),
        ClientBody::MarkRead { channel, position: at } => {
            ("markRead", json!({ "channel": channel.to_string(), "position": position(*at) }))
        }
        ClientBody::Unknown => ("unknown", Value::Null),
    };
    with(json!({ "request": frame.request }), member, value)
}

pub(crate) fn server(frame: &ServerFrame<'_>) -> Value {
    let (member, value) = match &frame.body {
        ServerBody::Welcome(welcome) => (
            "welcome",
            json!({
                "version": welcome.version,
                "heartbeatMs": welcome.heartbeat_ms,
                "features": welcome.features.to_string(),
                "session": hex(&welcome.session.0),
                "tokenExpiresMs": welcome.token_expires_ms.to_string(),
                "payloadBytesMax": welcome.payload_bytes_max,
                "subscriptionsMax": welcome.subscriptions_max,
                "node": welcome.node,
            }),
        ),
        ServerBody::Subscribed(subscribed) => (
            "subscribed",
            json!({
                "name": subscribed.name,
                "channel": subscribed.channel.to_string(),
                "position": position(subscribed.position),
                "history": match subscribed.history {
                    HistoryClass::Durable => "durable",
                    HistoryClass::Windowed => "windowed",
                    HistoryClass::None => "none",
                },
                "canPublish": subscribed.can_publish,
                "recovery": match subscribed.recovery {
                    Recovery::None => json!({ "none": null }),
                    Recovery::Whole => json!({ "whole": null }),
                    Recovery::Reload(code) => json!({ "reload": code }),
                },
            }),
        ),
        ServerBody::Unsubscribed { channel, code, reason } => {
            ("unsubscribed", json!({ "channel": channel.to_string(), "code": code, "reason": reason }))
        }
        ServerBody::Published(published) => (
            "published",
            json!({
                "channel": published.channel.to_string(),
                "producer": published.producer.to_string(),
                "sequence": published.sequence.to_string(),
                "position": position(published.position),
                "duplicate": published.duplicate,
            }),
        ),
        ServerBody::Message(from) => ("message", message(from)),
        ServerBody::Page { channel, messages, more } => (
            "page",
            json!({
                "channel": channel.to_string(),
                "messages": messages.iter().map(message).collect::<Vec<_>>(),
                "more": more,
            }),
        ),
        ServerBody::Refreshed { token_expires_ms } => {
            ("refreshed", json!({ "tokenExpiresMs": token_expires_ms.to_string() }))
        }
        ServerBody::Error { code, message, retry_after_ms, channel } => {
            ("error", json!({ "code": code, "message": message, "retryAfterMs": retry_after_ms, "channel": channel }))
        }
        ServerBody::Ping => ("ping", Value::Null),
        ServerBody::GoAway { code, after_ms, endpoints } => {
            ("goAway", json!({ "code": code, "afterMs": after_ms, "endpoints": endpoints }))
        }
        ServerBody::Skipped { channel, first, last } => {
            ("skipped", json!({ "channel": channel.to_string(), "first": position(*first), "last": position(*last) }))
        }
        ServerBody::Read { channel, position: at } => {
            ("read", json!({ "channel": channel.to_string(), "position": position(*at) }))
        }
        ServerBody::Unknown => ("unknown", Value::Null),
    };
    with(json!({ "request": frame.request }), member, value)
}

fn with(fields: Value, key: &str, value: Value) -> Value {
    let Value::Object(mut fields) = fields else { unreachable!("fields are an object") };
    fields.insert(key.into(), value);
    Value::Object(fields)
}

fn subscribe(subscribe: &Subscribe<'_>) -> Value {
    let (key, value) = match subscribe.start {
        Start::Live => ("live", Value::Null),
        Start::After(after) => ("after", position(after)),
        Start::Attach => ("attach", Value::Null),
    };
    let fields = Map::from_iter([("channel".into(), json!(subscribe.channel))]);
    with(Value::Object(fields), key, value)
}

fn message(message: &Message<'_>) -> Value {
    json!({
        "channel": message.channel.to_string(),
        "position": position(message.position),
        "timeMs": message.time_ms.to_string(),
        "user": message.user,
        "producer": message.producer.to_string(),
        "sequence": message.sequence.to_string(),
        "body": hex(message.body),
    })
}

fn position(position: Position) -> Value {
    json!({ "epoch": position.epoch.get(), "offset": position.offset.to_string() })
}
