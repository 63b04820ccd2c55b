//! From bytes to client and server frames. Texts and bodies are borrowed from the input; only lists allocate, within limits.

use capnp::struct_list;

use super::{
    AGENT_BYTES_MAX, CLIENT_FRAME_BYTES_MAX, ClientBody, ClientFrame, ENDPOINTS_MAX, Hello, HistoryClass, HistoryRange,
    HistoryRequest, Message, PAGE_MESSAGES_MAX, PAYLOAD_BYTES_CAP, Publish, Published, Recovery,
    SERVER_FRAME_BYTES_MAX, SUBSCRIPTIONS_CAP, ServerBody, ServerFrame, Start, Subscribe, Subscribed, TOKEN_BYTES_MAX,
    Welcome,
};
use crate::error::{FrameError, Stop};
use crate::generated::client_capnp as wire;
use crate::id::{ChannelId, Epoch, Offset, Position, Producer, ProducerSequence, SessionId};
use crate::segment::{limit, open, share, share_text};

/// Decodes a frame from a client. `input` is one whole WebSocket message; it need not be aligned.
///
/// A member, or a value inside one, that this version does not know gives [`ClientBody::Unknown`]. The name in a subscribe and the
/// body of a publish may be as long as the frame allows: the request is refused for them, not the frame.
///
/// # Errors
/// [`FrameError`]; the connection ends with its [`code`](FrameError::code).
pub fn decode_client(input: &[u8]) -> Result<ClientFrame<'_>, FrameError> {
    let message = open(input, CLIENT_FRAME_BYTES_MAX)?;
    let frame: wire::client_frame::Reader<'_> = message.get_root()?;
    let body = match client_body(input, frame) {
        Ok(body) => body,
        Err(Stop::Unknown) => ClientBody::Unknown,
        Err(Stop::Fault(error)) => return Err(error),
    };
    Ok(ClientFrame { request: frame.get_request(), body })
}

/// Decodes a frame from a node. `input` is one whole WebSocket message; it need not be aligned.
///
/// A member, or a value inside one, that this version does not know gives [`ServerBody::Unknown`].
///
/// # Errors
/// [`FrameError`]; the connection ends with its [`code`](FrameError::code).
pub fn decode_server(input: &[u8]) -> Result<ServerFrame<'_>, FrameError> {
    let message = open(input, SERVER_FRAME_BYTES_MAX)?;
    let frame: wire::server_frame::Reader<'_> = message.get_root()?;
    let body = match server_body(input, frame) {
        Ok(body) => body,
        Err(Stop::Unknown) => ServerBody::Unknown,
        Err(Stop::Fault(error)) => return Err(error),
    };
    Ok(ServerFrame { request: frame.get_request(), body })
}

fn client_body<'a>(input: &'a [u8], frame: wire::client_frame::Reader<'_>) -> Result<ClientBody<'a>, Stop> {
    use wire::client_frame::Which;
    Ok(match frame.which()? {
        Which::Hello(hello) => ClientBody::Hello(self::hello(input, hello?)?),
        Which::Subscribe(subscribe) => ClientBody::Subscribe(self::subscribe(input, subscribe?)?),
        Which::Unsubscribe(unsubscribe) => {
            ClientBody::Unsubscribe { channel: channel("unsubscribe.channel", unsubscribe?.get_channel())? }
        }
        Which::Publish(publish) => ClientBody::Publish(self::publish(input, publish?)?),
        Which::History(history) => ClientBody::History(history_request(history?)?),
        Which::Refresh(refresh) => {
            let token = share_text(input, "refresh.token", refresh?.get_token())?;
            limit("refresh.token", token.len(), TOKEN_BYTES_MAX)?;
            ClientBody::Refresh { token }
        }
        Which::Pong(()) => ClientBody::Pong,
        Which::MarkRead(mark) => {
            let mark = mark?;
            ClientBody::MarkRead {
                channel: channel("markRead.channel", mark.get_channel())?,
                position: position("markRead.position", mark.get_position()?)?,
            }
        }
    })
}

