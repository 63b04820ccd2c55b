// Package millrace is the Go SDK of Millrace: chat channels over one connection that comes back by itself.
//
//	client, err := millrace.Connect(ctx, "ws://127.0.0.1:7400", millrace.WithToken(token))
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	general, err := client.Subscribe(ctx, "general")
//	if err != nil {
//		return err
//	}
//	if _, err := general.Send(ctx, []byte("hi")); err != nil { // stored, once
//		return err
//	}
//	for message, err := range general.Messages(ctx) {
//		if err != nil {
//			return err
//		}
//		fmt.Printf("%s: %s\n", message.User, message.Text())
//	}
//
// What it takes care of:
//   - it reconnects, with jittered waits, and goes where a node that leaves sends it;
//   - every message sent is tried until it is acknowledged, stored once, and in order ([Sender.Send]);
//   - every message of a subscription comes once and in order, whatever happened in between, or an [Event] says what did not
//     come;
//   - how far the user has read is kept in step over all their devices ([Sender.MarkRead], [Sender.Unread]);
//   - nothing grows without bound: a slow reader costs its queue ([WithQueue]), a fast sender, and one without a connection,
//     waits for its window ([WithWindow]);
//   - tokens are renewed before they expire, on the same connection ([WithTokenFunc]);
//   - every wait has a limit, and every [Error] says what to do next.
//
// In reading order: [Connect] and [Client]; [Channel], [Sender], [Ticket]; [Event], [Message]; [State]; [Error].
//
// Every method that may wait takes a context, whose end ends only that wait. Goroutines of a client end with [Client.Close].
package millrace
