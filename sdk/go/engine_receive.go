package millrace

import (
	"slices"
	"time"

	"millrace.dev/go/internal/wire"
)

// handleFrame takes one whole frame from the node: an answer to a request, or news of a channel or of the session.
func (e *engine) handleFrame(now instant, input []byte) {
	if !e.isConnected() {
		return
	}
	e.link.heardAt = now
	// Whoever goes on speaking did not close for what was said before.
	e.complaint = nil
	frame := &e.frame
	if err := frame.Decode(input); err != nil {
		e.dropConnection(now, &ProtocolError{Err: err})
		return
	}
	switch frame.Kind {
	case wire.ServerWelcome:
		e.welcomed(now, &frame.Welcome)
	case wire.ServerSubscribed:
		e.subscribed(now, frame.Request, &frame.Subscribed)
	case wire.ServerUnsubscribed:
		delete(e.requests, frame.Request)
		e.unsubscribed(now, &frame.Unsubscribed)
	case wire.ServerPublished:
		e.published(now, frame.Request, &frame.Published)
	case wire.ServerMessage:
		if c := e.reading(frame.Message.Channel); c != nil {
			e.seen(c, Position(frame.Message.Position))
			c.subscription.message(now, &frame.Message, &e.random)
			e.told(now, c)
		}
	case wire.ServerPage:
		e.page(now, frame.Request, &frame.Page)
	case wire.ServerRefreshed:
		delete(e.requests, frame.Request)
		e.scheduleRefresh(now, frame.Refreshed.TokenExpiresMs)
	case wire.ServerError:
		err := refusal(frame.Error.Code, frame.Error.Message, frame.Error.RetryAfterMs)
		if e.isHello(frame.Request) {
			e.helloRefused(now, frame.Error.Channel, err)
		} else {
			e.refused(now, frame.Request, err)
		}
	case wire.ServerPing:
		if !slices.ContainsFunc(e.control, func(c control) bool { return c.kind == controlPong }) {
			e.control = append(e.control, control{kind: controlPong})
		}
	case wire.ServerGoAway:
		e.toldToGo(now, &frame.GoAway)
	case wire.ServerSkipped:
		skipped := &frame.Skipped
		if c := e.reading(skipped.Channel); c != nil {
			e.seen(c, Position(skipped.Last))
			c.subscription.skipped(now, Position(skipped.First), Position(skipped.Last), &e.random)
			e.sync(now, c)
		}
	case wire.ServerRead:
		e.readMoved(now, frame.Request, &frame.Read)
	case wire.ServerUnknown:
	}
}

func refusal(code uint16, message string, retryAfterMs uint32) *RefusedError {
	return &RefusedError{Code: Code(code), Message: message, RetryAfter: time.Duration(retryAfterMs) * time.Millisecond}
}

// reading is the channel of a number, if it is read. Before the answer, what comes is of a subscription that is replaced.
func (e *engine) reading(number uint64) *channel {
	c := e.byNumber[number]
	if c == nil || c.attach != attachOn || c.mode != modeRead || c.subscription == nil {
		return nil
	}
	return c
}

// told is, after a message, as sync, which only a subscription that stopped being live needs.
func (e *engine) told(now instant, c *channel) {
	if c.attach == attachOn && c.wanted() == c.mode {
		e.tellEvents(c)
	} else {
		e.sync(now, c)
	}
}

func (e *engine) subscribed(now instant, number uint32, answer *wire.Subscribed) {
	c := e.byName[answer.Name]
	if c == nil {
		return
	}
	c.facts = &facts{
		head: Position(answer.Position), history: HistoryClass(answer.History), canPublish: answer.CanPublish,
	}
	c.reads.subscribed(Position(answer.Position), answer.History != wire.NoHistory)
	e.tellUnread(c)
	if c.attach != attachAsked || c.askedRequest != number {
		// News of a channel that we have: only the rights can have changed.
		if c.subscription != nil {
			c.subscription.noteCanPublish(answer.CanPublish)
		}
		e.sync(now, c)
		return
	}
	delete(e.requests, number)
	c.attach = attachOn
	c.backoff.reset()
	if c.number != 0 {
		delete(e.byNumber, c.number)
	}
	c.number = answer.Channel
	e.byNumber[c.number] = c
	if c.isOutdated {
		c.isOutdated = false
		if wanted := c.wanted(); wanted != modeNone {
			e.ask(now, c, wanted)
		}
		e.sync(now, c)
		return
	}
	if c.subscription != nil {
		c.subscription.subscribed(now, c.mode, answer, &e.random)
	}
	e.opened(now, c)
}

func (e *engine) unsubscribed(now instant, said *wire.Unsubscribed) {
	// We forget the number when we ask to be unsubscribed, so this is the node's own doing.
	c := e.byNumber[said.Channel]
	if c == nil || said.Code == 0 {
		return
	}
	delete(e.byNumber, said.Channel)
	err := refusal(said.Code, said.Reason, 0)
	c.disconnected()
	e.ready = slices.DeleteFunc(e.ready, func(listed *channel) bool { return listed == c })
	// Answers to what is under way may come or not; whatever comes is not for what is sent from here on.
	for number, r := range e.requests {
		if r.isOf(c) {
			delete(e.requests, number)
		}
	}
	c.outbox.disconnected(now, e.linger, &e.random)
	switch err.Advice() {
	case DoNotRetry:
		e.endChannel(now, c, err)
	case Authenticate:
		e.dropConnection(now, err)
	default:
		e.detach(now, c, c.backoff.next(&e.random))
		e.sync(now, c)
	}
}

