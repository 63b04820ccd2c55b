package wire

// ServerKind is the member of a server frame's union, by its number in the schema.
type ServerKind uint16

// What a node says.
const (
	ServerWelcome ServerKind = iota
	ServerSubscribed
	ServerUnsubscribed
	ServerPublished
	ServerMessage
	ServerPage
	ServerRefreshed
	ServerError
	ServerPing
	ServerGoAway
	ServerSkipped
	ServerRead
	// ServerUnknown is a member, or a value inside one, that this version does not know.
	ServerUnknown
)

// ServerFrame is a frame from a node. Of the members only the one that Kind names is set; decoding into a frame again leaves
// others as they were and uses their memory. Decoded, its byte slices share the bytes that it was decoded from.
type ServerFrame struct {
	// Request is the request that this answers, 0 for none.
	Request uint32
	Kind    ServerKind

	Welcome      Welcome
	Subscribed   Subscribed
	Unsubscribed Unsubscribed
	Published    Published
	Message      Message
	Page         Page
	Refreshed    Refreshed
	Error        Error
	GoAway       GoAway
	Skipped      Skipped
	Read         Read
}

// Welcome opens a session.
type Welcome struct {
	Version          uint16
	HeartbeatMs      uint32
	Features         uint64
	Session          [16]byte
	TokenExpiresMs   int64
	PayloadBytesMax  uint32
	SubscriptionsMax uint32
	Node             string
}

// Subscribed begins a subscription.
type Subscribed struct {
	Name       string
	Channel    uint64
	Position   Position
	History    HistoryClass
	CanPublish bool
	Recovery   RecoveryKind
	// Reload is the code of a RecoveryReload.
	Reload uint16
}

// Unsubscribed ends a subscription; code 0 if the client asked for it.
type Unsubscribed struct {
	Channel uint64
	Code    uint16
	Reason  string
}

// Published accepts a publish.
type Published struct {
	Channel, Producer, Sequence uint64
	Position                    Position
	Duplicate                   bool
}

// Message is a message of a channel.
type Message struct {
	Channel            uint64
	Position           Position
	TimeMs             int64
	User               []byte
	Producer, Sequence uint64
	Body               []byte
}

// Page is a page of history.
type Page struct {
	Channel  uint64
	Messages []Message
	More     bool
}

// Refreshed says until when the new token is good.
type Refreshed struct {
	TokenExpiresMs int64
}

// Error refuses a request, or complains of the session.
type Error struct {
	Code         uint16
	Message      string
	RetryAfterMs uint32
	Channel      string
}

// GoAway asks the client to leave.
type GoAway struct {
	Code      uint16
	AfterMs   uint32
	Endpoints []string
}

// Skipped stands for messages that were dropped.
type Skipped struct {
	Channel     uint64
	First, Last Position
}

// Read says where the user's read position stands; offset 0 if nothing is read.
type Read struct {
	Channel  uint64
	Position Position
}

// Decode reads a frame from a node: one whole WebSocket message.
//
// Its error is a *FrameError.
func (f *ServerFrame) Decode(input []byte) error {
	var s segment
	root, err := openSegment(input, ServerFrameBytesMax, &s)
	if err != nil {
		return err
	}
	f.Request, f.Kind = root.uint32(0), ServerKind(min(root.uint16(4), uint16(ServerUnknown)))
	known := true
	switch f.Kind {
	case ServerWelcome:
		f.Welcome.read(root.structAt(0))
	case ServerSubscribed:
		known = f.Subscribed.read(root.structAt(0))
	case ServerUnsubscribed:
		o := root.structAt(0)
		f.Unsubscribed = Unsubscribed{
			Channel: o.number(0, "unsubscribed.channel"),
			Code:    o.uint16(8),
			Reason:  string(o.textAt(0, "unsubscribed.reason")),
		}
	case ServerPublished:
		o := root.structAt(0)
		f.Published = Published{
			Channel:   o.number(0, "published.channel"),
			Producer:  o.number(8, "published.producer"),
			Sequence:  o.number(16, "published.sequence"),
			Position:  o.positionAt(0, "published.position"),
			Duplicate: o.bit(24),
		}
	case ServerMessage:
		f.Message.read(root.structAt(0))
	case ServerPage:
		f.Page.read(root.structAt(0))
	case ServerRefreshed:
		f.Refreshed.TokenExpiresMs = int64(root.structAt(0).uint64(0))
	case ServerError:
		o := root.structAt(0)
		f.Error = Error{
			Code:         o.uint16(0),
			Message:      string(o.textAt(0, "error.message")),
			RetryAfterMs: o.uint32(4),
			Channel:      string(o.textAt(1, "error.channel")),
		}
	case ServerGoAway:
		f.GoAway.read(root.structAt(0))
	case ServerSkipped:
		o := root.structAt(0)
		f.Skipped = Skipped{
			Channel: o.number(0, "skipped.channel"),
			First:   o.positionAt(0, "skipped.first"),
			Last:    o.positionAt(1, "skipped.last"),
		}
	case ServerRead:
		o := root.structAt(0)
		f.Read = Read{Channel: o.number(0, "read.channel"), Position: o.positionAt(0, "read.position")}
	case ServerPing, ServerUnknown:
	}
	if s.err == nil && !known {
		f.Kind = ServerUnknown
	}
	return s.err
}

