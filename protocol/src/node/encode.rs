//! From frames of the control link to bytes, appended to a buffer of the caller.

use super::{
    AppendOutcome, ChannelAppend, ChannelKind, ChannelRef, FRAME_BYTES_MAX, Grant, Head, HistoryClass, HistoryRange,
    KeyAlgorithm, LinkHello, MemberChanged, NewMessage, NodeBody, NodeFrame, PublishedAt, ReadMark, RevokedTokens,
    Role, SlowConsumer, StoredMessage, TenantKey, TokensRevoked, operate,
};
use crate::code::Refusal;
use crate::error::FrameError;
use crate::generated::node_capnp as wire;
use crate::segment::{count, data_words, frame_bytes, text_words, write};

/// More words than the structs of any frame take, its lists, texts and bodies aside.
const FIXED_WORDS: usize = 24;

/// Most bytes that the frame can take, without the length before it. Never less than it does take, and at most 192 bytes
/// more: what a sender counts to keep within [`FRAME_BYTES_MAX`].
pub fn encoded_bytes_max(frame: &NodeFrame) -> usize {
    frame_bytes(words_max(&frame.body))
}

/// Most bytes that a message adds to an append, its user and body included. See [`encoded_bytes_max`].
pub fn message_bytes_max(message: &NewMessage) -> usize {
    message_words(message) * 8
}

/// Appends the little-endian length of the frame and the frame.
///
/// # Errors
/// [`FrameError::FrameTooLarge`], with `out` as it was, if the frame comes to more than [`FRAME_BYTES_MAX`]: the sender
/// must split it.
///
/// # Panics
/// On [`NodeBody::Unknown`], which is only ever received.
pub fn encode_delimited(frame: &NodeFrame, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode(frame, out);
    let bytes = out.len() - start - 4;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= FRAME_BYTES_MAX => {
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(FrameError::FrameTooLarge { bytes, bytes_max: FRAME_BYTES_MAX })
        }
    }
}

/// Appends the frame without a length.
///
/// # Panics
/// On [`NodeBody::Unknown`], which is only ever received, and if a list or body is too long for Cap'n Proto (2^29).
pub fn encode(frame: &NodeFrame, out: &mut Vec<u8>) {
    write(words_max(&frame.body), out, |message| {
        let mut to: wire::node_frame::Builder<'_> = message.init_root();
        to.set_id(frame.id);
        body(&frame.body, to);
    });
}

