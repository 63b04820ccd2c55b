package millrace

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync/atomic"
)

// pageMessages is the messages of a page, unless more or fewer are asked for.
const pageMessages = 50

// A Channel is a subscription to a channel, with the right to publish as far as the user has it. Close it to unsubscribe.
//
// Read it: the client keeps at most its queue for it ([WithQueue]). When that is full, the client takes no more messages for
// this channel and, once there is room, reads from the history what was missed; other channels go on meanwhile. In a channel
// that keeps no history, what finds no room is dropped, and [*Skipped] says how much.
//
// Its methods may be called from several goroutines; several readers share the messages.
type Channel struct {
	sender  *Sender
	inbox   *inbox
	history HistoryClass
	closed  atomic.Bool
}

// Next waits for the next event, in the order of the channel. Its error is what ended the subscription, [ErrClosed] if the
// application did, or that of ctx; ctx ends only this wait, and nothing is lost.
func (c *Channel) Next(ctx context.Context) (Event, error) {
	event, isDue, err := c.inbox.next(ctx)
	if isDue {
		c.sender.shell.taken(c.sender.channel, c.inbox)
	}
	return event, err
}

// Events iterates over the events of the channel until ctx ends or the subscription does. The last pair has the error, unless
// the application closed the subscription.
func (c *Channel) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := c.Next(ctx)
			if errors.Is(err, ErrClosed) || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Messages iterates over the messages of the channel until ctx ends or the subscription does. What did not come is told as an
// error that is a [*Skipped] or a [*Reset]; a loop that goes on after one gets the messages behind it. Any other error is the
// last pair; there is none if the application closed the subscription.
func (c *Channel) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for event, err := range c.Events(ctx) {
			var goesOn bool
			switch event := event.(type) {
			case *Message:
				goesOn = yield(event, nil)
			case *Skipped:
				goesOn = yield(nil, event)
			case *Reset:
				goesOn = yield(nil, event)
			case CanPublish:
				goesOn = true
			default:
				goesOn = yield(nil, err)
			}
			if !goesOn {
				return
			}
		}
	}
}

// Position is the place behind the last event that was read: kept, it is where a later subscription goes on ([StartAfter]).
func (c *Channel) Position() Position {
	position, _ := c.inbox.place()
	return position
}

// CanPublish tells whether the user may publish, as of the last event that was read.
func (c *Channel) CanPublish() bool {
	_, canPublish := c.inbox.place()
	return canPublish
}

// History is what the channel keeps of its messages.
func (c *Channel) History() HistoryClass { return c.history }

// Name is the name of the channel.
func (c *Channel) Name() string { return c.sender.name }

// Sender is the handle to send and to read history that belongs to this channel. It is closed with the channel.
func (c *Channel) Sender() *Sender { return c.sender }

// Send sends a message and waits until it is stored; see [Sender.Send].
func (c *Channel) Send(ctx context.Context, body []byte) (Position, error) {
	return c.sender.Send(ctx, body)
}

// Submit sends a message without waiting for its acknowledgement; see [Sender.Submit].
func (c *Channel) Submit(ctx context.Context, body []byte) (*Ticket, error) {
	return c.sender.Submit(ctx, body)
}

// MarkRead says that the user has read everything up to and with a position, such as a message's; see [Sender.MarkRead].
func (c *Channel) MarkRead(ctx context.Context, position Position) error {
	return c.sender.MarkRead(ctx, position)
}

// Unread is how much is unread; see [Sender.Unread].
func (c *Channel) Unread() (Unread, bool) { return c.sender.Unread() }

// Unreads iterates over how much is unread; see [Sender.Unreads].
func (c *Channel) Unreads(ctx context.Context) iter.Seq[Unread] { return c.sender.Unreads(ctx) }

// Page reads a page of history; see [Sender.Page].
func (c *Channel) Page(ctx context.Context, span HistoryRange, limit int) (*Page, error) {
	return c.sender.Page(ctx, span, limit)
}

// Pages iterates over the history; see [Sender.Pages].
func (c *Channel) Pages(ctx context.Context, span HistoryRange, limit int) iter.Seq2[*Page, error] {
	return c.sender.Pages(ctx, span, limit)
}

// Close unsubscribes. What was sent still goes out. Its error is always nil.
func (c *Channel) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.sender.shell.closeReader(c.sender.channel, c.inbox)
		return c.sender.Close()
	}
	return nil
}

// A Sender is a handle to publish to a channel and to read its history. Senders of one channel share one order of messages and
// one window ([WithWindow]). Its methods may be called from several goroutines.
type Sender struct {
	shell   *shell
	name    string
	channel *channel
	window  *window
	closed  atomic.Bool
}

// Name is the name of the channel.
func (s *Sender) Name() string { return s.name }

