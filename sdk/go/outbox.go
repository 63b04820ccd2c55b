package millrace

import (
	"math"
	"slices"
	"sort"
	"time"
)

// outbox has the messages that an application sent to one channel and that are not acknowledged yet, in ascending order of
// sequence.
//
// A message keeps its producer and sequence over every retry, so the channel stores it once. They go out in order, many at a
// time. After a refusal nothing more is sent until every answer that is under way is in; then everything left goes out again
// from the front. So at any moment the messages in flight are a run of the queue, sent once, in order.
//
// A message that is refused for good leaves a number that the channel never sees, and the channel takes no number before its
// predecessor. If it is certain that the number is not stored, nothing behind it is either, and what is left moves up.
//
// Two things make a number dangerous to give again, because the channel would take the next message for a duplicate, or a
// message twice: it may be stored already, or a frame with it may still be on its way from a connection that we think dead
// (a straggler; the node ends such a session within two heartbeats). Then what is left goes on under a new producer, and
// only when no straggler can be stored any more.
type outbox struct {
	producer uint64
	// next is the sequence of the next new message.
	next uint64
	// floor is the highest sequence that is known to be stored.
	floor uint64
	// absent is the lowest sequence that was given up and is known not to be stored; 0 if there is none.
	absent uint64
	// sentMax is the highest sequence that was sent.
	sentMax uint64
	// Until stragglersUntil, frames up to stragglersMax from connections that are gone may still reach the channel.
	stragglersUntil instant
	stragglersMax   uint64
	queue           []*pending
	// cursor: everything in the queue before it was sent since the last rewind.
	cursor int
	// inFlight is how many requests have their answer under way, those of given-up messages included.
	inFlight int
	// inFlightMax is how many may be: what a node takes that has enough, and one more for each acknowledgement.
	inFlightMax int
	// acknowledgedCount counts acknowledgements since the last rewind.
	acknowledgedCount int
	// isLimited: since the last rewind, the node said that it has enough.
	isLimited bool
	// isStuck: the front is refused because of a message that was given up.
	isStuck bool
	// halted: something was refused; send nothing until nothing is in flight, then rewind.
	halted   bool
	resumeAt instant
	backoff  backoff
}

// pending is a message in an outbox.
type pending struct {
	sequence uint64
	ticket   *Ticket
	body     []byte
	// deadline is when the application gives it up; 0 for never.
	deadline instant
	// sentAt is when it was sent, while its answer is under way.
	sentAt instant
	// uncertain: it was sent and no answer said whether it was stored.
	uncertain bool
	// outOfOrder is when it was sent, if it was answered with "out of order" since the last rewind.
	outOfOrder instant
	// isBlocked: it was answered with "blocked" since the last rewind.
	isBlocked bool
}

// givenUp is a message that will not be tried again.
type givenUp struct {
	ticket *Ticket
	// uncertain: it may be stored all the same.
	uncertain bool
}

func newOutbox(producer uint64, limits backoffLimits) outbox {
	return outbox{producer: producer, next: 1, inFlightMax: math.MaxInt, backoff: backoff{limits: limits}}
}

// isEmpty tells whether every message has had its end.
func (o *outbox) isEmpty() bool { return len(o.queue) == 0 }

func (o *outbox) push(ticket *Ticket, body []byte, deadline instant) {
	o.queue = append(o.queue, &pending{sequence: o.next, ticket: ticket, body: body, deadline: deadline})
	o.next++
}

// isReady tells whether sendNext has a message.
func (o *outbox) isReady(now instant) bool {
	if o.halted || o.cursor >= len(o.queue) || o.inFlight >= o.inFlightMax || o.resumeAt > now {
		return false
	}
	// What stands behind an absent number waits for its own number.
	return o.absent == 0 || o.queue[o.cursor].sequence < o.absent
}

// pauseEnd is when a pause ends, if one is on.
func (o *outbox) pauseEnd() instant {
	if len(o.queue) == 0 {
		return 0
	}
	return o.resumeAt
}

// oldestSent is when the oldest message under way was sent.
func (o *outbox) oldestSent() instant {
	if len(o.queue) == 0 {
		return 0
	}
	return o.queue[0].sentAt
}

