//! Keys: which bytes name which record. Nothing else in the control plane puts a key together.
//!
//! Shape: tag (1 byte), hash of the owning entity (2), then fields of fixed width, big-endian; a name is the last field, or it
//! carries its length in one byte before it. A range scan therefore stays inside one entity, and a cluster may split the
//! key space anywhere between entities.
//!
//! | tag | after the tag | value |
//! |---|---|---|
//! | `T` | tenant (4), no hash: they are few | tenant |
//! | `t` | hash, name | tenant's number |
//! | `K` | hash, key id | API or operator key |
//! | `k` | hash, tenant (4, 0 for the operator), key id | empty: the keys of a tenant |
//! | `V` | hash, tenant (4), key id | signing key |
//! | `U` | hash, tenant (4), user | user |
//! | `C` | hash, channel (8) | channel |
//! | `c` | hash, tenant (4), name | channel's number |
//! | `A` | hash, channel (8), user | membership |
//! | `B` | hash, tenant (4), user with length, channel (8) | empty: the channels of a user |
//! | `M` | hash, channel (8), 0 | head of a channel |
//! | `M` | hash, channel (8), 1, offset (8) | message |
//! | `M` | hash, channel (8), 2, producer (8), user | producer |
//! | `L` | no hash: there is one | term of the newest link |
//! | `F` | hash, refresh token id | refresh token |
//! | `f` | hash, tenant (4), user with length, refresh token id | empty: the refresh tokens of a user |
//! | `Z` | hash, tenant (4), kind (1), token id or user | revocation |
//! | `W` | hash, tenant (4), webhook id | webhook |
//! | `w` | hash, webhook id with length, 0 | how a webhook is doing, and who delivers for it |
//! | `w` | hash, webhook id with length, 1, time in us (8), number (4) | an event that waits |
//! | `w` | hash, webhook id with length, 2, channel (8) | from which offset on messages may wait |
//! | `w` | hash, webhook id with length, 3, channel (8) | how far the messages of a channel are delivered |
//! | `w` | hash, webhook id with length, 4, place (2) | a recent attempt |
//! | `w` | hash, webhook id with length, 5, event id | an event that was given up |
//! | `E` | hash, time in us (8), number (4), 0 | what is told of an event that several webhooks wait to tell |
//! | `E` | hash, time in us (8), number (4), 1 | how many of them do |
//! | `e` | hash, tenant (4), lane | when the newest event of a channel or user was |
//! | `J` | no hash: there is one | a word that changes with the webhooks |
//! | `I` | hash, fingerprint (16) | the answer to a request with an `Idempotency-Key` |
//! | `X` | shard (2, 0 to 15), hour (4), key of the record | empty: what expires in that hour |
//! | `x` | shard (2) | first hour that is not swept yet |

use bytes::{BufMut, Bytes, BytesMut};
use millrace_protocol::id::{ChannelId, ChannelName, Offset, Producer, TenantId, UserId};
use millrace_store::KeyRange;

/// Shards of the expiry index: neighbours in time land in different places, yet a sweep visits few.
pub(crate) const EXPIRY_SHARDS: u16 = 16;

/// A key under construction, in a buffer of its own or at the end of a larger one.
pub(crate) struct Key<B = BytesMut>(B);

impl Key {
    /// Begins a key that belongs to an entity.
    pub(crate) fn of(tag: u8, entity: &[&[u8]]) -> Self {
        Self::bare(tag).short(hash(entity))
    }

    /// Begins a key of a channel.
    pub(crate) fn of_channel(tag: u8, channel: ChannelId) -> Self {
        Self::bare(tag).channel(channel)
    }

    /// Begins a key in a list of a tenant; 0 stands for the operator.
    fn of_tenant(tag: u8, tenant: u32) -> Self {
        Self::of(tag, &[&tenant.to_be_bytes()]).word(tenant)
    }

