package millrace

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace.dev/go/internal/model"
	"millrace.dev/go/internal/wire"
)

// Scripts of the connection: what a node says, what the engine does about it.

func TestAClientConnectsAndResumesEverythingInItsHello(t *testing.T) {
	b := newBench(t, testConfig())
	b.expectLog("token")
	b.connect()
	b.read("general")
	b.push(1)
	b.engine.handleDisconnected(b.now, disconnected("cut"))
	b.expectLog("reconnecting 1")
	b.pass(100 * time.Millisecond)
	b.expectLog("connect ws://a")
	hello := b.helloAgain()
	expect := wire.Subscribe{Channel: "general", Start: wire.StartAfter, After: wire.Position{Epoch: 1, Offset: 1}}
	if hello.Hello.Token != "token" || !slices.Equal(hello.Hello.Subscriptions, []wire.Subscribe{expect}) {
		t.Fatalf("%+v", hello.Hello)
	}
	b.say(subscribedFrame(hello.Request, "general", 2, wire.RecoveryWhole))
	b.push(2)
	b.expectLog("connected")
	b.expectEvents("1", "2")
	if frames := b.frames(); frames != nil {
		t.Fatalf("%+v", frames)
	}
}

func TestSilenceForTwoHeartbeatsIsADeadConnection(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.pass(2*benchHeartbeat - time.Millisecond)
	b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	if pong := b.frame(); pong.Kind != wire.ClientPong || pong.Request != 0 {
		t.Fatalf("%+v", pong)
	}
	b.pass(2*benchHeartbeat - time.Millisecond)
	b.expectLog()
	b.pass(time.Millisecond)
	b.expectLog("disconnect", "reconnecting 1")
}

func TestPingsThatAreNotTakenAreAnsweredOnce(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	for range 1_000 {
		b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	}
	if frames := b.frames(); len(frames) != 1 {
		t.Fatalf("%d pongs", len(frames))
	}
}

func TestANodeThatAnswersPingsAndNothingElseIsLeft(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	if _, err := b.engine.open(b.now, "general", nil, &opening{}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b.pass(7_400 * time.Millisecond)
		b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	}
	b.pass(time.Second)
	if !slices.Contains(b.log, "disconnect") || len(b.opened) != 1 {
		t.Fatalf("%v, %d opened", b.log, len(b.opened))
	}
	expectTimeout(t, b.opened[0].err, AwaitedAnswer)
}

func expectTimeout(t *testing.T, err error, awaited Awaited) {
	t.Helper()
	var timeout *TimeoutError
	if !errors.As(err, &timeout) || timeout.Awaited != awaited || !IsRetryable(err) {
		t.Fatalf("%v, not a timeout of %v", err, awaited)
	}
}

func TestANodeThatLeavesSaysWhenAndWhereTo(t *testing.T) {
	goAway := &wire.ServerFrame{Kind: wire.ServerGoAway, GoAway: wire.GoAway{
		Code: uint16(CodeGoingAway), AfterMs: 3_000, Endpoints: []string{"b:1", "quic://no"},
	}}
	b := newWelcomedBench(t, testConfig())
	b.say(goAway)
	b.pass(2_999 * time.Millisecond)
	b.expectLog()
	b.pass(time.Millisecond)
	b.expectLog("disconnect", "reconnecting 1", "connect ws://b:1")

	// If it closes before, the client still comes when it was told.
	b = newWelcomedBench(t, testConfig())
	b.say(goAway)
	b.engine.handleDisconnected(b.now, refusal(4200, "bye", 0))
	b.pass(2_999 * time.Millisecond)
	b.expectLog("reconnecting 1")
	b.pass(time.Millisecond)
	b.expectLog("connect ws://b:1")

	// A node that says to stay away is obeyed at once.
	b = newWelcomedBench(t, testConfig())
	b.say(&wire.ServerFrame{Kind: wire.ServerGoAway, GoAway: wire.GoAway{Code: uint16(CodeEnded), AfterMs: 3_000}})
	b.expectLog("disconnect", "closed the node asked the client to leave (ended)")
}

