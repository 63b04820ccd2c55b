# The control link: between a data node and a control node, in both directions on one byte stream.
#
# Shape: little-endian UInt32 length of the message in bytes, then one Cap'n Proto message of one segment in the standard
# stream framing. `id` pairs a reply with its request; each side counts its own from 1, and a reply repeats the id.
@0xb84e2f6c91d05a73;

struct NodeFrame {
  id @0 :UInt64;
  union {
    # The link, in this order: challenge (control), hello (data), welcome (control).
    challenge @1 :Challenge;
    hello @2 :LinkHello;
    welcome @3 :LinkWelcome;
    ping @4 :Void;
    pong @5 :Void;
    refused @6 :Refused;
    # The answer to a request that failed as a whole.

    # Requests of the data node, each followed by its reply.
    authorize @7 :List(Authorize);
    authorized @8 :List(Authorized);
    openHomes @9 :List(UInt64);
    homesOpened @10 :List(HomeOpened);
    append @11 :List(ChannelAppend);
    appended @12 :List(ChannelAppended);
    readHistory @13 :ReadHistory;
    history @14 :History;
    closeHomes @15 :List(CloseHome);
    homesClosed @16 :Void;

    # Requests of the control node.
    publish @17 :PublishOrder;
    published @18 :PublishResult;

    # What the control node tells, unasked and without a reply. Behind the welcome come all revocations, then all keys in one
    # frame or more, then `synced`. Only then are the node's requests answered.
    keys @19 :List(TenantKey);
    # Replaces all keys of the tenants it names; `remove` ends a key.
    memberChanged @20 :MemberChanged;
    channelChanged @21 :ChannelChanged;
    tokensRevoked @22 :TokensRevoked;
    synced @23 :Void;
    # The keys and revocations since the welcome are all there are: the node's former ones are over, and a key that it does not
    # know does not exist. Without it, a token with an unknown key is answered `Unavailable`.

    # What operators want to know and do. Requests of the control node; a node that does not know one leaves it unanswered.
    report @24 :Void;
    reported @25 :NodeFigures;
    inspect @26 :Inspect;
    inspected @27 :Inspected;
    drain @28 :DrainOrder;
    draining @29 :Void;
    # It has begun, now or before.

    # Read positions. A request of the data node with its reply, one result for each, in order; and what the control node tells,
    # unasked and without a reply: positions that moved, by whichever way.
    markReads @30 :List(ReadMark);
    readsMarked @31 :List(ReadMarked);
    readsMoved @32 :List(ReadMark);

    # What the data node tells, unasked and without a reply: its certificate is another one, as the hello's `certificateHashes`.
    certificateHashes @33 :List(Data);
  }
}

struct Challenge { nonce @0 :Data; version @1 :UInt16; }
# 32 random bytes.

struct LinkHello {
  version @0 :UInt16;
  node @1 :Text;
  proof @2 :Data;
  # HMAC-SHA256 of the nonce and the node's name under the cluster secret.
  endpoints @3 :List(Text);
  certificateHashes @4 :List(Data);
  # SHA-256 of what the node shows to clients, where a browser takes that by its hash alone.
}

struct LinkWelcome {
  term @0 :UInt64;
  # Fencing: higher than every term given before. Each append carries it.
  heartbeatMs @1 :UInt32;
}

struct Refused { code @0 :UInt16; message @1 :Text; retryAfterMs @2 :UInt32; }

enum ChannelKind { dm @0; group @1; broadcast @2; }
enum HistoryClass { durable @0; windowed @1; none @2; }
enum Role { owner @0; moderator @1; member @2; reader @3; }
enum SlowConsumer { disconnect @0; skip @1; }

struct Authorize {
  tenant @0 :UInt32;
  user @1 :Text;
  union { name @2 :Text; channel @3 :UInt64; }
}

struct Authorized {
  union { grant @0 :Grant; refused @1 :Refused; }
}

struct Grant {
  channel @0 :UInt64;
  name @1 :Text;
  kind @2 :ChannelKind;
  history @3 :HistoryClass;
  role @4 :Role;
  canPublish @5 :Bool;
  slowConsumer @6 :SlowConsumer;
  readEpoch @7 :UInt32;
  # 0: nothing is read yet.
  readOffset @8 :UInt64;
}

struct HomeOpened {
  channel @0 :UInt64;
  union { head @1 :Head; refused @2 :Refused; }
}

struct Head {
  epoch @0 :UInt32;
  nextOffset @1 :UInt64;
  firstOffset @2 :UInt64;
  epochFirstOffset @3 :UInt64;
  # First offset of the present epoch.
  history @4 :HistoryClass;
  producers @5 :List(ProducerState);
  # For a windowed channel: its recent producers, so that a clean restart forgets no duplicate.
}

struct ProducerState { user @0 :Text; producer @1 :UInt64; sequence @2 :UInt64; offset @3 :UInt64; }

