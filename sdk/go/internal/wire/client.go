package wire

// ClientKind is the member of a client frame's union, by its number in the schema.
type ClientKind uint16

// What a client asks.
const (
	ClientHello ClientKind = iota
	ClientSubscribe
	ClientUnsubscribe
	ClientPublish
	ClientHistory
	ClientRefresh
	ClientPong
	ClientMarkRead
	// ClientUnknown is a member, or a value inside one, that this version does not know.
	ClientUnknown
)

// ClientFrame is a frame from a client. Of the members only the one that Kind names is set. Decoded, its slices share the
// bytes that it was decoded from.
type ClientFrame struct {
	// Request is echoed in the reply; 0 asks for no reply but an error.
	Request uint32
	Kind    ClientKind

	Hello       Hello
	Subscribe   Subscribe
	Unsubscribe Unsubscribe
	Publish     Publish
	History     HistoryRequest
	Refresh     Refresh
	MarkRead    MarkRead
}

// Hello is the first frame of a connection.
type Hello struct {
	VersionMin, VersionMax uint16
	Features               uint64
	Token, Agent           string
	Subscriptions          []Subscribe
}

// Subscribe is interest in a channel by name.
type Subscribe struct {
	Channel string
	Start   StartKind
	// After is where a StartAfter begins.
	After Position
}

// Unsubscribe ends a subscription.
type Unsubscribe struct {
	Channel uint64
}

// Publish is a message to be accepted.
type Publish struct {
	Channel, Producer, Sequence uint64
	Body                        []byte
}

// HistoryRequest asks for a page.
type HistoryRequest struct {
	Channel     uint64
	MessagesMax uint32
	Range       RangeKind
	// Offset is what Before and After count from.
	Offset uint64
}

// Refresh brings a newer token.
type Refresh struct {
	Token string
}

// MarkRead says how far the user has read a channel.
type MarkRead struct {
	Channel  uint64
	Position Position
}

// AppendClient appends a frame to buf.
func AppendClient(buf []byte, frame *ClientFrame) []byte {
	b, root := newFrame(buf, frame.Request, uint16(frame.Kind))
	switch frame.Kind {
	case ClientHello:
		hello := &frame.Hello
		o := b.structFor(root.pointers, 2, 3)
		b.setUint16(o, 0, hello.VersionMin)
		b.setUint16(o, 2, hello.VersionMax)
		b.setUint64(o, 8, hello.Features)
		b.setText(o.pointers, hello.Token)
		b.setText(o.pointers+1, hello.Agent)
		first := b.structsFor(o.pointers+2, len(hello.Subscriptions), 1, 2)
		for i := range hello.Subscriptions {
			at := first + i*3
			b.setSubscribe(object{at: at, pointers: at + 1}, &hello.Subscriptions[i])
		}
	case ClientSubscribe:
		b.setSubscribe(b.structFor(root.pointers, 1, 2), &frame.Subscribe)
	case ClientUnsubscribe:
		b.setUint64(b.structFor(root.pointers, 1, 0), 0, frame.Unsubscribe.Channel)
	case ClientPublish:
		o := b.structFor(root.pointers, 3, 1)
		b.setUint64(o, 0, frame.Publish.Channel)
		b.setUint64(o, 8, frame.Publish.Producer)
		b.setUint64(o, 16, frame.Publish.Sequence)
		b.setBytes(o.pointers, frame.Publish.Body)
	case ClientHistory:
		o := b.structFor(root.pointers, 3, 0)
		b.setUint64(o, 0, frame.History.Channel)
		b.setUint32(o, 8, frame.History.MessagesMax)
		b.setUint16(o, 12, uint16(frame.History.Range))
		b.setUint64(o, 16, frame.History.Offset)
	case ClientRefresh:
		b.setText(b.structFor(root.pointers, 0, 1).pointers, frame.Refresh.Token)
	case ClientMarkRead:
		o := b.structFor(root.pointers, 1, 1)
		b.setUint64(o, 0, frame.MarkRead.Channel)
		b.setPosition(o.pointers, frame.MarkRead.Position)
	case ClientPong, ClientUnknown:
	}
	return b.finish()
}

