package millrace

import (
	"time"

	"millrace.dev/go/internal/wire"
)

// pageMessagesMax is the most messages that one page is asked for to catch up.
const pageMessagesMax = 256

// queueLimits bound what may wait for the application.
type queueLimits struct {
	messagesMax int
	// bytesMax is exceeded by at most one page.
	bytesMax int
}

// mode is what the node is asked to do for a channel.
type mode uint8

const (
	modeNone mode = iota
	// modeAttach: nothing is pushed.
	modeAttach
	// modeRead: messages are pushed.
	modeRead
)

// placeKind tells what is known of where a subscription stands.
type placeKind uint8

const (
	// placeUnknown is before the first answer of a subscription that starts live.
	placeUnknown placeKind = iota
	// placeOffset is behind an offset of an epoch that the first message names.
	placeOffset
	placeAt
)

// subscription is where one subscription stands, and what the application gets to see: each message once, in order, or a word
// on why not.
//
// It is live while the node pushes and every message follows the one before. In every other case (the application does not
// read, the position is too old to resume, a message is missing) it pulls: the session is only attached to the channel, pages
// of history are read at the application's pace, and when it keeps up with them, or they reach the newest message, the
// subscription resumes from there. So one slow channel costs its own queue, and nobody else's.
type subscription struct {
	place placeKind
	// at is the place; of a placeOffset only the offset counts.
	at Position
	// pulling is false while it is live.
	pulling bool
	pull    pull
	room    room
	// epoch is the newest that the node named.
	epoch        uint32
	keepsHistory bool
	// begun: it was live before.
	begun bool
	// dropped counts messages of a channel without history that found no room since the last event.
	dropped uint64
	// canPublish is the right as far as it is known.
	canPublish, knowsCanPublish bool
	// canPublishUntold: the right changed and there was no room to say so.
	canPublishUntold bool
	// starved: the application was asked to say when there is room.
	starved bool
	backoff backoff
	events  []Event
}

// pull is what a subscription knows while it reads pages.
type pull struct {
	// askedAt is since when a page is asked for.
	askedAt instant
	// target: messages up to this offset were seen or announced.
	target uint64
	// isFar: the node will not send so much again; only pages lead to the newest message.
	isFar   bool
	retryAt instant
}

// room is what the application's queue can still take. Every event counts as a message.
type room struct {
	limits          queueLimits
	messages, bytes int
}

func newSubscription(start Start, queue queueLimits, limits backoffLimits) *subscription {
	return &subscription{
		place:        start.kind,
		at:           start.position,
		pulling:      start.kind == placeOffset,
		room:         room{limits: queue, messages: queue.messagesMax, bytes: queue.bytesMax},
		epoch:        1,
		keepsHistory: true,
		backoff:      backoff{limits: limits},
	}
}

// wanted is what the node should be asked for.
func (s *subscription) wanted() mode {
	if s.pulling {
		return modeAttach
	}
	return modeRead
}

// start is from where, when asked for modeRead.
func (s *subscription) start() (wire.StartKind, Position) {
	if s.place == placeAt && s.keepsHistory {
		return wire.StartAfter, s.at
	}
	return wire.StartLive, Position{}
}

// position is the place behind the last message delivered; false before the first answer.
func (s *subscription) position() (Position, bool) {
	if !s.keepsHistory && !s.begun {
		// Only an answer to a subscription gives a place here: the right to publish is none.
		return Position{}, false
	}
	switch s.place {
	case placeAt:
		return s.at, true
	case placeOffset:
		return Position{Epoch: s.epoch, Offset: s.at.Offset}, true
	default:
		return Position{}, false
	}
}

// takeStarved tells whether the application should say when it has read; true once per want of room.
func (s *subscription) takeStarved() bool {
	waits := s.dropped > 0 || s.canPublishUntold
	if s.pulling {
		waits = s.pull.askedAt == 0 && !s.room.isWide()
	}
	if !waits || s.starved {
		return false
	}
	s.starved = true
	return true
}

