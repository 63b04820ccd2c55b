package millrace

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

const (
	// batchBytesMax is written ahead: more waits in the engine, where it can still be taken back.
	batchBytesMax = 64 << 10
	// clockWatch is the longest sleep of a client: a clock that jumped is noticed after so long.
	clockWatch = 15 * time.Second
	// logLinesMax wait for a handler that is slow.
	logLinesMax = 64
	// lingerMax is how long a close frame may take to leave.
	lingerMax = 2 * time.Second
	// yieldBytes of frames are read before others on the same processor get their turn, so that readers take messages before
	// their queues are full.
	yieldBytes = 64 << 10
)

// shell gives an engine a clock, a lock, a token source and connections. The engine is only touched under the lock; everything
// that takes time runs in goroutines that end with the client.
//
// Locks are taken in this order: shell.mu, then inbox.mu or window.mu. The log's handler is called without any: it may ask the
// client.
type shell struct {
	config    engineConfig
	window    windowLimits
	tokens    TokenFunc
	transport transport
	log       *slog.Logger
	began     time.Time
	// wall is the clock that people set.
	wall func() time.Time
	// ctx ends with the client.
	ctx    context.Context
	cancel context.CancelFunc
	// running counts goroutines.
	running sync.WaitGroup

	mu     sync.Mutex
	engine *engine
	// link is the open connection, if there is one.
	link *openLink
	// dialing ends the try that is under way.
	dialing context.CancelFunc
	// attempt names the newest try; older ones are for nobody.
	attempt uint64
	timer   *time.Timer
	// timerAt is when the timer fires; 0 if it does not.
	timerAt instant
	state   State
	// changed is closed when the state is another.
	changed chan struct{}
	isOver  bool
	// lines wait for the log's handler, which isLogging calls at the moment.
	lines        []logLine
	linesDropped int
	isLogging    bool
}

// logLine is a record for the log.
type logLine struct {
	level slog.Level
	text  string
	attrs []any
}

// channelShell is what a channel of the engine has in the shell.
type channelShell struct {
	inbox  *inbox
	window *window
	// unread is what the application is shown of it, if unreadKnown.
	unread      Unread
	unreadKnown bool
	// unreadChanged is closed when that is another; nil while nobody waits for it.
	unreadChanged chan struct{}
}

// openLink is a connection and the goroutines that serve it.
type openLink struct {
	connection connection
	// wake has a token while there may be something to write.
	wake chan struct{}
	// gone is closed when nothing more is written.
	gone chan struct{}
}

func startShell(s *settings, endpoints []endpoint, failFast bool) *shell {
	config := s.engine
	config.endpoints, config.failFast, config.tokensRenew = endpoints, failFast, s.tokensRenew
	var seed [8]byte
	// It never fails.
	_, _ = rand.Read(seed[:])
	sh := &shell{
		config:    config,
		window:    s.window,
		tokens:    s.tokens,
		transport: newWays(s.httpClient, s.tls),
		log:       s.log,
		began:     time.Now(),
		wall:      time.Now,
		changed:   make(chan struct{}),
	}
	sh.ctx, sh.cancel = context.WithCancel(context.Background())
	sh.engine = newEngine(config, binary.NativeEndian.Uint64(seed[:]), sh.began.UnixMilli())
	sh.timer = time.AfterFunc(time.Hour, sh.fired)
	sh.timer.Stop()
	sh.do(func(now instant) { sh.engine.start(now) })
	return sh
}

// now is on the engine's clock, which begins at 1.
func (s *shell) now() instant { return instant(time.Since(s.began)) + 1 }

// unixMs is the clock on the wall.
func (s *shell) unixMs() int64 { return s.wall().UnixMilli() }

// do calls the engine and does what it asks.
func (s *shell) do(call func(now instant)) {
	s.mu.Lock()
	defer s.unlock()
	call(s.now())
	s.settle()
}

