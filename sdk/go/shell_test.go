package millrace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// The SDK as an application sees it, over real sockets on a port of the system's choice.

// patience is longer than anything here takes; a test that waits so long has failed.
const patience = time.Minute

func inTime(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newServer(t *testing.T, seed uint64) *model.Server {
	t.Helper()
	server := model.NewServer(seed)
	t.Cleanup(server.Close)
	return server
}

func quick(options ...millrace.Option) []millrace.Option {
	usual := []millrace.Option{
		millrace.WithToken("token"), millrace.WithBackoff(time.Millisecond, 20*time.Millisecond),
	}
	return append(usual, options...)
}

func connect(t *testing.T, server *model.Server, options ...millrace.Option) *millrace.Client {
	t.Helper()
	client, err := millrace.Connect(inTime(t), server.URL(), quick(options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// nextMessage is the next event, which must be a message.
func nextMessage(t *testing.T, channel *millrace.Channel) *millrace.Message {
	t.Helper()
	event, err := channel.Next(inTime(t))
	message, ok := event.(*millrace.Message)
	if !ok {
		t.Fatalf("%v %v, not a message", event, err)
	}
	return message
}

func expectOffsets(t *testing.T, channel *millrace.Channel, first, last uint64) {
	t.Helper()
	for offset := first; offset <= last; offset++ {
		if message := nextMessage(t, channel); message.Position.Offset != offset {
			t.Fatalf("message %v, not %d", message.Position, offset)
		}
	}
}

func until(t *testing.T, server *model.Server, expect func(n *model.Node) bool) {
	t.Helper()
	if !server.Until(inTime(t), expect) {
		t.Fatal("the node did not get there in time")
	}
}

func TestWhatIsSentIsStoredAndRead(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	if state := client.State(); !state.IsConnected() || state.Node != "model" || state.Session.String()[:2] != "01" {
		t.Fatalf("%+v", state)
	}
	channel := must(client.Subscribe(ctx, "general"))
	if channel.Name() != "general" || channel.History() != millrace.Durable || !channel.CanPublish() ||
		channel.Position() != (millrace.Position{Epoch: 1}) {
		t.Fatalf("%+v", channel)
	}
	position := must(channel.Send(ctx, []byte("hi")))
	message := nextMessage(t, channel)
	if position.Offset != 1 || message.Position != position || message.Text() != "hi" || message.User != "user" {
		t.Fatalf("%v, %+v", position, message)
	}
	server.Node(func(n *model.Node) { n.Publish("general", "größe 世界\xff") })
	if text := nextMessage(t, channel).Text(); text != "größe 世界\uFFFD" || channel.Position().Offset != 2 {
		t.Fatalf("%q at %v", text, channel.Position())
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := channel.Next(ctx); !errors.Is(err, millrace.ErrClosed) {
		t.Fatal(err)
	}
}

func TestMessagesOfOneSenderKeepTheirOrder(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server, millrace.WithWindow(16, 1<<20))
	sender := must(client.Sender(ctx, "general"))
	var tickets []*millrace.Ticket
	for number := range 1_000 {
		tickets = append(tickets, must(sender.Submit(ctx, fmt.Append(nil, number))))
	}
	for i, ticket := range tickets {
		if position, err := ticket.Wait(ctx); err != nil || position.Offset != uint64(i)+1 {
			t.Fatalf("message %d is at %v: %v", i, position, err)
		}
	}
	server.Node(func(n *model.Node) {
		for i, stored := range n.Channel("general").Stored {
			if string(stored.Body) != fmt.Sprint(i) {
				t.Fatalf("%q at %d", stored.Body, i+1)
			}
		}
	})
}

func TestHistoryIsReadPageByPage(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	server.Node(func(n *model.Node) {
		for number := range 12 {
			n.Publish("general", fmt.Sprint(number))
		}
	})
	sender := must(connect(t, server).Sender(ctx, "general"))
	check := func(span millrace.HistoryRange, limit int, more bool, expect ...uint64) {
		t.Helper()
		page := must(sender.Page(ctx, span, limit))
		if offsets := offsetsOf(page); !slices.Equal(offsets, expect) || page.More != more {
			t.Fatalf("%v %v, not %v %v", offsets, page.More, expect, more)
		}
	}
	check(millrace.Newest(), 0, true, 8, 9, 10, 11, 12)
	check(millrace.Before(8), 3, true, 5, 6, 7)
	check(millrace.Before(0), 0, false)
	check(millrace.After(10), 50, false, 11, 12)

	var back, forth []uint64
	for page, err := range sender.Pages(ctx, millrace.Newest(), 5) {
		back = append(offsetsOf(must(page, err)), back...)
	}
	for page, err := range sender.Pages(ctx, millrace.After(0), 4) {
		forth = append(forth, offsetsOf(must(page, err))...)
	}
	expect := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	if !slices.Equal(back, expect) || !slices.Equal(forth, expect) {
		t.Fatalf("%v and %v", back, forth)
	}
	for page := range sender.Pages(ctx, millrace.Newest(), 5) {
		if len(page.Messages) != 5 {
			t.Fatalf("%+v", page)
		}
		break
	}
}

func offsetsOf(page *millrace.Page) (offsets []uint64) {
	for _, message := range page.Messages {
		offsets = append(offsets, message.Position.Offset)
	}
	return offsets
}

func TestASubscriptionBeginsWhereItIsTold(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	server.Node(func(n *model.Node) {
		for range 30 {
			n.Publish("general", "old")
		}
	})
	client := connect(t, server)
	for _, row := range []struct {
		start millrace.Start
		first uint64
	}{
		{millrace.StartLive(), 31},
		{millrace.StartAfterOffset(0), 1},
		{millrace.StartAfterOffset(25), 26},
		{millrace.StartAfter(millrace.Position{Epoch: 1, Offset: 20}), 21},
		{millrace.StartAfter(millrace.Position{Epoch: 1, Offset: 3}), 4},
	} {
		channel := must(client.SubscribeFrom(ctx, "general", row.start))
		if row.start == millrace.StartLive() {
			server.Node(func(n *model.Node) { n.Publish("general", "new") })
		}
		expectOffsets(t, channel, row.first, 31)
		must(0, channel.Close())
	}
	var invalid *millrace.InvalidError
	if _, err := client.SubscribeFrom(ctx, "general", millrace.StartAfter(millrace.Position{})); !errors.As(err, &invalid) {
		t.Fatal(err)
	}
}

func TestIterationTellsWhatDidNotCome(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	channel := must(client.Subscribe(ctx, "general"))
	server.Node(func(n *model.Node) {
		n.Publish("general", "a")
		n.Faults.Skips = 1_000
		n.Publish("general", "skipped")
		n.Faults.Skips = 0
		n.Publish("general", "b")
	})
	var seen []string
	for message, err := range channel.Messages(ctx) {
		var skipped *millrace.Skipped
		switch {
		case errors.As(err, &skipped):
			seen = append(seen, fmt.Sprintf("skipped %v to %v", skipped.First, skipped.Last))
			continue
		case err != nil:
			t.Fatal(err)
		}
		if seen = append(seen, message.Text()); message.Text() == "b" {
			break
		}
	}
	if expect := []string{"a", "skipped 1:2 to 1:2", "b"}; !slices.Equal(seen, expect) {
		t.Fatalf("%q", seen)
	}
	// It ends without an error when the application closes the channel, with one when its context ends.
	ended, cancel := context.WithCancel(ctx)
	cancel()
	count := 0
	for _, err := range channel.Events(ended) {
		count++
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	must(0, channel.Close())
	for range channel.Events(ctx) {
		count++
	}
	if count != 1 {
		t.Fatalf("%d events", count)
	}
}

// Nothing acknowledged is lost, nothing is stored twice, and the reader sees what is stored.
func TestAConnectionThatBreaksAtAnyByteLosesNothing(t *testing.T) {
	const messages = 400
	for seed := range uint64(6) {
		server, ctx := newServer(t, seed), inTime(t)
		server.CutBelow(12_000)
		client := must(millrace.ConnectLazy(server.URL(), quick(millrace.WithWindow(32, 1<<20))...))
		channel := must(client.SubscribeFrom(ctx, "general", millrace.StartAfterOffset(0)))
		positions := make(chan []millrace.Position, 1)
		go func() {
			var tickets []*millrace.Ticket
			for number := range messages {
				tickets = append(tickets, must(channel.Submit(ctx, fmt.Append(nil, number))))
				if number >= 8 {
					must(tickets[number-8].Wait(ctx))
				}
			}
			var at []millrace.Position
			for _, ticket := range tickets {
				at = append(at, must(ticket.Wait(ctx)))
			}
			positions <- at
		}()
		var seen []millrace.Position
		for number := range messages {
			message := nextMessage(t, channel)
			if message.Text() != fmt.Sprint(number) {
				t.Fatalf("seed %d: %q is number %d", seed, message.Text(), number)
			}
			seen = append(seen, message.Position)
		}
		if at := <-positions; !slices.Equal(at, seen) {
			t.Fatalf("seed %d: acknowledged at %v, seen at %v", seed, at, seen)
		}
		server.Node(func(n *model.Node) {
			if stored := len(n.Channel("general").Stored); stored != messages {
				t.Fatalf("seed %d: %d are stored", seed, stored)
			}
		})
		if connections := server.Connections(); connections <= 5 {
			t.Fatalf("seed %d: only %d connections", seed, connections)
		}
		server.CutBelow(0)
		must(0, client.Close())
	}
}

func TestWhatWasMissedComesBeforeWhatIsNew(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	general, news := must(client.Subscribe(ctx, "general")), must(client.Subscribe(ctx, "news"))
	for round := range uint64(5) {
		connections := server.Connections()
		server.Node(func(n *model.Node) { n.Publish("general", "before") })
		expectOffsets(t, general, round*41+1, round*41+1)
		server.HangUp()
		// More than a resume replays, and less.
		server.Node(func(n *model.Node) {
			for range 40 {
				n.Publish("general", "missed")
			}
			for range 4 {
				n.Publish("news", "missed")
			}
		})
		expectOffsets(t, general, round*41+2, round*41+41)
		expectOffsets(t, news, round*4+1, round*4+4)
		if server.Connections() <= connections {
			t.Fatal("the connection held")
		}
	}
}

func TestLostHistoryIsToldToTheApplication(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	channel := must(connect(t, server).Subscribe(ctx, "general"))
	must(channel.Send(ctx, []byte("a")))
	nextMessage(t, channel)
	server.HangUp()
	server.Node(func(n *model.Node) { n.Channel("general").Epoch++ })
	event, err := channel.Next(ctx)
	expect := millrace.Reset{Reason: millrace.CodeEpochChanged, Position: millrace.Position{Epoch: 2, Offset: 1}}
	if reset, ok := event.(*millrace.Reset); !ok || *reset != expect || millrace.AdviceOf(reset) != millrace.Reload {
		t.Fatalf("%v %v", event, err)
	}
	must(channel.Send(ctx, []byte("b")))
	expectOffsets(t, channel, 2, 2)
}

func TestAChannelThatIsNotReadCostsItsQueueAndNobodyElse(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server, millrace.WithQueue(8, 1<<20))
	general, news := must(client.Subscribe(ctx, "general")), must(client.Subscribe(ctx, "news"))
	server.Node(func(n *model.Node) {
		for range 100 {
			n.Publish("general", "flood")
		}
	})
	// The client stops taking messages of this channel, and says so.
	until(t, server, func(n *model.Node) bool { return n.Has("general") && !n.Reads("general") })
	for offset := range uint64(50) {
		server.Node(func(n *model.Node) {
			n.Publish("general", "flood")
			n.Publish("news", "n")
		})
		expectOffsets(t, news, offset+1, offset+1)
	}
	// It still publishes there.
	must(general.Send(ctx, []byte("mine")))
	expectOffsets(t, general, 1, 151)
	// Once it has caught up it is live again.
	until(t, server, func(n *model.Node) bool { return n.Reads("general") })
}

// expectFull tells that a submit waits.
func expectFull(t *testing.T, sender *millrace.Sender) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := sender.Submit(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v: there is room", err)
	}
}

func TestAFastSenderWaitsForItsWindow(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server, millrace.WithWindow(4, 100))
	general, news := must(client.Sender(ctx, "general")), must(client.Sender(ctx, "news"))
	server.Stall(true)
	var tickets []*millrace.Ticket
	for range 4 {
		tickets = append(tickets, must(general.Submit(ctx, []byte("x"))))
	}
	expectFull(t, general)
	tickets = append(tickets, must(news.Submit(ctx, make([]byte, 1_000))))
	expectFull(t, news)
	server.Stall(false)
	for _, ticket := range tickets {
		must(ticket.Wait(ctx))
	}
	must(news.Send(ctx, []byte("x")))
	// What was not admitted was not sent.
	server.Node(func(n *model.Node) {
		if general, news := n.Channel("general"), n.Channel("news"); len(general.Stored) != 4 || len(news.Stored) != 2 {
			t.Fatalf("%d and %d are stored", len(general.Stored), len(news.Stored))
		}
	})
}

// The window is also what may wait while there is no connection.
func TestWhatIsSentOfflineIsBoundedAndLeavesLater(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	server.CutBelow(1)
	client := must(millrace.ConnectLazy(server.URL(), quick(millrace.WithWindow(3, 1<<20))...))
	defer client.Close()
	opened := make(chan *millrace.Sender, 1)
	go func() { opened <- must(client.Sender(ctx, "general")) }()
	server.CutBelow(0)
	sender := <-opened
	server.CutBelow(1)
	server.HangUp()
	for client.State().IsConnected() {
		runtime.Gosched()
	}
	var tickets []*millrace.Ticket
	for number := range 3 {
		tickets = append(tickets, must(sender.Submit(ctx, fmt.Append(nil, number))))
	}
	expectFull(t, sender)
	server.CutBelow(0)
	for i, ticket := range tickets {
		if position := must(ticket.Wait(ctx)); position.Offset != uint64(i)+1 {
			t.Fatalf("%d is at %v", i, position)
		}
	}
}

// What the node does not read stays within the window and the socket; what it says is heard.
func TestANodeThatDoesNotReadStopsTheSender(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server, millrace.WithWindow(1_000_000, 1<<30))
	sender, channel := must(client.Sender(ctx, "general")), must(client.Subscribe(ctx, "news"))
	server.Stall(true)
	var tickets []*millrace.Ticket
	for range 1_000 {
		tickets = append(tickets, must(sender.Submit(ctx, make([]byte, 16_000))))
	}
	for offset := range uint64(20) {
		server.Node(func(n *model.Node) { n.Publish("news", "n") })
		expectOffsets(t, channel, offset+1, offset+1)
	}
	server.Stall(false)
	for _, ticket := range tickets {
		must(ticket.Wait(ctx))
	}
}

func TestTheStateCanBeWatched(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := must(millrace.ConnectLazy(server.URL(), quick()...))
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
	if _, err := millrace.Connect(short, server.URL()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
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

// Several goroutines use one client; the race detector looks on.
func TestAClientIsSharedByGoroutines(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server, millrace.WithWindow(8, 1<<20), millrace.WithQueue(8, 1<<20))
	channel := must(client.SubscribeFrom(ctx, "general", millrace.StartAfterOffset(0)))
	const senders, each = 8, 50
	var work sync.WaitGroup
	for sender := range senders {
		work.Go(func() {
			handle := must(client.Sender(ctx, "general"))
			defer handle.Close()
			for number := range each {
				must(handle.Send(ctx, fmt.Appendf(nil, "%d/%d", sender, number)))
				must(handle.Page(ctx, millrace.Newest(), 3))
			}
		})
	}
	var seen sync.Map
	// Who takes the last message ends it for the other.
	for range 2 {
		work.Go(func() {
			for {
				event, err := channel.Next(ctx)
				if errors.Is(err, millrace.ErrClosed) {
					return
				}
				if message, ok := must(event, err).(*millrace.Message); ok {
					seen.Store(message.Text(), true)
				}
				if channel.Position().Offset == senders*each {
					must(0, channel.Close())
				}
			}
		})
	}
	work.Wait()
	count := 0
	seen.Range(func(any, any) bool { count++; return true })
	if count != senders*each {
		t.Fatalf("%d of %d messages were seen", count, senders*each)
	}
}

// stranger is a server that is no node: it answers everything with the same bytes, or nothing.
func stranger(t *testing.T, answer string) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if answer != "" {
				input := make([]byte, 4_096)
				conn.Read(input)
				conn.Write([]byte(answer))
			}
		}
	}()
	return "ws://" + listener.Addr().String()
}