// sendNext takes the next message as sent; nil if none is ready. Its answer is told with acknowledged or refused, and then
// answered.
func (o *outbox) sendNext(now instant) *pending {
	if !o.isReady(now) {
		return nil
	}
	o.resumeAt = 0
	next := o.queue[o.cursor]
	next.sentAt = now
	o.cursor++
	o.inFlight++
	o.sentMax = max(o.sentMax, next.sequence)
	return next
}

// acknowledged says that a message of a producer is stored. Nil if it has had its end, or is of an earlier producer.
func (o *outbox) acknowledged(producer, sequence uint64) *Ticket {
	if producer != o.producer {
		return nil
	}
	o.floor = max(o.floor, sequence)
	if o.absent <= o.floor {
		o.absent = 0
	}
	o.backoff.reset()
	o.acknowledgedCount++
	if o.inFlightMax < math.MaxInt {
		o.inFlightMax++
	}
	index, found := o.find(sequence)
	if !found {
		return nil
	}
	return o.remove(index).ticket
}

// refused says that a message was refused. It gives the message back if that is for good.
func (o *outbox) refused(now instant, sequence uint64, code Code, retryAfter time.Duration, random *random) *givenUp {
	o.halted = true
	index, found := o.find(sequence)
	if !found {
		return nil
	}
	message := o.queue[index]
	// The channel answered at any time since, however late the answer is read.
	sentAt := message.sentAt
	if sentAt == 0 {
		sentAt = now
	}
	message.sentAt = 0
	if isRefusedForGood(code) {
		o.remove(index)
		if !message.uncertain {
			o.noteAbsent(message.sequence)
		}
		return &givenUp{ticket: message.ticket, uncertain: message.uncertain}
	}
	switch code {
	case CodeOutOfOrder:
		// It would have been a duplicate if it were stored.
		message.outOfOrder = sentAt
		message.uncertain = message.uncertain && o.stragglerMax(sentAt) >= sequence
		return nil
	case CodeRateLimited, CodeBusy:
		// Refused before anything was tried: what was known before still holds.
		o.isLimited = true
	case CodeBlocked:
		message.isBlocked = true
	case CodeNotSubscribed, CodeGoingAway:
	default:
		message.uncertain = true
	}
	// Those behind a refused one are refused as well; one wait is enough for all of them.
	if o.resumeAt == 0 || retryAfter > 0 {
		wait := retryAfter
		if wait == 0 {
			wait = o.backoff.next(random)
		}
		o.resumeAt = max(o.resumeAt, now.after(wait))
	}
	return nil
}

// answered says that one request that was in flight has its answer. After the last of a halted run, what is left starts over.
func (o *outbox) answered(now instant, random *random) {
	o.inFlight = max(o.inFlight-1, 0)
	o.settle(now, random)
}

// takeStuck tells whether nothing goes on in this session: it bars what is left because of a message that was given up.
func (o *outbox) takeStuck() bool {
	isStuck := o.isStuck
	o.isStuck = false
	return isStuck
}

// disconnected says that the connection is gone, and with it every answer that was under way. The node may still read what was
// sent on it for as long as linger.
func (o *outbox) disconnected(now instant, linger time.Duration, random *random) {
	for _, message := range o.queue {
		message.uncertain = message.uncertain || message.sentAt != 0
		message.sentAt = 0
		message.outOfOrder = 0
		message.isBlocked = false
	}
	o.inFlightMax = math.MaxInt
	o.isLimited = false
	if o.inFlight > 0 {
		o.stragglersUntil, o.stragglersMax = now.after(linger), o.sentMax
	}
	o.inFlight = 0
	o.halted = true
	o.settle(now, random)
}

// expire gives up the oldest message whose time has passed; call it until nil.
func (o *outbox) expire(now instant, random *random) *givenUp {
	if len(o.queue) == 0 || !o.queue[0].deadline.isDue(now) {
		return nil
	}
	return o.giveUp(0, now, random)
}

// cancel gives up one message, at the application's wish; nil if it has had its end.
func (o *outbox) cancel(ticket *Ticket, now instant, random *random) *givenUp {
	index := slices.IndexFunc(o.queue, func(message *pending) bool { return message.ticket == ticket })
	if index < 0 {
		return nil
	}
	return o.giveUp(index, now, random)
}

func (o *outbox) giveUp(index int, now instant, random *random) *givenUp {
	message := o.remove(index)
	uncertain := message.uncertain || message.sentAt != 0
	if !uncertain {
		o.noteAbsent(message.sequence)
		o.halted = true
	}
	o.settle(now, random)
	return &givenUp{ticket: message.ticket, uncertain: uncertain}
}

