package millrace

import (
	"slices"
	"time"

	"millrace.dev/go/internal/wire"
)

const (
	// tick is how often deadlines of requests are looked at while there are any; they are that inexact.
	tick = 250 * time.Millisecond
	// historiesAskedMax is how many pages for the application one channel asks for at once: a node has a bound for those of a
	// session.
	historiesAskedMax = 4
	// requestsMax is the unanswered requests of a connection beyond which no message is sent: a node has a bound, usually 1,024.
	requestsMax = 768
)

// engineConfig has the limits and times of a client.
type engineConfig struct {
	agent     string
	endpoints []endpoint
	// tokensRenew: a new token can be had by asking.
	tokensRenew bool
	// failFast: the first connection must succeed soon: each URL is tried once, and again only if a node asks for it.
	failFast       bool
	queue          queueLimits
	backoff        backoffLimits
	connectTimeout time.Duration
	requestTimeout time.Duration
	// sendTimeout of 0 waits for ever.
	sendTimeout  time.Duration
	closeTimeout time.Duration
}

// actionKind tells what the shell does for the engine.
type actionKind uint8

const (
	// actionFetchToken: get a token; tell with handleToken.
	actionFetchToken actionKind = iota
	// actionConnect: open a connection to endpoint; tell with handleConnected or handleDisconnected.
	actionConnect
	// actionDisconnect: close the connection, or stop opening it; nothing is told.
	actionDisconnect
	// actionDeliver: queue event for the application.
	actionDeliver
	// actionEnd: nothing follows in the application's queue but err, if there is one.
	actionEnd
	// actionStarved: the queue's room is used up; tell with taken when at least half is free.
	actionStarved
	// actionOpened: a handle is open, or cannot be.
	actionOpened
	// actionSent: a message is stored, or given up.
	actionSent
	// actionPage: a page of history is here, or cannot be had.
	actionPage
	// actionState: the connection's state changed.
	actionState
	// actionNote: err is worth a line in a log.
	actionNote
)

// action is what the shell does for the engine, in the order of the queue. Which fields count, its kind says.
type action struct {
	kind    actionKind
	channel *channel
	event   Event
	err     error
	// ticket is of actionSent, with position.
	ticket   *Ticket
	position Position
	// rest is an endpoint, a State, an *opening with its result inside, or a *pageCall likewise.
	rest any
	note string
}

// opening is a call that opens a handle.
type opening struct {
	// result is set before actionOpened.
	result opened
	err    error
	isDone bool
	// done is the shell's.
	done chan struct{}
}

// opened is what a handle knows from the start.
type opened struct {
	position   Position
	history    HistoryClass
	canPublish bool
}

// pageCall is a call that reads a page of history.
type pageCall struct {
	// page is set before actionPage.
	page *Page
	err  error
	// done is the shell's.
	done chan struct{}
}

// requestKind tells what a request number stands for.
type requestKind uint8

const (
	requestSubscribe requestKind = iota
	requestUnsubscribe
	requestPublish
	requestHistory
	requestCatchUp
	requestMarkRead
	requestRefresh
)

type request struct {
	kind    requestKind
	channel *channel
	// sequence is of requestPublish.
	sequence uint64
	// history is of requestHistory.
	history *history
}

// isOf tells whether the request is about a channel and its answer means nothing once the node ended the subscription.
func (r *request) isOf(c *channel) bool {
	return r.kind != requestUnsubscribe && r.kind != requestRefresh && r.channel == c
}

// engine is the client without its goroutines: what to say, what to keep, when to try again. It is pure: bytes, time and the
// application's calls come in, frames and actions go out. It has no clock, no socket, no lock and no randomness but its seed.
//
// Feed it with handle… and the calls of the application; then drain pollAction and, while the connection takes bytes,
// pollTransmit; call handleTimeout at nextTimeout.
//
//   - outbox.go: messages on their way to a channel, each stored once and in order;
//   - subscription.go: where a reader stands, each message delivered once and in order;
//   - reads.go: how far the user has read;
//   - engine_channel.go: what they share;
//   - engine_connection.go: connecting, heartbeats, tokens, back-off;
//   - engine_calls.go: what handles of the application ask for;
//   - engine_receive.go, engine_transmit.go: frames in and out.
//
// Invariant: what a channel's handles want is compared with what the node was told in one place, sync.
type engine struct {
	config engineConfig
	random random
	// originUnixMs is the Unix time at the clock's beginning.
	originUnixMs int64
	link         link
	endpoints    endpoints
	backoff      backoff
	token        accessToken
	goAway       *goAway
	// complaint is what the node said last, if that was a complaint that answers nothing: it tells why the connection ends.
	complaint *complaint
	everOpen  bool
	startedAt instant
	// closingAt is the deadline of a close; 0 if none was asked for.
	closingAt instant
	// linger is how long a node may still read what a dead connection carried.
	linger          time.Duration
	payloadBytesMax int
	// channels in the order in which they were made, so that the same seed gives the same run.
	channels []*channel
	byName   map[string]*channel
	// byNumber is of this connection.
	byNumber    map[uint64]*channel
	requests    map[uint32]request
	lastRequest uint32
	control     []control
	// ready has channels with messages to send, each once.
	ready  []*channel
	wakes  wakes
	tickAt instant
	// hasReads: the node knows read positions.
	hasReads bool
	// unreadNews has channels of which the application may be told something about what is unread, each once.
	unreadNews []*channel
	actions    actionQueue
	// frame is decoded into again and again.
	frame wire.ServerFrame
	out   wire.ClientFrame
}

