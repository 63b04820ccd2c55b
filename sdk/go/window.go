package millrace

import (
	"context"
	"sync"
)

// windowLimits bound what is on its way in one channel.
type windowLimits struct {
	messagesMax int
	bytesMax    int
}

// window is how much of one channel may be on its way at once. Whoever sends more waits, first come first served.
type window struct {
	mu              sync.Mutex
	limits          windowLimits
	messages, bytes int
	queue           []*admission
}

// admission is a message's wait for its place.
type admission struct {
	bytes int
	// admitted is closed when it has its place.
	admitted chan struct{}
}

func newWindow(limits windowLimits) *window { return &window{limits: limits} }

// admit waits for a place. A message larger than the window waits until it is alone.
func (w *window) admit(ctx context.Context, bytes int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	if len(w.queue) == 0 && w.hasRoom(bytes) {
		w.messages++
		w.bytes += bytes
		w.mu.Unlock()
		return nil
	}
	waiting := &admission{bytes: bytes, admitted: make(chan struct{})}
	w.queue = append(w.queue, waiting)
	w.mu.Unlock()
	select {
	case <-waiting.admitted:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.queue {
		if other == waiting {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			w.admitNext()
			return ctx.Err()
		}
	}
	// It was admitted at the same moment.
	w.give(bytes)
	return ctx.Err()
}

// release gives a place back.
func (w *window) release(bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.give(bytes)
}

func (w *window) give(bytes int) {
	w.messages--
	w.bytes -= bytes
	w.admitNext()
}

func (w *window) admitNext() {
	for len(w.queue) > 0 && w.hasRoom(w.queue[0].bytes) {
		next := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		w.messages++
		w.bytes += next.bytes
		close(next.admitted)
	}
}

func (w *window) hasRoom(bytes int) bool {
	return w.messages == 0 || w.messages < w.limits.messagesMax && w.bytes+bytes <= w.limits.bytesMax
}
