// Package model is a node as a model, for tests: channels in memory, one session at a time, refusals by chance. It speaks the
// codec of package wire and shares nothing else with the SDK.
package model

import (
	"fmt"
	"slices"

	"millrace.dev/go/internal/wire"
)

const (
	// replayMax is the most messages that a resume replays; more must be read from the history.
	replayMax = 12
	pageMax   = 5
	// HeartbeatMs is the node's heartbeat, unless a test sets another.
	HeartbeatMs = 25_000
	// NeverMs is when a token expires that does not.
	NeverMs = 1<<63 - 1
)

// Codes that the model refuses with.
const (
	TooLarge        = 4003
	NoAccess        = 4005
	Archived        = 4007
	OutOfOrder      = 4009
	NotSubscribed   = 4012
	Ended           = 4013
	RateLimited     = 4100
	Busy            = 4101
	Unavailable     = 4102
	UnknownOutcome  = 4103
	Blocked         = 4104
	GoingAway       = 4200
	EpochChanged    = 4300
	PositionTooOld  = 4301
	PositionAhead   = 4302
	BadToken        = 4400
	TokenExpired    = 4401
	retryAfterMs    = 50
	thousandthsFull = 1_000
)

// Faults is how much goes wrong, each in so many of a thousand cases.
type Faults struct {
	PublishRefused, SubscribeRefused, HistoryRefused, HelloRefused, Skips, Unsubscribes, MarkRefused uint64
}

// Stored is a message that a channel has.
type Stored struct {
	Position           wire.Position
	Body               []byte
	Producer, Sequence uint64
}

// Channel is a channel of the model.
type Channel struct {
	Name    string
	Number  uint64
	History wire.HistoryClass
	Epoch   uint32
	// Stored has every message ever stored; the index is the offset less one.
	Stored []Stored
	// Oldest is the offset of the oldest that is still kept.
	Oldest uint64
	last   map[uint64]uint64
}

// Head is the place of the newest message.
func (c *Channel) Head() wire.Position {
	return wire.Position{Epoch: c.Epoch, Offset: uint64(len(c.Stored))}
}

// bar is what a session refused; those after it wait.
type bar struct {
	channel  *Channel
	producer uint64
}

// Node is the model.
type Node struct {
	Dice        Dice
	HeartbeatMs uint32
	// Token is the only one that is accepted, if not any.
	Token          string
	TokenExpiresMs int64
	Faults         Faults
	Channels       []*Channel
	// Session is what the session is subscribed to (true) or attached to (false).
	Session map[*Channel]bool
	bars    map[bar]uint64
	// Out has frames for the client.
	Out [][]byte
	// Closing is the code that the session is to be closed with.
	Closing    uint16
	IsWelcomed bool
	Hellos     int
	Refreshed  []string
	Pongs      int
	// ReadAt is where the user's read positions stand; nowhere if nothing is read.
	ReadAt map[*Channel]wire.Position
}

// NewNode makes a node with the durable channels general and news.
func NewNode(seed uint64) *Node {
	n := &Node{
		Dice:           Dice{seed},
		HeartbeatMs:    HeartbeatMs,
		TokenExpiresMs: NeverMs,
		Session:        map[*Channel]bool{},
		bars:           map[bar]uint64{},
		ReadAt:         map[*Channel]wire.Position{},
	}
	for i, name := range []string{"general", "news"} {
		n.Channels = append(n.Channels, &Channel{
			Name: name, Number: uint64(i) + 1, History: wire.Durable, Epoch: 1, Oldest: 1, last: map[uint64]uint64{},
		})
	}
	return n
}

