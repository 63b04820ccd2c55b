package millrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"millrace.dev/go/internal/model"
	"millrace.dev/go/internal/wire"
)

// The engine against a model of a node, over connections that break at any frame. Each seed is one run; a failure names it.

const (
	// pipeFrames is how many frames a connection takes before it is full.
	pipeFrames = 6
	simTrouble = 400
)

var simQueue = queueLimits{messagesMax: 8, bytesMax: 4_096}

var simNames = []string{"general", "news"}

// simReader is a reader of one channel and what it has seen.
type simReader struct {
	name    string
	channel *channel
	call    *opening
	inbox   []Event
	// at is behind the last event.
	at      Position
	knowsAt bool
	// fromOldest: it began with the oldest message, whichever that is.
	fromOldest              bool
	takenEvents, takenBytes int
	starved                 bool
	resets, messages        int
}

// simSend is a message that was sent.
type simSend struct {
	number   int
	name     string
	isEnded  bool
	position Position
	err      error
}

// straggling is what an earlier connection left, and until when it may arrive.
type straggling struct {
	until  instant
	frames [][]byte
}

type world struct {
	seed       uint64
	dice       model.Dice
	now        instant
	engine     *engine
	node       *model.Node
	connected  bool
	pipe       [][]byte
	stragglers []straggling
	readers    []*simReader
	senders    map[string]*channel
	sends      map[*Ticket]*simSend
	mayReset   bool
	connects   int
	takenBack  int
	// marked is the furthest that the application marked as read, by channel.
	marked map[string]Position
}

func (w *world) fail(format string, args ...any) {
	panic(fmt.Sprintf("MILLRACE_SEED=%d: %s", w.seed, fmt.Sprintf(format, args...)))
}

func testConfig() engineConfig {
	to, err := parseEndpoint("ws://a")
	if err != nil {
		panic(err)
	}
	return engineConfig{
		agent:          "test",
		endpoints:      []endpoint{to},
		tokensRenew:    true,
		queue:          queueLimits{messagesMax: 1_024, bytesMax: 1 << 20},
		backoff:        backoffLimits{first: 100 * time.Millisecond, max: 20 * time.Second},
		connectTimeout: 10 * time.Second,
		requestTimeout: 30 * time.Second,
		closeTimeout:   5 * time.Second,
	}
}

const testUnixMs = 1_700_000_000_000

func newWorld(seed uint64) *world {
	w := &world{
		seed: seed, dice: model.Dice{State: seed}, now: 1,
		senders: map[string]*channel{}, sends: map[*Ticket]*simSend{}, marked: map[string]Position{},
	}
	config := testConfig()
	config.queue = simQueue
	config.requestTimeout = 10 * time.Minute
	if seed%3 == 2 {
		// In one run of three, messages are given up after a while.
		config.sendTimeout = 5 * time.Second
	}
	w.engine = newEngine(config, w.dice.Next(), testUnixMs)
	w.node = model.NewNode(w.dice.Next())
	w.engine.start(w.now)
	return w
}

func (w *world) below(bound int) int { return int(w.dice.Below(uint64(bound))) }

func (w *world) name() string { return simNames[w.below(len(simNames))] }

func (w *world) read(name string, start Start) {
	r := &simReader{name: name, call: &opening{}, fromOldest: start == StartAfterOffset(0)}
	w.readers = slices.DeleteFunc(w.readers, func(other *simReader) bool { return other.name == name })
	w.readers = append(w.readers, r)
	switch start.kind {
	case placeAt:
		r.at, r.knowsAt = start.position, true
	case placeOffset:
		r.at, r.knowsAt = Position{Epoch: w.node.Channel(name).Epoch, Offset: start.position.Offset}, true
	}
	c, err := w.engine.open(w.now, name, &start, r.call)
	if err != nil {
		w.fail("open: %v", err)
	}
	r.channel = c
	w.settle()
}

// readAgain: the application closes a reader and opens another.
func (w *world) readAgain() {
	r := w.readers[w.below(len(w.readers))]
	if r.call.isDone {
		w.engine.release(w.now, r.channel, readerHandle)
		w.engine.release(w.now, r.channel, senderHandle)
	} else {
		w.engine.abandon(w.now, r.call)
	}
	if w.below(2) == 0 {
		w.settle()
	}
	head := Position(w.node.Channel(r.name).Head())
	switch w.below(3) {
	case 0:
		w.read(r.name, StartLive())
	case 1:
		w.read(r.name, StartAfterOffset(0))
	default:
		head.Offset = uint64(w.below(int(head.Offset) + 1))
		w.read(r.name, StartAfter(head))
	}
}