fn words_max(body: &NodeBody) -> usize {
    let refusal = |refusal: &Refusal| 2 + text_words(&refusal.message);
    FIXED_WORDS
        + match body {
            NodeBody::Hello(hello) => {
                let endpoints: usize = hello.endpoints.iter().map(|endpoint| 1 + text_words(endpoint)).sum();
                text_words(&hello.node) + endpoints + hashes_words(&hello.certificate_hashes)
            }
            NodeBody::CertificateHashes(hashes) => hashes_words(hashes),
            NodeBody::Refused(refused) => refusal(refused),
            NodeBody::Authorize(list) => list
                .iter()
                .map(|item| {
                    let name = match &item.channel {
                        ChannelRef::Name(name) => text_words(name.as_str()),
                        ChannelRef::Id(_) => 0,
                    };
                    4 + text_words(item.user.as_str()) + name
                })
                .sum(),
            NodeBody::Authorized(list) => list
                .iter()
                .map(|item| match item {
                    Ok(grant) => 7 + text_words(grant.name.as_str()),
                    Err(refused) => 2 + refusal(refused),
                })
                .sum(),
            NodeBody::OpenHomes(list) => list.len(),
            NodeBody::HomesOpened(list) => list
                .iter()
                .map(|(_, result)| match result {
                    Ok(head) => {
                        9 + head.producers.iter().map(|state| 4 + text_words(state.user.as_str())).sum::<usize>()
                    }
                    Err(refused) => 3 + refusal(refused),
                })
                .sum(),
            NodeBody::Append(list) => {
                list.iter().map(|item| 6 + item.messages.iter().map(message_words).sum::<usize>()).sum()
            }
            NodeBody::Appended(list) => list
                .iter()
                .map(|item| match &item.result {
                    Ok(outcomes) => 4 + 2 * outcomes.len(),
                    Err(refused) => 3 + refusal(refused),
                })
                .sum(),
            NodeBody::History(history) => {
                history.messages.iter().map(|stored| 2 + message_words(&stored.message)).sum()
            }
            NodeBody::CloseHomes(list) => 4 * list.len(),
            NodeBody::Publish(order) => message_words(&order.message),
            NodeBody::Published(Err(refused)) => refusal(refused),
            NodeBody::Keys(list) => list
                .iter()
                .map(|item| {
                    let material = item.key.as_ref().map_or(0, |(_, material)| data_words(material));
                    3 + text_words(&item.id) + material
                })
                .sum(),
            NodeBody::MemberChanged(changed) => text_words(changed.user.as_str()),
            NodeBody::ChannelChanged { name, .. } => text_words(name.as_str()),
            NodeBody::TokensRevoked(revoked) => match &revoked.which {
                RevokedTokens::Token(token) => text_words(token),
                RevokedTokens::UserBefore(user, _) => text_words(user.as_str()),
            },
            NodeBody::MarkReads(list) | NodeBody::ReadsMoved(list) => {
                list.iter().map(|item| 4 + text_words(item.user.as_str())).sum()
            }
            NodeBody::ReadsMarked(list) => list
                .iter()
                .map(|item| match item {
                    Ok(_) => 3,
                    Err(refused) => 3 + refusal(refused),
                })
                .sum(),
            NodeBody::Reported(figures) => operate::figures_words(figures),
            NodeBody::Inspect(inspect) => operate::inspect_words(inspect),
            NodeBody::Inspected(inspected) => operate::inspected_words(inspected),
            NodeBody::Challenge { .. }
            | NodeBody::Welcome { .. }
            | NodeBody::Ping
            | NodeBody::Pong
            | NodeBody::ReadHistory(_)
            | NodeBody::HomesClosed
            | NodeBody::Synced
            | NodeBody::Report
            | NodeBody::Drain { .. }
            | NodeBody::Draining
            | NodeBody::Published(Ok(_))
            | NodeBody::Unknown => 0,
        }
}

fn message_words(message: &NewMessage) -> usize {
    5 + text_words(message.user.as_str()) + data_words(&message.body)
}

