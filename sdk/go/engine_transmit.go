package millrace

import (
	"millrace.dev/go/internal/wire"
)

// messagesPerTurn is how many messages of one channel go in a row, when others wait as well.
const messagesPerTurn = 16

// controlKind tells what a frame is that is no message.
type controlKind uint8

const (
	controlHello controlKind = iota
	controlSubscribe
	controlUnsubscribe
	controlHistory
	controlRefresh
	controlMarkRead
	controlPong
)

// control is a frame to send that is no message. Which fields count, its kind says.
type control struct {
	kind    controlKind
	request uint32
	channel *channel
	// channels are those of a hello.
	channels []*channel
	// number is that of a channel to unsubscribe.
	number uint64
	// span and messagesMax are of a history request.
	span        HistoryRange
	messagesMax uint32
	// position is of a mark.
	position Position
}

// hasOutput tells whether pollTransmit may have a frame.
func (e *engine) hasOutput() bool { return len(e.control) > 0 || len(e.ready) > 0 }

// pollTransmit appends the next frame to buf; false if there is none. Frames are made when the connection takes them, so what
// waits is small and says what holds then.
func (e *engine) pollTransmit(now instant, buf []byte) ([]byte, bool) {
	for len(e.control) > 0 {
		next := e.control[0]
		e.control = e.control[1:]
		if e.fillControl(&next) {
			return wire.AppendClient(buf, &e.out), true
		}
	}
	if e.fillMessage(now) {
		return wire.AppendClient(buf, &e.out), true
	}
	return buf, false
}

// fillControl makes a frame; false if what it was about is gone.
func (e *engine) fillControl(next *control) bool {
	e.out.Request = next.request
	switch next.kind {
	case controlHello:
		hello := wire.Hello{
			VersionMin: wire.Version, VersionMax: wire.Version, Features: wire.FeatureReadPositions,
			Token: e.token.current, Agent: e.config.agent,
		}
		for _, c := range next.channels {
			if subscribe, ok := subscribeFrame(c); ok {
				hello.Subscriptions = append(hello.Subscriptions, subscribe)
			}
		}
		e.out.Kind, e.out.Hello = wire.ClientHello, hello
	case controlSubscribe:
		subscribe, ok := subscribeFrame(next.channel)
		if !ok {
			return false
		}
		e.out.Kind, e.out.Subscribe = wire.ClientSubscribe, subscribe
	case controlUnsubscribe:
		e.out.Kind, e.out.Unsubscribe = wire.ClientUnsubscribe, wire.Unsubscribe{Channel: next.number}
	case controlHistory:
		if next.channel.isGone || next.channel.number == 0 {
			return false
		}
		e.out.Kind, e.out.History = wire.ClientHistory, wire.HistoryRequest{
			Channel: next.channel.number, MessagesMax: next.messagesMax, Range: next.span.kind, Offset: next.span.offset,
		}
	case controlRefresh:
		e.out.Kind, e.out.Refresh = wire.ClientRefresh, wire.Refresh{Token: e.token.current}
	case controlMarkRead:
		if next.channel.isGone || next.channel.number == 0 {
			return false
		}
		e.out.Kind, e.out.MarkRead = wire.ClientMarkRead, wire.MarkRead{
			Channel: next.channel.number, Position: wire.Position(next.position),
		}
	case controlPong:
		e.out.Kind = wire.ClientPong
	}
	return true
}

// subscribeFrame is what to ask for a channel, as it stands.
func subscribeFrame(c *channel) (wire.Subscribe, bool) {
	if c.isGone || c.attach != attachAsked {
		return wire.Subscribe{}, false
	}
	subscribe := wire.Subscribe{Channel: c.name, Start: wire.StartAttach}
	if c.mode == modeRead && c.subscription != nil {
		start, after := c.subscription.start()
		subscribe.Start, subscribe.After = start, wire.Position(after)
	}
	return subscribe, true
}

// fillMessage makes a frame of the next message of the channels that have any, in turns.
func (e *engine) fillMessage(now instant) bool {
	if !e.isOpen() || len(e.requests) >= requestsMax {
		return false
	}
	for len(e.ready) > 0 {
		c := e.ready[0]
		var next *pending
		if !c.isGone && c.number != 0 && c.attach == attachOn {
			next = c.outbox.sendNext(now)
		}
		if next == nil {
			c.isListed, c.turn = false, 0
			e.ready = e.ready[1:]
			continue
		}
		e.out.Kind, e.out.Publish = wire.ClientPublish, wire.Publish{
			Channel: c.number, Producer: c.outbox.producer, Sequence: next.sequence, Body: next.body,
		}
		e.out.Request = e.newRequest(request{kind: requestPublish, channel: c, sequence: next.sequence})
		c.turn = (c.turn + 1) % messagesPerTurn
		if c.turn == 0 && len(e.ready) > 1 {
			e.ready = append(e.ready[1:], c)
		}
		return true
	}
	return false
}
