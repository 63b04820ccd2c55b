package millrace_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// Beginnings and ends: of clients, of handles, of waits.

func TestAConnectionMayBeEncrypted(t *testing.T) {
	server, ctx := model.NewTLSServer(1), inTime(t)
	t.Cleanup(server.Close)
	client := connect(t, server, millrace.WithHTTPClient(server.HTTPClient()))
	channel := must(client.Subscribe(ctx, "general"))
	must(channel.Send(ctx, []byte("hi")))
	expectOffsets(t, channel, 1, 1)
	server.HangUp()
	must(channel.Send(ctx, []byte("again")))
	expectOffsets(t, channel, 2, 2)
	// A certificate that nobody vouches for is none.
	if _, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatal(err)
	}
}

func TestTheStateCanBeWatched(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := must(millrace.ConnectLazy(urlOf(server), quickTo(server)...))
	var phases []millrace.Phase
	for state := range client.States(ctx) {
		if len(phases) == 0 || phases[len(phases)-1] != state.Phase {
			phases = append(phases, state.Phase)
		}
		switch {
		case state.IsConnected() && server.Connections() == 1:
			server.HangUp()
		case state.IsConnected():
			go client.Close()
		case state.Phase == millrace.Reconnecting && (state.Attempt < 1 || state.Err == nil):
			t.Fatalf("%+v", state)
		case state.Phase == millrace.Closed && state.Err != nil:
			t.Fatal(state.Err)
		}
	}
	if phases[len(phases)-1] != millrace.Closed || !slices.Contains(phases, millrace.Connected) {
		t.Fatalf("%v", phases)
	}
}

func TestAClientAnswersPingsAndLeavesWhenItIsTold(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	channel := must(connect(t, server).Subscribe(ctx, "general"))
	server.Node(func(n *model.Node) { n.Ping() })
	until(t, server, func(n *model.Node) bool { return n.Pongs == 1 })
	server.Node(func(n *model.Node) { n.GoAway(0) })
	until(t, server, func(n *model.Node) bool { return n.Hellos == 2 })
	must(channel.Send(ctx, []byte("x")))
	expectOffsets(t, channel, 1, 1)
}

// A node whose machine is gone sends nothing, not even an end.
func TestASilentConnectionIsReplaced(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	server.Node(func(n *model.Node) { n.HeartbeatMs = 50 })
	client := connect(t, server)
	for state := range client.States(ctx) {
		if state.Phase == millrace.Reconnecting {
			var timeout *millrace.TimeoutError
			if !errors.As(state.Err, &timeout) || timeout.Awaited != millrace.AwaitedHeartbeat || !timeout.Timeout() {
				t.Fatal(state.Err)
			}
			server.Node(func(n *model.Node) { n.HeartbeatMs = 60_000 })
		}
		if state.IsConnected() && server.Connections() > 1 {
			return
		}
	}
	t.Fatal("it did not come back")
}

func TestClosingFlushesAndEndsEverything(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	before := runtime.NumGoroutine()
	client := connect(t, server)
	channel, sender := must(client.Subscribe(ctx, "general")), must(client.Sender(ctx, "news"))
	var tickets []*millrace.Ticket
	for range 200 {
		tickets = append(tickets, must(sender.Submit(ctx, []byte("x"))))
	}
	must(0, client.Close())
	for _, ticket := range tickets {
		select {
		case <-ticket.Done():
			must(ticket.Wait(ctx))
		default:
			t.Fatal("a message has no end")
		}
	}
	for event, err := range channel.Events(ctx) {
		t.Fatalf("%v %v: the application wanted it", event, err)
	}
	_, sent := sender.Submit(ctx, []byte("x"))
	_, subscribed := client.Subscribe(ctx, "general")
	_, read := sender.Page(ctx, millrace.Newest(), 1)
	for _, err := range []error{sent, subscribed, read} {
		if !errors.Is(err, millrace.ErrClosed) {
			t.Fatal(err)
		}
	}
	must(0, client.Close())
	must(0, channel.Close())
	must(0, sender.Close())
	server.Close()
	for runtime.NumGoroutine() > before+1 {
		if inTime := ctx.Err(); inTime != nil {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine()-before)
		}
		runtime.Gosched()
	}
}

func TestClosingDoesNotWaitForEver(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server, millrace.WithCloseTimeout(50*time.Millisecond))
	sender := must(client.Sender(ctx, "general"))
	server.Stall(true)
	ticket := must(sender.Submit(ctx, []byte("x")))
	var timeout *millrace.TimeoutError
	if err := client.Close(); !errors.As(err, &timeout) || timeout.Awaited != millrace.AwaitedFlush {
		t.Fatal(err)
	}
	var unknown *millrace.UnconfirmedError
	if _, err := ticket.Wait(ctx); !errors.As(err, &unknown) {
		t.Fatal(err)
	}
}

