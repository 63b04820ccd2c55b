# The wire between a client and a data node. SPEC.md gives the rules around it; this file gives the shapes.
#
# A frame is one Cap'n Proto message of exactly one segment in the standard stream framing (segment table, then the
# segment), carried in one WebSocket binary message. A client sends `ClientFrame`, a node sends `ServerFrame`.
# A receiver ignores union members it does not know.
@0xd1b6c0e5a4f7321b;

struct ClientFrame {
  request @0 :UInt32;
  # Chosen by the client and echoed in the reply. 0 asks for no reply but an error.
  union {
    hello @1 :Hello;
    subscribe @2 :Subscribe;
    unsubscribe @3 :Unsubscribe;
    publish @4 :Publish;
    history @5 :HistoryRequest;
    refresh @6 :Refresh;
    pong @7 :Void;
    markRead @8 :MarkRead;
  }
}

struct Hello {
  # The first frame of a connection, within the handshake limit.
  versionMin @0 :UInt16;
  versionMax @1 :UInt16;
  features @2 :UInt64;
  # Bit set of optional features that the client understands; bit 0: read positions.
  token @3 :Text;
  agent @4 :Text;
  # Name and version of the SDK, for the operator's eyes. At most 128 bytes.
  subscriptions @5 :List(Subscribe);
  # Subscribed as if each had been sent on its own with this frame's request number: a whole resume in one frame.
}

struct Position {
  # A place in a channel's history. Offsets compare only within an epoch.
  epoch @0 :UInt32;
  offset @1 :UInt64;
  # Offset of the last message that the client has; 0 is before the first.
}

struct Subscribe {
  channel @0 :Text;
  # Name of the channel within the token's tenant.
  union {
    live @1 :Void;
    # Messages from now on.
    after @2 :Position;
    # Resume: every message after this position, then live.
    attach @3 :Void;
    # No messages: only the right to publish to the channel and to read its history.
  }
}

struct Unsubscribe {
  channel @0 :UInt64;
}

struct Publish {
  channel @0 :UInt64;
  # The number from `Subscribed`.
  producer @1 :UInt64;
  # Random and not 0, chosen by the client once for each run of a sender and kept over reconnects.
  sequence @2 :UInt64;
  # Counts the messages of this producer on this channel from 1, without gaps. A retry repeats it.
  body @3 :Data;
}

struct HistoryRequest {
  channel @0 :UInt64;
  messagesMax @1 :UInt32;
  union {
    newest @2 :Void;
    # The newest messages.
    before @3 :UInt64;
    # The messages just before this offset.
    after @4 :UInt64;
    # The messages just after this offset; 0 starts at the first.
  }
}

struct MarkRead {
  # The user has read the channel up to and with this position.
  channel @0 :UInt64;
  position @1 :Position;
}

struct Refresh {
  token @0 :Text;
  # A newer token of the same tenant and user.
}

struct ServerFrame {
  request @0 :UInt32;
  # The request that this frame answers; 0 for a frame that answers none.
  union {
    welcome @1 :Welcome;
    subscribed @2 :Subscribed;
    unsubscribed @3 :Unsubscribed;
    published @4 :Published;
    message @5 :Message;
    page @6 :Page;
    refreshed @7 :Refreshed;
    error @8 :Error;
    ping @9 :Void;
    # Answer with `pong`. Any frame from the client counts as well.
    goAway @10 :GoAway;
    skipped @11 :Skipped;
    read @12 :Read;
  }
}

struct Welcome {
  version @0 :UInt16;
  heartbeatMs @1 :UInt32;
  # The node pings after this long without traffic, and ends a session silent for twice as long.
  features @2 :UInt64;
  session @3 :Data;
  # 16 bytes, for logs and support.
  tokenExpiresMs @4 :Int64;
  # Unix time in milliseconds.
  payloadBytesMax @5 :UInt32;
  subscriptionsMax @6 :UInt32;
  node @7 :Text;
}

enum HistoryClass {
  durable @0;
  windowed @1;
  none @2;
}

struct Subscribed {
  name @0 :Text;
  channel @1 :UInt64;
  # The channel's number: what every later frame names it by.
  position @2 :Position;
  # The newest message of the channel when the subscription began; messages after it follow live.
  history @3 :HistoryClass;
  canPublish @4 :Bool;
  recovery :union {
    none @5 :Void;
    # Nothing was asked for: live from `position`.
    whole @6 :Void;
    # Every message after the asked position follows, in order, before anything newer.
    reload @7 :UInt16;
    # The missed messages cannot be sent; the number is an error code and says why. Live from `position`; read the
    # history before it.
  }
}

struct Unsubscribed {
  channel @0 :UInt64;
  code @1 :UInt16;
  # 0 when the client asked for it.
  reason @2 :Text;
}

struct Published {
  channel @0 :UInt64;
  producer @1 :UInt64;
  sequence @2 :UInt64;
  position @3 :Position;
  # Where the message stands. Offset 0: in a channel without history, or a duplicate too old to find.
  duplicate @4 :Bool;
  # It had been accepted before.
}

struct Message {
  channel @0 :UInt64;
  position @1 :Position;
  timeMs @2 :Int64;
  # When the node accepted it, Unix time in milliseconds.
  user @3 :Text;
  producer @4 :UInt64;
  sequence @5 :UInt64;
  body @6 :Data;
}

struct Page {
  channel @0 :UInt64;
  messages @1 :List(Message);
  # In ascending order of offset, whichever way was asked.
  more @2 :Bool;
  # There are more messages in the direction asked.
}

struct Refreshed {
  tokenExpiresMs @0 :Int64;
}

struct Error {
  code @0 :UInt16;
  # See SPEC.md; the range says what to do next.
  message @1 :Text;
  retryAfterMs @2 :UInt32;
  # 0 when nothing better than the client's own back-off is known.
  channel @3 :Text;
  # Name of the channel, when this refuses to subscribe: the subscriptions of a hello share one request number.
}

struct GoAway {
  code @0 :UInt16;
  afterMs @1 :UInt32;
  # Reconnect this long from now: spread over the clients of the node.
  endpoints @2 :List(Text);
  # Where to; empty means the same address.
}

struct Skipped {
  # The slow-consumer policy of the channel dropped messages for this session.
  channel @0 :UInt64;
  first @1 :Position;
  last @2 :Position;
}

struct Read {
  # Where the user's read position stands: behind `subscribed`, as the answer to `markRead`, and whenever it moves.
  channel @0 :UInt64;
  position @1 :Position;
  # Offset 0: nothing is read yet.
}
