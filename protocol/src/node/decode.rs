//! From bytes to frames of the control link. Bodies share the frame they came in; everything else is checked and copied.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use capnp::{primitive_list, struct_list, text};

use super::operate::Views;
use super::{
    AppendOutcome, Authorize, CERTIFICATE_HASHES_MAX, ChannelAppend, ChannelAppended, ChannelKind, ChannelRef,
    CloseHome, FRAME_BYTES_MAX, Grant, Head, History, HistoryClass, HistoryRange, KeyAlgorithm, LIST_ITEMS_MAX,
    LinkHello, MemberChanged, NewMessage, NodeBody, NodeFrame, ProducerState, PublishOrder, PublishedAt, ReadHistory,
    ReadMark, RevokedTokens, Role, SlowConsumer, StoredMessage, TenantKey, TokensRevoked,
};
use crate::client::{ENDPOINTS_MAX, PAYLOAD_BYTES_CAP};
use crate::code::{Advice, Code, Refusal};
use crate::error::{FrameError, Stop};
use crate::generated::node_capnp as wire;
use crate::id::{ChannelId, ChannelName, Epoch, Offset, Position, Producer, ProducerSequence, TenantId, Term, UserId};
use crate::segment::{limit, open, share_text};

/// Room that a list gets before its items are read; beyond it, a list grows as real items come.
const CAPACITY_FIRST: usize = 1_024;

/// Decodes a frame of the control link, without the length that stands before it on the wire.
///
/// Bodies of messages are slices of `frame` and keep all of it alive. A member, or a value inside one, that this version
/// does not know gives [`NodeBody::Unknown`].
///
/// # Errors
/// [`FrameError`]; the link ends.
pub fn decode(frame: Bytes) -> Result<NodeFrame, FrameError> {
    let message = open(&frame, FRAME_BYTES_MAX)?;
    let root: wire::node_frame::Reader<'_> = message.get_root()?;
    let mut decoder = Decoder { frame: &frame, user_before: None };
    let body = match decoder.body(root) {
        Ok(body) => body,
        Err(Stop::Unknown) => NodeBody::Unknown,
        Err(Stop::Fault(error)) => return Err(error),
    };
    Ok(NodeFrame { id: root.get_id(), body })
}

pub(super) struct Decoder<'a> {
    frame: &'a Bytes,
    /// The user of the message before: a run of messages of one user shares one name.
    user_before: Option<UserId>,
}