fn body(from: &NodeBody, mut to: wire::node_frame::Builder<'_>) {
    match from {
        NodeBody::Challenge { nonce, version } => {
            let mut to = to.init_challenge();
            to.set_nonce(nonce);
            to.set_version(*version);
        }
        NodeBody::Hello(from) => hello(from, to.init_hello()),
        NodeBody::Welcome { term, heartbeat_ms } => {
            let mut to = to.init_welcome();
            to.set_term(term.0);
            to.set_heartbeat_ms(*heartbeat_ms);
        }
        NodeBody::Ping => to.set_ping(()),
        NodeBody::Pong => to.set_pong(()),
        NodeBody::Refused(from) => refusal(from, to.init_refused()),
        NodeBody::Authorize(from) => {
            let mut list = to.init_authorize(count(from.len()));
            for (index, from) in (0..).zip(from) {
                let mut to = list.reborrow().get(index);
                to.set_tenant(from.tenant.get());
                to.set_user(from.user.as_str());
                match &from.channel {
                    ChannelRef::Name(name) => to.set_name(name.as_str()),
                    ChannelRef::Id(channel) => to.set_channel(channel.get()),
                }
            }
        }
        NodeBody::Authorized(from) => {
            let mut list = to.init_authorized(count(from.len()));
            for (index, from) in (0..).zip(from) {
                let to = list.reborrow().get(index);
                match from {
                    Ok(from) => grant(from, to.init_grant()),
                    Err(from) => refusal(from, to.init_refused()),
                }
            }
        }
        NodeBody::OpenHomes(from) => {
            let mut list = to.init_open_homes(count(from.len()));
            for (index, channel) in (0..).zip(from) {
                list.set(index, channel.get());
            }
        }
        NodeBody::HomesOpened(from) => {
            let mut list = to.init_homes_opened(count(from.len()));
            for (index, (channel, result)) in (0..).zip(from) {
                let mut to = list.reborrow().get(index);
                to.set_channel(channel.get());
                match result {
                    Ok(from) => head(from, to.init_head()),
                    Err(from) => refusal(from, to.init_refused()),
                }
            }
        }
        NodeBody::Append(from) => {
            let mut list = to.init_append(count(from.len()));
            for (index, from) in (0..).zip(from) {
                append(from, list.reborrow().get(index));
            }
        }
        NodeBody::Appended(from) => {
            let mut list = to.init_appended(count(from.len()));
            for (index, from) in (0..).zip(from) {
                let mut to = list.reborrow().get(index);
                to.set_channel(from.channel.get());
                match &from.result {
                    Ok(from) => outcomes(from, to.init_outcomes(count(from.len()))),
                    Err(from) => refusal(from, to.init_refused()),
                }
            }
        }
        NodeBody::ReadHistory(from) => {
            let mut to = to.init_read_history();
            to.set_channel(from.channel.get());
            to.set_messages_max(from.messages_max);
            to.set_bytes_max(from.bytes_max);
            match from.range {
                HistoryRange::Newest => to.set_newest(()),
                HistoryRange::Before(offset) => to.set_before(offset.get()),
                HistoryRange::After(offset) => to.set_after(offset),
            }
        }
        NodeBody::History(from) => {
            let mut to = to.init_history();
            to.set_channel(from.channel.get());
            to.set_more(from.more);
            let mut list = to.init_messages(count(from.messages.len()));
            for (index, from) in (0..).zip(&from.messages) {
                stored_message(from, list.reborrow().get(index));
            }
        }
        NodeBody::CloseHomes(from) => {
            let mut list = to.init_close_homes(count(from.len()));
            for (index, from) in (0..).zip(from) {
                let mut to = list.reborrow().get(index);
                to.set_channel(from.channel.get());
                to.set_term(from.term.0);
                to.set_epoch(from.epoch.get());
                to.set_next_offset(from.next_offset.get());
            }
        }
        NodeBody::HomesClosed => to.set_homes_closed(()),
        NodeBody::Synced => to.set_synced(()),
        NodeBody::Publish(from) => {
            let mut to = to.init_publish();
            to.set_tenant(from.tenant.get());
            to.set_channel(from.channel.get());
            to.set_history(history_class(from.history));
            new_message(&from.message, to.init_message());
        }
        NodeBody::Published(from) => published(from, to.init_published()),
        NodeBody::Keys(from) => {
            let mut list = to.init_keys(count(from.len()));
            for (index, from) in (0..).zip(from) {
                tenant_key(from, list.reborrow().get(index));
            }
        }
        NodeBody::MemberChanged(from) => member_changed(from, to.init_member_changed()),
        NodeBody::ChannelChanged { tenant, channel, name, archived } => {
            let mut to = to.init_channel_changed();
            to.set_tenant(tenant.get());
            to.set_channel(channel.get());
            to.set_name(name.as_str());
            to.set_archived(*archived);
        }
        NodeBody::TokensRevoked(from) => tokens_revoked(from, to.init_tokens_revoked()),
        NodeBody::Report => to.set_report(()),
        NodeBody::Reported(from) => operate::figures(from, to.init_reported()),
        NodeBody::Inspect(from) => operate::inspect(from, to.init_inspect()),
        NodeBody::Inspected(from) => operate::inspected(from, to.init_inspected()),
        NodeBody::Drain { over_ms } => to.init_drain().set_over_ms(*over_ms),
        NodeBody::Draining => to.set_draining(()),
        NodeBody::MarkReads(from) => read_marks(from, to.init_mark_reads(count(from.len()))),
        NodeBody::ReadsMoved(from) => read_marks(from, to.init_reads_moved(count(from.len()))),
        NodeBody::CertificateHashes(from) => hashes(from, to.init_certificate_hashes(count(from.len()))),
        NodeBody::ReadsMarked(from) => {
            let mut list = to.init_reads_marked(count(from.len()));
            for (index, from) in (0..).zip(from) {
                let to = list.reborrow().get(index);
                match from {
                    Ok(at) => {
                        let mut to = to.init_position();
                        to.set_epoch(at.epoch.get());
                        to.set_offset(at.offset);
                    }
                    Err(from) => refusal(from, to.init_refused()),
                }
            }
        }
        NodeBody::Unknown => panic!("an unknown frame is only ever received"),
    }
}

