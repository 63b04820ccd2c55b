package millrace

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"millrace.dev/go/internal/model"
)

// The outbox against a channel that checks sequences, over connections that break anywhere.

const testLinger = time.Minute

var testBackoff = backoffLimits{first: 100 * time.Millisecond, max: 20 * time.Second}

// outboxTest is an outbox, its messages by ticket, and a clock.
type outboxTest struct {
	t       *testing.T
	outbox  outbox
	random  random
	now     instant
	tickets map[*Ticket]int
}

func newOutboxTest(t *testing.T) *outboxTest {
	return &outboxTest{
		t: t, outbox: newOutbox(1, testBackoff), random: random{state: 1}, now: 1, tickets: map[*Ticket]int{},
	}
}

func (o *outboxTest) push(number int, deadline instant) {
	ticket := &Ticket{}
	o.tickets[ticket] = number
	o.outbox.push(ticket, []byte(strconv.Itoa(number)), deadline)
}

func (o *outboxTest) fill(first, last int) {
	for number := first; number <= last; number++ {
		o.push(number, 0)
	}
}

// expectSent sends everything that is ready: pairs of sequence and message.
func (o *outboxTest) expectSent(expect ...uint64) {
	o.t.Helper()
	var sent []uint64
	for next := o.outbox.sendNext(o.now); next != nil; next = o.outbox.sendNext(o.now) {
		sent = append(sent, next.sequence, uint64(o.tickets[next.ticket]))
	}
	if !slices.Equal(sent, expect) {
		o.t.Fatalf("sent %v, not %v", sent, expect)
	}
}

// refuse gives the number of the message if it was refused for good, negative if it is certain that it is not stored.
func (o *outboxTest) refuse(sequence uint64, code Code) int {
	up := o.outbox.refused(o.now, sequence, code, 0, &o.random)
	o.outbox.answered(o.now, &o.random)
	return o.numberOf(up)
}

func (o *outboxTest) numberOf(up *givenUp) int {
	switch {
	case up == nil:
		return 0
	case up.uncertain:
		return o.tickets[up.ticket]
	default:
		return -o.tickets[up.ticket]
	}
}

func (o *outboxTest) expectRefused(sequence uint64, code Code, expect int) {
	o.t.Helper()
	if number := o.refuse(sequence, code); number != expect {
		o.t.Fatalf("gave up %d, not %d", number, expect)
	}
}

func (o *outboxTest) ack(sequence uint64) int {
	ticket := o.outbox.acknowledged(o.outbox.producer, sequence)
	o.outbox.answered(o.now, &o.random)
	return o.tickets[ticket]
}

func (o *outboxTest) expectAck(sequence uint64, expect int) {
	o.t.Helper()
	if number := o.ack(sequence); number != expect {
		o.t.Fatalf("acknowledged %d, not %d", number, expect)
	}
}

func (o *outboxTest) disconnect() { o.outbox.disconnected(o.now, testLinger, &o.random) }

func (o *outboxTest) pass(wait time.Duration) { o.now = o.now.after(wait) }

func TestARefusalForGoodLeavesNoGap(t *testing.T) {
	o := newOutboxTest(t)
	o.fill(1, 4)
	o.expectSent(1, 1, 2, 2, 3, 3, 4, 4)
	o.expectAck(1, 1)
	o.expectRefused(2, CodeTooLarge, -2)
	o.fill(5, 5)
	o.expectSent() // answers to 3 and 4 are under way
	o.expectRefused(3, CodeOutOfOrder, 0)
	o.expectRefused(4, CodeBlocked, 0)
	o.pass(testBackoff.first)
	o.expectSent(2, 3, 3, 4, 4, 5)
}

func TestAPauseIsKeptAndEverythingAfterGoesAgain(t *testing.T) {
	o := newOutboxTest(t)
	o.fill(1, 3)
	o.expectSent(1, 1, 2, 2, 3, 3)
	if up := o.outbox.refused(o.now, 1, CodeRateLimited, 3*time.Second, &o.random); up != nil {
		t.Fatal("given up")
	}
	o.outbox.answered(o.now, &o.random)
	o.expectRefused(2, CodeBlocked, 0)
	o.expectRefused(3, CodeBlocked, 0)
	if at := o.outbox.pauseEnd(); at != o.now.after(3*time.Second) {
		t.Fatalf("until %d", at)
	}
	o.pass(3*time.Second - 1)
	o.expectSent()
	o.pass(1)
	// A node that has enough gets few at first, and more with each that it takes.
	o.expectSent(1, 1)
	o.expectAck(1, 1)
	o.expectSent(2, 2, 3, 3)
}