// newEngine makes an engine whose clock began at a Unix time. Call start next.
func newEngine(config engineConfig, seed uint64, originUnixMs int64) *engine {
	return &engine{
		config:          config,
		random:          random{state: seed},
		originUnixMs:    originUnixMs,
		endpoints:       endpoints{configured: config.endpoints},
		backoff:         backoff{limits: config.backoff},
		linger:          time.Minute,
		payloadBytesMax: wire.PayloadBytesCap,
		hasReads:        true,
		byName:          map[string]*channel{},
		byNumber:        map[uint64]*channel{},
		requests:        map[uint32]request{},
	}
}

// pollAction gives the next thing for the shell to do.
func (e *engine) pollAction() (action, bool) { return e.actions.pop() }

// nextTimeout is when handleTimeout is due; 0 for never.
func (e *engine) nextTimeout() instant {
	first := earliest(e.linkTimeout(), e.tickAt, e.closingAt, e.wakes.first())
	if e.isOpen() {
		first = earliest(first, e.token.refreshAt)
		if e.goAway != nil {
			first = earliest(first, e.goAway.at)
		}
	}
	return first
}

// handleTimeout does what is due.
func (e *engine) handleTimeout(now instant) {
	e.handleLinkTimeout(now)
	for e.wakes.first().isDue(now) {
		if c := e.wakes.pop(); !c.isGone {
			c.wakeAt = 0
			e.sync(now, c)
		}
	}
	if e.tickAt.isDue(now) {
		e.handleTick(now)
	}
	e.finishIfFlushed(now)
}

func (e *engine) isOpen() bool { return e.link.phase == linkOpen }

func (e *engine) armTick(now instant) {
	if e.tickAt == 0 {
		e.tickAt = now.after(tick)
	}
}

// handleTick looks for everything whose time has passed.
func (e *engine) handleTick(now instant) {
	e.tickAt = 0
	for _, c := range slices.Clone(e.channels) {
		if c.isWaiting() {
			e.expire(now, c)
			e.sync(now, c)
		}
	}
	var oldest instant
	for _, c := range e.channels {
		oldest = earliest(oldest, c.oldestAsked())
	}
	if e.isOpen() && oldest != 0 && oldest.after(e.config.requestTimeout) <= now {
		// A node that answers nothing but a heartbeat is no use.
		e.dropConnection(now, &TimeoutError{Awaited: AwaitedAnswer})
	}
	for _, c := range e.channels {
		if c.isWaiting() {
			e.armTick(now)
			return
		}
	}
}

// sync brings what the node was told in line with what the channel's handles want, and forgets a channel nobody wants. Every
// change to a channel ends here.
func (e *engine) sync(now instant, c *channel) {
	if c.isGone {
		return
	}
	e.tellEvents(c)
	wanted := c.wanted()
	if e.isOpen() {
		switch {
		case c.attach == attachOff && c.retryAt <= now:
			if wanted != modeNone {
				e.ask(now, c, wanted)
			}
		case c.attach == attachOn && wanted == modeNone:
			e.unsubscribe(c)
		case c.attach == attachOn && wanted != c.mode:
			// It replaces what the session has.
			e.ask(now, c, wanted)
		case c.attach == attachOn:
			e.feedChannel(now, c)
		}
	}
	isDone := c.outbox.isEmpty() && !c.reads.isPending()
	if wanted == modeNone && c.attach == attachOff && !c.isHeld() && isDone {
		e.forget(c)
		return
	}
	if c.isWaiting() {
		e.armTick(now)
	}
	if at := c.resumeAt(); at > now && (c.wakeAt == 0 || at < c.wakeAt) {
		c.wakeAt = at
		e.wakes.push(at, c)
	}
}

func (e *engine) forget(c *channel) {
	if e.byName[c.name] == c {
		delete(e.byName, c.name)
	}
	c.isGone = true
	if index := slices.Index(e.channels, c); index >= 0 {
		e.channels = slices.Delete(e.channels, index, index+1)
	}
}

