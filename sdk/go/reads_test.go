package millrace

import (
	"slices"
	"testing"
	"time"

	"millrace.dev/go/internal/wire"
)

func TestAMarkIsSentUntilItIsStored(t *testing.T) {
	at := func(offset uint64) Position { return Position{Epoch: 1, Offset: offset} }
	r := reads{}
	count := func(want uint64, wantKnown bool) {
		t.Helper()
		if unread, known := r.unread(); known != wantKnown || unread.Count != want {
			t.Fatalf("%+v %v, not %d %v", unread, known, want, wantKnown)
		}
	}
	due := func(want Position, wantDue bool) {
		t.Helper()
		if mark, isDue := r.due(10); isDue != wantDue || isDue && mark != want {
			t.Fatalf("%+v %v, not %+v %v", mark, isDue, want, wantDue)
		}
	}
	count(0, false)
	r.subscribed(at(9), true)
	count(0, false)
	r.moved(at(0))
	count(9, true)
	r.seen(at(10))
	r.seen(at(10))
	count(10, true)
	for _, offset := range []uint64{4, 6, 5, 0} {
		r.mark(at(offset))
	}
	count(4, true)
	due(at(6), true)
	r.asked(10, at(6))
	r.mark(at(8))
	due(Position{}, false)
	r.answered(at(6))
	due(at(8), true)
	r.asked(10, at(8))
	r.disconnected()
	due(at(8), true)
	r.subscribed(at(10), true)
	r.moved(at(7))
	count(2, true)
	r.asked(10, at(8))
	r.refused(20)
	due(Position{}, false)
	if r.retryAt() != 20 {
		t.Fatal(r.retryAt())
	}
	r.asked(20, at(8))
	r.refused(0)
	count(3, true)
	due(Position{}, false)
	// What was lost with an epoch is unread again.
	r.mark(at(10))
	r.seen(Position{Epoch: 2, Offset: 9})
	count(1, true)
	r.mark(Position{Epoch: 3, Offset: 2})
	count(0, true)
	r.subscribed(Position{}, false)
	count(0, false)
}

func TestAMarkAheadTakesNoOtherWithIt(t *testing.T) {
	at := func(offset uint64) Position { return Position{Epoch: 1, Offset: offset} }
	fresh := func() *reads {
		r := &reads{}
		r.subscribed(at(9), true)
		r.moved(at(2))
		return r
	}
	for _, row := range []struct{ marks, want []uint64 }{
		{[]uint64{5, 50}, []uint64{50, 5}},
		{[]uint64{50, 5}, []uint64{50, 5}},
		{[]uint64{5, 50, 60}, []uint64{60, 5}},
		{[]uint64{50, 60, 5, 4, 7, 7}, []uint64{60, 7}},
		{[]uint64{60, 5, 4, 7, 50}, []uint64{60, 7}},
		{[]uint64{5, 7}, []uint64{7}},
	} {
		r := fresh()
		for _, mark := range row.marks {
			r.mark(at(mark))
		}
		var asked []uint64
		for mark, due := r.due(10); due; mark, due = r.due(10) {
			asked = append(asked, mark.Offset)
			r.asked(10, mark)
			if mark.Offset > 9 {
				r.refused(0)
			} else {
				r.answered(mark)
			}
		}
		if !slices.Equal(asked, row.want) || r.isPending() {
			t.Fatalf("%v: asked %v, pending %v", row.marks, asked, r.isPending())
		}
	}
	// One under way that is refused beside one that waits.
	r := fresh()
	r.mark(at(20))
	r.asked(10, at(20))
	r.mark(at(30))
	r.refused(0)
	if mark, due := r.due(10); !due || mark != at(30) {
		t.Fatal(mark, due)
	}
	// A node that is busy is left alone however much is read.
	r = fresh()
	r.mark(at(5))
	r.asked(10, at(5))
	r.refused(20)
	r.mark(at(6))
	if _, due := r.due(10); due || r.retryAt() != 20 {
		t.Fatal("the pause is over", r.retryAt())
	}
	if mark, due := r.due(20); !due || mark != at(6) {
		t.Fatal(mark, due)
	}
}

// A client that closes takes its last mark along, and a node that knows none is told none.
func TestMarksAndNodes(t *testing.T) {
	for _, features := range []uint64{wire.FeatureReadPositions, 0} {
		e := newEngine(engineConfig{closeTimeout: time.Second}, 1, 0)
		c := e.addChannel("general")
		e.hasReads = features != 0
		e.link = link{phase: linkOpen}
		c.senders, c.attach, c.mode, c.number = 1, attachOn, modeAttach, 7
		e.byNumber[7] = c
		c.reads.subscribed(Position{Epoch: 1, Offset: 3}, true)
		e.readMoved(1, 0, &wire.Read{Channel: 7, Position: wire.Position{Epoch: 1}})
		e.markRead(1, c, Position{Epoch: 1, Offset: 2})
		if got := len(e.control); got != int(features) {
			t.Fatalf("%d frames with features %d", got, features)
		}
		e.close(1)
		if isClosed := e.link.phase == linkClosed; isClosed == (features != 0) {
			t.Fatalf("closed: %v with features %d", isClosed, features)
		}
		if features == 0 {
			continue
		}
		e.readMoved(2, e.control[0].request, &wire.Read{Channel: 7, Position: wire.Position{Epoch: 1, Offset: 2}})
		if e.link.phase != linkClosed {
			t.Fatal("it waits for nothing more")
		}
	}
}
