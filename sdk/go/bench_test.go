package millrace

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"millrace.dev/go/internal/model"
	"millrace.dev/go/internal/wire"
)

// bench is an engine with a test in the node's place.
type bench struct {
	t      *testing.T
	engine *engine
	now    instant
	opened []*opening
	sent   []sent
	pages  []*pageCall
	events []string
	// log has names of states and actions, in order.
	log []string
}

type sent struct {
	ticket   *Ticket
	position Position
	err      error
}

const benchHeartbeat = model.HeartbeatMs * time.Millisecond

func newBench(t *testing.T, config engineConfig) *bench {
	t.Helper()
	b := &bench{t: t, engine: newEngine(config, 1, testUnixMs), now: 1}
	b.engine.start(b.now)
	b.act()
	return b
}

// newWelcomedBench is connected and welcomed.
func newWelcomedBench(t *testing.T, config engineConfig) *bench {
	t.Helper()
	b := newBench(t, config)
	b.connect()
	return b
}

func (b *bench) connect() {
	b.t.Helper()
	b.engine.handleToken(b.now, "token", nil)
	b.engine.handleConnected(b.now)
	hello := b.frames()
	if len(hello) != 1 || hello[0].Kind != wire.ClientHello {
		b.t.Fatalf("not a hello: %+v", hello)
	}
	b.say(&wire.ServerFrame{Request: hello[0].Request, Kind: wire.ServerWelcome, Welcome: model.Welcome()})
	b.log = nil
}

// hello connects once more, with the token that there is, and welcomes the client.
func (b *bench) helloAgain() *wire.ClientFrame {
	b.t.Helper()
	b.engine.handleConnected(b.now)
	hello := b.frame()
	b.say(&wire.ServerFrame{Request: hello.Request, Kind: wire.ServerWelcome, Welcome: model.Welcome()})
	return hello
}

func (b *bench) act() {
	for a, ok := b.engine.pollAction(); ok; a, ok = b.engine.pollAction() {
		switch a.kind {
		case actionFetchToken:
			b.log = append(b.log, "token")
		case actionConnect:
			b.log = append(b.log, "connect "+strings.TrimSuffix(a.rest.(endpoint).String(), connectPath))
		case actionDisconnect:
			b.log = append(b.log, "disconnect")
		case actionDeliver:
			b.events = append(b.events, describe(a.event))
		case actionEnd:
			b.events = append(b.events, fmt.Sprintf("ended %v", a.err))
		case actionStarved:
			b.log = append(b.log, "starved")
		case actionOpened:
			b.opened = append(b.opened, a.rest.(*opening))
		case actionSent:
			b.sent = append(b.sent, sent{a.ticket, a.position, a.err})
		case actionPage:
			b.pages = append(b.pages, a.rest.(*pageCall))
		case actionState:
			switch state := a.rest.(State); state.Phase {
			case Reconnecting:
				b.log = append(b.log, fmt.Sprintf("reconnecting %d", state.Attempt))
			case Closed:
				b.log = append(b.log, fmt.Sprintf("closed %v", state.Err))
			default:
				b.log = append(b.log, state.Phase.String())
			}
		}
	}
}

func describe(event Event) string {
	switch event := event.(type) {
	case *Message:
		return fmt.Sprint(event.Position.Offset)
	case *Reset:
		return fmt.Sprintf("reset %v %d", event.Reason, event.Position.Offset)
	case *Skipped:
		return fmt.Sprintf("skipped %v %d %d %d", event.Reason, event.First.Offset, event.Last.Offset, event.Messages)
	default:
		return fmt.Sprintf("%T %v", event, event)
	}
}

func (b *bench) say(frame *wire.ServerFrame) {
	b.engine.handleFrame(b.now, wire.AppendServer(nil, frame))
	b.act()
}

// frames are what the engine has to send, each decoded.
func (b *bench) frames() []*wire.ClientFrame {
	b.t.Helper()
	var frames []*wire.ClientFrame
	for {
		input, ok := b.engine.pollTransmit(b.now, nil)
		if !ok {
			return frames
		}
		frame := new(wire.ClientFrame)
		if err := frame.Decode(input); err != nil {
			b.t.Fatal(err)
		}
		frames = append(frames, frame)
	}
}

// frame is the first of the frames to send.
func (b *bench) frame() *wire.ClientFrame {
	b.t.Helper()
	frames := b.frames()
	if len(frames) == 0 {
		b.t.Fatal("nothing to send")
	}
	return frames[0]
}

func (b *bench) pass(wait time.Duration) {
	until := b.now.after(wait)
	for at := b.engine.nextTimeout(); at.isDue(until); at = b.engine.nextTimeout() {
		b.now = max(b.now, at)
		b.engine.handleTimeout(b.now)
		b.act()
	}
	b.now = until
}