impl Decoder<'_> {
    fn body(&mut self, frame: wire::node_frame::Reader<'_>) -> Result<NodeBody, Stop> {
        use wire::node_frame::Which;
        Ok(match frame.which()? {
            Which::Challenge(challenge) => {
                let challenge = challenge?;
                NodeBody::Challenge {
                    nonce: fixed("challenge.nonce", challenge.get_nonce()?)?,
                    version: challenge.get_version(),
                }
            }
            Which::Hello(hello) => NodeBody::Hello(self.hello(hello?)?),
            Which::Welcome(welcome) => {
                let welcome = welcome?;
                NodeBody::Welcome { term: Term(welcome.get_term()), heartbeat_ms: welcome.get_heartbeat_ms() }
            }
            Which::Ping(()) => NodeBody::Ping,
            Which::Pong(()) => NodeBody::Pong,
            Which::Refused(refused) => NodeBody::Refused(self.refusal(refused?)?),
            Which::Authorize(list) => NodeBody::Authorize(self.each("authorize", list?, Self::authorize)?),
            Which::Authorized(list) => NodeBody::Authorized(self.each("authorized", list?, Self::authorized)?),
            Which::OpenHomes(list) => NodeBody::OpenHomes(channels("openHomes", list?)?),
            Which::HomesOpened(list) => NodeBody::HomesOpened(self.each("homesOpened", list?, Self::home_opened)?),
            Which::Append(list) => NodeBody::Append(self.each("append", list?, Self::append)?),
            Which::Appended(list) => NodeBody::Appended(self.each("appended", list?, Self::appended)?),
            Which::ReadHistory(read) => NodeBody::ReadHistory(read_history(read?)?),
            Which::History(history) => {
                let history = history?;
                NodeBody::History(History {
                    channel: channel("history.channel", history.get_channel())?,
                    messages: self.each("history.messages", history.get_messages()?, Self::stored_message)?,
                    more: history.get_more(),
                })
            }
            Which::CloseHomes(list) => NodeBody::CloseHomes(self.each("closeHomes", list?, Self::close_home)?),
            Which::HomesClosed(()) => NodeBody::HomesClosed,
            Which::Synced(()) => NodeBody::Synced,
            Which::Publish(order) => NodeBody::Publish(self.publish_order(order?)?),
            Which::Published(result) => NodeBody::Published(self.publish_result(result?)?),
            Which::Keys(list) => NodeBody::Keys(self.each("keys", list?, Self::tenant_key)?),
            Which::MemberChanged(changed) => NodeBody::MemberChanged(self.member_changed(changed?)?),
            Which::ChannelChanged(changed) => {
                let changed = changed?;
                NodeBody::ChannelChanged {
                    tenant: tenant("channelChanged.tenant", changed.get_tenant())?,
                    channel: channel("channelChanged.channel", changed.get_channel())?,
                    name: self.channel_name("channelChanged.name", changed.get_name())?,
                    archived: changed.get_archived(),
                }
            }
            Which::TokensRevoked(revoked) => NodeBody::TokensRevoked(self.tokens_revoked(revoked?)?),
            Which::Report(()) => NodeBody::Report,
            Which::Reported(figures) => NodeBody::Reported(self.figures(figures?)?),
            Which::Inspect(inspect) => NodeBody::Inspect(self.inspect(inspect?)?),
            Which::Inspected(inspected) => NodeBody::Inspected(self.inspected(inspected?)?),
            Which::Drain(order) => NodeBody::Drain { over_ms: order?.get_over_ms() },
            Which::Draining(()) => NodeBody::Draining,
            Which::MarkReads(list) => NodeBody::MarkReads(self.each("markReads", list?, Self::read_mark)?),
            Which::ReadsMarked(list) => NodeBody::ReadsMarked(self.each("readsMarked", list?, Self::read_marked)?),
            Which::ReadsMoved(list) => NodeBody::ReadsMoved(self.each("readsMoved", list?, Self::read_mark)?),
            Which::CertificateHashes(list) => NodeBody::CertificateHashes(hashes("certificateHashes", list?)?),
        })
    }

    fn hello(&mut self, hello: wire::link_hello::Reader<'_>) -> Result<LinkHello, Stop> {
        let list = hello.get_endpoints()?;
        let len = list_len("hello.endpoints", list.len(), ENDPOINTS_MAX)?;
        let mut endpoints = Vec::with_capacity(len);
        for endpoint in list.iter() {
            endpoints.push(self.text("hello.endpoints", endpoint)?.to_owned());
        }
        Ok(LinkHello {
            version: hello.get_version(),
            node: self.text("hello.node", hello.get_node())?.to_owned(),
            proof: fixed("hello.proof", hello.get_proof()?)?,
            endpoints,
            certificate_hashes: hashes("hello.certificateHashes", hello.get_certificate_hashes()?)?,
        })
    }

    fn authorize(&mut self, item: wire::authorize::Reader<'_>) -> Result<Authorize, Stop> {
        use wire::authorize::Which;
        Ok(Authorize {
            tenant: tenant("authorize.tenant", item.get_tenant())?,
            user: self.user("authorize.user", item.get_user())?,
            channel: match item.which()? {
                Which::Name(name) => ChannelRef::Name(self.channel_name("authorize.name", name)?),
                Which::Channel(number) => ChannelRef::Id(channel("authorize.channel", number)?),
            },
        })
    }

    fn authorized(&mut self, item: wire::authorized::Reader<'_>) -> Result<Result<Grant, Refusal>, Stop> {
        use wire::authorized::Which;
        Ok(match item.which()? {
            Which::Grant(grant) => {
                let grant = grant?;
                Ok(Grant {
                    channel: channel("grant.channel", grant.get_channel())?,
                    name: self.channel_name("grant.name", grant.get_name())?,
                    kind: match grant.get_kind()? {
                        wire::ChannelKind::Dm => ChannelKind::Dm,
                        wire::ChannelKind::Group => ChannelKind::Group,
                        wire::ChannelKind::Broadcast => ChannelKind::Broadcast,
                    },
                    history: history_class(grant.get_history()?),
                    role: role(grant.get_role()?),
                    can_publish: grant.get_can_publish(),
                    slow_consumer: match grant.get_slow_consumer()? {
                        wire::SlowConsumer::Disconnect => SlowConsumer::Disconnect,
                        wire::SlowConsumer::Skip => SlowConsumer::Skip,
                    },
                    read: Epoch::new(grant.get_read_epoch())
                        .map(|epoch| Position { epoch, offset: grant.get_read_offset() }),
                })
            }
            Which::Refused(refused) => Err(self.refusal(refused?)?),
        })
    }

    fn read_mark(&mut self, item: wire::read_mark::Reader<'_>) -> Result<ReadMark, Stop> {
        Ok(ReadMark {
            tenant: tenant("readMark.tenant", item.get_tenant())?,
            user: self.user("readMark.user", item.get_user())?,
            channel: channel("readMark.channel", item.get_channel())?,
            position: Position { epoch: epoch("readMark.epoch", item.get_epoch())?, offset: item.get_offset() },
        })
    }

    fn read_marked(&mut self, item: wire::read_marked::Reader<'_>) -> Result<Result<Position, Refusal>, Stop> {
        use wire::read_marked::Which;
        Ok(match item.which()? {
            Which::Position(at) => {
                Ok(Position { epoch: epoch("readsMarked.epoch", at.get_epoch())?, offset: at.get_offset() })
            }
            Which::Refused(refused) => Err(self.refusal(refused?)?),
        })
    }

    fn home_opened(&mut self, item: wire::home_opened::Reader<'_>) -> Result<(ChannelId, Result<Head, Refusal>), Stop> {
        use wire::home_opened::Which;
        let channel = channel("homesOpened.channel", item.get_channel())?;
        let result = match item.which()? {
            Which::Head(head) => {
                let head = head?;
                Ok(Head {
                    epoch: epoch("head.epoch", head.get_epoch())?,
                    next_offset: offset("head.nextOffset", head.get_next_offset())?,
                    first_offset: offset("head.firstOffset", head.get_first_offset())?,
                    epoch_first_offset: offset("head.epochFirstOffset", head.get_epoch_first_offset())?,
                    history: history_class(head.get_history()?),
                    producers: self.each("head.producers", head.get_producers()?, Self::producer_state)?,
                })
            }
            Which::Refused(refused) => Err(self.refusal(refused?)?),
        };
        Ok((channel, result))
    }

    fn producer_state(&mut self, item: wire::producer_state::Reader<'_>) -> Result<ProducerState, Stop> {
        Ok(ProducerState {
            user: self.user("producers.user", item.get_user())?,
            producer: producer("producers.producer", item.get_producer())?,
            sequence: sequence("producers.sequence", item.get_sequence())?,
            offset: offset("producers.offset", item.get_offset())?,
        })
    }

    fn append(&mut self, item: wire::channel_append::Reader<'_>) -> Result<ChannelAppend, Stop> {
        Ok(ChannelAppend {
            channel: channel("append.channel", item.get_channel())?,
            term: Term(item.get_term()),
            epoch: epoch("append.epoch", item.get_epoch())?,
            expected_offset: offset("append.expectedOffset", item.get_expected_offset())?,
            messages: self.each("append.messages", item.get_messages()?, Self::new_message)?,
        })
    }

    fn new_message(&mut self, item: wire::new_message::Reader<'_>) -> Result<NewMessage, Stop> {
        Ok(NewMessage {
            user: self.user("message.user", item.get_user())?,
            producer: producer("message.producer", item.get_producer())?,
            sequence: sequence("message.sequence", item.get_sequence())?,
            time_ms: item.get_time_ms(),
            body: self.payload("message.body", item.get_body()?)?,
        })
    }

    fn stored_message(&mut self, item: wire::stored_message::Reader<'_>) -> Result<Arc<StoredMessage>, Stop> {
        Ok(Arc::new(StoredMessage {
            epoch: epoch("history.messages.epoch", item.get_epoch())?,
            offset: offset("history.messages.offset", item.get_offset())?,
            message: NewMessage {
                user: self.user("history.messages.user", item.get_user())?,
                producer: producer("history.messages.producer", item.get_producer())?,
                sequence: sequence("history.messages.sequence", item.get_sequence())?,
                time_ms: item.get_time_ms(),
                body: self.payload("history.messages.body", item.get_body()?)?,
            },
        }))
    }

    fn appended(&mut self, item: wire::channel_appended::Reader<'_>) -> Result<ChannelAppended, Stop> {
        use wire::channel_appended::Which;
        Ok(ChannelAppended {
            channel: channel("appended.channel", item.get_channel())?,
            result: match item.which()? {
                Which::Outcomes(list) => Ok(self.each("appended.outcomes", list?, Self::outcome)?),
                Which::Refused(refused) => Err(self.refusal(refused?)?),
            },
        })
    }

    fn outcome(&mut self, item: wire::append_outcome::Reader<'_>) -> Result<AppendOutcome, Stop> {
        use wire::append_outcome::Which;
        Ok(match item.which()? {
            Which::Stored(at) => AppendOutcome::Stored(offset("outcomes.stored", at)?),
            Which::Duplicate(at) => AppendOutcome::Duplicate(Offset::new(at)),
            Which::OutOfOrder(expected) => {
                AppendOutcome::OutOfOrder { expected: sequence("outcomes.outOfOrder", expected)? }
            }
        })
    }

    fn close_home(&mut self, item: wire::close_home::Reader<'_>) -> Result<CloseHome, Stop> {
        Ok(CloseHome {
            channel: channel("closeHomes.channel", item.get_channel())?,
            term: Term(item.get_term()),
            epoch: epoch("closeHomes.epoch", item.get_epoch())?,
            next_offset: offset("closeHomes.nextOffset", item.get_next_offset())?,
        })
    }

    fn publish_order(&mut self, order: wire::publish_order::Reader<'_>) -> Result<PublishOrder, Stop> {
        Ok(PublishOrder {
            tenant: tenant("publish.tenant", order.get_tenant())?,
            channel: channel("publish.channel", order.get_channel())?,
            history: history_class(order.get_history()?),
            message: self.new_message(order.get_message()?)?,
        })
    }

    fn publish_result(
        &mut self,
        result: wire::publish_result::Reader<'_>,
    ) -> Result<Result<PublishedAt, Refusal>, Stop> {
        use wire::publish_result::Which;
        Ok(match result.which()? {
            Which::Position(at) => Ok(PublishedAt {
                position: Position { epoch: epoch("published.epoch", at.get_epoch())?, offset: at.get_offset() },
                time_ms: at.get_time_ms(),
                duplicate: at.get_duplicate(),
            }),
            Which::Refused(refused) => Err(self.refusal(refused?)?),
        })
    }

    fn tenant_key(&mut self, item: wire::tenant_key::Reader<'_>) -> Result<TenantKey, Stop> {
        use wire::tenant_key::Which;
        Ok(TenantKey {
            tenant: tenant("keys.tenant", item.get_tenant())?,
            id: self.text("keys.id", item.get_id())?.to_owned(),
            key: match item.which()? {
                Which::Key(key) => {
                    let algorithm = match key.get_algorithm()? {
                        wire::KeyAlgorithm::Hs256 => KeyAlgorithm::Hs256,
                        wire::KeyAlgorithm::Es256 => KeyAlgorithm::Es256,
                        wire::KeyAlgorithm::EdDsa => KeyAlgorithm::EdDsa,
                    };
                    // Copied: a key lives for long and is small, and must not keep its frame.
                    Some((algorithm, Bytes::copy_from_slice(key.get_material()?)))
                }
                Which::Remove(()) => None,
            },
        })
    }

    fn member_changed(&mut self, changed: wire::member_changed::Reader<'_>) -> Result<MemberChanged, Stop> {
        use wire::member_changed::Which;
        Ok(MemberChanged {
            tenant: tenant("memberChanged.tenant", changed.get_tenant())?,
            channel: channel("memberChanged.channel", changed.get_channel())?,
            user: self.user("memberChanged.user", changed.get_user())?,
            membership: match changed.which()? {
                Which::Role(member) => Some((role(member.get_role()?), member.get_can_publish())),
                Which::Removed(()) => None,
            },
        })
    }

    fn tokens_revoked(&mut self, revoked: wire::tokens_revoked::Reader<'_>) -> Result<TokensRevoked, Stop> {
        use wire::tokens_revoked::Which;
        Ok(TokensRevoked {
            tenant: tenant("tokensRevoked.tenant", revoked.get_tenant())?,
            which: match revoked.which()? {
                Which::Token(token) => RevokedTokens::Token(self.text("tokensRevoked.token", token)?.to_owned()),
                Which::UserBefore(before) => RevokedTokens::UserBefore(
                    self.user("tokensRevoked.user", before.get_user())?,
                    before.get_issued_before_ms(),
                ),
            },
            forget_after_ms: revoked.get_forget_after_ms(),
        })
    }

    fn refusal(&mut self, refused: wire::refused::Reader<'_>) -> Result<Refusal, Stop> {
        Ok(Refusal {
            code: nearest_code(refused.get_code()),
            message: self.text("refused.message", refused.get_message())?.to_owned(),
            retry_after: Duration::from_millis(refused.get_retry_after_ms().into()),
        })
    }

    /// Decodes each struct of a list.
    pub(super) fn each<'r, S, T>(
        &mut self,
        what: &'static str,
        list: struct_list::Reader<'r, S>,
        mut item: impl FnMut(&mut Self, S::Reader<'r>) -> Result<T, Stop>,
    ) -> Result<Vec<T>, Stop>
    where
        S: capnp::traits::OwnedStruct,
    {
        let len = list_len(what, list.len(), LIST_ITEMS_MAX)?;
        let mut items = Vec::with_capacity(len.min(CAPACITY_FIRST));
        for from in list.iter() {
            items.push(item(self, from)?);
        }
        Ok(items)
    }

    pub(super) fn text(&self, what: &'static str, text: capnp::Result<text::Reader<'_>>) -> Result<&str, Stop> {
        share_text(self.frame, what, text)
    }

    pub(super) fn user(&mut self, what: &'static str, text: capnp::Result<text::Reader<'_>>) -> Result<UserId, Stop> {
        let text = share_text(self.frame, what, text)?;
        if let Some(user) = self.user_before.as_ref().filter(|user| user.as_str() == text) {
            return Ok(user.clone());
        }
        let user = UserId::new(text).map_err(|source| FrameError::Name { what, source })?;
        self.user_before = Some(user.clone());
        Ok(user)
    }

    pub(super) fn channel_name(
        &self,
        what: &'static str,
        text: capnp::Result<text::Reader<'_>>,
    ) -> Result<ChannelName, Stop> {
        let text = share_text(self.frame, what, text)?;
        Ok(ChannelName::new(text).map_err(|source| FrameError::Name { what, source })?)
    }

    fn payload(&self, what: &'static str, body: &[u8]) -> Result<Bytes, Stop> {
        limit(what, body.len(), PAYLOAD_BYTES_CAP)?;
        Ok(if body.is_empty() { Bytes::new() } else { self.frame.slice_ref(body) })
    }
}