func (b *builder) setSubscribe(o object, subscribe *Subscribe) {
	b.setUint16(o, 0, uint16(subscribe.Start))
	b.setText(o.pointers, subscribe.Channel)
	if subscribe.Start == StartAfter {
		b.setPosition(o.pointers+1, subscribe.After)
	}
}

// Decode reads a frame from a client: one whole WebSocket message. The name in a subscribe and the body of a publish may be as
// long as the frame allows.
//
// Its error is a *FrameError.
func (f *ClientFrame) Decode(input []byte) error {
	var s segment
	root, err := openSegment(input, ClientFrameBytesMax, &s)
	if err != nil {
		return err
	}
	*f = ClientFrame{Request: root.uint32(0)}
	kind := ClientKind(min(root.uint16(4), uint16(ClientUnknown)))
	var known bool
	switch kind {
	case ClientHello:
		known = f.Hello.read(root.structAt(0))
	case ClientSubscribe:
		known = f.Subscribe.read(root.structAt(0))
	case ClientUnsubscribe:
		f.Unsubscribe.Channel = root.structAt(0).number(0, "unsubscribe.channel")
		known = true
	case ClientPublish:
		o := root.structAt(0)
		f.Publish = Publish{
			Channel:  o.number(0, "publish.channel"),
			Producer: o.number(8, "publish.producer"),
			Sequence: o.number(16, "publish.sequence"),
			Body:     o.bytesAt(0),
		}
		known = true
	case ClientHistory:
		known = f.History.read(root.structAt(0))
	case ClientRefresh:
		token := root.structAt(0).textAt(0, "refresh.token")
		if len(token) > TokenBytesMax {
			s.fail(tooLarge("refresh.token", len(token), TokenBytesMax))
		}
		f.Refresh.Token = string(token)
		known = true
	case ClientPong:
		known = true
	case ClientMarkRead:
		o := root.structAt(0)
		f.MarkRead = MarkRead{
			Channel: o.number(0, "markRead.channel"), Position: o.positionAt(0, "markRead.position"),
		}
		known = true
	}
	if s.err != nil {
		return s.err
	}
	f.Kind = kind
	if !known {
		f.Kind = ClientUnknown
	}
	return nil
}

// read is false if there is something in it that this version does not know.
func (h *Hello) read(o view) bool {
	token, agent := o.textAt(0, "hello.token"), o.textAt(1, "hello.agent")
	if len(token) > TokenBytesMax {
		o.segment.fail(tooLarge("hello.token", len(token), TokenBytesMax))
	}
	if len(agent) > AgentBytesMax {
		o.segment.fail(tooLarge("hello.agent", len(agent), AgentBytesMax))
	}
	*h = Hello{
		VersionMin: o.uint16(0), VersionMax: o.uint16(2), Features: o.uint64(8),
		Token: string(token), Agent: string(agent),
	}
	subscriptions := o.structsAt(2).limit("hello.subscriptions", SubscriptionsCap)
	known := true
	for i := range subscriptions.len {
		var subscribe Subscribe
		known = subscribe.read(subscriptions.structAt(i)) && known
		h.Subscriptions = append(h.Subscriptions, subscribe)
	}
	return known
}

func (sub *Subscribe) read(o view) bool {
	start := o.uint16(0)
	*sub = Subscribe{Channel: string(o.textAt(0, "subscribe.channel")), Start: StartKind(min(start, uint16(startKinds)))}
	if sub.Start == StartAfter {
		sub.After = o.positionAt(1, "subscribe.after")
	}
	return sub.Start < startKinds
}

func (h *HistoryRequest) read(o view) bool {
	*h = HistoryRequest{
		Channel:     o.number(0, "history.channel"),
		MessagesMax: o.uint32(8),
		Range:       RangeKind(min(o.uint16(12), uint16(rangeKinds))),
	}
	switch h.Range {
	case Before:
		h.Offset = o.number(16, "history.before")
	case After:
		h.Offset = o.uint64(16)
	}
	return h.Range < rangeKinds
}
