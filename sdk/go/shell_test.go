package millrace_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// overQUIC is the name of the test that runs others over QUIC.
const overQUIC = "TestTheSameHoldsOverQUIC"

func newServer(t *testing.T, seed uint64) *model.Server {
	t.Helper()
	server := model.NewServer(seed)
	if strings.HasPrefix(t.Name(), overQUIC) {
		server.Close()
		server = model.NewQUICServer(seed)
	}
	t.Cleanup(server.Close)
	return server
}

func quick(options ...millrace.Option) []millrace.Option {
	usual := []millrace.Option{
		millrace.WithToken("token"), millrace.WithBackoff(time.Millisecond, 20*time.Millisecond),
	}
	return append(usual, options...)
}

// quickTo trusts the server as well.
func quickTo(server *model.Server, options ...millrace.Option) []millrace.Option {
	if server.HasQUIC() {
		options = append(options, millrace.WithTLSConfig(server.TLS()))
	}
	return quick(options...)
}

func connect(t *testing.T, server *model.Server, options ...millrace.Option) *millrace.Client {
	t.Helper()
	client, err := millrace.Connect(inTime(t), urlOf(server), quickTo(server, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// urlOf is the one way that a test goes.
func urlOf(server *model.Server) string {
	if server.HasQUIC() {
		return server.QUICURL()
	}
	return server.URL()
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