// expectLog compares the log so far, and forgets it.
func (b *bench) expectLog(expect ...string) {
	b.t.Helper()
	b.act()
	if len(b.log) != len(expect) || len(expect) > 0 && !reflect.DeepEqual(b.log, expect) {
		b.t.Fatalf("%q, not %q", b.log, expect)
	}
	b.log = nil
}

// expectEvents compares the events so far, and forgets them.
func (b *bench) expectEvents(expect ...string) {
	b.t.Helper()
	b.act()
	if len(b.events) != len(expect) || len(expect) > 0 && !reflect.DeepEqual(b.events, expect) {
		b.t.Fatalf("%q, not %q", b.events, expect)
	}
	b.events = nil
}

// open opens a handle and answers for the node.
func (b *bench) open(name string, start *Start) *channel {
	b.t.Helper()
	c, err := b.engine.open(b.now, name, start, &opening{})
	if err != nil {
		b.t.Fatal(err)
	}
	asked := b.frame()
	if asked.Kind != wire.ClientSubscribe {
		b.t.Fatalf("not asked: %+v", asked)
	}
	b.say(subscribedFrame(asked.Request, name, 0, wire.RecoveryNone))
	if last := b.opened[len(b.opened)-1]; last.err != nil {
		b.t.Fatal(last.err)
	}
	b.opened = nil
	return c
}

func (b *bench) read(name string) *channel {
	b.t.Helper()
	start := StartLive()
	return b.open(name, &start)
}

func (b *bench) send(c *channel, body string) *Ticket {
	ticket := &Ticket{}
	b.engine.send(b.now, c, ticket, []byte(body))
	b.act()
	return ticket
}

func (b *bench) push(offset uint64) {
	b.say(&wire.ServerFrame{Kind: wire.ServerMessage, Message: messageAt(offset)})
}

// acknowledge answers a publish as stored.
func (b *bench) acknowledge(publish *wire.ClientFrame, offset uint64) {
	b.say(&wire.ServerFrame{Request: publish.Request, Kind: wire.ServerPublished, Published: wire.Published{
		Channel: publish.Publish.Channel, Producer: publish.Publish.Producer, Sequence: publish.Publish.Sequence,
		Position: wire.Position{Epoch: 1, Offset: offset},
	}})
}

func (b *bench) refuse(request uint32, code Code) {
	b.say(&wire.ServerFrame{Request: request, Kind: wire.ServerError, Error: wire.Error{
		Code: uint16(code), Message: "refused",
	}})
}

// expectPublish takes the only frame, which must be a publish.
func (b *bench) expectPublish(sequence uint64, body string) *wire.ClientFrame {
	b.t.Helper()
	frame := b.frame()
	if frame.Kind != wire.ClientPublish || frame.Publish.Sequence != sequence || string(frame.Publish.Body) != body {
		b.t.Fatalf("%+v, not a publish of %d %q", frame, sequence, body)
	}
	return frame
}

// expectSubscribe checks a frame, which must be a subscribe.
func (b *bench) expectSubscribe(frame *wire.ClientFrame, expect wire.Subscribe) {
	b.t.Helper()
	if frame.Kind != wire.ClientSubscribe || frame.Subscribe != expect {
		b.t.Fatalf("%+v, not %+v", frame, expect)
	}
}

// expectHistory checks a frame, which must be a history request.
func (b *bench) expectHistory(frame *wire.ClientFrame, kind wire.RangeKind, offset uint64, messagesMax uint32) {
	b.t.Helper()
	expect := wire.HistoryRequest{Channel: 7, MessagesMax: messagesMax, Range: kind, Offset: offset}
	if frame.Kind != wire.ClientHistory || frame.History != expect {
		b.t.Fatalf("%+v, not %+v", frame, expect)
	}
}

func messageAt(offset uint64) wire.Message {
	return wire.Message{
		Channel: 7, Position: wire.Position{Epoch: 1, Offset: offset}, User: []byte("u"), Producer: 9, Sequence: 1,
		Body: []byte("m"),
	}
}

func subscribedFrame(request uint32, name string, head uint64, recovery wire.RecoveryKind) *wire.ServerFrame {
	return &wire.ServerFrame{Request: request, Kind: wire.ServerSubscribed, Subscribed: wire.Subscribed{
		Name: name, Channel: 7, Position: wire.Position{Epoch: 1, Offset: head}, CanPublish: true, Recovery: recovery,
	}}
}

func pageFrame(request uint32, first, last uint64, more bool) *wire.ServerFrame {
	page := wire.Page{Channel: 7, More: more}
	for offset := first; offset <= last; offset++ {
		page.Messages = append(page.Messages, messageAt(offset))
	}
	return &wire.ServerFrame{Request: request, Kind: wire.ServerPage, Page: page}
}