func (w *world) send() {
	name := w.name()
	if w.senders[name] == nil {
		c, err := w.engine.open(w.now, name, nil, &opening{})
		if err != nil {
			w.fail("open: %v", err)
		}
		w.senders[name] = c
	}
	ticket, number := &Ticket{}, len(w.sends)
	w.sends[ticket] = &simSend{number: number, name: name}
	w.engine.send(w.now, w.senders[name], ticket, []byte(strconv.Itoa(number)))
	w.settle()
}

// takeBack gives up a message that has not had its end, as an application does whose context ends.
func (w *world) takeBack() {
	if len(w.sends) == 0 {
		return
	}
	number := w.below(len(w.sends))
	for ticket, send := range w.sends {
		if send.number == number && !send.isEnded {
			w.engine.cancelSend(w.now, w.senders[send.name], ticket, context.Canceled)
			w.takenBack++
		}
	}
	w.settle()
}

// settle does what the engine asks, and fills the pipe.
func (w *world) settle() {
	for range 1_000 {
		for at := w.engine.nextTimeout(); at.isDue(w.now); at = w.engine.nextTimeout() {
			w.engine.handleTimeout(w.now)
		}
		acted := false
		for a, ok := w.engine.pollAction(); ok; a, ok = w.engine.pollAction() {
			acted = true
			w.act(&a)
		}
		for w.connected && len(w.pipe) < pipeFrames {
			frame, ok := w.engine.pollTransmit(w.now, nil)
			if !ok {
				break
			}
			w.pipe = append(w.pipe, frame)
		}
		if !acted {
			return
		}
	}
	w.fail("the engine never rests")
}

func (w *world) readerOf(c *channel) *simReader {
	for _, r := range w.readers {
		if r.channel == c || r.channel == nil && r.name == c.name {
			return r
		}
	}
	w.fail("no reader of %s", c.name)
	return nil
}

func (w *world) act(a *action) {
	switch a.kind {
	case actionFetchToken:
		w.engine.handleToken(w.now, "token", nil)
	case actionConnect:
		w.connects++
		if w.below(4) == 0 {
			w.engine.handleDisconnected(w.now, disconnected("no route"))
			return
		}
		w.node.Accept()
		w.connected, w.pipe = true, nil
		w.engine.handleConnected(w.now)
	case actionDisconnect:
		w.cut()
	case actionDeliver:
		r := w.readerOf(a.channel)
		r.inbox = append(r.inbox, a.event)
		if len(r.inbox) > simQueue.messagesMax+3 {
			w.fail("%d events wait", len(r.inbox))
		}
	case actionStarved:
		w.readerOf(a.channel).starved = true
	case actionOpened:
		call := a.rest.(*opening)
		if call.err != nil {
			w.fail("open: %v", call.err)
		}
		for _, r := range w.readers {
			if r.call == call && !r.knowsAt {
				r.at, r.knowsAt = call.result.position, true
			}
		}
	case actionSent:
		send := w.sends[a.ticket]
		if send.isEnded {
			w.fail("message %d has two ends: %v %v, then %v %v", send.number, send.position, send.err, a.position, a.err)
		}
		send.isEnded, send.position, send.err = true, a.position, a.err
	case actionState:
		if state := a.rest.(State); state.Phase == Closed {
			w.fail("closed: %v", state.Err)
		}
	case actionNote:
	default:
		w.fail("action %d was not asked for", a.kind)
	}
}

// cut: the connection is gone. Of what was on its way, the node gets nothing, a part now, or a part later.
func (w *world) cut() {
	if !w.connected {
		return
	}
	read := w.pipe[:w.below(len(w.pipe)+1)]
	w.connected, w.pipe = false, nil
	if w.below(2) == 0 {
		for _, frame := range read {
			w.node.Straggle(frame)
		}
	} else {
		linger := 2 * model.HeartbeatMs * time.Millisecond
		w.stragglers = append(w.stragglers, straggling{w.now.after(linger), read})
	}
	clear(w.node.Session)
}

// take: the application takes up to count events of each reader and checks them.
func (w *world) take(count int) {
	for _, r := range w.readers {
		for range min(count, len(r.inbox)) {
			event := r.inbox[0]
			r.inbox = r.inbox[1:]
			r.takenEvents++
			r.takenBytes += event.size()
			w.see(r, event)
		}
		if r.knowsAt && r.at.Offset > 0 && w.below(3) == 0 {
			if isBehind(w.marked[r.name], r.at) {
				w.marked[r.name] = r.at
			}
			w.engine.markRead(w.now, r.channel, r.at)
		}
		isHalf := 2*len(r.inbox) <= simQueue.messagesMax
		if r.takenEvents > 2 || r.starved && isHalf {
			r.starved = r.starved && !isHalf
			events, bytes := r.takenEvents, r.takenBytes
			r.takenEvents, r.takenBytes = 0, 0
			w.engine.taken(w.now, r.channel, events, bytes)
			w.settle()
		}
	}
}