// Until it leaves, the client hears what comes; what it asks belongs on the next connection.
func TestANodeThatLeavesRefusesAndIsNotLeftEarly(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.read("general")
	b.say(&wire.ServerFrame{Kind: wire.ServerGoAway, GoAway: wire.GoAway{Code: uint16(CodeGoingAway), AfterMs: 3_000}})
	b.send(c, "a")
	b.refuse(b.frame().Request, CodeGoingAway)
	b.push(1)
	b.expectEvents("1")
	b.expectLog()
	b.pass(3 * time.Second)
	b.expectLog("disconnect", "reconnecting 1", "connect ws://a")
	hello := b.helloAgain()
	b.say(subscribedFrame(hello.Request, "general", 1, wire.RecoveryWhole))
	b.expectPublish(1, "a")
}

func TestASessionThatWasEndedIsNotTriedAgain(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.read("general")
	b.engine.handleDisconnected(b.now, refusal(uint16(CodeEnded), "ended by an operator", 0))
	b.expectLog("closed ended by an operator (ended)")
	b.expectEvents("ended ended by an operator (ended)")
	if at := b.engine.nextTimeout(); at != 0 {
		t.Fatalf("something is due at %d", at)
	}
	if _, err := b.engine.open(b.now, "general", nil, &opening{}); !errors.Is(err, CodeEnded) || AdviceOf(err) != DoNotRetry {
		t.Fatal(err)
	}
}

// What a node says before it closes tells more than how it closes.
func TestAComplaintExplainsTheEnd(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.refuse(0, CodeArchived)
	b.expectLog()
	b.engine.handleDisconnected(b.now, disconnected("cut"))
	b.expectLog("closed refused (archived)")
}

func TestWhatANodeComplainedOfLongAgoDoesNotDecideHowTheConnectionEnds(t *testing.T) {
	for name, goesOn := range map[string]func(b *bench){
		"the session went on": func(b *bench) { b.say(&wire.ServerFrame{Kind: wire.ServerPing}) },
		"long ago":            func(b *bench) { b.pass(complaintAge + 1) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newWelcomedBench(t, testConfig())
			b.refuse(0, CodeArchived)
			goesOn(b)
			b.engine.handleDisconnected(b.now, disconnected("cut"))
			b.expectLog("reconnecting 1")
		})
	}
}

// The machine slept, and the engine's clock with it; or somebody set the clock.
func TestAClockThatStoodStillDoesNotLetATokenRunOut(t *testing.T) {
	const hourMs = 3_600_000
	b := newBench(t, testConfig())
	b.engine.handleToken(b.now, "first", nil)
	b.engine.handleConnected(b.now)
	welcome := model.Welcome()
	welcome.TokenExpiresMs = testUnixMs + hourMs
	b.say(&wire.ServerFrame{Request: b.frame().Request, Kind: wire.ServerWelcome, Welcome: welcome})
	b.log = nil
	b.engine.noteClock(b.now, testUnixMs+2_000)
	b.pass(10 * time.Second)
	b.expectLog() // clocks drift
	b.engine.noteClock(b.now, testUnixMs+59*60_000)
	b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	b.pass(44 * time.Second)
	b.expectLog() // three quarters of the minute that is left, or a little more
	b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	b.pass(10 * time.Second)
	b.expectLog("token")
}

func TestATokenIsRenewedInTimeAndOnTheSameConnection(t *testing.T) {
	const hourMs = 3_600_000
	b := newBench(t, testConfig())
	b.engine.handleToken(b.now, "first", nil)
	b.engine.handleConnected(b.now)
	welcome := model.Welcome()
	welcome.TokenExpiresMs = testUnixMs + hourMs
	b.say(&wire.ServerFrame{Request: b.frame().Request, Kind: wire.ServerWelcome, Welcome: welcome})
	b.log = nil
	for range 60 {
		b.pass(45 * time.Second)
		b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	}
	b.expectLog() // three quarters are not over
	for range 12 {
		b.pass(45 * time.Second)
		b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	}
	b.expectLog("token") // nine tenths are over
	b.frames()
	b.engine.handleToken(b.now, "second", nil)
	refresh := b.frame()
	if refresh.Kind != wire.ClientRefresh || refresh.Refresh.Token != "second" {
		t.Fatalf("%+v", refresh)
	}
	b.say(&wire.ServerFrame{Request: refresh.Request, Kind: wire.ServerRefreshed, Refreshed: wire.Refreshed{
		TokenExpiresMs: testUnixMs + 2*hourMs,
	}})
	b.expectLog()
}