// Stored, its acknowledgement lost, then refused for good: its number must not be given to another message, which the channel
// would take for a duplicate.
func TestANumberThatMayBeStoredIsNotGivenAgain(t *testing.T) {
	o := newOutboxTest(t)
	producer := o.outbox.producer
	o.fill(1, 2)
	o.expectSent(1, 1, 2, 2)
	o.disconnect()
	o.expectSent(1, 1, 2, 2)
	o.expectRefused(1, CodeArchived, 1)
	o.expectRefused(2, CodeArchived, 2)
	o.fill(3, 3)
	o.expectSent(3, 3)
	// 1 and 2 may still come from the first connection, and 3 behind them.
	o.expectRefused(3, CodeOutOfOrder, 0)
	o.pass(testBackoff.first)
	o.expectSent(3, 3)
	o.expectRefused(3, CodeOutOfOrder, 0)
	o.pass(testLinger)
	o.expectSent(3, 3)
	o.expectRefused(3, CodeOutOfOrder, 0)
	if o.outbox.producer == producer {
		t.Fatal("the producer is the same")
	}
	o.pass(testBackoff.max)
	o.expectSent(1, 3)
}

// 2 is refused for good, then the connection breaks: a late 3 must not follow a 2 that was given to the third message.
func TestAStragglerIsNotStoredTwice(t *testing.T) {
	o := newOutboxTest(t)
	producer := o.outbox.producer
	o.fill(1, 3)
	o.expectSent(1, 1, 2, 2, 3, 3)
	o.expectRefused(2, CodeTooLarge, -2)
	o.disconnect()
	o.expectSent(1, 1) // it may be stored under its number
	o.expectAck(1, 1)
	if o.outbox.producer == producer {
		t.Fatal("the producer is the same")
	}
	o.expectSent(1, 3)
}

// "Out of order" is as old as its request: a straggler may have been stored while the answer waited to be read.
func TestALateAnswerIsNoNews(t *testing.T) {
	o := newOutboxTest(t)
	producer := o.outbox.producer
	o.fill(1, 2)
	o.expectSent(1, 1, 2, 2)
	o.disconnect()
	o.expectSent(1, 1, 2, 2)
	o.pass(testLinger)
	o.expectRefused(1, CodeArchived, 1)
	o.expectRefused(2, CodeOutOfOrder, 0)
	if o.outbox.producer != producer {
		t.Fatal("the producer is another")
	}
	o.pass(testBackoff.max)
	o.expectSent(2, 2)
}

// A channel that takes a number has all before it.
func TestWhatALaterNumberProvesStoredKeepsItsNumber(t *testing.T) {
	o := newOutboxTest(t)
	o.fill(1, 2)
	o.expectSent(1, 1, 2, 2)
	o.disconnect()
	o.fill(3, 3)
	o.expectSent(1, 1, 2, 2, 3, 3)
	o.expectRefused(1, CodeArchived, 1)
	o.expectRefused(2, CodeOutOfOrder, 0)
	// Meanwhile 1 and 2 came from the first connection.
	o.expectAck(3, 3)
	o.expectSent(2, 2)
}

func TestAProducerThatWasForgottenBeginsAnew(t *testing.T) {
	o := newOutboxTest(t)
	producer := o.outbox.producer
	o.fill(1, 3)
	o.expectSent(1, 1, 2, 2, 3, 3)
	o.expectAck(1, 1)
	o.expectRefused(2, CodeOutOfOrder, 0)
	o.expectRefused(3, CodeOutOfOrder, 0)
	if o.outbox.producer == producer || o.outbox.acknowledged(producer, 2) != nil {
		t.Fatal("the producer is the same")
	}
	o.pass(testBackoff.first)
	o.expectSent(1, 2, 2, 3)
}