fn read_history(read: wire::read_history::Reader<'_>) -> Result<ReadHistory, Stop> {
    use wire::read_history::Which;
    Ok(ReadHistory {
        channel: channel("readHistory.channel", read.get_channel())?,
        messages_max: read.get_messages_max(),
        bytes_max: read.get_bytes_max(),
        range: match read.which()? {
            Which::Newest(()) => HistoryRange::Newest,
            Which::Before(before) => HistoryRange::Before(offset("readHistory.before", before)?),
            Which::After(after) => HistoryRange::After(after),
        },
    })
}

fn channels(what: &'static str, list: primitive_list::Reader<'_, u64>) -> Result<Vec<ChannelId>, Stop> {
    let len = list_len(what, list.len(), LIST_ITEMS_MAX)?;
    let mut channels = Vec::with_capacity(len.min(CAPACITY_FIRST));
    for number in list.iter() {
        channels.push(channel(what, number)?);
    }
    Ok(channels)
}

/// A code that this version does not know counts as the most general one of its range, so that the advice stays the same.
fn nearest_code(number: u16) -> Code {
    Code::from_number(number).unwrap_or(match Advice::of(number) {
        Advice::DoNotRetry => Code::Invalid,
        Advice::Retry => Code::Unavailable,
        Advice::Reconnect => Code::Internal,
        Advice::Reload => Code::EpochChanged,
        Advice::Authenticate => Code::BadToken,
    })
}