fn hello(from: &LinkHello, mut to: wire::link_hello::Builder<'_>) {
    to.set_version(from.version);
    to.set_node(from.node.as_str());
    to.set_proof(&from.proof);
    let mut list = to.reborrow().init_endpoints(count(from.endpoints.len()));
    for (index, endpoint) in (0..).zip(&from.endpoints) {
        list.set(index, endpoint.as_str());
    }
    hashes(&from.certificate_hashes, to.init_certificate_hashes(count(from.certificate_hashes.len())));
}

/// A pointer and four words for each.
fn hashes_words(hashes: &[[u8; 32]]) -> usize {
    1 + 5 * hashes.len()
}

fn hashes(from: &[[u8; 32]], mut to: capnp::data_list::Builder<'_>) {
    for (index, hash) in (0..).zip(from) {
        to.set(index, hash);
    }
}

fn grant(from: &Grant, mut to: wire::grant::Builder<'_>) {
    to.set_channel(from.channel.get());
    to.set_name(from.name.as_str());
    to.set_kind(match from.kind {
        ChannelKind::Dm => wire::ChannelKind::Dm,
        ChannelKind::Group => wire::ChannelKind::Group,
        ChannelKind::Broadcast => wire::ChannelKind::Broadcast,
    });
    to.set_history(history_class(from.history));
    to.set_role(role(from.role));
    to.set_can_publish(from.can_publish);
    to.set_slow_consumer(match from.slow_consumer {
        SlowConsumer::Disconnect => wire::SlowConsumer::Disconnect,
        SlowConsumer::Skip => wire::SlowConsumer::Skip,
    });
    if let Some(read) = from.read {
        to.set_read_epoch(read.epoch.get());
        to.set_read_offset(read.offset);
    }
}

fn read_marks(from: &[ReadMark], mut list: capnp::struct_list::Builder<'_, wire::read_mark::Owned>) {
    for (index, from) in (0..).zip(from) {
        let mut to = list.reborrow().get(index);
        to.set_tenant(from.tenant.get());
        to.set_user(from.user.as_str());
        to.set_channel(from.channel.get());
        to.set_epoch(from.position.epoch.get());
        to.set_offset(from.position.offset);
    }
}

fn head(from: &Head, mut to: wire::head::Builder<'_>) {
    to.set_epoch(from.epoch.get());
    to.set_next_offset(from.next_offset.get());
    to.set_first_offset(from.first_offset.get());
    to.set_epoch_first_offset(from.epoch_first_offset.get());
    to.set_history(history_class(from.history));
    let mut list = to.init_producers(count(from.producers.len()));
    for (index, from) in (0..).zip(&from.producers) {
        let mut to = list.reborrow().get(index);
        to.set_user(from.user.as_str());
        to.set_producer(from.producer.get());
        to.set_sequence(from.sequence.get());
        to.set_offset(from.offset.get());
    }
}

fn append(from: &ChannelAppend, mut to: wire::channel_append::Builder<'_>) {
    to.set_channel(from.channel.get());
    to.set_term(from.term.0);
    to.set_epoch(from.epoch.get());
    to.set_expected_offset(from.expected_offset.get());
    let mut list = to.init_messages(count(from.messages.len()));
    for (index, from) in (0..).zip(&from.messages) {
        new_message(from, list.reborrow().get(index));
    }
}

fn new_message(from: &NewMessage, mut to: wire::new_message::Builder<'_>) {
    to.set_user(from.user.as_str());
    to.set_producer(from.producer.get());
    to.set_sequence(from.sequence.get());
    to.set_time_ms(from.time_ms);
    to.set_body(&from.body);
}