// Send sends a message and waits until it is acknowledged, which for a durable channel is when it is stored. It is tried again
// as often as it takes, over reconnects, and stored once. While the window is used up, it waits for room first.
//
// It gives the place of the message; offset 0 in a channel without history, or if an earlier try had stored it so long ago that
// the node does not know where.
//
// When ctx ends first, the message is taken back, if it has not left yet. An [*UnconfirmedError] says that the message was sent
// and its fate is unknown; any other error says that it is not stored, and will not be:
//   - [*RefusedError] if the node refuses it for good, such as with [CodeReadOnly];
//   - [*TooLargeError] if the body is over the node's limit;
//   - [*TimeoutError] if it could not be sent within [WithSendTimeout];
//   - [ErrClosed], or what closed the client; or the error of ctx.
func (s *Sender) Send(ctx context.Context, body []byte) (Position, error) {
	ticket, err := s.Submit(ctx, body)
	if err != nil {
		return Position{}, err
	}
	select {
	case <-ticket.done:
	case <-ctx.Done():
		s.shell.takeBack(s, ticket, ctx.Err())
		<-ticket.done
	}
	return ticket.position, ticket.err
}

// Submit sends a message and returns as soon as it has its place in the order, which is once there is room in the window. The
// ticket tells when it is acknowledged. This is how to send fast: submit one after the other, and look at the tickets later, or
// never. The body is copied.
//
// Its error is [ErrClosed], what closed the client, or that of ctx: then the message is not sent.
func (s *Sender) Submit(ctx context.Context, body []byte) (*Ticket, error) {
	if err := s.window.admit(ctx, len(body)); err != nil {
		return nil, err
	}
	ticket := &Ticket{done: make(chan struct{}), window: s.window, bytes: len(body)}
	if err := s.shell.send(s, ticket, bytes.Clone(body)); err != nil {
		return nil, err
	}
	return ticket, nil
}

// MarkRead says that the user has read everything up to and with a position, such as a message's. It counts here at once and is
// told to the node until that has stored it, over reconnects; of many marks only the furthest goes. All sessions of the user, on
// whichever device, hear of it. A position that is behind where it stands already changes nothing.
//
// Mark while reading, as often as is convenient: it waits for nothing. What a node refuses, such as a position ahead of the
// channel, is dropped: then [Sender.Unread] shows again where the position stands.
//
// Its error is [ErrClosed], what closed the client, or that of ctx.
func (s *Sender) MarkRead(ctx context.Context, position Position) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.shell.markRead(s, position)
}

// Unread tells how far the user has read the channel, and how much is unread; false while that is not known: before the node has
// told, and in a channel that keeps no history.
func (s *Sender) Unread() (Unread, bool) {
	unread, known, _ := s.shell.watchUnread(s.channel)
	return unread, known
}

// Unreads iterates over how much is unread, from what is known now until ctx ends or the client is closed. It shows the newest;
// what was in between may be missed.
func (s *Sender) Unreads(ctx context.Context) iter.Seq[Unread] {
	return func(yield func(Unread) bool) {
		for {
			unread, known, changed := s.shell.watchUnread(s.channel)
			if known && !yield(unread) {
				return
			}
			select {
			case <-changed:
			case <-s.shell.ctx.Done():
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// Page reads a page of history, such as [Newest], [Before] or [After] an offset, of at most limit messages; 0 means 50. The node
// caps it at 1,000 messages and 512 KiB of bodies.
//
// Its error is a [*RefusedError], such as with [CodeNoHistory], a [*TimeoutError] if there is no answer in time,
// [ErrTooManyRequests] if 64 pages of the channel are under way, [ErrClosed], what closed the client, or that of ctx.
func (s *Sender) Page(ctx context.Context, span HistoryRange, limit int) (*Page, error) {
	return s.shell.readHistory(ctx, s, span, limit)
}

// Pages iterates over the history page by page: backwards from [Newest] or [Before], forwards from [After]. It ends behind the
// last page, or with an error. The messages within a page are in ascending order, whichever way it goes.
func (s *Sender) Pages(ctx context.Context, span HistoryRange, limit int) iter.Seq2[*Page, error] {
	return func(yield func(*Page, error) bool) {
		for {
			page, err := s.Page(ctx, span, limit)
			if !yield(page, err) || err != nil || !page.More || len(page.Messages) == 0 {
				return
			}
			span = span.beyond(page)
		}
	}
}

// Close gives the handle back. What was sent still goes out. Its error is always nil.
func (s *Sender) Close() error {
	if s.closed.CompareAndSwap(false, true) {
		s.shell.release(s.channel, senderHandle)
	}
	return nil
}

// A Ticket is the acknowledgement of a message, to come. It need not be waited for.
type Ticket struct {
	done   chan struct{}
	window *window
	bytes  int
	// position and err are set before done is closed.
	position Position
	err      error
}

// Done is closed when the message has its end.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Wait waits for the end of the message and gives its place; see [Sender.Send]. If ctx ends first, the message goes on its way
// all the same, and the error is an [*UnconfirmedError].
func (t *Ticket) Wait(ctx context.Context) (Position, error) {
	select {
	case <-t.done:
		return t.position, t.err
	default:
	}
	select {
	case <-t.done:
		return t.position, t.err
	case <-ctx.Done():
		return Position{}, unconfirmed(ctx.Err())
	}
}

// finish tells the end of the message.
func (t *Ticket) finish(position Position, err error) {
	t.position, t.err = position, err
	t.window.release(t.bytes)
	close(t.done)
}