// ask asks to be subscribed or attached.
func (e *engine) ask(now instant, c *channel, wanted mode) {
	number := e.newRequest(request{kind: requestSubscribe, channel: c})
	c.attach, c.mode, c.askedRequest, c.askedAt = attachAsked, wanted, number, now
	c.isOutdated = false
	e.control = append(e.control, control{kind: controlSubscribe, request: number, channel: c})
}

// unsubscribe ends what the node counts the session as.
func (e *engine) unsubscribe(c *channel) {
	c.attach, c.retryAt = attachOff, 0
	if c.number != 0 {
		delete(e.byNumber, c.number)
		number := e.newRequest(request{kind: requestUnsubscribe})
		e.control = append(e.control, control{kind: controlUnsubscribe, request: number, number: c.number})
		c.number = 0
	}
}

// feedChannel sends what an attached channel has to send: messages, and requests for history.
func (e *engine) feedChannel(now instant, c *channel) {
	if c.outbox.isReady(now) && !c.isListed {
		c.isListed = true
		e.ready = append(e.ready, c)
	}
	if mark, isDue := c.reads.due(now); isDue {
		c.reads.asked(now, mark)
		number := e.newRequest(request{kind: requestMarkRead, channel: c})
		e.control = append(e.control, control{kind: controlMarkRead, request: number, channel: c, position: mark})
	}
	asked := 0
	for _, h := range c.histories {
		if h.isAsked {
			asked++
		}
	}
	for _, h := range c.histories {
		if asked < historiesAskedMax && h.isDue(now) {
			asked++
			h.isAsked = true
			number := e.newRequest(request{kind: requestHistory, channel: c, history: h})
			e.control = append(e.control, control{
				kind: controlHistory, request: number, channel: c, span: h.span, messagesMax: h.messagesMax,
			})
		}
	}
	if c.subscription == nil {
		return
	}
	if after, messagesMax, wanted := c.subscription.pageWanted(now); wanted {
		c.subscription.pageAsked(now)
		number := e.newRequest(request{kind: requestCatchUp, channel: c})
		e.control = append(e.control, control{
			kind: controlHistory, request: number, channel: c, span: After(after), messagesMax: uint32(messagesMax),
		})
	}
}

// tellEvents passes on what a subscription has for the application.
func (e *engine) tellEvents(c *channel) {
	if c.subscription == nil {
		return
	}
	for i, event := range c.subscription.events {
		e.actions.push(action{kind: actionDeliver, channel: c, event: event})
		c.subscription.events[i] = nil
	}
	c.subscription.events = c.subscription.events[:0]
	if c.subscription.takeStarved() {
		e.actions.push(action{kind: actionStarved, channel: c})
	}
}

// newRequest gives a number for a request, under which its answer will come.
func (e *engine) newRequest(r request) uint32 {
	number := e.requestNumber()
	e.requests[number] = r
	return number
}

func (e *engine) requestNumber() uint32 {
	for {
		e.lastRequest++
		if _, taken := e.requests[e.lastRequest]; e.lastRequest != 0 && !taken {
			return e.lastRequest
		}
	}
}

// takeRequest gives what a request number stands for, and forgets it.
func (e *engine) takeRequest(number uint32) (request, bool) {
	r, ok := e.requests[number]
	if ok {
		delete(e.requests, number)
	}
	return r, ok
}

// actionQueue is a first-in, first-out queue that keeps its memory.
type actionQueue struct {
	items []action
	head  int
}

func (q *actionQueue) push(a action) { q.items = append(q.items, a) }

func (q *actionQueue) pop() (action, bool) {
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		return action{}, false
	}
	a := q.items[q.head]
	q.items[q.head] = action{}
	q.head++
	return a, true
}

// wakes is a heap of moments at which channels are looked at.
type wakes struct{ heap []wake }

type wake struct {
	at      instant
	channel *channel
}

func (w *wakes) first() instant {
	if len(w.heap) == 0 {
		return 0
	}
	return w.heap[0].at
}

func (w *wakes) push(at instant, c *channel) {
	w.heap = append(w.heap, wake{at, c})
	for i := len(w.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if w.heap[parent].at <= w.heap[i].at {
			return
		}
		w.heap[parent], w.heap[i] = w.heap[i], w.heap[parent]
		i = parent
	}
}

func (w *wakes) pop() *channel {
	first, last := w.heap[0], len(w.heap)-1
	w.heap[0], w.heap[last] = w.heap[last], wake{}
	w.heap = w.heap[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if w.heap[child].at < w.heap[least].at {
				least = child
			}
		}
		if least == i {
			return first.channel
		}
		w.heap[i], w.heap[least] = w.heap[least], w.heap[i]
		i = least
	}
}
