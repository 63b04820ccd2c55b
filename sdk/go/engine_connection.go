package millrace

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"millrace.dev/go/internal/wire"
)

const (
	// stableAfter: a connection that held this long ended a time of trouble, and back-off starts over.
	stableAfter = 5 * time.Second
	// tokenMargin: a token that expires sooner is not shown to a node.
	tokenMargin = 5 * time.Second
	// refreshRetry is between tries to get a new token, and before the first if the node's clock and ours disagree.
	refreshRetry = 30 * time.Second
	// complaintAge: a complaint that is older says nothing about an end without a word, for the session went on.
	complaintAge = 5 * time.Second
	// clockDriftMs is how far the clock on the wall may move against ours before it means that somebody set it, or the machine
	// slept.
	clockDriftMs = 2_500
	// lingerSlack is added to two heartbeats: how late a node may be to end a session, or we to hear it.
	lingerSlack = 5 * time.Second
)

// linkPhase is where the connection is on its way.
type linkPhase uint8

const (
	linkIdle linkPhase = iota
	// linkWaiting is between tries, until link.deadline.
	linkWaiting
	// linkAwaitingToken: no connection before there is a token.
	linkAwaitingToken
	// linkConnecting is until link.deadline.
	linkConnecting
	// linkGreeting: the hello is under way, until link.deadline.
	linkGreeting
	linkOpen
	// linkClosed is for good, with link.err if something ended it.
	linkClosed
)

// link is the connection.
type link struct {
	phase    linkPhase
	deadline instant
	err      error
	// hello is the request number of the hello, which its subscriptions share.
	hello    uint32
	openedAt instant
	heardAt  instant
	// silenceMax is two heartbeats of the node; 0 if it has none.
	silenceMax time.Duration
}

// complaint is what a node says of the session before it closes it.
type complaint struct {
	at  instant
	err error
}

// goAway: the node asked us to leave.
type goAway struct {
	at  instant
	err error
}

// accessToken is the application's, as far as it is known.
type accessToken struct {
	current   string
	isKnown   bool
	expiresAt instant
	// expiresMs is the same as the node said it, in Unix time; 0 if it is not known.
	expiresMs  int64
	refreshAt  instant
	isFetching bool
	// refusals counts fresh tokens in a row that a node refused.
	refusals int
}

// start begins to connect.
func (e *engine) start(now instant) {
	if e.link.phase == linkIdle {
		e.startedAt = now
		e.connect(now)
	}
}

// handleToken is the answer to actionFetchToken.
func (e *engine) handleToken(now instant, value string, err error) {
	e.token.isFetching = false
	if err == nil {
		err = wrongToken(value)
	}
	switch {
	case err == nil:
		e.token.current, e.token.isKnown, e.token.expiresAt, e.token.expiresMs = value, true, 0, 0
		if e.link.phase == linkAwaitingToken {
			e.connect(now)
		} else if e.isOpen() {
			number := e.newRequest(request{kind: requestRefresh})
			e.control = append(e.control, control{kind: controlRefresh, request: number})
		}
	case e.link.phase == linkAwaitingToken:
		e.lost(now, err)
	default:
		e.note("no new token", err)
		e.token.refreshAt = now.after(refreshRetry)
	}
}

// wrongToken says why a text cannot be an access token, for whoever gave it. Nil if it may be one, which the node knows.
func wrongToken(token string) error {
	switch {
	case token == "":
		return &TokenError{Err: errors.New("it is empty: give an access token, as your server or `millrace token issue` makes it")}
	case strings.HasPrefix(token, "mrr_"):
		return &TokenError{Err: errors.New("a refresh token is no access token: your server gets those from POST /v1/tokens")}
	case strings.HasPrefix(token, "mr_"):
		return &TokenError{Err: errors.New("an API key is no access token: your server gets those from POST /v1/tokens")}
	case len(token) > wire.TokenBytesMax:
		return &TokenError{Err: fmt.Errorf("it is longer than %d bytes", wire.TokenBytesMax)}
	}
	return nil
}