    fn of_user(tag: u8, tenant: TenantId, user: &UserId) -> Self {
        let tenant = tenant.get();
        Self::of(tag, &[&tenant.to_be_bytes(), user.as_str().as_bytes()]).word(tenant).name(user.as_str())
    }

    fn bare(tag: u8) -> Self {
        Self(BytesMut::with_capacity(32)).byte(tag)
    }

    /// The key.
    pub(crate) fn done(self) -> Bytes {
        self.0.freeze()
    }

    /// All keys that begin so.
    pub(crate) fn range(self) -> KeyRange {
        KeyRange::prefix(&self.0)
    }
}

impl<'a> Key<&'a mut BytesMut> {
    /// Begins a key at the end of what was cut off `buffer` before.
    fn begin_in(buffer: &'a mut BytesMut, tag: u8) -> Self {
        debug_assert!(buffer.is_empty(), "something was not cut off");
        Key(buffer).byte(tag)
    }

    /// The key, cut off a buffer that was empty before it.
    fn cut(self) -> Bytes {
        self.0.split().freeze()
    }
}

impl<B: BufMut> Key<B> {
    /// Appends the entity of a channel, after the tag.
    fn channel(self, channel: ChannelId) -> Self {
        self.short(hash(&[&channel.get().to_be_bytes()])).long(channel.get())
    }

    /// Appends one byte.
    pub(crate) fn byte(mut self, value: u8) -> Self {
        self.0.put_u8(value);
        self
    }

    fn short(mut self, value: u16) -> Self {
        self.0.put_u16(value);
        self
    }

    fn word(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }

    /// Appends eight bytes, big-endian.
    pub(crate) fn long(mut self, value: u64) -> Self {
        self.0.put_u64(value);
        self
    }

    /// Appends bytes of any length: the last field.
    pub(crate) fn tail(mut self, value: &[u8]) -> Self {
        self.0.put_slice(value);
        self
    }

    /// Appends a name with its length before it, so that fields may follow.
    fn name(mut self, name: &str) -> Self {
        let length = u8::try_from(name.len()).expect("names are at most 128 bytes");
        self.0.put_u8(length);
        self.0.put_slice(name.as_bytes());
        self
    }
}

/// 16 bits of FNV-1a: spreads entities over the key space. Part of the format: it never changes.
fn hash(parts: &[&[u8]]) -> u16 {
    let mut state = 0x811C_9DC5_u32;
    for byte in parts.iter().copied().flatten() {
        state = (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    let [a, b, c, d] = state.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d])
}

/// The id of a key or sign-in as a stranger wrote it: 1 to 128 letters, digits and dots. What is none names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainId(String);

impl PlainId {
    /// The id as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for PlainId {
    type Err = NotAnId;

    fn from_str(id: &str) -> Result<Self, NotAnId> {
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        if plain && (1..=128).contains(&id.len()) { Ok(Self(id.to_owned())) } else { Err(NotAnId) }
    }
}

/// Why a string is no id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no id")]
pub(crate) struct NotAnId;

/// A tenant.
pub(crate) fn tenant(tenant: TenantId) -> Bytes {
    Key::bare(b'T').word(tenant.get()).done()
}

/// All tenants, by number.
pub(crate) fn tenants() -> KeyRange {
    Key::bare(b'T').range()
}

/// A tenant's number, by its name.
pub(crate) fn tenant_name(name: &str) -> Bytes {
    Key::of(b't', &[name.as_bytes()]).tail(name.as_bytes()).done()
}

/// An API key or operator key.
pub(crate) fn api_key(id: &str) -> Bytes {
    Key::of(b'K', &[id.as_bytes()]).tail(id.as_bytes()).done()
}

/// One entry in the list of a tenant's API keys; no tenant for the operator's.
pub(crate) fn api_key_of(tenant: Option<TenantId>, id: &str) -> Bytes {
    Key::of_tenant(b'k', tenant.map_or(0, TenantId::get)).tail(id.as_bytes()).done()
}

