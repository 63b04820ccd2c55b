package millrace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// tried is a connection that a race opened.
type tried struct {
	connection
	name    string
	aborted bool
}

func (c *tried) abort() { c.aborted = true }

func TestTheFirstToSucceedWinsAndTheSecondStartsLate(t *testing.T) {
	type try struct {
		after time.Duration
		fails bool
	}
	check := func(first, second try, expect string, expectAfter time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			opened := map[string]*tried{}
			dial := func(name string, of try) func(context.Context) (connection, error) {
				return func(ctx context.Context) (connection, error) {
					select {
					case <-time.After(of.after):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if of.fails {
						return nil, errors.New(name)
					}
					opened[name] = &tried{name: name}
					return opened[name], nil
				}
			}
			began := time.Now()
			won, isSecond, errs := race(t.Context(), dial("first", first), dial("second", second), headStart)
			got := ""
			if errs != nil {
				got = errs[0].Error() + " " + errs[1].Error()
			} else {
				got = won.(*tried).name
			}
			if passed := time.Since(began); got != expect || passed != expectAfter || isSecond != (got == "second") {
				t.Errorf("%v %v: %s after %v, not %s after %v", first, second, got, passed, expect, expectAfter)
			}
			synctest.Wait()
			for name, one := range opened {
				if one.aborted != (name != got) {
					t.Errorf("%s is left open, or the winner is not", name)
				}
			}
		})
	}
	const ms = time.Millisecond
	check(try{after: 30 * ms}, try{}, "first", 30*ms)
	check(try{after: 250 * ms}, try{after: 300 * ms}, "first", 250*ms)
	check(try{after: 250 * ms}, try{after: 90 * ms}, "second", 190*ms)
	check(try{after: 10 * ms, fails: true}, try{after: 90 * ms}, "second", 100*ms)
	check(try{after: 150 * ms, fails: true}, try{after: 200 * ms}, "second", 300*ms)
	check(try{after: 400 * ms}, try{after: 50 * ms, fails: true}, "first", 400*ms)
	check(try{after: 10 * ms, fails: true}, try{after: 50 * ms, fails: true}, "first second", 60*ms)
	check(try{after: 400 * ms, fails: true}, try{after: 50 * ms, fails: true}, "first second", 400*ms)
	// UDP that leads nowhere, a WebSocket that takes three round trips of 60 ms.
	check(try{after: time.Hour}, try{after: 180 * ms}, "second", 280*ms)
}

func TestWhatWasBeatenRests(t *testing.T) {
	w, now := newWays(nil, nil), time.Now()
	w.note("quic://a", now)
	if !w.rests("quic://a", now.Add(udpRest-1)) || w.rests("quic://a", now.Add(udpRest)) || w.rests("quic://b", now) {
		t.Fatal("it rests for a time, and no other does")
	}
	for range 10 * waysMax {
		w.note(time.Now().String(), now)
	}
	if len(w.beaten) > waysMax {
		t.Fatalf("%d are remembered", len(w.beaten))
	}
}