fn hello<'a>(input: &'a [u8], hello: wire::hello::Reader<'_>) -> Result<Hello<'a>, Stop> {
    let token = share_text(input, "hello.token", hello.get_token())?;
    limit("hello.token", token.len(), TOKEN_BYTES_MAX)?;
    let agent = share_text(input, "hello.agent", hello.get_agent())?;
    limit("hello.agent", agent.len(), AGENT_BYTES_MAX)?;
    let list = hello.get_subscriptions()?;
    let len = list_len("hello.subscriptions", list.len(), SUBSCRIPTIONS_CAP)?;
    let mut subscriptions = Vec::with_capacity(len);
    for item in list.iter() {
        subscriptions.push(subscribe(input, item)?);
    }
    Ok(Hello {
        version_min: hello.get_version_min(),
        version_max: hello.get_version_max(),
        features: hello.get_features(),
        token,
        agent,
        subscriptions,
    })
}

fn subscribe<'a>(input: &'a [u8], subscribe: wire::subscribe::Reader<'_>) -> Result<Subscribe<'a>, Stop> {
    use wire::subscribe::Which;
    Ok(Subscribe {
        channel: share_text(input, "subscribe.channel", subscribe.get_channel())?,
        start: match subscribe.which()? {
            Which::Live(()) => Start::Live,
            Which::After(after) => Start::After(position("subscribe.after", after?)?),
            Which::Attach(()) => Start::Attach,
        },
    })
}

fn publish<'a>(input: &'a [u8], publish: wire::publish::Reader<'_>) -> Result<Publish<'a>, Stop> {
    Ok(Publish {
        channel: channel("publish.channel", publish.get_channel())?,
        producer: producer("publish.producer", publish.get_producer())?,
        sequence: sequence("publish.sequence", publish.get_sequence())?,
        body: share(input, publish.get_body()?),
    })
}

fn history_request(request: wire::history_request::Reader<'_>) -> Result<HistoryRequest, Stop> {
    use wire::history_request::Which;
    Ok(HistoryRequest {
        channel: channel("history.channel", request.get_channel())?,
        messages_max: request.get_messages_max(),
        range: match request.which()? {
            Which::Newest(()) => HistoryRange::Newest,
            Which::Before(before) => {
                HistoryRange::Before(Offset::new(before).ok_or(FrameError::Zero { what: "history.before" })?)
            }
            Which::After(after) => HistoryRange::After(after),
        },
    })
}

fn server_body<'a>(input: &'a [u8], frame: wire::server_frame::Reader<'_>) -> Result<ServerBody<'a>, Stop> {
    use wire::server_frame::Which;
    Ok(match frame.which()? {
        Which::Welcome(welcome) => ServerBody::Welcome(self::welcome(input, welcome?)?),
        Which::Subscribed(subscribed) => ServerBody::Subscribed(self::subscribed(input, subscribed?)?),
        Which::Unsubscribed(unsubscribed) => {
            let unsubscribed = unsubscribed?;
            ServerBody::Unsubscribed {
                channel: channel("unsubscribed.channel", unsubscribed.get_channel())?,
                code: unsubscribed.get_code(),
                reason: share_text(input, "unsubscribed.reason", unsubscribed.get_reason())?,
            }
        }
        Which::Published(published) => ServerBody::Published(self::published(published?)?),
        Which::Message(message) => ServerBody::Message(self::message(input, message?)?),
        Which::Page(page) => {
            let page = page?;
            ServerBody::Page {
                channel: channel("page.channel", page.get_channel())?,
                messages: messages(input, page.get_messages()?)?,
                more: page.get_more(),
            }
        }
        Which::Refreshed(refreshed) => ServerBody::Refreshed { token_expires_ms: refreshed?.get_token_expires_ms() },
        Which::Error(error) => {
            let error = error?;
            ServerBody::Error {
                code: error.get_code(),
                message: share_text(input, "error.message", error.get_message())?,
                retry_after_ms: error.get_retry_after_ms(),
                channel: share_text(input, "error.channel", error.get_channel())?,
            }
        }
        Which::Ping(()) => ServerBody::Ping,
        Which::GoAway(go_away) => {
            let go_away = go_away?;
            let list = go_away.get_endpoints()?;
            let len = list_len("goAway.endpoints", list.len(), ENDPOINTS_MAX)?;
            let mut endpoints = Vec::with_capacity(len);
            for endpoint in list.iter() {
                endpoints.push(share_text(input, "goAway.endpoints", endpoint)?);
            }
            ServerBody::GoAway { code: go_away.get_code(), after_ms: go_away.get_after_ms(), endpoints }
        }
        Which::Skipped(skipped) => {
            let skipped = skipped?;
            ServerBody::Skipped {
                channel: channel("skipped.channel", skipped.get_channel())?,
                first: position("skipped.first", skipped.get_first()?)?,
                last: position("skipped.last", skipped.get_last()?)?,
            }
        }
        Which::Read(read) => {
            let read = read?;
            ServerBody::Read {
                channel: channel("read.channel", read.get_channel())?,
                position: position("read.position", read.get_position()?)?,
            }
        }
    })
}

