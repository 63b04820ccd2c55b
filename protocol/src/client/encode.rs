//! From client and server frames to bytes, appended to a buffer of the caller.

use super::{
    ClientBody, ClientFrame, Hello, HistoryClass, HistoryRange, Message, Recovery, ServerBody, ServerFrame, Start,
    Subscribe, Subscribed, Welcome,
};
use crate::generated::client_capnp as wire;
use crate::id::Position;
use crate::segment::{count, data_words, text_words, write};

/// More words than the structs of any frame take, its lists, texts and bodies aside.
const FIXED_WORDS: usize = 24;
/// Words of a [`Subscribe`] in a list, without its name: the struct and a position.
const SUBSCRIBE_WORDS: usize = 5;
/// Words of a [`Message`] in a list, without its user and body: the struct and a position.
const MESSAGE_WORDS: usize = 9;

/// Appends a client's frame to `out`.
///
/// # Panics
/// On [`ClientBody::Unknown`], which is only ever received, and if a list or body is too long for Cap'n Proto (2^29).
/// Sizes over the limits of this module are encoded and then refused by the peer: check them where they come from.
pub fn encode_client(frame: &ClientFrame<'_>, out: &mut Vec<u8>) {
    write(client_words_max(&frame.body), out, |message| {
        let mut to: wire::client_frame::Builder<'_> = message.init_root();
        to.set_request(frame.request);
        match &frame.body {
            ClientBody::Hello(from) => hello(from, to.init_hello()),
            ClientBody::Subscribe(from) => subscribe(from, to.init_subscribe()),
            ClientBody::Unsubscribe { channel } => to.init_unsubscribe().set_channel(channel.get()),
            ClientBody::Publish(from) => {
                let mut to = to.init_publish();
                to.set_channel(from.channel.get());
                to.set_producer(from.producer.get());
                to.set_sequence(from.sequence.get());
                to.set_body(from.body);
            }
            ClientBody::History(from) => {
                let mut to = to.init_history();
                to.set_channel(from.channel.get());
                to.set_messages_max(from.messages_max);
                match from.range {
                    HistoryRange::Newest => to.set_newest(()),
                    HistoryRange::Before(offset) => to.set_before(offset.get()),
                    HistoryRange::After(offset) => to.set_after(offset),
                }
            }
            ClientBody::Refresh { token } => to.init_refresh().set_token(*token),
            ClientBody::Pong => to.set_pong(()),
            ClientBody::MarkRead { channel, position: at } => {
                let mut to = to.init_mark_read();
                to.set_channel(channel.get());
                position(*at, to.init_position());
            }
            ClientBody::Unknown => panic!("an unknown frame is only ever received"),
        }
    });
}

/// Appends a node's frame to `out`: no allocation beyond the growth of `out`.
///
/// # Panics
/// On [`ServerBody::Unknown`], which is only ever received, and if a list or body is too long for Cap'n Proto (2^29).
/// Sizes over the limits of this module are encoded and then refused by the peer: check them where they come from.
pub fn encode_server(frame: &ServerFrame<'_>, out: &mut Vec<u8>) {
    write(server_words_max(&frame.body), out, |builder| {
        let mut to: wire::server_frame::Builder<'_> = builder.init_root();
        to.set_request(frame.request);
        match &frame.body {
            ServerBody::Welcome(from) => welcome(from, to.init_welcome()),
            ServerBody::Subscribed(from) => subscribed(from, to.init_subscribed()),
            ServerBody::Unsubscribed { channel, code, reason } => {
                let mut to = to.init_unsubscribed();
                to.set_channel(channel.get());
                to.set_code(*code);
                to.set_reason(*reason);
            }
            ServerBody::Published(from) => {
                let mut to = to.init_published();
                to.set_channel(from.channel.get());
                to.set_producer(from.producer.get());
                to.set_sequence(from.sequence.get());
                to.set_duplicate(from.duplicate);
                position(from.position, to.init_position());
            }
            ServerBody::Message(from) => message(from, to.init_message()),
            ServerBody::Page { channel, messages, more } => {
                let mut to = to.init_page();
                to.set_channel(channel.get());
                to.set_more(*more);
                let mut list = to.init_messages(count(messages.len()));
                for (index, from) in (0..).zip(messages) {
                    message(from, list.reborrow().get(index));
                }
            }
            ServerBody::Refreshed { token_expires_ms } => {
                to.init_refreshed().set_token_expires_ms(*token_expires_ms);
            }
            ServerBody::Error { code, message, retry_after_ms, channel } => {
                let mut to = to.init_error();
                to.set_code(*code);
                to.set_message(*message);
                to.set_retry_after_ms(*retry_after_ms);
                to.set_channel(*channel);
            }
            ServerBody::Ping => to.set_ping(()),
            ServerBody::GoAway { code, after_ms, endpoints } => {
                let mut to = to.init_go_away();
                to.set_code(*code);
                to.set_after_ms(*after_ms);
                let mut list = to.init_endpoints(count(endpoints.len()));
                for (index, endpoint) in (0..).zip(endpoints) {
                    list.set(index, *endpoint);
                }
            }
            ServerBody::Skipped { channel, first, last } => {
                let mut to = to.init_skipped();
                to.set_channel(channel.get());
                position(*first, to.reborrow().init_first());
                position(*last, to.init_last());
            }
            ServerBody::Read { channel, position: at } => {
                let mut to = to.init_read();
                to.set_channel(channel.get());
                position(*at, to.init_position());
            }
            ServerBody::Unknown => panic!("an unknown frame is only ever received"),
        }
    });
}