pub(super) fn history_class(class: wire::HistoryClass) -> HistoryClass {
    match class {
        wire::HistoryClass::Durable => HistoryClass::Durable,
        wire::HistoryClass::Windowed => HistoryClass::Windowed,
        wire::HistoryClass::None => HistoryClass::None,
    }
}

fn role(role: wire::Role) -> Role {
    match role {
        wire::Role::Owner => Role::Owner,
        wire::Role::Moderator => Role::Moderator,
        wire::Role::Member => Role::Member,
        wire::Role::Reader => Role::Reader,
    }
}

fn list_len(what: &'static str, len: u32, len_max: usize) -> Result<usize, FrameError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    limit(what, len, len_max)?;
    Ok(len)
}

fn hashes(what: &'static str, list: capnp::data_list::Reader<'_>) -> Result<Vec<[u8; 32]>, Stop> {
    let len = list_len(what, list.len(), CERTIFICATE_HASHES_MAX)?;
    let mut hashes = Vec::with_capacity(len);
    for hash in list.iter() {
        hashes.push(fixed(what, hash?)?);
    }
    Ok(hashes)
}

pub(super) fn fixed<const N: usize>(what: &'static str, data: &[u8]) -> Result<[u8; N], FrameError> {
    data.first_chunk().filter(|_| data.len() == N).copied().ok_or(FrameError::Length {
        what,
        bytes: data.len(),
        bytes_expected: N,
    })
}

pub(super) fn tenant(what: &'static str, number: u32) -> Result<TenantId, FrameError> {
    TenantId::new(number).ok_or(FrameError::Zero { what })
}

pub(super) fn channel(what: &'static str, number: u64) -> Result<ChannelId, FrameError> {
    ChannelId::new(number).ok_or(FrameError::Zero { what })
}

fn epoch(what: &'static str, number: u32) -> Result<Epoch, FrameError> {
    Epoch::new(number).ok_or(FrameError::Zero { what })
}

fn offset(what: &'static str, number: u64) -> Result<Offset, FrameError> {
    Offset::new(number).ok_or(FrameError::Zero { what })
}

fn producer(what: &'static str, number: u64) -> Result<Producer, FrameError> {
    Producer::new(number).ok_or(FrameError::Zero { what })
}

fn sequence(what: &'static str, number: u64) -> Result<ProducerSequence, FrameError> {
    ProducerSequence::new(number).ok_or(FrameError::Zero { what })
}