/// The list of a tenant's API keys; no tenant for the operator's.
pub(crate) fn api_keys_of(tenant: Option<TenantId>) -> KeyRange {
    Key::of_tenant(b'k', tenant.map_or(0, TenantId::get)).range()
}

/// A key that verifies a tenant's tokens.
pub(crate) fn signing_key(tenant: TenantId, id: &str) -> Bytes {
    Key::of_tenant(b'V', tenant.get()).tail(id.as_bytes()).done()
}

/// All keys that verify a tenant's tokens.
pub(crate) fn signing_keys_of(tenant: TenantId) -> KeyRange {
    Key::of_tenant(b'V', tenant.get()).range()
}

/// The signing keys of all tenants.
pub(crate) fn signing_keys() -> KeyRange {
    Key::bare(b'V').range()
}

/// A user.
pub(crate) fn user(tenant: TenantId, user: &UserId) -> Bytes {
    Key::of_tenant(b'U', tenant.get()).tail(user.as_str().as_bytes()).done()
}

/// All users of a tenant, by name.
pub(crate) fn users_of(tenant: TenantId) -> KeyRange {
    Key::of_tenant(b'U', tenant.get()).range()
}

/// A channel.
pub(crate) fn channel(channel: ChannelId) -> Bytes {
    Key::of_channel(b'C', channel).done()
}

/// A channel's number, by its name.
pub(crate) fn channel_name(tenant: TenantId, name: &ChannelName) -> Bytes {
    Key::of_tenant(b'c', tenant.get()).tail(name.as_str().as_bytes()).done()
}

/// All channels of a tenant, by name.
pub(crate) fn channels_of(tenant: TenantId) -> KeyRange {
    Key::of_tenant(b'c', tenant.get()).range()
}

/// A membership.
pub(crate) fn member(channel: ChannelId, user: &UserId) -> Bytes {
    Key::of_channel(b'A', channel).tail(user.as_str().as_bytes()).done()
}

/// All members of a channel, by user.
pub(crate) fn members_of(channel: ChannelId) -> KeyRange {
    Key::of_channel(b'A', channel).range()
}

/// One entry in the list of a user's channels.
pub(crate) fn channel_of_user(tenant: TenantId, user: &UserId, channel: ChannelId) -> Bytes {
    Key::of_user(b'B', tenant, user).long(channel.get()).done()
}

/// All channels of a user, by number.
pub(crate) fn channels_of_user(tenant: TenantId, user: &UserId) -> KeyRange {
    Key::of_user(b'B', tenant, user).range()
}

/// The head of a channel.
pub(crate) fn head(channel: ChannelId) -> Bytes {
    Key::of_channel(b'M', channel).byte(0).done()
}

/// The head of a channel, cut off an empty buffer.
pub(crate) fn head_in(buffer: &mut BytesMut, channel: ChannelId) -> Bytes {
    Key::begin_in(buffer, b'M').channel(channel).byte(0).cut()
}

/// A message.
pub(crate) fn message(channel: ChannelId, offset: Offset) -> Bytes {
    Key::of_channel(b'M', channel).byte(1).long(offset.get()).done()
}

/// A message, cut off an empty buffer.
pub(crate) fn message_in(buffer: &mut BytesMut, channel: ChannelId, offset: Offset) -> Bytes {
    Key::begin_in(buffer, b'M').channel(channel).byte(1).long(offset.get()).cut()
}

/// The messages from one offset up to but without another.
pub(crate) fn messages(channel: ChannelId, from: Offset, to: Offset) -> KeyRange {
    KeyRange { start: message(channel, from), end: message(channel, to) }
}

/// The last eight bytes of a key: a message's offset.
pub(crate) fn offset_at_end(key: &[u8]) -> Option<Offset> {
    Offset::new(u64::from_be_bytes(*key.last_chunk::<8>()?))
}

/// A producer on a channel, cut off an empty buffer.
pub(crate) fn producer_in(buffer: &mut BytesMut, channel: ChannelId, user: &UserId, producer: Producer) -> Bytes {
    Key::begin_in(buffer, b'M').channel(channel).byte(2).long(producer.get()).tail(user.as_str().as_bytes()).cut()
}