// handleConnected is the answer to actionConnect: frames can be sent.
func (e *engine) handleConnected(now instant) {
	if e.link.phase != linkConnecting {
		return
	}
	number := e.requestNumber()
	var asked []*channel
	for _, c := range e.channels {
		if wanted := c.wanted(); wanted != modeNone && len(asked) < wire.SubscriptionsCap {
			c.attach, c.mode, c.askedRequest, c.askedAt = attachAsked, wanted, number, now
			c.isOutdated = false
			asked = append(asked, c)
		}
	}
	e.link.phase, e.link.hello = linkGreeting, number
	e.control = append(e.control, control{kind: controlHello, request: number, channels: asked})
}

// handleDisconnected says that the connection ended, or could not be opened.
func (e *engine) handleDisconnected(now instant, err error) {
	if e.link.phase == linkConnecting || e.isConnected() {
		e.lost(now, err)
	}
}

// isConnected tells whether there is a connection to send and receive on.
func (e *engine) isConnected() bool { return e.link.phase == linkGreeting || e.link.phase == linkOpen }

// isHello tells whether a number is that of this connection's hello.
func (e *engine) isHello(number uint32) bool { return e.isConnected() && e.link.hello == number }

func (e *engine) welcomed(now instant, welcome *wire.Welcome) {
	if e.link.phase != linkGreeting {
		return
	}
	if welcome.Version != wire.Version {
		e.dropConnection(now, &RefusedError{
			Code:    CodeUnsupportedVersion,
			Message: fmt.Sprintf("the node speaks version %d, this client %d", welcome.Version, wire.Version),
		})
		return
	}
	heartbeat := time.Duration(welcome.HeartbeatMs) * time.Millisecond
	e.link = link{phase: linkOpen, hello: e.link.hello, openedAt: now, heardAt: now, silenceMax: 2 * heartbeat}
	e.linger = time.Minute + lingerSlack
	if heartbeat > 0 {
		e.linger = 2*heartbeat + lingerSlack
	}
	e.payloadBytesMax = int(welcome.PayloadBytesMax)
	e.everOpen = true
	e.hasReads = welcome.Features&wire.FeatureReadPositions != 0
	if !e.hasReads {
		for _, c := range e.channels {
			c.reads.giveUp()
		}
	}
	e.goAway = nil
	e.endpoints.worked()
	e.token.refusals = 0
	e.scheduleRefresh(now, welcome.TokenExpiresMs)
	e.tellState(State{Phase: Connected, Session: SessionID(welcome.Session), Node: welcome.Node})
	e.syncAll(now)
}

func (e *engine) syncAll(now instant) {
	for _, c := range slices.Clone(e.channels) {
		e.sync(now, c)
	}
}

// toldToGo says that the node will end the session and when to come back, and where.
func (e *engine) toldToGo(now instant, told *wire.GoAway) {
	after := time.Duration(told.AfterMs) * time.Millisecond
	err := &RefusedError{Code: Code(told.Code), Message: "the node asked the client to leave"}
	switch err.Advice() {
	case DoNotRetry:
		e.dropConnection(now, err)
		return
	case Authenticate:
		e.token.isKnown = false
	}
	e.endpoints.advise(told.Endpoints, e.random.next())
	e.note("the node goes away", err)
	e.goAway = &goAway{at: max(now.after(after), 1), err: err}
}

func (e *engine) refreshRefused(now instant, err error) {
	e.note("the node refused the new token", err)
	e.token.isKnown = false
	e.token.refreshAt = now.after(refreshRetry)
}