func TestAClosedChannelIsUnsubscribedAndItsSendersGoOn(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	channel, sender := must(client.Subscribe(ctx, "general")), must(client.Sender(ctx, "general"))
	must(0, channel.Close())
	until(t, server, func(n *model.Node) bool { return n.Has("general") && !n.Reads("general") })
	if _, err := channel.Send(ctx, []byte("x")); !errors.Is(err, millrace.ErrClosed) {
		t.Fatal(err)
	}
	must(sender.Send(ctx, []byte("x")))
	must(0, sender.Close())
	until(t, server, func(n *model.Node) bool { return !n.Has("general") })
	// And it can be opened again.
	channel = must(client.Subscribe(ctx, "general"))
	must(channel.Send(ctx, []byte("y")))
	if text := nextMessage(t, channel).Text(); text != "y" {
		t.Fatal(text)
	}
}

func TestContextsEndOnlyTheirOwnWait(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	server.Stall(true)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	// A subscription that nobody waits for any more does not stay.
	if _, err := client.Subscribe(short, "news"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	server.Stall(false)
	// And does not stand in the way of another.
	must(0, must(client.Subscribe(ctx, "news")).Close())
	channel := must(client.Subscribe(ctx, "general"))
	until(t, server, func(n *model.Node) bool { return !n.Has("news") })
	for offset := range uint64(20) {
		if _, err := channel.Next(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		server.Node(func(n *model.Node) { n.Publish("general", "x") })
		expectOffsets(t, channel, offset+1, offset+1)
	}
	server.Stall(true)
	ticket := must(channel.Submit(ctx, []byte("y")))
	var unknown *millrace.UnconfirmedError
	if _, err := ticket.Wait(short); !errors.As(err, &unknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := channel.Page(short, millrace.Newest(), 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	server.Stall(false)
	must(ticket.Wait(ctx))
	if _, err := millrace.Connect(short, urlOf(server), millrace.WithToken("a token")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestAMessageIsTakenBackUnlessItHasLeft(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	sender := must(client.Sender(ctx, "general"))
	must(sender.Send(ctx, []byte("first")))
	server.Stall(true)
	// One that the node does not read has left, and stores what it likes.
	left, cancel := context.WithCancel(ctx)
	outcome := make(chan error)
	go func() {
		_, err := sender.Send(left, []byte("left"))
		outcome <- err
	}()
	until(t, server, func(n *model.Node) bool { return server.IsStalling() })
	cancel()
	var unknown *millrace.UnconfirmedError
	if err := <-outcome; !errors.As(err, &unknown) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	server.Stall(false)
	until(t, server, func(n *model.Node) bool { return len(n.Channel("general").Stored) == 2 })

	// Without a connection, nothing leaves.
	server.Close()
	for state := range client.States(ctx) {
		if !state.IsConnected() {
			break
		}
	}
	for range 3 {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		if _, err := sender.Send(short, []byte("taken back")); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &unknown) {
			t.Fatal(err)
		}
		cancel()
	}
	must(0, client.Close())
}

// A handler may ask the client, which is in the middle of a change.
func TestAHandlerOfTheLogMayAskTheClient(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	var asked atomic.Pointer[millrace.Client]
	states := make(chan millrace.State, 16)
	log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		if client := asked.Load(); client != nil {
			states <- client.State()
		}
		return len(line), nil
	}), nil))
	client := connect(t, server, millrace.WithLogger(log))
	asked.Store(client)
	server.HangUp()
	select {
	case <-states:
	case <-ctx.Done():
		t.Fatal("the handler waits for the client, and the client for the handler")
	}
	asked.Store(nil)
}

func TestASessionThatIsEndedEndsItsSubscriptions(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	channel := must(client.Subscribe(ctx, "general"))
	server.Node(func(n *model.Node) { n.Closing = model.Ended })
	for range 2 {
		if _, err := channel.Next(ctx); !errors.Is(err, millrace.CodeEnded) {
			t.Fatal(err)
		}
	}
	if err := client.Close(); !errors.Is(err, millrace.CodeEnded) {
		t.Fatal(err)
	}
}

func TestLogsSayWhatHappensAndNoSecrets(t *testing.T) {
	server := newServer(t, 1)
	var mu sync.Mutex
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(line)
	}), nil))
	client := connect(t, server, millrace.WithToken("a-secret"), millrace.WithLogger(log))
	server.HangUp()
	for state := range client.States(inTime(t)) {
		if state.IsConnected() && server.Connections() == 3 {
			break
		}
	}
	must(0, client.Close())
	mu.Lock()
	defer mu.Unlock()
	if logged := text.String(); !strings.Contains(logged, "reconnecting") || strings.Contains(logged, "a-secret") {
		t.Fatal(logged)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(bytes []byte) (int, error) { return f(bytes) }
