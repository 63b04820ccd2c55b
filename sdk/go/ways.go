package millrace

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// headStart is how long QUIC has for its handshake, which takes one round trip, before WebSocket is tried beside it. A slower
	// way costs a second handshake that nobody uses; a blocked one costs this time and what WebSocket takes.
	headStart = 100 * time.Millisecond
	// headStartOfWinner is the same for WebSocket, once it has won.
	headStartOfWinner = time.Second
	// udpRest is how long UDP is left alone after it did not get through.
	udpRest = 5 * time.Minute
	// waysMax are remembered.
	waysMax = 64
)

// ways takes the way to a node that its URLs name. Where there are two, they race, and what won is taken first the next time.
type ways struct {
	webSocket transport
	quic      transport

	mu sync.Mutex
	// beaten is when WebSocket was faster than QUIC, which on most networks means that nothing comes through at all.
	beaten map[string]time.Time
}

func newWays(client *http.Client, config *tls.Config) *ways {
	return &ways{
		webSocket: newWebSocketTransport(client, config),
		quic:      newQUICTransport(config),
		beaten:    map[string]time.Time{},
	}
}

func (w *ways) dial(ctx context.Context, to endpoint) (connection, error) {
	switch {
	case to.scheme != schemeQUIC:
		return w.webSocket.dial(ctx, to)
	case to.beside == nil:
		return w.quic.dial(ctx, to)
	}
	beside := *to.beside
	to.beside = nil
	quic := func(ctx context.Context) (connection, error) { return w.quic.dial(ctx, to) }
	webSocket := func(ctx context.Context) (connection, error) { return w.webSocket.dial(ctx, beside) }
	if w.rests(to.String(), time.Now()) {
		won, _, err := race(ctx, webSocket, quic, headStartOfWinner)
		if err != nil {
			return nil, fmt.Errorf("by WebSocket: %w; by QUIC: %w", err[0], err[1])
		}
		return won, nil
	}
	won, isSecond, err := race(ctx, quic, webSocket, headStart)
	if err != nil {
		return nil, fmt.Errorf("by QUIC: %w; by WebSocket: %w", err[0], err[1])
	}
	if isSecond {
		w.note(to.String(), time.Now())
	}
	return won, nil
}

// rests tells whether QUIC is not to be tried first.
func (w *ways) rests(url string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, isBeaten := w.beaten[url]
	return isBeaten && now.Sub(at) < udpRest
}

func (w *ways) note(url string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.beaten) >= waysMax {
		// Deployments are small; whoever sends a client around for ever costs it a race.
		clear(w.beaten)
	}
	w.beaten[url] = now
}

// race tries two ways, the second when the first failed or took its head start; the first that succeeds wins, the other one is
// ended. If none does, there is an error of each.
func race(
	ctx context.Context, first, second func(context.Context) (connection, error), ahead time.Duration,
) (won connection, isSecond bool, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		connection connection
		err        error
		isSecond   bool
	}
	// Room for both, so that the loser's goroutine ends.
	outcomes := make(chan outcome, 2)
	begin := func(dial func(context.Context) (connection, error), isSecond bool) {
		go func() {
			opened, err := dial(ctx)
			outcomes <- outcome{opened, err, isSecond}
		}()
	}
	begin(first, false)
	late := time.NewTimer(ahead)
	defer late.Stop()
	errs, under := make([]error, 2), 1
	hasSecond := false
	for under > 0 || !hasSecond {
		isDue := false
		select {
		case <-late.C:
			isDue = true
		case came := <-outcomes:
			under--
			if came.err == nil {
				if under > 0 {
					go func() {
						if lost := <-outcomes; lost.err == nil {
							lost.connection.abort()
						}
					}()
				}
				return came.connection, came.isSecond, nil
			}
			isDue = true
			if came.isSecond {
				errs[1] = came.err
			} else {
				errs[0] = came.err
			}
		}
		if isDue && !hasSecond {
			hasSecond = true
			under++
			begin(second, true)
		}
	}
	return nil, false, errs
}