struct ChannelAppend {
  channel @0 :UInt64;
  term @1 :UInt64;
  epoch @2 :UInt32;
  expectedOffset @3 :UInt64;
  # Offset that the first message not a duplicate gets; it must be the head's next one.
  messages @4 :List(NewMessage);
}

struct NewMessage {
  user @0 :Text;
  producer @1 :UInt64;
  sequence @2 :UInt64;
  timeMs @3 :Int64;
  body @4 :Data;
}

struct ChannelAppended {
  channel @0 :UInt64;
  union {
    outcomes @1 :List(AppendOutcome);
    # One for each message, in order.
    refused @2 :Refused;
    # Nothing of this channel's batch is stored, unless the code is `UnknownOutcome`.
  }
}

struct AppendOutcome {
  union {
    stored @0 :UInt64;
    duplicate @1 :UInt64;
    # Offset of the first acceptance, 0 when no longer known.
    outOfOrder @2 :UInt64;
    # The sequence that was expected.
  }
}

struct ReadHistory {
  channel @0 :UInt64;
  messagesMax @1 :UInt32;
  bytesMax @2 :UInt32;
  union { newest @3 :Void; before @4 :UInt64; after @5 :UInt64; }
}

struct History {
  channel @0 :UInt64;
  messages @1 :List(StoredMessage);
  more @2 :Bool;
}

struct StoredMessage {
  epoch @0 :UInt32;
  offset @1 :UInt64;
  timeMs @2 :Int64;
  user @3 :Text;
  producer @4 :UInt64;
  sequence @5 :UInt64;
  body @6 :Data;
}

struct CloseHome { channel @0 :UInt64; term @1 :UInt64; epoch @2 :UInt32; nextOffset @3 :UInt64; }
# All that was delivered is stored: the epoch may live on.

struct PublishOrder {
  tenant @0 :UInt32;
  channel @1 :UInt64;
  history @2 :HistoryClass;
  message @3 :NewMessage;
}

struct PublishResult {
  union {
    position :group { epoch @0 :UInt32; offset @1 :UInt64; timeMs @2 :Int64; duplicate @3 :Bool; }
    refused @4 :Refused;
  }
}

enum KeyAlgorithm { hs256 @0; es256 @1; edDsa @2; }

struct TenantKey {
  tenant @0 :UInt32;
  id @1 :Text;
  union {
    key :group { algorithm @2 :KeyAlgorithm; material @3 :Data; }
    # HS256: the secret; ES256: the public point, uncompressed; EdDSA: the 32 public bytes.
    remove @4 :Void;
  }
}

struct MemberChanged {
  tenant @0 :UInt32;
  channel @1 :UInt64;
  user @2 :Text;
  union { role :group { role @3 :Role; canPublish @4 :Bool; } removed @5 :Void; }
}

struct ChannelChanged {
  tenant @0 :UInt32;
  channel @1 :UInt64;
  name @2 :Text;
  # Grants of this channel are asked for again; an archived one ends its subscriptions.
  archived @3 :Bool;
}

struct ReadMark {
  # The user has read the channel up to and with this position.
  tenant @0 :UInt32;
  channel @1 :UInt64;
  user @2 :Text;
  epoch @3 :UInt32;
  offset @4 :UInt64;
}

struct ReadMarked {
  union {
    position :group { epoch @0 :UInt32; offset @1 :UInt64; }
    # Where it stands now: never behind what was asked.
    refused @2 :Refused;
  }
}

struct TokensRevoked {
  tenant @0 :UInt32;
  union {
    token @1 :Text;
    # One token by its id (`jti`).
    userBefore :group { user @2 :Text; issuedBeforeMs @3 :Int64; }
  }
  forgetAfterMs @4 :Int64;
  # Unix time after which no revoked token can still be valid.
}

struct NodeFigures {
  version @0 :Text;
  # Of the node's program.
  startedMs @1 :Int64;
  draining @2 :Bool;
  connections @3 :UInt32;
  connectionsMax @4 :UInt32;
  cpuMs @5 :UInt64;
  # User and system time of the process.
  residentBytes @6 :UInt64;
  shards @7 :List(ShardFigures);
  # By index.
}

struct ShardFigures {
  # Gauges of now, then counters since the shard began. All are 0 for a shard that does not answer.
  answers @0 :Bool;
  slots @1 :UInt16;
  sessions @2 :UInt32;
  subscriptions @3 :UInt32;
  channels @4 :UInt32;
  homes @5 :UInt32;
  queuedBytes @6 :UInt64;
  # In the queues of all sessions.
  ringItems @7 :UInt32;
  # In the fullest ring that leads to the shard; `ringSlots` is the room in one.
  ringSlots @8 :UInt32;