func (w *Welcome) read(o view) {
	*w = Welcome{
		Version:          o.uint16(0),
		HeartbeatMs:      o.uint32(4),
		Features:         o.uint64(8),
		TokenExpiresMs:   int64(o.uint64(16)),
		PayloadBytesMax:  o.uint32(24),
		SubscriptionsMax: o.uint32(28),
		Node:             string(o.textAt(1, "welcome.node")),
	}
	session := o.bytesAt(0)
	if len(session) != len(w.Session) {
		o.segment.fail(invalid("welcome.session is not 16 bytes"))
	}
	copy(w.Session[:], session)
}

// read is false if there is something in it that this version does not know.
func (sub *Subscribed) read(o view) bool {
	*sub = Subscribed{
		Name:       string(o.textAt(0, "subscribed.name")),
		Channel:    o.number(0, "subscribed.channel"),
		Position:   o.positionAt(1, "subscribed.position"),
		History:    HistoryClass(min(o.uint16(8), uint16(historyClasses))),
		CanPublish: o.bit(10),
		Recovery:   RecoveryKind(min(o.uint16(12), uint16(recoveryKinds))),
	}
	if sub.Recovery == RecoveryReload {
		sub.Reload = o.uint16(14)
	}
	return sub.History < historyClasses && sub.Recovery < recoveryKinds
}

func (m *Message) read(o view) {
	*m = Message{
		Channel:  o.number(0, "message.channel"),
		Position: o.positionAt(0, "message.position"),
		TimeMs:   int64(o.uint64(8)),
		User:     o.textAt(1, "message.user"),
		Producer: o.number(16, "message.producer"),
		Sequence: o.number(24, "message.sequence"),
		Body:     o.bytesAt(2),
	}
	if len(m.Body) > PayloadBytesCap {
		o.segment.fail(tooLarge("message.body", len(m.Body), PayloadBytesCap))
	}
}

func (p *Page) read(o view) {
	messages := o.structsAt(0).limit("page.messages", PageMessagesMax)
	*p = Page{Channel: o.number(0, "page.channel"), Messages: p.Messages[:0], More: o.bit(8)}
	for i := range messages.len {
		var message Message
		message.read(messages.structAt(i))
		if o.segment.err != nil {
			return
		}
		p.Messages = append(p.Messages, message)
	}
}

func (g *GoAway) read(o view) {
	endpoints := o.pointersAt(0).limit("goAway.endpoints", EndpointsMax)
	*g = GoAway{Code: o.uint16(0), AfterMs: o.uint32(4)}
	for i := range endpoints.len {
		g.Endpoints = append(g.Endpoints, string(endpoints.textAt(i, "goAway.endpoints")))
	}
}