func (w *world) see(r *simReader, event Event) {
	c := w.node.Channel(r.name)
	if !r.knowsAt {
		w.fail("%s: %v before the answer", r.name, event)
	}
	switch event := event.(type) {
	case *Message:
		if r.fromOldest {
			r.fromOldest = false
			r.at.Offset = event.Position.Offset - 1
		}
		stored := c.Stored[r.at.Offset]
		if event.Position != Position(stored.Position) || string(event.Body) != string(stored.Body) {
			w.fail("%s: %v %q behind %v, not %v %q", r.name, event.Position, event.Body, r.at, stored.Position, stored.Body)
		}
		r.at = event.Position
		r.messages++
	case *Skipped:
		if event.Reason != SlowConsumer || event.First.Offset != r.at.Offset+1 {
			w.fail("%s: %+v behind %v", r.name, event, r.at)
		}
		r.at = event.Last
	case *Reset:
		if !w.mayReset || event.Position.Epoch <= r.at.Epoch && event.Position.Offset <= r.at.Offset {
			w.fail("%s: reset from %v to %v for %v", r.name, r.at, event.Position, event.Reason)
		}
		r.fromOldest = false
		r.at = event.Position
		r.resets++
	default:
		w.fail("%s: %v", r.name, event)
	}
}

func (w *world) serve(count int) {
	for ; count > 0 && w.connected && len(w.pipe) > 0; count-- {
		frame := w.pipe[0]
		w.pipe = w.pipe[1:]
		w.node.Receive(frame)
		if code := w.node.Closing; code != 0 {
			for said, ok := w.node.TakeOut(); ok; said, ok = w.node.TakeOut() {
				w.engine.handleFrame(w.now, said)
			}
			w.connected, w.pipe = false, nil
			w.engine.handleDisconnected(w.now, refusal(code, "", 0))
			break
		}
	}
	w.settle()
}

func (w *world) hear(count int) {
	for ; count > 0 && w.connected; count-- {
		frame, ok := w.node.TakeOut()
		if !ok {
			return
		}
		w.engine.handleFrame(w.now, frame)
		w.settle()
	}
}

func (w *world) advance(by time.Duration) {
	w.now = w.now.after(by)
	w.stragglers = slices.DeleteFunc(w.stragglers, func(s straggling) bool { return s.until <= w.now })
	w.settle()
}

func (w *world) step() {
	switch dice := w.below(100); {
	case dice < 18:
		w.send()
	case dice < 20:
		w.takeBack()
	case dice < 30:
		w.node.Publish(w.name(), "other")
	case dice < 50:
		w.serve(w.below(4))
	case dice < 70:
		w.hear(w.below(6))
	case dice < 85:
		w.take(w.below(6))
	case dice < 92:
		w.advance(time.Duration(w.below(400)) * time.Millisecond)
	case dice < 94:
		if len(w.stragglers) > 0 {
			frames := w.stragglers[0].frames
			w.stragglers = w.stragglers[1:]
			for _, frame := range frames {
				w.node.Straggle(frame)
			}
		}
	case dice < 95:
		w.node.Ping()
	case dice < 96:
		w.node.MarkElsewhere(w.name())
	case dice == 96:
		if after := uint32(w.below(2_000)); w.node.IsWelcomed {
			w.node.GoAway(after)
		}
	case dice == 97 && w.below(2) == 0:
		w.readAgain()
	case dice == 97:
		w.advance(time.Duration(w.below(40)) * time.Second)
	case dice == 98 && w.mayReset:
		c := w.node.Channel(w.name())
		if w.below(2) == 0 {
			c.Epoch++
		} else if swept := uint64(w.below(4)); c.Head().Offset > swept {
			c.Oldest = max(c.Oldest, c.Head().Offset-swept)
		}
	default:
		w.cut()
		w.engine.handleDisconnected(w.now, disconnected("cut"))
		w.settle()
	}
}

// calmDown: nothing goes wrong any more, and everything comes to its end.
func (w *world) calmDown() {
	w.node.Faults = model.Faults{}
	for range 3_000 {
		w.serve(10)
		w.hear(100)
		w.take(100)
		w.advance(100 * time.Millisecond)
		w.node.Ping()
		if w.isDone() {
			return
		}
	}
	w.fail("never at rest: %+v", w.engine)
}