// giveUpNext gives up everything; call it until nil.
func (o *outbox) giveUpNext() *givenUp {
	if len(o.queue) == 0 {
		return nil
	}
	message := o.remove(0)
	return &givenUp{ticket: message.ticket, uncertain: message.uncertain || message.sentAt != 0}
}

func (o *outbox) find(sequence uint64) (int, bool) {
	// Nearly always the answer is to the oldest.
	if len(o.queue) > 0 && o.queue[0].sequence == sequence {
		return 0, true
	}
	index := sort.Search(len(o.queue), func(i int) bool { return o.queue[i].sequence >= sequence })
	return index, index < len(o.queue) && o.queue[index].sequence == sequence
}

func (o *outbox) remove(index int) *pending {
	if index < o.cursor {
		o.cursor--
	}
	message := o.queue[index]
	if index == 0 {
		o.queue[0] = nil
		o.queue = o.queue[1:]
	} else {
		o.queue = slices.Delete(o.queue, index, index+1)
	}
	return message
}

func (o *outbox) noteAbsent(sequence uint64) {
	if o.absent == 0 || sequence < o.absent {
		o.absent = sequence
	}
}

// stragglerMax is the highest sequence that a straggler may have.
func (o *outbox) stragglerMax(now instant) uint64 {
	if now < o.stragglersUntil {
		return o.stragglersMax
	}
	return 0
}

// settle, with nothing in flight, takes up what the refusals taught, and starts over from the front.
func (o *outbox) settle(now instant, random *random) {
	if o.inFlight > 0 || !o.halted && o.absent == 0 {
		return
	}
	o.halted = false
	o.cursor = 0
	if o.isLimited {
		o.isLimited = false
		o.inFlightMax = max(o.acknowledgedCount, 1)
	}
	o.acknowledgedCount = 0
	var front uint64
	var outOfOrder instant
	if len(o.queue) > 0 {
		front, outOfOrder = o.queue[0].sequence, o.queue[0].outOfOrder
		// Who bars the front is not before it in the queue: it was given up with an unknown fate.
		o.isStuck = o.absent == 0 && o.queue[0].isBlocked && o.floor+1 < front
	} else {
		o.isStuck = false
	}
	for _, message := range o.queue {
		message.outOfOrder = 0
		message.isBlocked = false
	}
	switch {
	case o.absent != 0 && o.stragglerMax(now) < o.absent:
		o.moveUp(o.absent)
	case o.absent != 0 && (front == 0 || front >= o.absent):
		// A straggler behind the absent number can never be stored, for nobody sends that number again.
		o.startAnew(random)
	case o.absent != 0:
		// What stands before the absent number is sent first, as it is.
	case outOfOrder == 0:
	case front <= o.floor:
		// A later one is stored and so is this one, by a straggler: its number tells where.
	case o.floor+1 < front && o.stragglerMax(outOfOrder) > 0:
		// The number before the front was given up with an unknown fate, and it is not stored, or not yet.
		o.resumeAt = now.after(o.backoff.next(random))
	default:
		// As above and it never will be; or the channel forgot a producer whose messages it had acknowledged: unused for long,
		// or lost with the last moments of a windowed channel.
		o.startAnew(random)
		o.resumeAt = now.after(o.backoff.next(random))
	}
}

// moveUp closes the gap that begins at a sequence.
func (o *outbox) moveUp(absent uint64) {
	o.absent = 0
	o.next = absent
	for _, message := range o.queue {
		if message.sequence >= absent {
			message.sequence = o.next
			message.uncertain = false
			o.next++
		}
	}
}

// startAnew gives what is left, none of which is stored, numbers of a new producer.
func (o *outbox) startAnew(random *random) {
	o.producer = random.producer()
	o.floor = 0
	o.sentMax = 0
	o.stragglersUntil, o.stragglersMax = 0, 0
	o.next = 1
	o.moveUp(1)
}

// isRefusedForGood tells whether a message that was refused with a code will not be tried again.
func isRefusedForGood(code Code) bool {
	if code == CodeOutOfOrder || code == CodeNotSubscribed {
		return false
	}
	advice := code.Advice()
	return advice == DoNotRetry || advice == Reload
}