fn client_words_max(body: &ClientBody<'_>) -> usize {
    FIXED_WORDS
        + match body {
            ClientBody::Hello(hello) => {
                let names: usize = hello.subscriptions.iter().map(|item| text_words(item.channel)).sum();
                let items = 1 + hello.subscriptions.len() * SUBSCRIBE_WORDS;
                text_words(hello.token) + text_words(hello.agent) + items + names
            }
            ClientBody::Subscribe(subscribe) => text_words(subscribe.channel),
            ClientBody::Publish(publish) => data_words(publish.body),
            ClientBody::Refresh { token } => text_words(token),
            ClientBody::Unsubscribe { .. }
            | ClientBody::History(_)
            | ClientBody::Pong
            | ClientBody::MarkRead { .. }
            | ClientBody::Unknown => 0,
        }
}

fn server_words_max(body: &ServerBody<'_>) -> usize {
    FIXED_WORDS
        + match body {
            ServerBody::Welcome(welcome) => text_words(welcome.node),
            ServerBody::Subscribed(subscribed) => text_words(subscribed.name),
            ServerBody::Unsubscribed { reason, .. } => text_words(reason),
            ServerBody::Message(message) => text_words(message.user) + data_words(message.body),
            ServerBody::Page { messages, .. } => 1 + messages.iter().map(message_words).sum::<usize>(),
            ServerBody::Error { message, channel, .. } => text_words(message) + text_words(channel),
            ServerBody::GoAway { endpoints, .. } => endpoints.iter().map(|endpoint| 1 + text_words(endpoint)).sum(),
            ServerBody::Published(_)
            | ServerBody::Refreshed { .. }
            | ServerBody::Ping
            | ServerBody::Skipped { .. }
            | ServerBody::Read { .. }
            | ServerBody::Unknown => 0,
        }
}

pub(super) fn message_words(message: &Message<'_>) -> usize {
    MESSAGE_WORDS + text_words(message.user) + data_words(message.body)
}

fn hello(from: &Hello<'_>, mut to: wire::hello::Builder<'_>) {
    to.set_version_min(from.version_min);
    to.set_version_max(from.version_max);
    to.set_features(from.features);
    to.set_token(from.token);
    to.set_agent(from.agent);
    let mut list = to.init_subscriptions(count(from.subscriptions.len()));
    for (index, from) in (0..).zip(&from.subscriptions) {
        subscribe(from, list.reborrow().get(index));
    }
}

fn subscribe(from: &Subscribe<'_>, mut to: wire::subscribe::Builder<'_>) {
    to.set_channel(from.channel);
    match from.start {
        Start::Live => to.set_live(()),
        Start::After(after) => position(after, to.init_after()),
        Start::Attach => to.set_attach(()),
    }
}

fn welcome(from: &Welcome<'_>, mut to: wire::welcome::Builder<'_>) {
    to.set_version(from.version);
    to.set_heartbeat_ms(from.heartbeat_ms);
    to.set_features(from.features);
    to.set_session(&from.session.0);
    to.set_token_expires_ms(from.token_expires_ms);
    to.set_payload_bytes_max(from.payload_bytes_max);
    to.set_subscriptions_max(from.subscriptions_max);
    to.set_node(from.node);
}

fn subscribed(from: &Subscribed<'_>, mut to: wire::subscribed::Builder<'_>) {
    to.set_name(from.name);
    to.set_channel(from.channel.get());
    position(from.position, to.reborrow().init_position());
    to.set_history(match from.history {
        HistoryClass::Durable => wire::HistoryClass::Durable,
        HistoryClass::Windowed => wire::HistoryClass::Windowed,
        HistoryClass::None => wire::HistoryClass::None,
    });
    to.set_can_publish(from.can_publish);
    let mut recovery = to.init_recovery();
    match from.recovery {
        Recovery::None => recovery.set_none(()),
        Recovery::Whole => recovery.set_whole(()),
        Recovery::Reload(code) => recovery.set_reload(code),
    }
}

fn message(from: &Message<'_>, mut to: wire::message::Builder<'_>) {
    to.set_channel(from.channel.get());
    to.set_time_ms(from.time_ms);
    to.set_user(from.user);
    to.set_producer(from.producer.get());
    to.set_sequence(from.sequence.get());
    to.set_body(from.body);
    position(from.position, to.init_position());
}

fn position(from: Position, mut to: wire::position::Builder<'_>) {
    to.set_epoch(from.epoch.get());
    to.set_offset(from.offset);
}