func (w *world) isDone() bool {
	for _, send := range w.sends {
		if !send.isEnded {
			return false
		}
	}
	// Every mark is stored, and the application knows what is unread.
	for name, marked := range w.marked {
		if isBehind(Position(w.node.ReadOf(w.node.Channel(name))), marked) {
			return false
		}
	}
	for _, r := range w.readers {
		c := w.node.Channel(r.name)
		unread, known := r.channel.reads.unread()
		if !known || unread.Count != c.Head().Offset-w.node.ReadOf(c).Offset {
			return false
		}
	}
	return !slices.ContainsFunc(w.readers, func(r *simReader) bool {
		return len(r.inbox) > 0 || !r.knowsAt || r.at.Offset != w.node.Channel(r.name).Head().Offset
	})
}

// checkSends: what was acknowledged is stored once, where it was said to be; what surely failed is not; both in order.
func (w *world) checkSends() {
	byNumber := make([]*simSend, len(w.sends))
	for _, send := range w.sends {
		byNumber[send.number] = send
	}
	found := map[int]wire.Position{}
	for _, name := range simNames {
		last := -1
		for _, stored := range w.node.Channel(name).Stored {
			number, err := strconv.Atoi(string(stored.Body))
			if err != nil {
				continue
			}
			if _, twice := found[number]; twice {
				w.fail("message %d is stored twice", number)
			}
			found[number] = stored.Position
			// What was given up with an unknown fate may come late.
			if byNumber[number].err == nil {
				if number < last {
					w.fail("message %d is stored behind %d", number, last)
				}
				last = number
			}
		}
	}
	for _, send := range byNumber {
		position, isStored := found[send.number]
		var unknown *UnconfirmedError
		switch {
		case send.err == nil && (!isStored || Position(position) != send.position):
			w.fail("message %d is acknowledged at %v, and stored at %v", send.number, send.position, position)
		case send.err != nil && !errors.As(send.err, &unknown) && isStored:
			w.fail("message %d failed with %v, and is stored at %v", send.number, send.err, position)
		}
	}
}

func runWorld(seed uint64, faults model.Faults, mayReset bool) *world {
	w := newWorld(seed)
	w.mayReset = mayReset
	w.node.Faults = faults
	for range w.below(20) {
		w.node.Publish("general", "before")
	}
	starts := []Start{StartLive(), StartAfterOffset(0), StartAfter(Position{Epoch: 1})}
	w.read("general", starts[w.below(3)])
	w.read("news", StartLive())
	for range simTrouble {
		w.step()
	}
	w.calmDown()
	w.checkSends()
	return w
}

func runWorlds(t *testing.T, faults model.Faults, mayReset bool) []*world {
	t.Helper()
	first, count := uint64(0), uint64(300)
	if seed, err := strconv.ParseUint(os.Getenv("MILLRACE_SEED"), 10, 64); err == nil {
		first, count = seed, 1
	}
	var worlds []*world
	for seed := first; seed < first+count; seed++ {
		worlds = append(worlds, runWorld(seed, faults, mayReset))
	}
	return worlds
}

var simRefusals = model.Faults{
	PublishRefused: 60, SubscribeRefused: 100, HistoryRefused: 100, HelloRefused: 100, Unsubscribes: 10,
	MarkRefused: 200,
}

func TestConnectionsThatBreakLoseNothing(t *testing.T) {
	worlds := runWorlds(t, model.Faults{}, false)
	delivered, connects, takenBack := 0, 0, 0
	for _, w := range worlds {
		connects += w.connects
		takenBack += w.takenBack
		for _, r := range w.readers {
			delivered += r.messages
		}
		for _, send := range w.sends {
			if send.err != nil && !errors.Is(send.err, context.Canceled) && AdviceOf(send.err) != Retry {
				t.Errorf("seed %d: message %d: %v", w.seed, send.number, send.err)
			}
		}
	}
	if len(worlds) > 1 && (delivered < 50*len(worlds) || connects < 5*len(worlds)) {
		t.Errorf("only %d messages were delivered over %d connections", delivered, connects)
	}
	if len(worlds) > 1 && takenBack < len(worlds) {
		t.Errorf("only %d messages were taken back", takenBack)
	}
}

func TestRefusalsOfEveryKindLoseNothing(t *testing.T) { runWorlds(t, simRefusals, false) }

func TestLostHistoryIsTold(t *testing.T) {
	faults := simRefusals
	faults.Skips = 30
	worlds := runWorlds(t, faults, true)
	resets := 0
	for _, w := range worlds {
		for _, r := range w.readers {
			resets += r.resets
		}
	}
	if len(worlds) > 1 && resets < 100 {
		t.Errorf("only %d resets", resets)
	}
}