/// All producers on a channel.
pub(crate) fn producers_of(channel: ChannelId) -> KeyRange {
    Key::of_channel(b'M', channel).byte(2).range()
}

/// Which producer a key of [`producers_of`] names; `None` for a key of another shape.
pub(crate) fn producer_of(range: &KeyRange, key: &[u8]) -> Option<(UserId, Producer)> {
    let (producer, user) = key.strip_prefix(&range.start[..])?.split_first_chunk::<8>()?;
    let user = UserId::new(std::str::from_utf8(user).ok()?).ok()?;
    Some((user, Producer::new(u64::from_be_bytes(*producer))?))
}

/// The term of the newest link.
pub(crate) fn link_term() -> Bytes {
    Key::bare(b'L').done()
}

/// A refresh token.
pub(crate) fn refresh_token(id: &str) -> Bytes {
    Key::of(b'F', &[id.as_bytes()]).tail(id.as_bytes()).done()
}

/// One entry in the list of a user's refresh tokens.
pub(crate) fn refresh_token_of(tenant: TenantId, user: &UserId, id: &str) -> Bytes {
    Key::of_user(b'f', tenant, user).tail(id.as_bytes()).done()
}

/// The refresh tokens of a user.
pub(crate) fn refresh_tokens_of(tenant: TenantId, user: &UserId) -> KeyRange {
    Key::of_user(b'f', tenant, user).range()
}

/// The revocation of one access token.
pub(crate) fn revoked_token(tenant: TenantId, token_id: &str) -> Bytes {
    Key::of_tenant(b'Z', tenant.get()).byte(0).tail(token_id.as_bytes()).done()
}

/// The revocation of a user's access tokens.
pub(crate) fn revoked_user(tenant: TenantId, user: &UserId) -> Bytes {
    Key::of_tenant(b'Z', tenant.get()).byte(1).tail(user.as_str().as_bytes()).done()
}

/// The revocations of all tenants.
pub(crate) fn revocations() -> KeyRange {
    Key::bare(b'Z').range()
}

/// A webhook.
pub(crate) fn webhook(tenant: TenantId, id: &str) -> Bytes {
    Key::of_tenant(b'W', tenant.get()).tail(id.as_bytes()).done()
}

/// The webhooks of a tenant, by id.
pub(crate) fn webhooks_of(tenant: TenantId) -> KeyRange {
    Key::of_tenant(b'W', tenant.get()).range()
}

/// The webhooks of all tenants.
pub(crate) fn webhooks() -> KeyRange {
    Key::bare(b'W').range()
}

/// What is kept for a webhook.
pub(crate) mod of_webhook {
    use super::{Bytes, ChannelId, Key, KeyRange};

    fn begin(webhook: &str) -> Key {
        Key::of(b'w', &[webhook.as_bytes()]).name(webhook)
    }

    /// Everything.
    pub(crate) fn all(webhook: &str) -> KeyRange {
        begin(webhook).range()
    }

    /// How it is doing.
    pub(crate) fn health(webhook: &str) -> Bytes {
        begin(webhook).byte(0).done()
    }

    /// An event that waits. `number` tells apart what happened in one microsecond.
    pub(crate) fn event(webhook: &str, time_us: u64, number: u32) -> Bytes {
        begin(webhook).byte(1).long(time_us).word(number).done()
    }

    /// The time in the key of an event that waits.
    pub(crate) fn event_time_us(row: &[u8]) -> Option<u64> {
        let (_, moment) = row.split_last_chunk::<12>()?;
        moment.first_chunk().copied().map(u64::from_be_bytes)
    }

    /// All that wait, in the order in which they happened.
    pub(crate) fn events(webhook: &str) -> KeyRange {
        begin(webhook).byte(1).range()
    }

    /// From where on messages of a channel may wait.
    pub(crate) fn mark(webhook: &str, channel: ChannelId) -> Bytes {
        begin(webhook).byte(2).long(channel.get()).done()
    }