// unlock ends what changed the engine, and then logs what there was to say.
func (s *shell) unlock() {
	if len(s.lines) == 0 || s.isLogging {
		s.mu.Unlock()
		return
	}
	s.isLogging = true
	for len(s.lines) > 0 {
		lines := s.lines
		s.lines = nil
		s.mu.Unlock()
		for _, line := range lines {
			s.log.Log(context.Background(), line.level, line.text, line.attrs...)
		}
		s.mu.Lock()
	}
	s.isLogging = false
	s.mu.Unlock()
}

// note has a line for the log, when the lock is free again. The lock is held.
func (s *shell) note(level slog.Level, text string, attrs ...any) {
	if len(s.lines) >= logLinesMax {
		s.linesDropped++
		return
	}
	if s.linesDropped > 0 {
		attrs = append(attrs, "lines_dropped", s.linesDropped)
		s.linesDropped = 0
	}
	s.lines = append(s.lines, logLine{level, text, attrs})
}

// settle does what the engine asks. The lock is held.
func (s *shell) settle() {
	for a, ok := s.engine.pollAction(); ok; a, ok = s.engine.pollAction() {
		s.act(&a)
	}
	for c := s.engine.pollUnread(); c != nil; c = s.engine.pollUnread() {
		s.showUnread(c)
	}
	if s.link != nil && s.engine.hasOutput() {
		s.link.wakeWriter()
	}
	// A timer that fires early does no harm and costs less than moving it with every frame.
	now := s.now()
	at := earliest(s.engine.nextTimeout(), now.after(clockWatch))
	if !s.isOver && (s.timerAt == 0 || at < s.timerAt) {
		s.timerAt = at
		s.timer.Reset(max(time.Duration(at-now), 0))
	}
}

func (s *shell) fired() {
	s.do(func(now instant) {
		s.timerAt = 0
		s.engine.noteClock(now, s.unixMs())
		if at := s.engine.nextTimeout(); at.isDue(now) {
			s.engine.handleTimeout(now)
		}
	})
}

func (s *shell) act(a *action) {
	switch a.kind {
	case actionFetchToken:
		s.start(s.fetchToken)
	case actionConnect:
		s.attempt++
		attempt, to := s.attempt, a.rest.(endpoint)
		ctx, cancel := context.WithTimeout(s.ctx, s.config.connectTimeout)
		s.dialing = cancel
		s.start(func() {
			defer cancel()
			s.dial(ctx, attempt, to)
		})
	case actionDisconnect:
		s.attempt++
		if s.dialing != nil {
			s.dialing()
			s.dialing = nil
		}
		if s.link != nil {
			leaving := s.link
			s.link = nil
			s.start(leaving.leave)
		}
	case actionDeliver:
		if in := a.channel.shell.inbox; in != nil {
			in.push(a.event)
		}
	case actionEnd:
		if in := a.channel.shell.inbox; in != nil {
			if a.err == nil {
				a.err = ErrClosed
			}
			in.close(a.err)
		}
	case actionStarved:
		if in := a.channel.shell.inbox; in != nil && in.starve() {
			events, bytes := in.collect()
			s.engine.taken(s.now(), a.channel, events, bytes)
		}
	case actionOpened:
		close(a.rest.(*opening).done)
	case actionSent:
		a.ticket.finish(a.position, a.err)
	case actionPage:
		close(a.rest.(*pageCall).done)
	case actionState:
		s.enter(a.rest.(State))
	case actionNote:
		s.note(slog.LevelWarn, "millrace: "+a.note, "error", a.err)
	}
}

func (s *shell) enter(state State) {
	s.state = state
	close(s.changed)
	s.changed = make(chan struct{})
	switch state.Phase {
	case Reconnecting:
		s.note(slog.LevelInfo, "millrace: reconnecting", "attempt", state.Attempt, "delay", state.Delay, "error", state.Err)
	case Connected:
		s.note(slog.LevelInfo, "millrace: connected", "session", state.Session.String(), "node", state.Node)
	case Closed:
		s.isOver = true
		s.timer.Stop()
		s.cancel()
	}
}