fn stored_message(from: &StoredMessage, mut to: wire::stored_message::Builder<'_>) {
    to.set_epoch(from.epoch.get());
    to.set_offset(from.offset.get());
    to.set_user(from.message.user.as_str());
    to.set_producer(from.message.producer.get());
    to.set_sequence(from.message.sequence.get());
    to.set_time_ms(from.message.time_ms);
    to.set_body(&from.message.body);
}

fn outcomes(from: &[AppendOutcome], mut list: capnp::struct_list::Builder<'_, wire::append_outcome::Owned>) {
    for (index, from) in (0..).zip(from) {
        let mut to = list.reborrow().get(index);
        match from {
            AppendOutcome::Stored(offset) => to.set_stored(offset.get()),
            AppendOutcome::Duplicate(offset) => to.set_duplicate(offset.map_or(0, |offset| offset.get())),
            AppendOutcome::OutOfOrder { expected } => to.set_out_of_order(expected.get()),
        }
    }
}

fn published(from: &Result<PublishedAt, Refusal>, to: wire::publish_result::Builder<'_>) {
    match from {
        Ok(from) => {
            let mut to = to.init_position();
            to.set_epoch(from.position.epoch.get());
            to.set_offset(from.position.offset);
            to.set_time_ms(from.time_ms);
            to.set_duplicate(from.duplicate);
        }
        Err(from) => refusal(from, to.init_refused()),
    }
}

fn tenant_key(from: &TenantKey, mut to: wire::tenant_key::Builder<'_>) {
    to.set_tenant(from.tenant.get());
    to.set_id(from.id.as_str());
    match &from.key {
        Some((algorithm, material)) => {
            let mut to = to.init_key();
            to.set_algorithm(match algorithm {
                KeyAlgorithm::Hs256 => wire::KeyAlgorithm::Hs256,
                KeyAlgorithm::Es256 => wire::KeyAlgorithm::Es256,
                KeyAlgorithm::EdDsa => wire::KeyAlgorithm::EdDsa,
            });
            to.set_material(material);
        }
        None => to.set_remove(()),
    }
}

fn member_changed(from: &MemberChanged, mut to: wire::member_changed::Builder<'_>) {
    to.set_tenant(from.tenant.get());
    to.set_channel(from.channel.get());
    to.set_user(from.user.as_str());
    match from.membership {
        Some((member, can_publish)) => {
            let mut to = to.init_role();
            to.set_role(role(member));
            to.set_can_publish(can_publish);
        }
        None => to.set_removed(()),
    }
}

fn tokens_revoked(from: &TokensRevoked, mut to: wire::tokens_revoked::Builder<'_>) {
    to.set_tenant(from.tenant.get());
    to.set_forget_after_ms(from.forget_after_ms);
    match &from.which {
        RevokedTokens::Token(token) => to.set_token(token.as_str()),
        RevokedTokens::UserBefore(user, issued_before_ms) => {
            let mut to = to.init_user_before();
            to.set_user(user.as_str());
            to.set_issued_before_ms(*issued_before_ms);
        }
    }
}

fn refusal(from: &Refusal, mut to: wire::refused::Builder<'_>) {
    to.set_code(from.code.number());
    to.set_message(from.message.as_str());
    // A delay past 49 days is as good as the longest that fits.
    to.set_retry_after_ms(u32::try_from(from.retry_after.as_millis()).unwrap_or(u32::MAX));
}

pub(super) fn history_class(class: HistoryClass) -> wire::HistoryClass {
    match class {
        HistoryClass::Durable => wire::HistoryClass::Durable,
        HistoryClass::Windowed => wire::HistoryClass::Windowed,
        HistoryClass::None => wire::HistoryClass::None,
    }
}

fn role(role: Role) -> wire::Role {
    match role {
        Role::Owner => wire::Role::Owner,
        Role::Moderator => wire::Role::Moderator,
        Role::Member => wire::Role::Member,
        Role::Reader => wire::Role::Reader,
    }
}