// A new token that the node refuses leaves the old one in force, and is asked for again.
func TestARefreshThatIsRefusedIsTriedAgain(t *testing.T) {
	b := newBench(t, testConfig())
	b.engine.handleToken(b.now, "first", nil)
	b.engine.handleConnected(b.now)
	welcome := model.Welcome()
	welcome.TokenExpiresMs = testUnixMs + 60_000
	b.say(&wire.ServerFrame{Request: b.frame().Request, Kind: wire.ServerWelcome, Welcome: welcome})
	b.pass(40 * time.Second)
	b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	b.pass(15 * time.Second)
	b.frames()
	b.log = nil
	b.engine.handleToken(b.now, "other user's", nil)
	b.refuse(b.frame().Request, CodeTokenMismatch)
	b.expectLog()
	b.pass(refreshRetry)
	b.expectLog("token")
	b.engine.handleToken(b.now, "", &TokenError{Err: errors.New("down")})
	b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	b.expectLog()
	b.pass(refreshRetry)
	b.expectLog("token")
}

func TestRefusedTokensAreRenewedAndThenGivenUp(t *testing.T) {
	b := newBench(t, testConfig())
	refuse := func() {
		b.engine.handleToken(b.now, "token", nil)
		b.log = nil
		b.engine.handleConnected(b.now)
		b.refuse(b.frame().Request, CodeTokenExpired)
	}
	for range 2 {
		refuse()
		b.pass(time.Second)
	}
	refuse()
	b.expectLog("connect ws://a", "disconnect", "closed refused (token-expired)")

	// A fixed token does not get better.
	config := testConfig()
	config.tokensRenew = false
	b = newBench(t, config)
	refuse()
	b.expectLog("connect ws://a", "disconnect", "closed refused (token-expired)")
}

func TestWhatIsNoAccessTokenIsToldSoBeforeItTravels(t *testing.T) {
	for token, said := range map[string]string{
		"":                           "it is empty: give an access token, as your server or `millrace token issue` makes it",
		"mr_dev_secret":              "an API key is no access token: your server gets those from POST /v1/tokens",
		"mrr_dev_secret":             "a refresh token is no access token: your server gets those from POST /v1/tokens",
		strings.Repeat("x", 4<<10+1): "it is longer than 4096 bytes",
	} {
		config := testConfig()
		config.tokensRenew = false
		fixed := newBench(t, config)
		fixed.engine.handleToken(fixed.now, token, nil)
		fixed.expectLog("token", "closed no token could be had: "+said)

		renewed := newBench(t, testConfig())
		renewed.engine.handleToken(renewed.now, token, nil)
		renewed.expectLog("token", "reconnecting 1")
	}
}

func TestAFirstConnectionMayHaveToSucceed(t *testing.T) {
	config := testConfig()
	config.failFast = true
	b := newBench(t, config)
	b.engine.handleToken(b.now, "token", nil)
	b.engine.handleDisconnected(b.now, disconnected("refused"))
	b.expectLog("token", "connect ws://a", "closed the connection was lost: refused")

	b = newWelcomedBench(t, config)
	b.engine.handleDisconnected(b.now, disconnected("cut"))
	b.expectLog("reconnecting 1")
}