// start runs a goroutine of the client.
func (s *shell) start(run func()) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		run()
	}()
}

func (s *shell) fetchToken() {
	ctx, cancel := context.WithTimeout(s.ctx, s.config.requestTimeout)
	defer cancel()
	type result struct {
		token string
		err   error
	}
	// A function that does not heed its context must not hold the client.
	got := make(chan result, 1)
	go func() {
		token, err := s.tokens(ctx)
		got <- result{token, err}
	}()
	var r result
	select {
	case r = <-got:
		if r.err != nil {
			r.err = &TokenError{Err: r.err}
		}
	case <-ctx.Done():
		r.err = &TimeoutError{Awaited: AwaitedToken}
	}
	s.do(func(now instant) { s.engine.handleToken(now, r.token, r.err) })
}

func (s *shell) dial(ctx context.Context, attempt uint64, to endpoint) {
	opened, err := s.transport.dial(ctx, to)
	if !s.dialed(ctx, attempt, to, opened, err) && err == nil {
		opened.abort()
	}
}

// dialed takes the outcome of a try; false if nobody waits for it any more.
func (s *shell) dialed(ctx context.Context, attempt uint64, to endpoint, opened connection, err error) bool {
	s.mu.Lock()
	defer s.unlock()
	if s.attempt != attempt || s.isOver {
		return false
	}
	s.dialing = nil
	switch {
	case err == nil:
		s.link = &openLink{connection: opened, wake: make(chan struct{}, 1), gone: make(chan struct{})}
		link := s.link
		s.start(func() { s.read(link) })
		s.start(func() { s.write(link) })
		s.engine.handleConnected(s.now())
	case ctx.Err() != nil:
		s.engine.handleDisconnected(s.now(), &TimeoutError{Awaited: AwaitedConnection})
	default:
		s.engine.handleDisconnected(s.now(), &ConnectError{Endpoint: to.String(), Err: err})
	}
	s.settle()
	return true
}

// read takes in frames until the connection ends. It reads on while the connection is left, for the other side's goodbye.
func (s *shell) read(link *openLink) {
	for read := 0; ; {
		frame, err := link.connection.receive()
		if err != nil {
			s.lost(link, err)
			var broken *ProtocolError
			if errors.As(err, &broken) {
				link.sayGoodbye()
			} else {
				link.connection.abort()
			}
			return
		}
		s.mu.Lock()
		if s.link == link {
			s.engine.handleFrame(s.now(), frame)
			s.settle()
		}
		s.unlock()
		if read += len(frame); read >= yieldBytes {
			read = 0
			runtime.Gosched()
		}
	}
}

func (s *shell) lost(link *openLink, err error) {
	s.do(func(now instant) {
		if s.link == link {
			s.link = nil
			close(link.gone)
			s.engine.handleDisconnected(now, err)
		}
	})
}

// write gives the connection frames when it takes them.
func (s *shell) write(link *openLink) {
	var next batch
	for {
		select {
		case <-link.wake:
		case <-link.gone:
			return
		}
		for s.fill(link, &next) {
			if err := link.connection.send(&next); err != nil {
				// The reader hears it, and knows more of why.
				link.connection.abort()
				return
			}
		}
	}
}

// fill takes frames from the engine; false if there are none.
func (s *shell) fill(link *openLink, next *batch) bool {
	next.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link {
		return false
	}
	now := s.now()
	for len(next.bytes) < batchBytesMax {
		bytes, ok := s.engine.pollTransmit(now, next.bytes)
		if !ok {
			break
		}
		next.bytes = bytes
		next.ends = append(next.ends, len(bytes))
	}
	return len(next.ends) > 0
}

func (l *openLink) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// leave ends the connection from our side.
func (l *openLink) leave() {
	close(l.gone)
	l.sayGoodbye()
}

// sayGoodbye waits a bounded time for the answer.
func (l *openLink) sayGoodbye() {
	late := time.AfterFunc(lingerMax, l.connection.abort)
	defer late.Stop()
	l.connection.close()
}

