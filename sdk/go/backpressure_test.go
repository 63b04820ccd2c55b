package millrace_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// Slow readers, slow nodes, many goroutines: every queue has an end.

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
	client := must(millrace.ConnectLazy(urlOf(server), quickTo(server, millrace.WithWindow(3, 1<<20))...))
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