// subscribed says that the node answered that the session is subscribed or attached, as asked.
func (s *subscription) subscribed(now instant, asked mode, answer *wire.Subscribed, random *random) {
	s.keepsHistory = answer.History != wire.NoHistory
	head := Position(answer.Position)
	s.epoch = head.Epoch
	s.noteCanPublish(answer.CanPublish)
	if !s.keepsHistory && asked == modeAttach {
		s.pulling = false
		return
	}
	if !s.keepsHistory {
		if s.begun {
			s.tell(&Skipped{Reason: Interrupted})
		}
		s.pulling = false
		s.setPlace(head)
		s.begun = true
		return
	}
	switch {
	case asked == modeAttach:
		if s.pulling {
			s.pull.target = max(s.pull.target, head.Offset)
		}
		if s.place == placeOffset && s.at.Offset > head.Offset {
			s.reset(CodePositionAhead, head)
			s.pulling = false
		}
	case answer.Recovery == wire.RecoveryWhole:
	case answer.Recovery == wire.RecoveryNone:
		if s.place == placeAt && s.at != head {
			s.reset(CodeEpochChanged, head)
		} else {
			s.setPlace(head)
		}
	case Code(answer.Reload) == CodePositionTooOld:
		s.pullAgain(now, head.Offset, random)
		s.pull.isFar = true
	case Code(answer.Reload) == CodePositionAhead:
		s.reset(CodePositionAhead, head)
	default:
		s.reset(CodeEpochChanged, head)
	}
	s.begun = true
}

// message says that the node pushed a message.
func (s *subscription) message(now instant, message *wire.Message, random *random) {
	if s.pulling {
		return
	}
	if !s.keepsHistory {
		if s.room.isEmpty() {
			s.dropped++
		} else {
			s.tellDropped()
			s.tell(messageOf(message))
		}
		return
	}
	if s.place != placeAt {
		return
	}
	position := Position(message.Position)
	switch {
	case position.Epoch < s.at.Epoch || position.Epoch == s.at.Epoch && position.Offset <= s.at.Offset:
		return
	case position.Epoch > s.at.Epoch:
		s.reset(CodeEpochChanged, position.before())
	case position.Offset > s.at.Offset+1:
		s.pullAgain(now, position.Offset, random)
		return
	}
	s.deliver(message)
	s.backoff.reset()
	if s.room.isEmpty() {
		s.startPulling(pull{target: position.Offset})
	}
}

// skipped says that the node dropped messages, by the channel's policy.
func (s *subscription) skipped(now instant, first, last Position, random *random) {
	if s.pulling || s.place != placeAt {
		return
	}
	if !s.keepsHistory {
		if s.room.isEmpty() {
			s.dropped++
		} else {
			s.tell(&Skipped{Reason: SlowConsumer, First: first, Last: last})
		}
		return
	}
	switch {
	case last.Epoch < s.at.Epoch || last.Epoch == s.at.Epoch && last.Offset <= s.at.Offset:
		return
	case first.Epoch > s.at.Epoch:
		s.reset(CodeEpochChanged, first.before())
	case first.Offset > s.at.Offset+1:
		s.pullAgain(now, last.Offset, random)
		return
	}
	first.Offset = max(first.Offset, s.at.Offset+1)
	s.setPlace(last)
	s.tell(&Skipped{Reason: SlowConsumer, First: first, Last: last})
	if s.room.isEmpty() {
		s.startPulling(pull{target: last.Offset})
	}
}

// noteCanPublish takes the right to publish, as the node tells it.
func (s *subscription) noteCanPublish(canPublish bool) {
	changed := s.knowsCanPublish && s.canPublish != canPublish
	s.canPublish, s.knowsCanPublish = canPublish, true
	if changed {
		s.canPublishUntold = !s.canPublishUntold
		s.tellCanPublish()
	}
}

// pageWanted is the page to ask for now: messages after an offset, at most so many. It is under way once pageAsked says so.
func (s *subscription) pageWanted(now instant) (after uint64, messagesMax int, wanted bool) {
	if !s.pulling || s.pull.askedAt != 0 || s.pull.retryAt > now || !s.room.isWide() || s.place == placeUnknown {
		return 0, 0, false
	}
	return s.at.Offset, min(max(s.room.messages, 1), pageMessagesMax), true
}

func (s *subscription) pageAsked(now instant) {
	if s.pulling {
		s.pull.askedAt, s.pull.retryAt = now, 0
	}
}

// pageAskedAt is since when a page is under way.
func (s *subscription) pageAskedAt() instant {
	if !s.pulling {
		return 0
	}
	return s.pull.askedAt
}

