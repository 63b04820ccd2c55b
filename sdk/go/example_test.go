package millrace_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// exampleServer is a model of a node with twelve messages in the channel general.
func exampleServer() *model.Server {
	server := model.NewServer(1)
	server.Node(func(n *model.Node) {
		for number := range 12 {
			n.Publish("general", fmt.Sprintf("message %d", number+1))
		}
	})
	return server
}

func Example() {
	server := exampleServer()
	defer server.Close()
	ctx := context.Background()

	client, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	general, err := client.Subscribe(ctx, "general")
	if err != nil {
		log.Fatal(err)
	}
	position, err := general.Send(ctx, []byte("hi")) // returns when it is stored
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("stored at", position.Offset)
	for message, err := range general.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", message.User, message.Text())
		break
	}
	// Output:
	// stored at 13
	// user: hi
}

// What was missed since a position that the application kept comes first, however much it is.
func ExampleClient_SubscribeFrom() {
	server := exampleServer()
	defer server.Close()
	ctx := context.Background()
	client, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	kept := millrace.Position{Epoch: 1, Offset: 10} // of the last message that the application has dealt with
	general, err := client.SubscribeFrom(ctx, "general", millrace.StartAfter(kept))
	if err != nil {
		log.Fatal(err)
	}
	for message, err := range general.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(message.Position, message.Text())
		if message.Position.Offset == 12 {
			break
		}
	}
	// Output:
	// 1:11 message 11
	// 1:12 message 12
}

// An iteration over messages also tells what did not come; a loop may go on after it.
func ExampleChannel_Messages() {
	server := exampleServer()
	defer server.Close()
	ctx := context.Background()
	client, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	start := millrace.StartAfter(millrace.Position{Epoch: 1, Offset: 99}) // of a history that is no more
	general, err := client.SubscribeFrom(ctx, "general", start)
	if err != nil {
		log.Fatal(err)
	}
	server.Node(func(n *model.Node) { n.Publish("general", "new") })
	for message, err := range general.Messages(ctx) {
		var reset *millrace.Reset
		switch {
		case errors.As(err, &reset):
			fmt.Println("read the history again up to", reset.Position)
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println(message.Text())
			return
		}
	}
	// Output:
	// read the history again up to 1:12
	// new
}

// What is read on one device is read on the other.
func ExampleSender_MarkRead() {
	server := exampleServer()
	defer server.Close()
	ctx := context.Background()
	client, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	general, err := client.Subscribe(ctx, "general")
	if err != nil {
		log.Fatal(err)
	}
	if err := general.MarkRead(ctx, millrace.Position{Epoch: 1, Offset: 10}); err != nil {
		log.Fatal(err)
	}
	for unread := range general.Unreads(ctx) {
		fmt.Println(unread.Count, "unread")
		if unread.Count == 2 {
			server.Node(func(n *model.Node) { n.MarkElsewhere("general") }) // another device reads to the end
		}
		if unread.Count == 0 {
			break
		}
	}
	// Output:
	// 2 unread
	// 0 unread
}

// Send fast: each message gets its place in the order at once, and its acknowledgement later.
func ExampleSender_Submit() {
	server := exampleServer()
	defer server.Close()
	ctx := context.Background()
	client, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	sender, err := client.Sender(ctx, "general")
	if err != nil {
		log.Fatal(err)
	}
	var tickets []*millrace.Ticket
	for number := range 3 {
		ticket, err := sender.Submit(ctx, fmt.Append(nil, number)) // waits while 256 are on their way
		if err != nil {
			log.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	for _, ticket := range tickets {
		position, err := ticket.Wait(ctx)
		var unknown *millrace.UnconfirmedError
		switch {
		case errors.As(err, &unknown):
			fmt.Println("may be stored, or not:", err)
		case err != nil:
			log.Fatal(err) // certainly not stored
		default:
			fmt.Println(position.Offset)
		}
	}
	// Output:
	// 13
	// 14
	// 15
}

// Back through the history, page by page.
func ExampleSender_Pages() {
	server := exampleServer()
	defer server.Close()
	ctx := context.Background()
	client, err := millrace.Connect(ctx, server.URL(), millrace.WithToken("a token"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	sender, err := client.Sender(ctx, "general")
	if err != nil {
		log.Fatal(err)
	}
	for page, err := range sender.Pages(ctx, millrace.Newest(), 5) {
		if err != nil {
			log.Fatal(err)
		}
		oldest, newest := page.Messages[0], page.Messages[len(page.Messages)-1]
		fmt.Println(oldest.Position.Offset, "to", newest.Position.Offset)
	}
	// Output:
	// 8 to 12
	// 3 to 7
	// 1 to 2
}

// A token function keeps the client signed in; the application can show what the connection does.
func ExampleWithTokenFunc() {
	server := exampleServer()
	defer server.Close()
	tokens := func(ctx context.Context) (string, error) {
		return "a token of the application's own server", nil
	}
	client, err := millrace.ConnectLazy(server.URL(), millrace.WithTokenFunc(tokens), millrace.WithSendTimeout(time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for state := range client.States(context.Background()) {
		if state.IsConnected() {
			fmt.Println("connected to", state.Node)
			break
		}
	}
	// Output: connected to model
}
