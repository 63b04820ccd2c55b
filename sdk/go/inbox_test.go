package millrace

import (
	"context"
	"errors"
	"testing"
)

func newTestInbox() *inbox {
	return newInbox(queueLimits{messagesMax: 1 << 20, bytesMax: 1 << 30})
}

// A reader who is always one behind must not make the queue grow.
func TestInboxGivesBackWhatWasTaken(t *testing.T) {
	in := newTestInbox()
	in.push(&Message{Sequence: 1})
	for sequence := uint64(2); sequence < 100_000; sequence++ {
		in.push(&Message{Sequence: sequence})
		event, _, err := in.next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if got := event.(*Message).Sequence; got != sequence-1 {
			t.Fatalf("message %d, expected %d", got, sequence-1)
		}
	}
	if len(in.events) > 8 {
		t.Errorf("%d places for one message", len(in.events))
	}
}

// A channel that always has one more must not keep a reader who wants to stop.
func TestInboxStopsWithItsContext(t *testing.T) {
	in := newTestInbox()
	in.push(&Message{Sequence: 1})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := in.next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, expected %v", err, context.Canceled)
	}
	if event, _, err := in.next(context.Background()); event == nil || err != nil {
		t.Errorf("the message is lost: %v, %v", event, err)
	}
}