  cpuUs @9 :UInt64;
  # Of the shard's thread.
  turns @10 :UInt64;
  deliveries @11 :UInt64;
  publishes @12 :UInt64;
  accepted @13 :UInt64;
  # Messages that homes of this shard took.
  writtenBytes @14 :UInt64;
  opened @15 :UInt64;
  # Sessions that began; `closed` those that ended.
  closed @16 :UInt64;
  refused @17 :UInt64;
  slowConsumers @18 :UInt64;
  skipped @19 :UInt64;
  resumes @20 :UInt64;
  reloads @21 :UInt64;
  # Resumes that were refused: the client reads history itself.
  ringFull @22 :UInt64;

  publishAck @23 :LatencyCounts;
  # From a session's publish to its acknowledgement in the session's queue, of those that were accepted.
  delivery @24 :LatencyCounts;
  # From a publish to the message in the queues of sessions of this shard, once for each of them.
}

struct LatencyCounts {
  counts @0 :List(UInt64);
  # 42 at most; those that are missing are 0. Upper bounds in µs: 16, 24, 32, 48, 64 and so on, two for each doubling; the last has none.
  sumUs @1 :UInt64;
}

struct Inspect {
  # Asks for the sessions of a user or of a channel, and for what went wrong with them lately.
  tenant @0 :UInt32;
  rowsMax @1 :UInt16;
  # Most sessions, and most incidents, of the answer: 1 to 256.
  union {
    user @2 :Text;
    channel :group { number @3 :UInt64; name @4 :Text; }
  }
}

struct Inspected {
  sessions @0 :List(SessionView);
  sessionsTotal @1 :UInt32;
  # How many there are, also beyond the list.
  incidents @2 :List(Incident);
  # The newest first.
  incidentsMore @3 :Bool;
  shardsSilent @4 :UInt16;
  # Shards that did not answer in time: their sessions are missing.
  home @5 :HomeView;
  # Null, unless a channel was asked for and its home is in memory.
}

enum Transport { webSocket @0; }

struct SessionView {
  id @0 :Data;
  # The 16 bytes that the client was told.
  user @1 :Text;
  remote @2 :Text;
  # The peer's address and port; empty if it has just gone.
  agent @3 :Text;
  # What the client says that it is; empty if it does not, or if the shard knows too many kinds.
  shard @4 :UInt16;
  transport @5 :Transport;
  connectedMs @6 :Int64;
  heardMs @7 :Int64;
  # When the last frame came from it, to 50 ms.
  tokenExpiresMs @8 :Int64;
  queuedBytes @9 :UInt32;
  stalledMs @10 :UInt32;
  # For so long its transport has taken nothing, though something waits; 0 while it takes bytes.
  subscriptions @11 :List(SubscriptionView);
  # Of the channel that was asked for; else all, of those with many the first 64 by number.
  subscriptionsTotal @12 :UInt32;
}

enum SubscriptionState {
  joining @0;
  # Waits for the first answer of the home.
  replaying @1;
  # Reads what it missed, page by page.
  live @2;
  catchingUp @3;
  # It was live, and its shard reads from the home what it missed.
  attached @4;
  # Only publishes and reads history.
}

struct SubscriptionView {
  channel @0 :UInt64;
  name @1 :Text;
  state @2 :SubscriptionState;
  epoch @3 :UInt32;
  # Of the last message that is in the session's queue or behind it; 0 and 0 where there is no position.
  offset @4 :UInt64;
  canPublish @5 :Bool;
}

enum HomeState { opening @0; catchingUp @1; open @2; archived @3; closing @4; }

struct HomeView {
  shard @0 :UInt16;
  state @1 :HomeState;
  history @2 :HistoryClass;
  epoch @3 :UInt32;
  nextOffset @4 :UInt64;
  firstOffset @5 :UInt64;
  waiting @6 :UInt32;
  # Messages that are accepted and not yet stored.
  shards @7 :UInt16;
  # Interested in live messages.
}

enum IncidentKind {
  ended @0;
  # A session. Code 0: the connection was closed or lost.
  refused @1;
  # A request.
  unsubscribed @2;
  # A subscription ended without being asked to.
  reload @3;
  # A position could not be resumed from: the client reads history itself.
  skipped @4;
  # Messages were dropped for a slow session.
}

struct Incident {
  timeMs @0 :Int64;
  # Of the last one, if it came more than once.
  kind @1 :IncidentKind;
  code @2 :UInt16;
  session @3 :Data;
  user @4 :Text;
  reason @5 :Text;
  count @6 :UInt32;
  channels @7 :List(IncidentChannel);
  # The channel concerned; of a session that ended those that it was subscribed to, at most 8.
}

struct IncidentChannel {
  channel @0 :UInt64;
  # 0 if only the name is known.
  name @1 :Text;
  epoch @2 :UInt32;
  firstOffset @3 :UInt64;
  # Skipped: the first one, and `lastOffset` the last one known. Else both are the position that the subscription had or asked for.
  lastOffset @4 :UInt64;
}

struct DrainOrder {
  overMs @0 :UInt32;
  # Clients are told to come back spread over this time; at most 10 minutes.
}
