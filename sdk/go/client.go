package millrace

import (
	"context"
	"iter"
)

// A Client is a connection to Millrace that comes back by itself, for any number of channels. Its methods may be called from
// several goroutines. It must be closed.
type Client struct {
	shell *shell
}

// Connect connects to the node at a URL, such as ws://127.0.0.1:7400, and fails if the first try does, at each URL that it has; a
// node that asks for another try gets it, within the request timeout. From then on the client reconnects by itself. The path is /v1/connect unless the URL has one. ctx bounds only the first connection.
//
// Its error is a [*URLError] or an [*InvalidError] for what cannot be used, a [*ConnectError] if no node answers there, a
// [*TimeoutError] if none does in time, a [*RefusedError] if the node refuses the token or has no place, a [*TokenError] if the
// [TokenFunc] fails, or that of ctx.
func Connect(ctx context.Context, url string, options ...Option) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	client, err := newClient(url, options, true)
	if err != nil {
		return nil, err
	}
	for {
		state, changed := client.shell.watch()
		switch state.Phase {
		case Connected:
			return client, nil
		case Closed:
			client.shell.running.Wait()
			return nil, state.Err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			// The client has nothing that could fail.
			_ = client.Close()
			return nil, ctx.Err()
		}
	}
}

// ConnectLazy gives a client that connects in the background and tries until it succeeds or is refused for good. What is asked
// of it meanwhile waits, within its time.
//
// Its error is a [*URLError] or an [*InvalidError].
func ConnectLazy(url string, options ...Option) (*Client, error) {
	return newClient(url, options, false)
}

func newClient(url string, options []Option, failFast bool) (*Client, error) {
	settings, endpoints, err := newSettings(url, options)
	if err != nil {
		return nil, err
	}
	return &Client{shell: startShell(settings, endpoints, failFast)}, nil
}

// Subscribe reads a channel from now on.
//
// Its error is a [*RefusedError] if the node refuses, such as with [CodeNoAccess], an [*AlreadySubscribedError] if this client
// reads the channel already, a [*NameError] if channel cannot be a name, a [*TimeoutError] if there is no answer within the
// request timeout, over reconnects, [ErrClosed], what closed the client, or that of ctx.
func (c *Client) Subscribe(ctx context.Context, channel string) (*Channel, error) {
	return c.SubscribeFrom(ctx, channel, StartLive())
}

// SubscribeFrom reads a channel from a place: behind the position of the last message that the application has ([StartAfter]), or
// behind an offset ([StartAfterOffset]). What was missed comes first, in order and once, however much it is.
//
// Its errors are those of [Client.Subscribe].
func (c *Client) SubscribeFrom(ctx context.Context, channel string, start Start) (*Channel, error) {
	sender, inbox, opened, err := c.shell.open(ctx, channel, &start)
	if err != nil {
		return nil, err
	}
	return &Channel{sender: sender, inbox: inbox, history: opened.history}, nil
}

// Sender gives a handle to publish to a channel and to read its history, without a subscription.
//
// Its errors are those of [Client.Subscribe].
func (c *Client) Sender(ctx context.Context, channel string) (*Sender, error) {
	sender, _, _, err := c.shell.open(ctx, channel, nil)
	return sender, err
}

// State is what the connection does now.
func (c *Client) State() State {
	state, _ := c.shell.watch()
	return state
}

// States iterates over what the connection does, from its state now until ctx ends or [Closed] was shown. It shows the newest
// state; ones in between may be missed.
func (c *Client) States(ctx context.Context) iter.Seq[State] {
	return func(yield func(State) bool) {
		for {
			state, changed := c.shell.watch()
			if !yield(state) || state.Phase == Closed {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Close closes the client: no more calls are taken, what was sent gets its end within the close timeout ([WithCloseTimeout]), and
// every channel ends. When it returns, nothing of the client runs any more. Closing a closed client does nothing.
//
// Its error is what ended the client, if it was not this call; a [*TimeoutError] if a message was not acknowledged in time.
func (c *Client) Close() error { return c.shell.close() }