// scheduleRefresh: a new token is fetched when three quarters of the time are over, or a little later, so that clients of one
// moment do not all ask at once.
func (e *engine) scheduleRefresh(now instant, expiresMs int64) {
	nowMs := e.originUnixMs + int64(now)/int64(time.Millisecond)
	leftMs := int64(0)
	if expiresMs > nowMs {
		leftMs = min(uint64AsInt64(uint64(expiresMs)-uint64(nowMs)), math.MaxInt64/int64(time.Millisecond))
	}
	left := time.Duration(leftMs) * time.Millisecond
	jitter := left / 1_000 * time.Duration(e.random.below(150))
	// A token that was accepted has not expired: if it seems so, the clocks disagree and only the node knows.
	e.token.expiresAt, e.token.expiresMs = 0, 0
	wait := refreshRetry
	if left > 0 {
		e.token.expiresAt, e.token.expiresMs = now.after(left), expiresMs
		wait = left/4*3 + jitter
	}
	e.token.refreshAt = 0
	if e.config.tokensRenew {
		e.token.refreshAt = now.after(wait)
	}
}

// noteClock compares the clock on the wall, at the same moment, with ours. A token ends by it, also after somebody set it, or a
// machine slept and our clock stood still.
func (e *engine) noteClock(now instant, unixMs int64) {
	origin := unixMs - int64(now)/int64(time.Millisecond)
	if drift := origin - e.originUnixMs; drift >= -clockDriftMs && drift <= clockDriftMs {
		return
	}
	e.originUnixMs = origin
	if e.token.expiresMs != 0 {
		e.scheduleRefresh(now, e.token.expiresMs)
	}
}

func uint64AsInt64(number uint64) int64 {
	return int64(min(number, math.MaxInt64))
}

// connect connects, with a token that is still good.
func (e *engine) connect(now instant) {
	isStale := e.config.tokensRenew && e.token.expiresAt.isDue(now.after(tokenMargin))
	if !e.token.isKnown || isStale {
		e.link = link{phase: linkAwaitingToken}
		e.fetchToken()
		return
	}
	e.link = link{phase: linkConnecting, deadline: now.after(e.config.connectTimeout)}
	e.actions.push(action{kind: actionConnect, rest: e.endpoints.take()})
}

func (e *engine) fetchToken() {
	e.token.refreshAt = 0
	if !e.token.isFetching {
		e.token.isFetching = true
		e.actions.push(action{kind: actionFetchToken})
	}
}

func (e *engine) linkTimeout() instant {
	switch e.link.phase {
	case linkWaiting, linkConnecting, linkGreeting:
		return e.link.deadline
	case linkOpen:
		if e.link.silenceMax > 0 {
			return e.link.heardAt.after(e.link.silenceMax)
		}
	}
	return 0
}

func (e *engine) handleLinkTimeout(now instant) {
	if e.linkTimeout().isDue(now) {
		switch e.link.phase {
		case linkWaiting:
			e.connect(now)
		case linkOpen:
			e.dropConnection(now, &TimeoutError{Awaited: AwaitedHeartbeat})
		default:
			e.dropConnection(now, &TimeoutError{Awaited: AwaitedConnection})
		}
	}
	if e.isOpen() && e.goAway != nil && e.goAway.at <= now {
		e.leave(now)
	}
	if e.isOpen() && e.token.refreshAt.isDue(now) {
		e.fetchToken()
	}
}

// leave: the time that the node named for leaving has come, and it still serves. Go without a wait.
func (e *engine) leave(now instant) {
	e.actions.push(action{kind: actionDisconnect})
	e.forgetConnection(now)
	err := e.goAway.err
	e.goAway = nil
	e.backoff.reset()
	e.tellState(State{Phase: Reconnecting, Attempt: 1, Err: err})
	e.connect(now)
}

// dropConnection ends the connection from our side and tries again as the error advises.
func (e *engine) dropConnection(now instant, err error) {
	e.actions.push(action{kind: actionDisconnect})
	e.lost(now, err)
}

func (e *engine) forgetConnection(now instant) {
	clear(e.requests)
	clear(e.byNumber)
	e.control, e.ready = nil, nil
	for _, c := range e.channels {
		c.disconnected()
		c.outbox.disconnected(now, e.linger, &e.random)
	}
}

