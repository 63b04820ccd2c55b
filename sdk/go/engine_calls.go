package millrace

import (
	"slices"
	"time"
)

// historiesMax is the most history requests that wait for an answer in one channel.
const historiesMax = 64

// open opens a handle: a reader if start is given, else a sender. Unless it is refused here, an actionOpened follows.
func (e *engine) open(now instant, name string, start *Start, call *opening) (*channel, error) {
	if err := e.whyClosed(); err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	c := e.byName[name]
	handle := senderHandle
	if start != nil {
		handle = readerHandle
		if err := start.check(); err != nil {
			return nil, err
		}
		if c != nil && c.subscription != nil {
			return nil, &AlreadySubscribedError{Channel: name}
		}
	}
	if c == nil {
		c = e.addChannel(name)
	}
	if start != nil {
		c.subscription = newSubscription(*start, e.config.queue, e.config.backoff)
		if c.facts != nil {
			c.subscription.noteCanPublish(c.facts.canPublish)
		}
	}
	// A reader comes with a sender, which is released on its own.
	c.senders++
	c.waiters = append(c.waiters, waiter{opening: call, handle: handle, deadline: now.after(e.config.requestTimeout)})
	switch {
	case c.attach == attachOn && handle == senderHandle:
		e.opened(now, c)
	case c.attach == attachOn:
		// A subscription begins with an answer, and with one of its own.
		if wanted := c.wanted(); wanted != modeNone {
			e.ask(now, c, wanted)
		}
		e.sync(now, c)
	case c.attach == attachAsked && c.mode == modeRead && handle == readerHandle:
		c.isOutdated = true
	default:
		e.sync(now, c)
	}
	return c, nil
}

func (e *engine) addChannel(name string) *channel {
	c := &channel{
		name:    name,
		outbox:  newOutbox(e.random.producer(), e.config.backoff),
		backoff: backoff{limits: e.config.backoff},
	}
	e.channels = append(e.channels, c)
	e.byName[name] = c
	return c
}

// opened tells those who wait for a handle what the node has answered.
func (e *engine) opened(now instant, c *channel) {
	if c.facts == nil {
		return
	}
	var position Position
	known := false
	if c.subscription != nil {
		position, known = c.subscription.position()
	}
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool {
		if w.handle == readerHandle && !known {
			return false
		}
		result := opened{position: c.facts.head, history: c.facts.history, canPublish: c.facts.canPublish}
		if w.handle == readerHandle {
			result.position = position
		}
		e.tellOpened(c, w, result, nil)
		return true
	})
	e.sync(now, c)
}

func (e *engine) tellOpened(c *channel, w waiter, result opened, err error) {
	w.opening.result, w.opening.err, w.opening.isDone = result, err, true
	e.actions.push(action{kind: actionOpened, channel: c, rest: w.opening, err: err})
}

// abandon says that nobody waits for a handle any more.
func (e *engine) abandon(now instant, call *opening) {
	for _, c := range e.channels {
		index := slices.IndexFunc(c.waiters, func(w waiter) bool { return w.opening == call })
		if index >= 0 {
			c.refuseHandle(c.waiters[index].handle)
			c.waiters = slices.Delete(c.waiters, index, index+1)
			e.sync(now, c)
			return
		}
	}
}

// release says that a handle was closed. A sender's messages still go out.
func (e *engine) release(now instant, c *channel, handle handleKind) {
	if handle == readerHandle {
		c.subscription = nil
	} else {
		c.senders = max(c.senders-1, 0)
	}
	e.sync(now, c)
}

// send sends a message; an actionSent follows.
func (e *engine) send(now instant, c *channel, ticket *Ticket, body []byte) {
	err := e.whyClosed()
	switch {
	case err != nil:
	case c.ended != nil:
		err = c.ended
	case c.isGone:
		err = ErrClosed
	case len(body) > e.payloadBytesMax:
		err = &TooLargeError{Bytes: len(body), BytesMax: e.payloadBytesMax}
	}
	if err != nil {
		e.actions.push(action{kind: actionSent, ticket: ticket, err: err})
		return
	}
	var deadline instant
	if e.config.sendTimeout > 0 {
		deadline = now.after(e.config.sendTimeout)
	}
	c.outbox.push(ticket, body, deadline)
	e.touchOutbox(now, c)
}

// touchOutbox is the short way of sync for a channel where only the outbox has changed.
func (e *engine) touchOutbox(now instant, c *channel) {
	if c.attach != attachOn || !c.outbox.isReady(now) {
		e.sync(now, c)
		return
	}
	if !c.isListed {
		c.isListed = true
		e.ready = append(e.ready, c)
	}
	e.armTick(now)
}

// cancelSend gives up a message, if it has not had its end; an actionSent follows then.
func (e *engine) cancelSend(now instant, c *channel, ticket *Ticket, err error) {
	up := c.outbox.cancel(ticket, now, &e.random)
	if up == nil {
		return
	}
	e.sendFailed(up, err)
	e.touchOutbox(now, c)
	e.finishIfFlushed(now)
}