// A message whose fate is unknown is refused, which bars those behind it, and is given up.
func TestASessionThatBarsForAMessageGivenUpIsLeft(t *testing.T) {
	o := newOutboxTest(t)
	o.push(1, o.now.after(testLinger))
	o.push(2, 0)
	o.expectSent(1, 1, 2, 2)
	o.disconnect()
	o.expectSent(1, 1, 2, 2)
	o.expectRefused(1, CodeBusy, 0)
	o.expectRefused(2, CodeBlocked, 0)
	if o.outbox.takeStuck() {
		t.Fatal("the first is tried again")
	}
	o.pass(testLinger)
	if number := o.numberOf(o.outbox.expire(o.now, &o.random)); number != 1 {
		t.Fatalf("gave up %d", number)
	}
	o.expectSent(2, 2)
	o.expectRefused(2, CodeBlocked, 0)
	if !o.outbox.takeStuck() {
		t.Fatal("nothing goes on in this session")
	}
	o.disconnect()
	o.pass(testBackoff.max)
	o.expectSent(2, 2)
}

func TestTimePassesForSentAndUnsentMessages(t *testing.T) {
	o := newOutboxTest(t)
	o.push(1, o.now)
	o.push(2, o.now)
	o.push(3, o.now.after(time.Second))
	o.outbox.sendNext(o.now)
	for _, expect := range []int{1, -2, 0} {
		if number := o.numberOf(o.outbox.expire(o.now, &o.random)); number != expect {
			t.Fatalf("gave up %d, not %d", number, expect)
		}
	}
	o.expectSent() // the answer to 1 is under way
	o.expectAck(1, 0)
	o.expectSent(2, 3)
	if at := o.outbox.oldestSent(); at != o.now {
		t.Fatalf("sent at %d", at)
	}
	if number := o.numberOf(o.outbox.giveUpNext()); number != 3 || o.outbox.giveUpNext() != nil {
		t.Fatalf("gave up %d", number)
	}
}

// homeFrame is a publish on its way.
type homeFrame struct {
	producer, sequence uint64
	number             int
}

type homeAnswer struct {
	frame homeFrame
	code  Code
}

// home is a channel home: it takes last + 1, knows duplicates, refuses the rest.
type home struct {
	last   map[uint64]uint64
	stored []int
}

func (h *home) offer(frame homeFrame) Code {
	switch last := h.last[frame.producer]; {
	case frame.sequence > last+1:
		return CodeOutOfOrder
	case frame.sequence == last+1:
		h.last[frame.producer] = frame.sequence
		h.stored = append(h.stored, frame.number)
	}
	return 0
}

// Whatever is refused, lost or given up: what is acknowledged is stored once and in order, what was certainly not stored is not,
// and in the end everything left goes through.
func TestEveryMessageIsStoredOnceInOrder(t *testing.T) {
	for seed := range uint64(3_000) {
		checkOutbox(t, seed)
	}
}