// Channel is a channel by name; nil if there is none.
func (n *Node) Channel(name string) *Channel {
	for _, c := range n.Channels {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Reads tells whether the session is subscribed to a channel, and not only attached.
func (n *Node) Reads(name string) bool { return n.Session[n.Channel(name)] }

// Has tells whether the session is subscribed or attached to a channel.
func (n *Node) Has(name string) bool {
	_, ok := n.Session[n.Channel(name)]
	return ok
}

// Accept takes a new connection; what the last one had is forgotten.
func (n *Node) Accept() {
	clear(n.Session)
	clear(n.bars)
	n.Out, n.Closing, n.IsWelcomed = nil, 0, false
}

// Straggle takes a frame that an ended session had sent.
func (n *Node) Straggle(input []byte) {
	if frame := decode(input); frame.Kind == wire.ClientPublish {
		n.append(n.byNumber(frame.Publish.Channel), frame.Publish.Producer, frame.Publish.Sequence, frame.Publish.Body)
	}
}

// Publish is another user's publish.
func (n *Node) Publish(name, body string) {
	n.append(n.Channel(name), n.Dice.Next()|1, 1, []byte(body))
}

// Ping asks the client for a sign of life.
func (n *Node) Ping() {
	if n.IsWelcomed {
		n.Say(&wire.ServerFrame{Kind: wire.ServerPing})
	}
}

// GoAway asks the client to leave.
func (n *Node) GoAway(afterMs uint32) {
	n.Say(&wire.ServerFrame{Kind: wire.ServerGoAway, GoAway: wire.GoAway{Code: GoingAway, AfterMs: afterMs}})
}

// Say sends a frame.
func (n *Node) Say(frame *wire.ServerFrame) { n.Out = append(n.Out, wire.AppendServer(nil, frame)) }

// TakeOut takes the next frame for the client.
func (n *Node) TakeOut() ([]byte, bool) {
	if len(n.Out) == 0 {
		return nil, false
	}
	next := n.Out[0]
	n.Out = n.Out[1:]
	return next, true
}

// Refuse answers a request with an error.
func (n *Node) Refuse(request uint32, code uint16, message string) {
	n.Say(&wire.ServerFrame{Request: request, Kind: wire.ServerError, Error: wire.Error{Code: code, Message: message}})
}

func decode(input []byte) wire.ClientFrame {
	var frame wire.ClientFrame
	if err := frame.Decode(input); err != nil {
		panic(fmt.Sprintf("the client sent what is no frame: %v", err))
	}
	return frame
}

// Receive takes one frame of the session.
func (n *Node) Receive(input []byte) {
	frame := decode(input)
	if !n.IsWelcomed && frame.Kind != wire.ClientHello {
		panic(fmt.Sprintf("before the hello: %+v", frame))
	}
	switch frame.Kind {
	case wire.ClientHello:
		if !n.hello(frame.Request, &frame.Hello) {
			return
		}
	case wire.ClientSubscribe:
		n.subscribe(frame.Request, &frame.Subscribe)
	case wire.ClientUnsubscribe:
		c := n.byNumber(frame.Unsubscribe.Channel)
		if _, ok := n.Session[c]; !ok {
			n.Refuse(frame.Request, NotSubscribed, "no subscription")
			break
		}
		delete(n.Session, c)
		n.Say(&wire.ServerFrame{
			Request: frame.Request, Kind: wire.ServerUnsubscribed, Unsubscribed: wire.Unsubscribed{Channel: c.Number},
		})
	case wire.ClientPublish:
		n.publish(frame.Request, &frame.Publish)
	case wire.ClientHistory:
		n.history(frame.Request, &frame.History)
	case wire.ClientRefresh:
		n.Refreshed = append(n.Refreshed, frame.Refresh.Token)
		n.Say(&wire.ServerFrame{
			Request: frame.Request, Kind: wire.ServerRefreshed, Refreshed: wire.Refreshed{TokenExpiresMs: NeverMs},
		})
	case wire.ClientPong:
		n.Pongs++
	case wire.ClientMarkRead:
		n.markRead(frame.Request, &frame.MarkRead)
	default:
		panic("an unknown frame")
	}
	if n.chance(n.Faults.Unsubscribes) {
		for _, c := range n.Channels {
			if _, ok := n.Session[c]; ok {
				delete(n.Session, c)
				n.Say(&wire.ServerFrame{Kind: wire.ServerUnsubscribed, Unsubscribed: wire.Unsubscribed{
					Channel: c.Number, Code: Unavailable, Reason: "the control plane is away",
				}})
				break
			}
		}
	}
}

func (n *Node) hello(request uint32, hello *wire.Hello) bool {
	n.Hellos++
	if n.Token != "" && n.Token != hello.Token {
		n.Refuse(request, BadToken, "the token's signature is wrong")
		n.Closing = BadToken
		return false
	}
	if n.chance(n.Faults.HelloRefused) {
		// A client gives up when tokens are refused again and again.
		code := uint16(TokenExpired)
		if n.Hellos%3 != 0 {
			code = n.pick(Busy, GoingAway)
		}
		n.Refuse(request, code, "not now")
		n.Closing = code
		return false
	}
	n.IsWelcomed = true
	welcome := Welcome()
	welcome.HeartbeatMs, welcome.TokenExpiresMs = n.HeartbeatMs, n.TokenExpiresMs
	n.Say(&wire.ServerFrame{Request: request, Kind: wire.ServerWelcome, Welcome: welcome})
	for i := range hello.Subscriptions {
		n.subscribe(request, &hello.Subscriptions[i])
	}
	return true
}

// Welcome is the welcome of the model.
func Welcome() wire.Welcome {
	return wire.Welcome{
		Version: wire.Version, Features: wire.FeatureReadPositions, HeartbeatMs: HeartbeatMs, Session: [16]byte{1}, TokenExpiresMs: NeverMs,
		PayloadBytesMax: 16 << 10, SubscriptionsMax: 100, Node: "model",
	}
}

func (n *Node) subscribe(request uint32, subscribe *wire.Subscribe) {
	refuse := func(code uint16, message string, retryAfterMs uint32) {
		n.Say(&wire.ServerFrame{Request: request, Kind: wire.ServerError, Error: wire.Error{
			Code: code, Message: message, RetryAfterMs: retryAfterMs, Channel: subscribe.Channel,
		}})
	}
	c := n.Channel(subscribe.Channel)
	if c == nil {
		refuse(NoAccess, "no such channel", 0)
		return
	}
	if n.chance(n.Faults.SubscribeRefused) {
		refuse(Unavailable, "not now", retryAfterMs)
		return
	}
	head := c.Head()
	answer := wire.Subscribed{Name: c.Name, Channel: c.Number, Position: head, History: c.History, CanPublish: true}
	replayAfter, after := head.Offset, subscribe.After
	reload := func(code uint16) { answer.Recovery, answer.Reload = wire.RecoveryReload, code }
	switch {
	case subscribe.Start != wire.StartAfter || c.History == wire.NoHistory:
	case after.Epoch != c.Epoch:
		reload(EpochChanged)
	case after.Offset > head.Offset:
		reload(PositionAhead)
	case head.Offset-after.Offset > replayMax || after.Offset+1 < c.Oldest:
		reload(PositionTooOld)
	default:
		answer.Recovery, replayAfter = wire.RecoveryWhole, after.Offset
	}
	n.Session[c] = subscribe.Start != wire.StartAttach
	n.Say(&wire.ServerFrame{Request: request, Kind: wire.ServerSubscribed, Subscribed: answer})
	if c.History != wire.NoHistory {
		n.sayRead(0, c)
	}
	for i := range c.Stored[replayAfter:] {
		n.Say(&wire.ServerFrame{Kind: wire.ServerMessage, Message: c.message(&c.Stored[int(replayAfter)+i])})
	}
}

// ReadOf is where the user's read position stands; offset 0 if nothing is read.
func (n *Node) ReadOf(c *Channel) wire.Position {
	if at, ok := n.ReadAt[c]; ok {
		return at
	}
	return wire.Position{Epoch: 1}
}

func (n *Node) mark(c *Channel, to wire.Position) {
	at := n.ReadOf(c)
	if at.Epoch < to.Epoch || at.Epoch == to.Epoch && at.Offset < to.Offset {
		n.ReadAt[c] = to
	}
}

func (n *Node) sayRead(request uint32, c *Channel) {
	n.Say(&wire.ServerFrame{
		Request: request, Kind: wire.ServerRead, Read: wire.Read{Channel: c.Number, Position: n.ReadOf(c)},
	})
}

// MarkElsewhere is another device of the user that reads on.
func (n *Node) MarkElsewhere(name string) {
	c := n.Channel(name)
	n.mark(c, c.Head())
	if _, has := n.Session[c]; has && n.IsWelcomed {
		n.sayRead(0, c)
	}
}

func (n *Node) markRead(request uint32, mark *wire.MarkRead) {
	c := n.byNumber(mark.Channel)
	_, has := n.Session[c]
	switch {
	case !has:
		n.Refuse(request, NotSubscribed, "no subscription")
	case n.chance(n.Faults.MarkRefused):
		n.Refuse(request, n.pick(Busy, Unavailable, RateLimited), "not now")
	case mark.Position.Offset > c.Head().Offset:
		n.Refuse(request, PositionAhead, "nobody can have read that")
	default:
		n.mark(c, mark.Position)
		n.sayRead(request, c)
	}
}

func (n *Node) publish(request uint32, publish *wire.Publish) {
	c := n.byNumber(publish.Channel)
	var code uint16
	if n.chance(n.Faults.PublishRefused) {
		code = n.pick(RateLimited, Busy, Unavailable, UnknownOutcome, UnknownOutcome, TooLarge, Archived)
	}
	key := bar{c, publish.Producer}
	barred, isBarred := n.bars[key]
	isBarred = isBarred && publish.Sequence > barred
	if !isBarred {
		delete(n.bars, key)
	}
	append := func() (wire.Position, bool, uint16) {
		return n.append(c, publish.Producer, publish.Sequence, publish.Body)
	}
	var position wire.Position
	var duplicate bool
	_, isAttached := n.Session[c]
	switch {
	case !isAttached:
		code = NotSubscribed
	case isBarred:
		code = Blocked
	case code == RateLimited || code == Busy || code == TooLarge:
		n.bars[key] = publish.Sequence
	case code == UnknownOutcome:
		if n.Dice.Below(2) == 0 {
			append()
		}
	case code == 0:
		position, duplicate, code = append()
	}
	if code != 0 {
		n.Refuse(request, code, "refused")
		return
	}
	n.Say(&wire.ServerFrame{Request: request, Kind: wire.ServerPublished, Published: wire.Published{
		Channel: c.Number, Producer: publish.Producer, Sequence: publish.Sequence, Position: position, Duplicate: duplicate,
	}})
}

func (n *Node) history(request uint32, asked *wire.HistoryRequest) {
	c := n.byNumber(asked.Channel)
	if n.chance(n.Faults.HistoryRefused) {
		n.Refuse(request, Busy, "not now")
		return
	}
	if _, ok := n.Session[c]; !ok {
		n.Refuse(request, NotSubscribed, "no subscription")
		return
	}
	var all []wire.Message
	for i := range c.Stored {
		offset := c.Stored[i].Position.Offset
		if offset >= c.Oldest && (asked.Range == wire.Newest || asked.Range == wire.Before && offset < asked.Offset ||
			asked.Range == wire.After && offset > asked.Offset) {
			all = append(all, c.message(&c.Stored[i]))
		}
	}
	most := min(pageMax, int(asked.MessagesMax), len(all))
	page := wire.Page{Channel: c.Number, Messages: all[len(all)-most:], More: len(all) > most}
	if asked.Range == wire.After {
		page.Messages = all[:most]
	}
	n.Say(&wire.ServerFrame{Request: request, Kind: wire.ServerPage, Page: page})
}

// append takes last + 1, knows duplicates, refuses the rest; it delivers what is new.
func (n *Node) append(c *Channel, producer, sequence uint64, body []byte) (at wire.Position, duplicate bool, code uint16) {
	if c.History == wire.NoHistory {
		at = wire.Position{Epoch: 1}
		n.deliver(c, &Stored{Position: at, Body: body, Producer: producer, Sequence: sequence})
		return at, false, 0
	}
	if sequence <= c.last[producer] {
		index := slices.IndexFunc(c.Stored, func(s Stored) bool { return s.Producer == producer && s.Sequence == sequence })
		return c.Stored[index].Position, true, 0
	}
	if sequence != c.last[producer]+1 {
		return wire.Position{}, false, OutOfOrder
	}
	c.last[producer] = sequence
	at = wire.Position{Epoch: c.Epoch, Offset: c.Head().Offset + 1}
	stored := Stored{Position: at, Body: slices.Clone(body), Producer: producer, Sequence: sequence}
	c.Stored = append(c.Stored, stored)
	n.deliver(c, &stored)
	return at, false, 0
}

func (n *Node) deliver(c *Channel, stored *Stored) {
	switch {
	case !n.Session[c]:
	case n.chance(n.Faults.Skips):
		n.Say(&wire.ServerFrame{Kind: wire.ServerSkipped, Skipped: wire.Skipped{
			Channel: c.Number, First: stored.Position, Last: stored.Position,
		}})
	default:
		n.Say(&wire.ServerFrame{Kind: wire.ServerMessage, Message: c.message(stored)})
	}
}

func (c *Channel) message(stored *Stored) wire.Message {
	return wire.Message{
		Channel: c.Number, Position: stored.Position, TimeMs: 1, User: []byte("user"),
		Producer: stored.Producer, Sequence: stored.Sequence, Body: stored.Body,
	}
}

func (n *Node) byNumber(number uint64) *Channel { return n.Channels[number-1] }

func (n *Node) chance(thousandths uint64) bool { return n.Dice.Below(thousandthsFull) < thousandths }

func (n *Node) pick(of ...uint16) uint16 { return of[n.Dice.Below(uint64(len(of)))] }

// Dice is SplitMix64.
type Dice struct{ State uint64 }

// Next is the next number.
func (d *Dice) Next() uint64 {
	d.State += 0x9e37_79b9_7f4a_7c15
	z := d.State
	z = (z ^ (z >> 30)) * 0xbf58_476d_1ce4_e5b9
	z = (z ^ (z >> 27)) * 0x94d0_49bb_1331_11eb
	return z ^ (z >> 31)
}

// Below is a number below a bound.
func (d *Dice) Below(bound uint64) uint64 { return d.Next() % bound }