fn welcome<'a>(input: &'a [u8], welcome: wire::welcome::Reader<'_>) -> Result<Welcome<'a>, Stop> {
    let session = share(input, welcome.get_session()?);
    Ok(Welcome {
        version: welcome.get_version(),
        heartbeat_ms: welcome.get_heartbeat_ms(),
        features: welcome.get_features(),
        session: SessionId(session.try_into().map_err(|_: std::array::TryFromSliceError| FrameError::Length {
            what: "welcome.session",
            bytes: session.len(),
            bytes_expected: 16,
        })?),
        token_expires_ms: welcome.get_token_expires_ms(),
        payload_bytes_max: welcome.get_payload_bytes_max(),
        subscriptions_max: welcome.get_subscriptions_max(),
        node: share_text(input, "welcome.node", welcome.get_node())?,
    })
}

fn subscribed<'a>(input: &'a [u8], subscribed: wire::subscribed::Reader<'_>) -> Result<Subscribed<'a>, Stop> {
    use wire::subscribed::recovery::Which;
    Ok(Subscribed {
        name: share_text(input, "subscribed.name", subscribed.get_name())?,
        channel: channel("subscribed.channel", subscribed.get_channel())?,
        position: position("subscribed.position", subscribed.get_position()?)?,
        history: match subscribed.get_history()? {
            wire::HistoryClass::Durable => HistoryClass::Durable,
            wire::HistoryClass::Windowed => HistoryClass::Windowed,
            wire::HistoryClass::None => HistoryClass::None,
        },
        can_publish: subscribed.get_can_publish(),
        recovery: match subscribed.get_recovery().which()? {
            Which::None(()) => Recovery::None,
            Which::Whole(()) => Recovery::Whole,
            Which::Reload(code) => Recovery::Reload(code),
        },
    })
}

fn published(published: wire::published::Reader<'_>) -> Result<Published, Stop> {
    Ok(Published {
        channel: channel("published.channel", published.get_channel())?,
        producer: producer("published.producer", published.get_producer())?,
        sequence: sequence("published.sequence", published.get_sequence())?,
        position: position("published.position", published.get_position()?)?,
        duplicate: published.get_duplicate(),
    })
}

fn messages<'a>(
    input: &'a [u8],
    list: struct_list::Reader<'_, wire::message::Owned>,
) -> Result<Vec<Message<'a>>, Stop> {
    let len = list_len("page.messages", list.len(), PAGE_MESSAGES_MAX)?;
    let mut messages = Vec::with_capacity(len);
    for item in list.iter() {
        messages.push(message(input, item)?);
    }
    Ok(messages)
}

fn message<'a>(input: &'a [u8], message: wire::message::Reader<'_>) -> Result<Message<'a>, Stop> {
    let body = share(input, message.get_body()?);
    limit("message.body", body.len(), PAYLOAD_BYTES_CAP)?;
    Ok(Message {
        channel: channel("message.channel", message.get_channel())?,
        position: position("message.position", message.get_position()?)?,
        time_ms: message.get_time_ms(),
        user: share_text(input, "message.user", message.get_user())?,
        producer: producer("message.producer", message.get_producer())?,
        sequence: sequence("message.sequence", message.get_sequence())?,
        body,
    })
}

fn list_len(what: &'static str, len: u32, len_max: usize) -> Result<usize, FrameError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    limit(what, len, len_max)?;
    Ok(len)
}

fn channel(what: &'static str, number: u64) -> Result<ChannelId, FrameError> {
    ChannelId::new(number).ok_or(FrameError::Zero { what })
}

fn producer(what: &'static str, number: u64) -> Result<Producer, FrameError> {
    Producer::new(number).ok_or(FrameError::Zero { what })
}

fn sequence(what: &'static str, number: u64) -> Result<ProducerSequence, FrameError> {
    ProducerSequence::new(number).ok_or(FrameError::Zero { what })
}

fn position(what: &'static str, position: wire::position::Reader<'_>) -> Result<Position, FrameError> {
    let epoch = Epoch::new(position.get_epoch()).ok_or(FrameError::Zero { what })?;
    Ok(Position { epoch, offset: position.get_offset() })
}
