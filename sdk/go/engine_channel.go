package millrace

// attachState is what the node counts the session as, in one channel.
type attachState uint8

const (
	// attachOff: nothing, and it was not asked; retryAt says when it is.
	attachOff attachState = iota
	// attachAsked: it was asked for mode, at askedAt, and has not answered.
	attachAsked
	// attachOn: as asked.
	attachOn
)

// handleKind is what a handle does.
type handleKind uint8

const (
	readerHandle handleKind = iota
	senderHandle
)

// channel is all that the client knows of one channel: what its handles want, what the node was asked, what waits to be sent.
type channel struct {
	name string
	// number is the channel's, while this connection has it, else 0.
	number       uint64
	attach       attachState
	mode         mode
	askedRequest uint32
	askedAt      instant
	retryAt      instant
	// isOutdated: the answer that is under way is for a subscription that is no more.
	isOutdated   bool
	subscription *subscription
	// senders counts handles that publish and read history.
	senders   int
	outbox    outbox
	reads     reads
	waiters   []waiter
	histories []*history
	// backoff is between tries to subscribe.
	backoff backoff
	// facts is what the node said last.
	facts *facts
	// ended is why the node refused the channel for good, while handles were left.
	ended error
	// isListed: it is in the engine's list of channels with something to send.
	isListed bool
	// turn counts messages sent since others had theirs.
	turn int
	// wakeAt is when the engine looks at it next.
	wakeAt instant
	// hasUnreadNews: it is in the engine's list of channels with something to tell about what is unread.
	hasUnreadNews bool
	// isGone: the engine has forgotten it.
	isGone bool
	// shell is the shell's.
	shell channelShell
}

// facts is what a node says of a channel in its answer.
type facts struct {
	head       Position
	history    HistoryClass
	canPublish bool
}

// waiter is a call that opens a handle.
type waiter struct {
	opening  *opening
	handle   handleKind
	deadline instant
	// err is why the last try failed.
	err error
}

// history is a page that the application asked for.
type history struct {
	call        *pageCall
	span        HistoryRange
	messagesMax uint32
	deadline    instant
	isAsked     bool
	retryAt     instant
	// err is why the last try failed.
	err error
}

// isDue tells whether it should be asked for now.
func (h *history) isDue(now instant) bool { return !h.isAsked && h.retryAt <= now }

// wanted is what the node should count the session as; modeNone if nobody needs the channel.
func (c *channel) wanted() mode {
	switch {
	case c.ended != nil:
		return modeNone
	case c.subscription != nil:
		return c.subscription.wanted()
	case c.senders > 0 || !c.outbox.isEmpty() || c.reads.isPending():
		return modeAttach
	default:
		return modeNone
	}
}

// isHeld tells whether any handle is left.
func (c *channel) isHeld() bool { return c.subscription != nil || c.senders > 0 }

// refuseHandle says that a handle that was asked for will not be.
func (c *channel) refuseHandle(handle handleKind) {
	if handle == readerHandle {
		c.subscription = nil
	}
	c.senders = max(c.senders-1, 0)
}

// isWaiting tells whether time may run out for anything here.
func (c *channel) isWaiting() bool {
	pulls := c.subscription != nil && c.subscription.pageAskedAt() != 0
	return c.attach == attachAsked || pulls || c.reads.askedAt != 0 || !c.outbox.isEmpty() || len(c.waiters) > 0 || len(c.histories) > 0
}

// oldestAsked is since when the oldest request has no answer.
func (c *channel) oldestAsked() instant {
	oldest := earliest(c.outbox.oldestSent(), c.reads.askedAt)
	if c.attach == attachAsked {
		oldest = earliest(oldest, c.askedAt)
	}
	if c.subscription != nil {
		oldest = earliest(oldest, c.subscription.pageAskedAt())
	}
	return oldest
}

// resumeAt is when something that pauses goes on.
func (c *channel) resumeAt() instant {
	var at instant
	switch c.attach {
	case attachOff:
		at = c.retryAt
	case attachOn:
		at = c.outbox.pauseEnd()
	}
	if c.subscription != nil {
		at = earliest(at, c.subscription.retryAt())
	}
	at = earliest(at, c.reads.retryAt())
	for _, h := range c.histories {
		if !h.isAsked {
			at = earliest(at, h.retryAt)
		}
	}
	return at
}

// disconnected says that the connection is gone, and with it what the node knew of the session.
func (c *channel) disconnected() {
	c.number = 0
	c.attach, c.retryAt = attachOff, 0
	c.isListed = false
	c.reads.disconnected()
	if c.subscription != nil {
		c.subscription.disconnected()
	}
	for _, h := range c.histories {
		h.isAsked = false
	}
}
