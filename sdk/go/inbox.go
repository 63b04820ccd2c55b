package millrace

import (
	"context"
	"sync"
)

// inbox is the queue between the engine and the reader of one subscription.
//
// The engine counts what it may put in, so pushing never waits; the reader says what it took in lumps, so that reading a
// message seldom takes the client's lock.
type inbox struct {
	limits queueLimits
	// ready has a token while there may be something to read.
	ready chan struct{}

	mu     sync.Mutex
	events []Event
	head   int
	bytes  int
	// takenEvents and takenBytes were taken since the engine last heard of it.
	takenEvents, takenBytes int
	// isStarved: the engine waits for room.
	isStarved bool
	// end is what ended the subscription; nothing follows.
	end error
	// position is behind the last event that was taken.
	position   Position
	canPublish bool
}

func newInbox(limits queueLimits) *inbox {
	return &inbox{limits: limits, ready: make(chan struct{}, 1)}
}

// begin is where the subscription stands before the first event.
func (in *inbox) begin(at opened) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.position, in.canPublish = at.position, at.canPublish
}

// push queues an event. Room was counted before.
func (in *inbox) push(event Event) {
	in.mu.Lock()
	// A reader who never catches up never empties it: what was taken is given back when it is half of it.
	if in.head > 0 && 2*in.head >= len(in.events) {
		kept := copy(in.events, in.events[in.head:])
		clear(in.events[kept:])
		in.events, in.head = in.events[:kept], 0
	}
	in.events = append(in.events, event)
	in.bytes += event.size()
	in.mu.Unlock()
	in.wake()
}

// close says that nothing follows. The first end stays.
func (in *inbox) close(err error) {
	in.mu.Lock()
	if in.end == nil {
		in.end = err
	}
	in.mu.Unlock()
	in.wake()
}

// drop closes the inbox and forgets what is in it.
func (in *inbox) drop(err error) {
	in.mu.Lock()
	in.events, in.head, in.bytes = nil, 0, 0
	in.end = err
	in.mu.Unlock()
	in.wake()
}

func (in *inbox) wake() {
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

// starve says that the engine waits for room; true if it should hear at once that there is.
func (in *inbox) starve() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.isStarved = true
	return in.isDue()
}

// collect gives what was taken since the last call.
func (in *inbox) collect() (events, bytes int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	events, bytes = in.takenEvents, in.takenBytes
	in.takenEvents, in.takenBytes = 0, 0
	return events, bytes
}

// isDue tells whether the engine should hear what was taken.
func (in *inbox) isDue() bool {
	isHalfFree := 2*(len(in.events)-in.head) <= in.limits.messagesMax && 2*in.bytes <= in.limits.bytesMax
	isLump := in.takenEvents > in.limits.messagesMax/4 || in.takenBytes > in.limits.bytesMax/4
	if in.isStarved && isHalfFree {
		in.isStarved = false
		return true
	}
	return isLump
}

// next waits for the next event. isDue says that the engine should hear what was taken.
func (in *inbox) next(ctx context.Context) (event Event, isDue bool, err error) {
	for {
		// A busy channel always has one more.
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		event, isDue, err = in.take()
		if event != nil || err != nil {
			return event, isDue, err
		}
		select {
		case <-in.ready:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

func (in *inbox) take() (Event, bool, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.head == len(in.events) {
		if in.end != nil {
			// For whoever else waits.
			in.wake()
		}
		return nil, false, in.end
	}
	event := in.events[in.head]
	in.events[in.head] = nil
	in.head++
	if in.head == len(in.events) {
		in.events, in.head = in.events[:0], 0
	} else {
		in.wake()
	}
	in.bytes -= event.size()
	in.takenEvents++
	in.takenBytes += event.size()
	switch event := event.(type) {
	case *Message:
		in.position = event.Position
	case *Reset:
		in.position = event.Position
	case *Skipped:
		if event.Reason == SlowConsumer {
			in.position = event.Last
		}
	case CanPublish:
		in.canPublish = bool(event)
	}
	return event, in.isDue(), nil
}

func (in *inbox) place() (Position, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.position, in.canPublish
}