func checkOutbox(t *testing.T, seed uint64) {
	t.Helper()
	codes := []Code{
		CodeRateLimited, CodeBusy, CodeUnavailable, CodeUnknownOutcome, CodeTooLarge, CodeArchived, CodeReadOnly,
	}
	o, h, dice := newOutboxTest(t), &home{last: map[uint64]uint64{}}, model.Dice{State: seed}
	var wire []homeFrame
	var answers []homeAnswer
	type late struct {
		until  instant
		frames []homeFrame
	}
	var stragglers []late
	var acknowledged []int
	refused, pushed := map[int]bool{}, 0
	refuse := func(number int) {
		if number != 0 {
			refused[max(number, -number)] = number > 0
		}
	}
	send := func(count int) {
		for range count {
			if next := o.outbox.sendNext(o.now); next != nil {
				wire = append(wire, homeFrame{o.outbox.producer, next.sequence, o.tickets[next.ticket]})
			}
		}
	}
	serve := func(refusals uint64, code Code) {
		for i, frame := range wire {
			switch isRefused := i < 16 && refusals&(1<<i) != 0; {
			case isRefused && code == CodeUnknownOutcome:
				answer := h.offer(frame)
				if answer == 0 {
					answer = code
				}
				answers = append(answers, homeAnswer{frame, answer})
			case isRefused:
				answers = append(answers, homeAnswer{frame, code})
			default:
				answers = append(answers, homeAnswer{frame, h.offer(frame)})
			}
		}
		wire = nil
	}
	answer := func(count int, swap bool) {
		for range min(count, len(answers)) {
			next := answers[0]
			if swap {
				next = answers[len(answers)-1]
				answers = answers[:len(answers)-1]
			} else {
				answers = answers[1:]
			}
			if next.code != 0 {
				refuse(o.refuse(next.frame.sequence, next.code))
				continue
			}
			if ticket := o.outbox.acknowledged(next.frame.producer, next.frame.sequence); ticket != nil {
				acknowledged = append(acknowledged, o.tickets[ticket])
			}
			o.outbox.answered(o.now, &o.random)
		}
	}
	disconnect := func() {
		// The channel may have read what was sent, or reads it later, or never.
		switch dice.Below(3) {
		case 0:
			for _, frame := range wire {
				h.offer(frame)
			}
		case 1:
			stragglers = append(stragglers, late{o.now.after(testLinger), wire})
		}
		wire, answers = nil, nil
		o.disconnect()
	}
	for range dice.Below(80) {
		o.pass(5 * time.Second)
		switch step := dice.Below(20); {
		case step < 4:
			pushed++
			o.push(pushed, o.now.after(10*time.Minute))
		case step < 8:
			send(int(1 + dice.Below(5)))
		case step < 11:
			refusals, fewer := dice.Next(), dice.Next()
			serve(refusals&fewer, codes[dice.Below(uint64(len(codes)))])
		case step < 15:
			answer(int(1+dice.Below(7)), dice.Below(2) == 0)
		case step < 17:
			disconnect()
		case step < 19:
			stragglers = slices.DeleteFunc(stragglers, func(l late) bool { return l.until <= o.now })
			if len(stragglers) > 0 {
				for _, frame := range stragglers[0].frames {
					h.offer(frame)
				}
				stragglers = stragglers[1:]
			}
		default:
			o.pass(5 * time.Minute)
			for up := o.outbox.expire(o.now, &o.random); up != nil; up = o.outbox.expire(o.now, &o.random) {
				refuse(o.numberOf(up))
			}
		}
	}
	disconnect()
	for range 100 {
		o.pass(15 * time.Second)
		send(99)
		serve(0, 0)
		answer(99, false)
	}

	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: "+format, append([]any{seed}, args...)...)
	}
	if !o.outbox.isEmpty() {
		fail("left: %+v", o.outbox)
	}
	var confirmed []int
	for i, number := range h.stored {
		if slices.Contains(h.stored[:i], number) {
			fail("stored twice: %v", h.stored)
		}
		// What was given up with an unknown fate may come late.
		if slices.Contains(acknowledged, number) {
			confirmed = append(confirmed, number)
		}
	}
	if !slices.IsSorted(confirmed) || len(confirmed) != len(acknowledged) {
		fail("acknowledged %v, stored %v", acknowledged, h.stored)
	}
	for number, uncertain := range refused {
		if !uncertain && slices.Contains(h.stored, number) {
			fail("%d is refused and stored", number)
		}
	}
	if len(acknowledged)+len(refused) != pushed {
		fail("%d of %d messages have an end", len(acknowledged)+len(refused), pushed)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	check := func(err error, advice Advice, text string) {
		t.Helper()
		if AdviceOf(err) != advice || err.Error() != text {
			t.Errorf("%v: %v, not %v: %s", err, AdviceOf(err), advice, text)
		}
	}
	limited := &RefusedError{Code: CodeRateLimited, Message: "slow down", RetryAfter: 250 * time.Millisecond}
	check(limited, Retry, "slow down (rate-limited)")
	if RetryAfter(limited) != 250*time.Millisecond || CodeOf(limited) != CodeRateLimited || !errors.Is(limited, CodeRateLimited) {
		t.Error(limited)
	}
	check(&RefusedError{Code: 4099, Message: "new"}, DoNotRetry, "new (code 4099)")
	check(ErrClosed, DoNotRetry, "the client is closed")
	archived := unconfirmed(&RefusedError{Code: CodeArchived, Message: "archived"})
	check(archived, DoNotRetry, "it is not known whether the message was stored: archived (archived)")
	if !errors.Is(archived, CodeArchived) || unconfirmed(archived) != archived {
		t.Error(archived)
	}
	for code, name := range codeNames {
		if code.String() != name || code.Advice() == Reconnect != (code >= 4200 && code < 4300) {
			t.Errorf("%d %v %v", uint16(code), code, code.Advice())
		}
	}
}