    /// The channels in which messages may wait.
    pub(crate) fn marks(webhook: &str) -> KeyRange {
        begin(webhook).byte(2).range()
    }

    /// How far the messages of a channel are delivered.
    pub(crate) fn progress(webhook: &str, channel: ChannelId) -> Bytes {
        begin(webhook).byte(3).long(channel.get()).done()
    }

    /// A place for a recent attempt.
    pub(crate) fn attempt(webhook: &str, place: u16) -> Bytes {
        begin(webhook).byte(4).short(place).done()
    }

    /// All recent attempts.
    pub(crate) fn attempts(webhook: &str) -> KeyRange {
        begin(webhook).byte(4).range()
    }

    /// An event that was given up.
    pub(crate) fn failure(webhook: &str, event: &str) -> Bytes {
        begin(webhook).byte(5).tail(event.as_bytes()).done()
    }

    /// All that were given up, by id.
    pub(crate) fn failures(webhook: &str) -> KeyRange {
        begin(webhook).byte(5).range()
    }
}

/// A word that is another one after each change of any webhook.
pub(crate) fn webhooks_version() -> Bytes {
    Key::bare(b'J').done()
}

/// When the newest event of a lane was.
pub(crate) fn newest_event(tenant: TenantId, lane: &str) -> Bytes {
    let number = tenant.get();
    Key::of(b'e', &[&number.to_be_bytes(), lane.as_bytes()]).word(number).tail(lane.as_bytes()).done()
}

/// What is told of an event that several webhooks wait to tell; `waiting` is the key of a row of any of them.
pub(crate) fn event_body(waiting: &[u8]) -> Bytes {
    at_moment(waiting).byte(0).done()
}

/// How many of them do.
pub(crate) fn event_holders(waiting: &[u8]) -> Bytes {
    at_moment(waiting).byte(1).done()
}

/// The time and number at the end of the key of an event that waits: the same for all webhooks.
fn at_moment(waiting: &[u8]) -> Key {
    let moment = &waiting[waiting.len().saturating_sub(12)..];
    Key::of(b'E', &[moment]).tail(moment)
}

/// The answer to a request with an `Idempotency-Key`.
pub(crate) fn idempotency(fingerprint: [u8; 16]) -> Bytes {
    Key::of(b'I', &[&fingerprint]).tail(&fingerprint).done()
}

/// One entry of the expiry index: `record` expires in the hour.
pub(crate) fn expiry(hour: u32, record: &[u8]) -> Bytes {
    Key::bare(b'X').short(hash(&[record]) % EXPIRY_SHARDS).word(hour).tail(record).done()
}

/// The entries of one shard of the expiry index from one hour up to but without another.
pub(crate) fn expiries(shard: u16, from_hour: u32, to_hour: u32) -> KeyRange {
    KeyRange {
        start: Key::bare(b'X').short(shard).word(from_hour).done(),
        end: Key::bare(b'X').short(shard).word(to_hour).done(),
    }
}

/// The key of the record that an entry of the expiry index points to; `None` for a key of another shape.
pub(crate) fn expiring_record(entry: &[u8]) -> Option<&[u8]> {
    match entry.split_at_checked(7)? {
        ([b'X', ..], record) => Some(record),
        _ => None,
    }
}

/// How far a shard of the expiry index is swept.
pub(crate) fn swept_until(shard: u16) -> Bytes {
    Key::bare(b'x').short(shard).done()
}

/// The last field of a key that is a name, given the range in which it was found by prefix; `None` if it is no name.
pub(crate) fn name_after<'a>(prefix: &[u8], key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key.strip_prefix(prefix)?).ok()
}

/// The last eight bytes of a key: a channel's number.
pub(crate) fn channel_at_end(key: &[u8]) -> Option<ChannelId> {
    ChannelId::new(u64::from_be_bytes(*key.last_chunk::<8>()?))
}

#[cfg(test)]
mod tests;
