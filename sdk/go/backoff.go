package millrace

import (
	"math"
	"time"
)

// backoffLimits bound the waits of a back-off.
type backoffLimits struct {
	// first is the ceiling of the first wait.
	first time.Duration
	// max is the ceiling of every wait.
	max time.Duration
}

// backoff counts tries and names the next wait: exponential with full jitter, so that clients that lost the same node do not
// come back together.
type backoff struct {
	limits backoffLimits
	// attempt is how many waits were named since the last success.
	attempt int
}

// next is uniform in zero to first * 2^attempt, at most max.
func (b *backoff) next(random *random) time.Duration {
	ceiling := min(b.limits.first, b.limits.max)
	for doubled := 0; doubled < b.attempt && ceiling < b.limits.max; doubled++ {
		if ceiling > b.limits.max/2 {
			ceiling = b.limits.max
		} else {
			ceiling *= 2
		}
		if ceiling == 0 {
			break
		}
	}
	if b.attempt < math.MaxInt32 {
		b.attempt++
	}
	return time.Duration(random.below(uint64(max(ceiling, 0))))
}

func (b *backoff) reset() { b.attempt = 0 }

// instant is a moment on a client's own clock: nanoseconds since a beginning that only the shell knows. 0 is none.
type instant int64

func (at instant) after(wait time.Duration) instant {
	if wait > 0 && int64(at) > math.MaxInt64-int64(wait) {
		return math.MaxInt64
	}
	return at + instant(wait)
}

// isDue tells whether there is a moment and it has come.
func (at instant) isDue(now instant) bool { return at != 0 && at <= now }

// earliest is the first of the moments that there are, 0 if there are none.
func earliest(moments ...instant) instant {
	var first instant
	for _, at := range moments {
		if at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}
