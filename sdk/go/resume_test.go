package millrace_test

import (
	"fmt"
	"slices"
	"testing"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// Connections that break.

// Nothing acknowledged is lost, nothing is stored twice, and the reader sees what is stored.
func TestAConnectionThatBreaksAtAnyByteLosesNothing(t *testing.T) {
	const messages = 400
	for seed := range uint64(6) {
		server, ctx := newServer(t, seed), inTime(t)
		server.CutBelow(12_000)
		client := must(millrace.ConnectLazy(urlOf(server), quickTo(server, millrace.WithWindow(32, 1<<20))...))
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