// Who waits for a first connection waits for what passes: each URL is tried once, and a node that asks for another try gets it.
func TestAFirstConnectionIsTriedAsLongAsANodeAsksForIt(t *testing.T) {
	started := func(urls ...string) *bench {
		config := testConfig()
		config.failFast, config.endpoints = true, nil
		for _, url := range urls {
			config.endpoints = append(config.endpoints, must2(parseEndpoint(url)))
		}
		b := newBench(t, config)
		b.engine.handleToken(b.now, "token", nil)
		return b
	}
	triesOn := func(b *bench, err error) bool {
		b.act()
		b.log = nil
		b.engine.handleDisconnected(b.now, err)
		b.act()
		if last := b.log[len(b.log)-1]; !strings.HasPrefix(last, "reconnecting") {
			return false
		}
		b.pass(time.Duration(b.engine.nextTimeout() - b.now))
		return true
	}
	b := started("ws://a", "ws://b")
	if !triesOn(b, disconnected("nobody there")) {
		t.Error("there is another URL")
	}
	if triesOn(b, disconnected("nobody there")) {
		t.Error("each was tried")
	}
	if triesOn(started("ws://a", "ws://b"), &RefusedError{Code: CodeBadToken}) {
		t.Error("it is bad everywhere")
	}
	for _, code := range []Code{CodeBusy, CodeUnavailable, CodeGoingAway} {
		b := started("ws://a")
		tries := 0
		for triesOn(b, &RefusedError{Code: code}) {
			tries++
		}
		if tries <= 3 || b.now > instant(1).after(b.engine.config.requestTimeout) {
			t.Errorf("%v: %d tries", code, tries)
		}
	}
}

func must2[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestEachSubscriptionOfAHelloGetsItsOwnRefusal(t *testing.T) {
	b := newBench(t, testConfig())
	start := StartLive()
	calls := map[string]*opening{"a": {}, "b": {}, "c": {}}
	for _, name := range []string{"a", "b", "c"} {
		if _, err := b.engine.open(b.now, name, &start, calls[name]); err != nil {
			t.Fatal(err)
		}
	}
	b.engine.handleToken(b.now, "token", nil)
	hello := b.helloAgain()
	if len(hello.Hello.Subscriptions) != 3 {
		t.Fatalf("%+v", hello)
	}
	refuse := func(code Code, name string) {
		b.say(&wire.ServerFrame{Request: hello.Request, Kind: wire.ServerError, Error: wire.Error{
			Code: uint16(code), Message: "refused", Channel: name,
		}})
	}
	refuse(CodeNoAccess, "b")
	refuse(CodeUnavailable, "c")
	b.say(subscribedFrame(hello.Request, "a", 0, wire.RecoveryNone))
	if !errors.Is(calls["b"].err, CodeNoAccess) || !calls["a"].isDone || calls["a"].err != nil || calls["c"].isDone {
		t.Fatalf("%+v %+v %+v", calls["a"], calls["b"], calls["c"])
	}
	b.pass(100 * time.Millisecond)
	b.expectSubscribe(b.frame(), wire.Subscribe{Channel: "c"})
}

func TestBytesThatAreNoFrameEndTheConnection(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.engine.handleFrame(b.now, []byte("not a frame at all"))
	b.expectLog("disconnect", "reconnecting 1")
	b.engine.handleFrame(b.now, []byte("late"))
	b.expectLog()
}

func TestWhatIsUnknownIsNoError(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.say(&wire.ServerFrame{Kind: 99})
	b.expectLog()
}

// As the specification has it, in section 4.7.
func TestWaitsBegin250MillisecondsAndEnd30SecondsLong(t *testing.T) {
	settings, _, err := newSettings("ws://a", nil)
	if err != nil || settings.engine.backoff != (backoffLimits{first: 250 * time.Millisecond, max: 30 * time.Second}) {
		t.Fatalf("%v, %+v", err, settings)
	}
}

func TestWaitsSpreadUnderACeilingThatDoubles(t *testing.T) {
	limits := backoffLimits{first: 100 * time.Millisecond, max: 20 * time.Second}
	random := random{state: 7}
	var highest [12]time.Duration
	ceiling := func(attempt int) time.Duration { return min(limits.first<<attempt, limits.max) }
	for range 2_000 {
		b := backoff{limits: limits}
		for attempt := range highest {
			wait := b.next(&random)
			if wait >= ceiling(attempt) {
				t.Fatalf("attempt %d waits %v", attempt, wait)
			}
			highest[attempt] = max(highest[attempt], wait)
		}
	}
	for attempt, highest := range highest {
		if highest <= ceiling(attempt)*9/10 {
			t.Errorf("attempt %d waits at most %v", attempt, highest)
		}
	}
	b := backoff{limits: backoffLimits{first: time.Second, max: math.MaxInt64}}
	for range 100 {
		if wait := b.next(&random); wait < 0 {
			t.Fatalf("waits %v", wait)
		}
	}
}