// readHistory reads a page of history; an actionPage follows.
func (e *engine) readHistory(now instant, c *channel, call *pageCall, span HistoryRange, messagesMax uint32) {
	err := e.whyClosed()
	switch {
	case err != nil:
	case c.ended != nil:
		err = c.ended
	case c.isGone:
		err = ErrClosed
	case len(c.histories) >= historiesMax:
		err = ErrTooManyRequests
	}
	if err != nil {
		e.tellPage(call, nil, err)
		return
	}
	c.histories = append(c.histories, &history{
		call: call, span: span, messagesMax: messagesMax, deadline: now.after(e.config.requestTimeout),
	})
	e.sync(now, c)
}

// abandonHistory says that nobody waits for a page any more.
func (e *engine) abandonHistory(now instant, c *channel, call *pageCall) {
	c.histories = slices.DeleteFunc(c.histories, func(h *history) bool { return h.call == call })
	e.sync(now, c)
}

func (e *engine) tellPage(call *pageCall, page *Page, err error) {
	call.page, call.err = page, err
	e.actions.push(action{kind: actionPage, rest: call, err: err})
}

// taken says that the application took events of a subscription out of its queue.
func (e *engine) taken(now instant, c *channel, events, bytes int) {
	if c.subscription != nil {
		c.subscription.taken(events, bytes)
		e.sync(now, c)
	}
}

// close ends the client once every message has had its end, or the time for that is over.
func (e *engine) close(now instant) {
	if e.closingAt == 0 && e.link.phase != linkClosed {
		e.closingAt = now.after(e.config.closeTimeout)
	}
	e.finishIfFlushed(now)
}

// whyClosed is why the engine takes no calls any more, if it does not.
func (e *engine) whyClosed() error {
	switch {
	case e.link.phase == linkClosed && e.link.err != nil:
		return e.link.err
	case e.link.phase == linkClosed || e.closingAt != 0:
		return ErrClosed
	default:
		return nil
	}
}

// expire gives up what has waited too long in a channel.
func (e *engine) expire(now instant, c *channel) {
	for up := c.outbox.expire(now, &e.random); up != nil; up = c.outbox.expire(now, &e.random) {
		e.sendFailed(up, &TimeoutError{Awaited: AwaitedAcknowledgement})
	}
	for len(c.histories) > 0 && c.histories[0].deadline.isDue(now) {
		h := c.histories[0]
		c.histories = c.histories[1:]
		e.tellPage(h.call, nil, orTimeout(h.err))
	}
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool {
		if !w.deadline.isDue(now) {
			return false
		}
		c.refuseHandle(w.handle)
		e.tellOpened(c, w, opened{}, orTimeout(w.err))
		return true
	})
}

func orTimeout(err error) error {
	if err == nil {
		return &TimeoutError{Awaited: AwaitedAnswer}
	}
	return err
}

// endChannel says that the node refused a channel for good: everything that wants something of it fails.
func (e *engine) endChannel(now instant, c *channel, err error) {
	c.ended = err
	c.reads.giveUp()
	if e.byName[c.name] == c {
		delete(e.byName, c.name)
	}
	e.failCalls(c, err)
	if c.subscription != nil {
		e.tellEvents(c)
		e.actions.push(action{kind: actionEnd, channel: c, err: err})
	}
	e.sync(now, c)
}

// failCalls ends every call that waits for something of a channel.
func (e *engine) failCalls(c *channel, err error) {
	for _, w := range c.waiters {
		c.refuseHandle(w.handle)
		e.tellOpened(c, w, opened{}, err)
	}
	c.waiters = nil
	for up := c.outbox.giveUpNext(); up != nil; up = c.outbox.giveUpNext() {
		e.sendFailed(up, err)
	}
	for _, h := range c.histories {
		e.tellPage(h.call, nil, err)
	}
	c.histories = nil
}

// sendFailed ends a message that is given up.
func (e *engine) sendFailed(up *givenUp, err error) {
	if up.uncertain {
		err = unconfirmed(err)
	}
	e.actions.push(action{kind: actionSent, ticket: up.ticket, err: err})
}

// subscribeRefused says that the node refused to subscribe the session.
func (e *engine) subscribeRefused(now instant, c *channel, err error) {
	if !IsRetryable(err) {
		c.attach, c.retryAt = attachOff, 0
		e.endChannel(now, c, err)
		return
	}
	e.detach(now, c, retryWait(&c.backoff, err, &e.random))
	for i := range c.waiters {
		c.waiters[i].err = err
	}
	e.sync(now, c)
}

// detach says that the session is nothing to the channel, and asks again after a wait.
func (e *engine) detach(now instant, c *channel, wait time.Duration) {
	c.attach, c.retryAt = attachOff, now.after(wait)
}