// retryAt is when to look at pageWanted again.
func (s *subscription) retryAt() instant {
	if !s.pulling {
		return 0
	}
	return s.pull.retryAt
}

// page takes the page that was asked for.
func (s *subscription) page(messages []wire.Message, more bool) {
	if !s.pulling {
		return
	}
	s.pull.askedAt = 0
	delivered := false
	for i := range messages {
		message := &messages[i]
		position := Position(message.Position)
		expected, reason := s.at.Offset+1, Code(0)
		switch {
		case s.place == placeAt && position.Epoch > s.at.Epoch:
			reason = CodeEpochChanged
		case s.place != placeAt && s.at.Offset == 0:
			// Whoever asks for everything gets what there is.
			expected = position.Offset
		}
		if position.Offset < expected {
			continue
		}
		if position.Offset > expected {
			reason = CodePositionTooOld
		}
		if reason != 0 {
			s.reset(reason, position.before())
		}
		s.deliver(message)
		s.backoff.reset()
		delivered = true
	}
	// To an application that keeps up, the node sends the rest faster than pages come.
	if more && delivered && (s.pull.isFar || !s.room.isWide()) {
		return
	}
	position, known := s.position()
	if !delivered && position.Offset < s.pull.target {
		// The store has nothing more, though there was more: it was swept.
		s.reset(CodePositionTooOld, Position{Epoch: s.epoch, Offset: s.pull.target})
	} else if known {
		s.setPlace(position)
	}
	if !s.room.isEmpty() {
		s.pulling = false
	}
}

// pageRefused says that the page that was asked for cannot be had.
func (s *subscription) pageRefused(now instant, err error, random *random) {
	if !s.pulling {
		return
	}
	s.pull.askedAt = 0
	if AdviceOf(err) == DoNotRetry {
		s.reset(CodePositionTooOld, Position{Epoch: s.epoch, Offset: s.pull.target})
		s.pulling = false
		return
	}
	s.pull.retryAt = now.after(retryWait(&s.backoff, err, random))
}

// taken says that the application took events out of its queue.
func (s *subscription) taken(events, bytes int) {
	s.room.messages += events
	s.room.bytes += bytes
	s.starved = s.starved && !s.room.isWide()
	s.tellDropped()
	s.tellCanPublish()
}

// disconnected says that the connection is gone.
func (s *subscription) disconnected() { s.pull.askedAt = 0 }

func (s *subscription) deliver(message *wire.Message) {
	s.setPlace(Position(message.Position))
	s.tell(messageOf(message))
}

func (s *subscription) tell(event Event) {
	s.room.messages--
	s.room.bytes -= event.size()
	s.events = append(s.events, event)
}

func (s *subscription) tellDropped() {
	if s.dropped > 0 && !s.room.isEmpty() {
		s.tell(&Skipped{Reason: QueueFull, Messages: s.dropped})
		s.dropped = 0
	}
}

func (s *subscription) tellCanPublish() {
	if s.canPublishUntold && !s.room.isEmpty() {
		s.canPublishUntold = false
		s.tell(CanPublish(s.canPublish))
	}
}

func (s *subscription) reset(reason Code, position Position) {
	s.setPlace(position)
	s.tell(&Reset{Reason: reason, Position: position})
}

func (s *subscription) setPlace(position Position) {
	s.place, s.at = placeAt, position
}

func (s *subscription) startPulling(pull pull) {
	s.pulling, s.pull = true, pull
}

// pullAgain: what should follow does not, so read it. A node that leaves gaps again and again is asked less often.
func (s *subscription) pullAgain(now instant, target uint64, random *random) {
	first := s.backoff.attempt == 0
	wait := s.backoff.next(random)
	next := pull{target: target}
	if !first {
		next.retryAt = now.after(wait)
	}
	s.startPulling(next)
}

// retryWait is how long to wait before a request that was refused is tried again.
func retryWait(backoff *backoff, err error, random *random) time.Duration {
	return max(backoff.next(random), RetryAfter(err))
}

func (r *room) isEmpty() bool { return r.messages <= 0 || r.bytes <= 0 }

// isWide tells whether at least half of the queue is free: asking earlier would ask often for little.
func (r *room) isWide() bool {
	return r.messages >= (r.limits.messagesMax+1)/2 && r.bytes >= (r.limits.bytesMax+1)/2
}