func TestAFirstConnectionThatFailsSaysWhy(t *testing.T) {
	check := func(url, expect string) {
		t.Helper()
		_, err := millrace.Connect(inTime(t), url, quick(millrace.WithConnectTimeout(200*time.Millisecond))...)
		if err == nil || !strings.Contains(err.Error(), expect) || !millrace.IsRetryable(err) {
			t.Fatalf("%v, not %s", err, expect)
		}
	}
	check(stranger(t, ""), "timed out waiting for the connection")
	check(stranger(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\nno such page"),
		"the server answered 404: no such page")
	check(stranger(t, "SSH-2.0-OpenSSH\r\n"), "malformed HTTP")
	// Nobody listens on a port that was just given back.
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	url := "ws://" + listener.Addr().String()
	listener.Close()
	check(url, "cannot connect to "+url+"/v1/connect: ")
}

func TestWhatCannotBeUsedIsRefusedAtOnce(t *testing.T) {
	check := func(url, expect string, options ...millrace.Option) {
		t.Helper()
		_, err := millrace.Connect(inTime(t), url, options...)
		if _, lazy := millrace.ConnectLazy(url, options...); err == nil || err.Error() != expect || lazy == nil ||
			millrace.AdviceOf(err) != millrace.DoNotRetry {
			t.Fatalf("%v and %v, not %s", err, lazy, expect)
		}
	}
	check("quic://host", "the URL cannot be used: quic:// is not supported by this version; use ws:// or wss://")
	check("host:1", `the URL cannot be used: "host:1" has no scheme; write ws://host:port or wss://host`)
	check("ws://host", "the window cannot be used: its bounds must be from 1 to 2^31 - 1", millrace.WithWindow(0, 1))
	check("ws://host", "the token function cannot be used: it is nil", millrace.WithTokenFunc(nil))
	check("ws://host", "the connect timeout cannot be used: it must be above zero", millrace.WithConnectTimeout(0))
	check("ws://host", "the back-off cannot be used: its first wait must be above zero and not above its longest",
		millrace.WithBackoff(time.Second, time.Millisecond))
}

func TestAWrongTokenIsNotTriedForEver(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	server.Node(func(n *model.Node) { n.Token = "good" })
	_, err := millrace.Connect(ctx, server.URL(), quick()...)
	if !errors.Is(err, millrace.CodeBadToken) || millrace.AdviceOf(err) != millrace.Authenticate {
		t.Fatal(err)
	}
	// In the background, a function is asked again a few times.
	asked := 0
	tokens := func(context.Context) (string, error) {
		asked++
		return "bad", nil
	}
	client := must(millrace.ConnectLazy(server.URL(), quick(millrace.WithTokenFunc(tokens))...))
	var last millrace.State
	for last = range client.States(ctx) {
	}
	if last.Phase != millrace.Closed || !errors.Is(last.Err, millrace.CodeBadToken) || asked != 3 {
		t.Fatalf("%+v after %d tokens", last, asked)
	}
	if _, err := client.Sender(ctx, "general"); !errors.Is(err, millrace.CodeBadToken) {
		t.Fatal(err)
	}
}

func TestATokenFunctionMayFailAndIsAskedForNewTokens(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	down := errors.New("the backend is down")
	failing := func(context.Context) (string, error) { return "", down }
	_, err := millrace.Connect(ctx, server.URL(), quick(millrace.WithTokenFunc(failing))...)
	var failed *millrace.TokenError
	if !errors.As(err, &failed) || !errors.Is(err, down) || err.Error() != "no token could be had: the backend is down" {
		t.Fatal(err)
	}
	// A function that does not come back holds nothing.
	stuck := func(context.Context) (string, error) { select {} }
	_, err = millrace.Connect(ctx, server.URL(),
		quick(millrace.WithTokenFunc(stuck), millrace.WithRequestTimeout(20*time.Millisecond))...)
	var timeout *millrace.TimeoutError
	if !errors.As(err, &timeout) || timeout.Awaited != millrace.AwaitedToken {
		t.Fatal(err)
	}

	server.Node(func(n *model.Node) { n.TokenExpiresMs = time.Now().UnixMilli() + 200 })
	count := 0
	counting := func(context.Context) (string, error) {
		count++
		return fmt.Sprintf("token %d", count), nil
	}
	connections := server.Connections()
	connect(t, server, millrace.WithTokenFunc(counting))
	until(t, server, func(n *model.Node) bool { return slices.Equal(n.Refreshed, []string{"token 2"}) })
	if server.Connections() != connections+1 {
		t.Fatal("the connection did not hold")
	}
}

func TestChannelsAreRefusedOneByOne(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	_, err := client.Subscribe(ctx, "secret")
	if !errors.Is(err, millrace.CodeNoAccess) || err.Error() != "no such channel (no-access)" {
		t.Fatal(err)
	}
	var name *millrace.NameError
	for _, bad := range []string{"", "a b", "a\x00", "\xff", strings.Repeat("a", 129), "a😀"} {
		if _, err := client.Subscribe(ctx, bad); !errors.As(err, &name) {
			t.Fatalf("%q: %v", bad, err)
		}
	}
	general := must(client.Subscribe(ctx, "general"))
	var twice *millrace.AlreadySubscribedError
	if _, err := client.Subscribe(ctx, "general"); !errors.As(err, &twice) || twice.Channel != "general" {
		t.Fatal(err)
	}
	must(0, general.Close())
	must(client.Subscribe(ctx, "general"))
	if !client.State().IsConnected() {
		t.Fatal(client.State())
	}
}

func TestMessagesAreRefusedOneByOne(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	sender := must(connect(t, server).Sender(ctx, "general"))
	if _, err := sender.Send(ctx, make([]byte, 20_000)); !errors.Is(err, millrace.CodeTooLarge) {
		t.Fatal(err)
	}
	server.Node(func(n *model.Node) { n.Faults.PublishRefused = 1_000 })
	// Every refusal that may pass is tried again; in the end comes one that does not.
	_, err := sender.Send(ctx, []byte("x"))
	if !errors.Is(err, millrace.CodeTooLarge) && !errors.Is(err, millrace.CodeArchived) {
		t.Fatal(err)
	}
	server.Node(func(n *model.Node) { n.Faults.PublishRefused = 0 })
	must(sender.Send(ctx, []byte("y")))
}

func TestTimeIsUpForRequestsWithoutAnAnswer(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	short := 100 * time.Millisecond
	client := connect(t, server, millrace.WithRequestTimeout(short), millrace.WithSendTimeout(short))
	sender := must(client.Sender(ctx, "general"))
	server.Stall(true)
	ticket := must(sender.Submit(ctx, []byte("x")))
	_, read := sender.Page(ctx, millrace.Newest(), 1)
	_, sent := ticket.Wait(ctx)
	_, opened := client.Sender(ctx, "news")
	var unknown *millrace.UnconfirmedError
	var timeout *millrace.TimeoutError
	if !errors.As(sent, &unknown) || !errors.As(sent, &timeout) || timeout.Awaited != millrace.AwaitedAcknowledgement {
		t.Fatal(sent)
	}
	for _, err := range []error{read, opened} {
		if !errors.As(err, &timeout) || timeout.Awaited != millrace.AwaitedAnswer {
			t.Fatal(err)
		}
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