func (e *engine) published(now instant, number uint32, published *wire.Published) {
	r, ok := e.takeRequest(number)
	if !ok || r.kind != requestPublish {
		return
	}
	c := r.channel
	if c.isGone {
		return
	}
	if ticket := c.outbox.acknowledged(published.Producer, published.Sequence); ticket != nil {
		e.actions.push(action{kind: actionSent, ticket: ticket, position: Position(published.Position)})
	}
	e.seen(c, Position(published.Position))
	c.outbox.answered(now, &e.random)
	e.touchOutbox(now, c)
	e.finishIfFlushed(now)
}

func (e *engine) page(now instant, number uint32, answer *wire.Page) {
	r, ok := e.takeRequest(number)
	if !ok || r.channel == nil || r.channel.isGone {
		return
	}
	c := r.channel
	switch r.kind {
	case requestCatchUp:
		if last := len(answer.Messages) - 1; last >= 0 {
			e.seen(c, Position(answer.Messages[last].Position))
		}
		if c.subscription != nil {
			c.subscription.page(answer.Messages, answer.More)
		}
	case requestHistory:
		page := &Page{Messages: make([]*Message, len(answer.Messages)), More: answer.More}
		for i := range answer.Messages {
			page.Messages[i] = messageOf(&answer.Messages[i])
		}
		c.backoff.reset()
		e.historyDone(c, r.history, page, nil)
	}
	e.sync(now, c)
}

// historyDone is an answer to a history request, unless it has been given up.
func (e *engine) historyDone(c *channel, asked *history, page *Page, err error) {
	index := slices.Index(c.histories, asked)
	if index >= 0 && asked.isAsked {
		c.histories = slices.Delete(c.histories, index, index+1)
		e.tellPage(asked.call, page, err)
	}
}

// helloRefused says that the node refused the session, or one of the subscriptions that came with the hello.
func (e *engine) helloRefused(now instant, name string, err *RefusedError) {
	c := e.byName[name]
	switch {
	case c != nil && !endsSession(err):
		e.subscribeRefused(now, c, err)
	case !e.isOpen() || endsSession(err):
		e.dropConnection(now, err)
	default:
		e.note("the node refuses what was not asked", err)
	}
}

// refused says that the node refused a request, or complains of the session.
func (e *engine) refused(now instant, number uint32, err *RefusedError) {
	asked, ok := e.takeRequest(number)
	if !ok {
		// An answer to what was taken back says nothing about the session.
		if number == 0 {
			e.note("the node complains", err)
			e.complaint = &complaint{at: now, err: err}
		}
		return
	}
	// Whatever was asked, it is asked again on the next connection.
	isLeaving := err.Code == CodeGoingAway && e.goAway != nil
	if endsSession(err) && !isLeaving && asked.kind != requestRefresh {
		e.dropConnection(now, err)
		return
	}
	isLost := err.Code == CodeNotSubscribed
	c := asked.channel
	if c != nil && c.isGone {
		return
	}
	switch asked.kind {
	case requestSubscribe:
		e.subscribeRefused(now, c, err)
		return
	case requestRefresh:
		e.refreshRefused(now, err)
		return
	case requestUnsubscribe:
		return
	case requestPublish:
		e.publishRefused(now, c, asked.sequence, err)
	case requestHistory:
		e.historyRefused(now, c, asked.history, err, isLost)
	case requestCatchUp:
		switch {
		case c.subscription == nil:
		case isLost:
			c.subscription.disconnected()
		default:
			c.subscription.pageRefused(now, err, &e.random)
		}
	case requestMarkRead:
		e.markRefused(now, c, err)
	}
	if isLost {
		e.attachAgain(now, c)
	}
	e.sync(now, c)
	e.finishIfFlushed(now)
}

func (e *engine) historyRefused(now instant, c *channel, asked *history, err *RefusedError, isLost bool) {
	if !isLost && !IsRetryable(err) {
		e.historyDone(c, asked, nil, err)
		return
	}
	asked.isAsked = false
	asked.retryAt = now.after(retryWait(&c.backoff, err, &e.random))
	if !isLost {
		asked.err = err
	}
}

// attachAgain: the node does not have what we think it has. Ask anew, after a moment.
func (e *engine) attachAgain(now instant, c *channel) {
	if c.attach == attachOn {
		e.unsubscribe(c)
		e.detach(now, c, c.backoff.next(&e.random))
	}
}

func (e *engine) publishRefused(now instant, c *channel, sequence uint64, err *RefusedError) {
	up := c.outbox.refused(now, sequence, err.Code, err.RetryAfter, &e.random)
	c.outbox.answered(now, &e.random)
	isStuck := c.outbox.takeStuck()
	if err.Code == CodeReadOnly && c.subscription != nil {
		c.subscription.noteCanPublish(false)
	}
	if up != nil {
		e.sendFailed(up, err)
	}
	if isStuck {
		// Only a new session can tell whether the message behind the one given up is stored.
		e.dropConnection(now, disconnected("a message waits for one that was given up"))
	}
}

func endsSession(err error) bool {
	advice := AdviceOf(err)
	return advice == Reconnect || advice == Authenticate
}