// AppendServer appends a frame to buf.
func AppendServer(buf []byte, frame *ServerFrame) []byte {
	b, root := newFrame(buf, frame.Request, uint16(frame.Kind))
	switch frame.Kind {
	case ServerWelcome:
		welcome := &frame.Welcome
		o := b.structFor(root.pointers, 4, 2)
		b.setUint16(o, 0, welcome.Version)
		b.setUint32(o, 4, welcome.HeartbeatMs)
		b.setUint64(o, 8, welcome.Features)
		b.setUint64(o, 16, uint64(welcome.TokenExpiresMs))
		b.setUint32(o, 24, welcome.PayloadBytesMax)
		b.setUint32(o, 28, welcome.SubscriptionsMax)
		b.setBytes(o.pointers, welcome.Session[:])
		b.setText(o.pointers+1, welcome.Node)
	case ServerSubscribed:
		subscribed := &frame.Subscribed
		o := b.structFor(root.pointers, 2, 2)
		b.setUint64(o, 0, subscribed.Channel)
		b.setUint16(o, 8, uint16(subscribed.History))
		b.setBit(o, 10, subscribed.CanPublish)
		b.setUint16(o, 12, uint16(subscribed.Recovery))
		b.setUint16(o, 14, subscribed.Reload)
		b.setText(o.pointers, subscribed.Name)
		b.setPosition(o.pointers+1, subscribed.Position)
	case ServerUnsubscribed:
		o := b.structFor(root.pointers, 2, 1)
		b.setUint64(o, 0, frame.Unsubscribed.Channel)
		b.setUint16(o, 8, frame.Unsubscribed.Code)
		b.setText(o.pointers, frame.Unsubscribed.Reason)
	case ServerPublished:
		published := &frame.Published
		o := b.structFor(root.pointers, 4, 1)
		b.setUint64(o, 0, published.Channel)
		b.setUint64(o, 8, published.Producer)
		b.setUint64(o, 16, published.Sequence)
		b.setBit(o, 24, published.Duplicate)
		b.setPosition(o.pointers, published.Position)
	case ServerMessage:
		b.setMessage(b.structFor(root.pointers, 4, 3), &frame.Message)
	case ServerPage:
		o := b.structFor(root.pointers, 2, 1)
		b.setUint64(o, 0, frame.Page.Channel)
		b.setBit(o, 8, frame.Page.More)
		first := b.structsFor(o.pointers, len(frame.Page.Messages), 4, 3)
		for i := range frame.Page.Messages {
			at := first + i*7
			b.setMessage(object{at: at, pointers: at + 4}, &frame.Page.Messages[i])
		}
	case ServerRefreshed:
		b.setUint64(b.structFor(root.pointers, 1, 0), 0, uint64(frame.Refreshed.TokenExpiresMs))
	case ServerError:
		o := b.structFor(root.pointers, 1, 2)
		b.setUint16(o, 0, frame.Error.Code)
		b.setUint32(o, 4, frame.Error.RetryAfterMs)
		b.setText(o.pointers, frame.Error.Message)
		b.setText(o.pointers+1, frame.Error.Channel)
	case ServerGoAway:
		o := b.structFor(root.pointers, 1, 1)
		b.setUint16(o, 0, frame.GoAway.Code)
		b.setUint32(o, 4, frame.GoAway.AfterMs)
		first := b.pointersFor(o.pointers, len(frame.GoAway.Endpoints))
		for i, endpoint := range frame.GoAway.Endpoints {
			b.setText(first+i, endpoint)
		}
	case ServerSkipped:
		o := b.structFor(root.pointers, 1, 2)
		b.setUint64(o, 0, frame.Skipped.Channel)
		b.setPosition(o.pointers, frame.Skipped.First)
		b.setPosition(o.pointers+1, frame.Skipped.Last)
	case ServerRead:
		o := b.structFor(root.pointers, 1, 1)
		b.setUint64(o, 0, frame.Read.Channel)
		b.setPosition(o.pointers, frame.Read.Position)
	case ServerPing, ServerUnknown:
	}
	return b.finish()
}

func (b *builder) setMessage(o object, message *Message) {
	b.setUint64(o, 0, message.Channel)
	b.setUint64(o, 8, uint64(message.TimeMs))
	b.setUint64(o, 16, message.Producer)
	b.setUint64(o, 24, message.Sequence)
	b.setPosition(o.pointers, message.Position)
	b.setText(o.pointers+1, string(message.User))
	b.setBytes(o.pointers+2, message.Body)
}