// taken tells the engine what was read from an inbox.
func (s *shell) taken(c *channel, in *inbox) {
	s.do(func(now instant) {
		if c.shell.inbox == in {
			events, bytes := in.collect()
			s.engine.taken(now, c, events, bytes)
		}
	})
}

// open opens a handle: a reader if start is given, else a sender.
func (s *shell) open(ctx context.Context, name string, start *Start) (*Sender, *inbox, opened, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, opened{}, err
	}
	call := &opening{done: make(chan struct{})}
	var in *inbox
	var c *channel
	var err error
	s.do(func(now instant) {
		c, err = s.engine.open(now, name, start, call)
		if err != nil {
			return
		}
		if start != nil {
			in = newInbox(s.config.queue)
			c.shell.inbox = in
		}
		if c.shell.window == nil {
			c.shell.window = newWindow(s.window)
		}
	})
	if err != nil {
		return nil, nil, opened{}, err
	}
	select {
	case <-call.done:
		err = call.err
	case <-ctx.Done():
		err = ctx.Err()
		s.do(func(now instant) {
			switch {
			case !call.isDone:
				s.engine.abandon(now, call)
			case call.err == nil:
				if start != nil {
					s.engine.release(now, c, readerHandle)
				}
				s.engine.release(now, c, senderHandle)
			}
		})
	}
	if err != nil {
		s.detach(c, in)
		return nil, nil, opened{}, err
	}
	if in != nil {
		in.begin(call.result)
	}
	return &Sender{shell: s, name: name, channel: c, window: c.shell.window}, in, call.result, nil
}

// detach lets an inbox get nothing more.
func (s *shell) detach(c *channel, in *inbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in != nil && c.shell.inbox == in {
		c.shell.inbox = nil
	}
}

func (s *shell) closeReader(c *channel, in *inbox) {
	s.do(func(now instant) {
		if c.shell.inbox == in {
			c.shell.inbox = nil
			s.engine.release(now, c, readerHandle)
		}
		in.drop(ErrClosed)
	})
}

func (s *shell) release(c *channel, handle handleKind) {
	s.do(func(now instant) { s.engine.release(now, c, handle) })
}

// send gives the engine a message that has its place in the window.
func (s *shell) send(from *Sender, ticket *Ticket, body []byte) error {
	s.mu.Lock()
	defer s.unlock()
	err := s.engine.whyClosed()
	if err == nil && from.closed.Load() {
		err = ErrClosed
	}
	if err != nil {
		from.window.release(ticket.bytes)
		return err
	}
	s.engine.send(s.now(), from.channel, ticket, body)
	s.settle()
	return nil
}

// takeBack gives up a message that has not had its end: then it has it.
func (s *shell) takeBack(from *Sender, ticket *Ticket, why error) {
	s.do(func(now instant) { s.engine.cancelSend(now, from.channel, ticket, why) })
}

func (s *shell) readHistory(ctx context.Context, from *Sender, span HistoryRange, limit int) (*Page, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if from.closed.Load() {
		return nil, ErrClosed
	}
	if limit <= 0 {
		limit = pageMessages
	}
	call := &pageCall{done: make(chan struct{})}
	s.do(func(now instant) {
		s.engine.readHistory(now, from.channel, call, span, uint32(min(limit, 1<<20)))
	})
	select {
	case <-call.done:
		return call.page, call.err
	case <-ctx.Done():
		s.do(func(now instant) { s.engine.abandonHistory(now, from.channel, call) })
		return nil, ctx.Err()
	}
}

// watch is the state now, and what is closed when it is another.
func (s *shell) watch() (State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// close ends the client and waits for the end of everything that it runs.
func (s *shell) close() error {
	s.do(func(now instant) { s.engine.close(now) })
	for {
		state, changed := s.watch()
		if state.Phase == Closed {
			s.running.Wait()
			return state.Err
		}
		<-changed
	}
}