// lost says that the connection is gone: wait and try again, or give up, as the error advises.
func (e *engine) lost(now instant, err error) {
	if said := e.complaint; said != nil {
		e.complaint = nil
		var ended *DisconnectedError
		if errors.As(err, &ended) && now <= said.at.after(complaintAge) {
			// What the node said just before it closed tells more than how it closed.
			err = said.err
		}
	}
	if e.isOpen() && now >= e.link.openedAt.after(stableAfter) {
		e.backoff.reset()
	}
	e.forgetConnection(now)
	left := e.goAway
	e.goAway = nil
	advice := AdviceOf(err)
	var noToken *TokenError
	// A fixed one does not get better.
	isWrong := !e.config.tokensRenew && errors.As(err, &noToken)
	isAwaited := e.config.failFast && !e.everOpen
	switch {
	case isAwaited && !e.isPassing(err), advice == DoNotRetry, isWrong:
		e.closeWith(now, err)
		return
	case advice == Authenticate && CodeOf(err) != 0:
		e.token.refusals++
		if !e.config.tokensRenew || e.token.refusals > 2 {
			e.closeWith(now, err)
			return
		}
		e.token.isKnown = false
	}
	delay := retryWait(&e.backoff, err, &e.random)
	if left != nil {
		delay = max(time.Duration(left.at-now), 0)
	}
	if isAwaited && now.after(delay) > e.startedAt.after(e.config.requestTimeout) {
		e.closeWith(now, err)
		return
	}
	e.link = link{phase: linkWaiting, deadline: now.after(delay)}
	e.tellState(State{Phase: Reconnecting, Attempt: e.backoff.attempt, Delay: delay, Err: err})
	// What nobody wants any more is forgotten; deadlines run on.
	e.syncAll(now)
}

// isPassing tells whether a connection that somebody waits for may well succeed at the next try: a node asks to try again, or
// there is a URL that was not tried.
func (e *engine) isPassing(err error) bool {
	isUntried := e.backoff.attempt+1 < len(e.config.endpoints)
	return IsRetryable(err) && (isUntried || CodeOf(err) != 0)
}

// finishIfFlushed ends the client, if it is closing and every message has had its end or the time is over.
func (e *engine) finishIfFlushed(now instant) {
	if e.closingAt == 0 {
		return
	}
	isFlushed := !slices.ContainsFunc(e.channels, func(c *channel) bool { return !c.outbox.isEmpty() })
	// Marks go along while there is a connection; nobody waits for one to tell them.
	hasMarks := e.isOpen() && slices.ContainsFunc(e.channels, func(c *channel) bool { return c.reads.isPending() })
	if (!isFlushed || hasMarks) && e.closingAt > now {
		return
	}
	e.actions.push(action{kind: actionDisconnect})
	if isFlushed {
		e.closeWith(now, nil)
	} else {
		e.closeWith(now, &TimeoutError{Awaited: AwaitedFlush})
	}
}

// closeWith ends the client. Without an error, or once the application closes it, subscriptions just end.
func (e *engine) closeWith(now instant, err error) {
	e.forgetConnection(now)
	isClosing := e.closingAt != 0
	e.closingAt = 0
	cause := err
	if cause == nil {
		cause = ErrClosed
	}
	for _, c := range e.channels {
		e.failCalls(c, cause)
		if c.subscription != nil {
			ended := action{kind: actionEnd, channel: c, err: cause}
			if isClosing {
				ended.err = nil
			}
			e.actions.push(ended)
		}
		c.isGone = true
	}
	e.channels = nil
	clear(e.byName)
	e.wakes = wakes{}
	e.tickAt = 0
	e.link = link{phase: linkClosed, err: err}
	e.tellState(State{Phase: Closed, Err: err})
}

func (e *engine) tellState(state State) {
	e.actions.push(action{kind: actionState, rest: state})
}

func (e *engine) note(text string, err error) {
	e.actions.push(action{kind: actionNote, note: text, err: err})
}
