package millrace

import (
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// pongBytesMax: one that reads nothing and pings for ever gets no answers beyond it.
	pongBytesMax = 128 << 10
	// outBytesKept: a buffer that grew larger is given back.
	outBytesKept = 256 << 10
)

// outletKey is the context's key of where to put the outlet of a connection that is being made.
type outletKey struct{}

// upgrades lets every connection that a handshake makes write through an outlet.
type upgrades struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (u *upgrades) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := u.next.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		return response, err
	}
	body, isUpgraded := response.Body.(io.ReadWriteCloser)
	slot, isWanted := request.Context().Value(outletKey{}).(**outlet)
	if isUpgraded && isWanted {
		out := &outlet{body: body}
		out.idle.L = &out.mu
		*slot = out
		response.Body = out
	}
	return response, nil
}

// outlet is between a WebSocket library and its socket: writes only append to a buffer. So many frames leave in one system
// call, and the answer to a ping never holds the goroutine that reads.
type outlet struct {
	body io.ReadWriteCloser

	mu     sync.Mutex
	buffer []byte
	spare  []byte
	// isHeld: a batch is being written; it leaves with flush.
	isHeld bool
	// isFlushing: a goroutine writes to the socket.
	isFlushing bool
	// idle is told when it is not flushing any more.
	idle sync.Cond
	err  error
}

// Read reads from the socket.
func (o *outlet) Read(into []byte) (int, error) { return o.body.Read(into) }

// Write appends to the buffer.
func (o *outlet) Write(bytes []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	o.buffer = append(o.buffer, bytes...)
	if !o.isHeld && !o.isFlushing {
		// It ends when the socket has taken what there is, or is closed.
		o.isFlushing = true
		go func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.drain()
		}()
	}
	return len(bytes), nil
}

// hold says that what is written until flush may leave together.
func (o *outlet) hold() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.isHeld = true
}

// flush waits until the socket has taken everything that was written.
func (o *outlet) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.isHeld = false
	o.finish()
	return o.err
}

// finish empties the buffer. The lock is held.
func (o *outlet) finish() {
	for o.isFlushing {
		o.idle.Wait()
	}
	o.isFlushing = true
	o.drain()
}

// drain writes to the socket until the buffer is empty. The lock is held, but for the writing itself.
func (o *outlet) drain() {
	for len(o.buffer) > 0 && o.err == nil {
		out := o.buffer
		o.buffer = o.spare[:0]
		o.mu.Unlock()
		_, err := o.body.Write(out)
		o.mu.Lock()
		if o.err == nil {
			o.err = err
		}
		if cap(out) <= outBytesKept {
			o.spare = out
		}
	}
	o.isFlushing = false
	o.idle.Broadcast()
}

// hasRoom tells whether an answer to a ping may be written.
func (o *outlet) hasRoom() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buffer) < pongBytesMax
}

// Close closes the socket once it has taken what was written, or a bounded time is over.
func (o *outlet) Close() error {
	late := time.AfterFunc(lingerMax, o.abort)
	defer late.Stop()
	o.mu.Lock()
	o.finish()
	o.mu.Unlock()
	return o.body.Close()
}

// abort closes the socket at once.
func (o *outlet) abort() {
	o.mu.Lock()
	if o.err == nil {
		o.err = io.ErrClosedPipe
	}
	o.mu.Unlock()
	// Whatever is wrong with it, it is of no use any more.
	_ = o.body.Close()
}
