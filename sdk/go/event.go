package millrace

import (
	"fmt"
	"time"
	"unicode/utf8"

	"millrace.dev/go/internal/wire"
)

// Position is a place in a channel's history: everything up to and including Offset is behind it.
type Position struct {
	// Epoch is one incarnation of the channel's history, from 1; offsets compare only within it.
	Epoch uint32
	// Offset is that of the last message behind this place, counted from 1 without gaps; 0 is before the first.
	Offset uint64
}

// String gives epoch and offset.
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Epoch, p.Offset) }

// before is the place before a message.
func (p Position) before() Position {
	if p.Offset > 0 {
		p.Offset--
	}
	return p
}

// HistoryClass is what a channel keeps of its messages, and when they are delivered.
type HistoryClass uint8

const (
	// Durable channels keep every message, acknowledged and delivered once it is stored.
	Durable HistoryClass = HistoryClass(wire.Durable)
	// Windowed channels deliver and acknowledge at once and store soon after; a crash may lose the last second.
	Windowed HistoryClass = HistoryClass(wire.Windowed)
	// NoHistory channels keep nothing: no offsets, delivered to those who listen now.
	NoHistory HistoryClass = HistoryClass(wire.NoHistory)
)

// String names the class.
func (h HistoryClass) String() string {
	switch h {
	case Durable:
		return "durable"
	case Windowed:
		return "windowed"
	case NoHistory:
		return "none"
	default:
		return fmt.Sprintf("history class %d", uint8(h))
	}
}

// An Event is something that a subscription has to tell: a [*Message], a [*Skipped], a [*Reset] or a [CanPublish].
type Event interface {
	// size is how many bytes it holds in a queue, its fixed size left out.
	size() int
}

// A Message is a message of a channel. Each comes once, in the order of the channel.
type Message struct {
	// Position is its place; keep it to go on from here with [StartAfter]. Offset 0 in a channel without history.
	Position Position
	// Time is when the node accepted it, to the millisecond.
	Time time.Time
	// User is who sent it.
	User string
	// Producer is by which run of the sender.
	Producer uint64
	// Sequence is its place among the messages of that run.
	Sequence uint64
	// Body is what was sent.
	Body []byte
}

// Text is the body as text; bytes that are not UTF-8 become U+FFFD.
func (m *Message) Text() string {
	if utf8.Valid(m.Body) {
		return string(m.Body)
	}
	return string([]rune(string(m.Body)))
}

func (m *Message) size() int { return len(m.Body) + len(m.User) }

func messageOf(message *wire.Message) *Message {
	return &Message{
		Position: Position(message.Position),
		Time:     time.UnixMilli(message.TimeMs),
		User:     string(message.User),
		Producer: message.Producer,
		Sequence: message.Sequence,
		Body:     append([]byte{}, message.Body...),
	}
}

// Skipped says which messages were not delivered and will not be. It is an error, too, for [Channel.Messages].
type Skipped struct {
	// Reason is why.
	Reason SkipReason
	// First and Last are the first and the last that are missing, for [SlowConsumer]; the history has them. In a channel that
	// keeps no history both offsets are 0.
	First, Last Position
	// Messages is how many, or more if the node skipped some as well, for [QueueFull].
	Messages uint64
}

func (s *Skipped) size() int { return 0 }

func (s *Skipped) Error() string {
	switch s.Reason {
	case QueueFull:
		return fmt.Sprintf("%d messages were skipped: the application read too slowly", s.Messages)
	case Interrupted:
		return "messages may have been missed: the connection was interrupted"
	default:
		return fmt.Sprintf("messages %v to %v were skipped: this client read too slowly", s.First, s.Last)
	}
}

// Advice is [Reload]: the history has what is missing, if the channel keeps one.
func (s *Skipped) Advice() Advice { return Reload }

// SkipReason is why messages were not delivered.
type SkipReason uint8

const (
	// SlowConsumer says that this client read too slowly, and that the channel's policy is to skip.
	SlowConsumer SkipReason = iota
	// QueueFull says that the application read too slowly from a channel that keeps no history.
	QueueFull
	// Interrupted says that the connection was interrupted, and that the channel keeps no history: it is not known how many.
	Interrupted
)

// String names the reason.
func (r SkipReason) String() string {
	switch r {
	case SlowConsumer:
		return "slow consumer"
	case QueueFull:
		return "queue full"
	case Interrupted:
		return "interrupted"
	default:
		return fmt.Sprintf("skip reason %d", uint8(r))
	}
}

// Reset says that the history is not what it was: what the application holds from before may be gone or incomplete, and it
// reads the history again. Messages after Position follow. It is an error, too, for [Channel.Messages].
type Reset struct {
	// Reason is [CodeEpochChanged] if stored messages were lost, [CodePositionTooOld] if they were swept before they were
	// read, [CodePositionAhead] if the channel is shorter than it was. A code that this version does not know is told as
	// [CodeEpochChanged].
	Reason Code
	// Position is where delivery goes on.
	Position Position
}

func (r *Reset) size() int { return 0 }

func (r *Reset) Error() string {
	return fmt.Sprintf("the history must be read again up to %v (%v)", r.Position, r.Reason)
}

// Advice is [Reload].
func (r *Reset) Advice() Advice { return Reload }

// CanPublish says that the right to publish to the channel was given or taken.
type CanPublish bool

func (CanPublish) size() int { return 0 }

// Page is a page of history, in ascending order of offset.
type Page struct {
	// Messages has the messages, oldest first.
	Messages []*Message
	// More tells whether there are more messages in the direction that was asked for.
	More bool
}

// Start is where a subscription starts. The zero Start is [StartLive].
type Start struct {
	kind     placeKind
	position Position
}

// StartLive begins with the next message.
func StartLive() Start { return Start{} }

// StartAfter begins with the first message after a position, as a resume: what was missed comes first, in order and once,
// however much it is. If that cannot be, the first event says so. The position must be one that a channel gave.
func StartAfter(position Position) Start { return Start{kind: placeAt, position: position} }

// StartAfterOffset begins with the first message after an offset, whatever the epoch, read from the history; 0 starts with the
// oldest that is kept.
func StartAfterOffset(offset uint64) Start {
	return Start{kind: placeOffset, position: Position{Offset: offset}}
}

func (s Start) check() error {
	if s.kind == placeAt && s.position.Epoch == 0 {
		return &InvalidError{What: "position", Reason: "it has epoch 0; keep the position of a message"}
	}
	return nil
}

// HistoryRange is which part of a history a page shows. The zero HistoryRange is [Newest].
type HistoryRange struct {
	kind   wire.RangeKind
	offset uint64
}

// Newest is the newest messages.
func Newest() HistoryRange { return HistoryRange{} }

// Before is the messages just before an offset. There are none before offset 1.
func Before(offset uint64) HistoryRange {
	return HistoryRange{kind: wire.Before, offset: max(offset, 1)}
}

// After is the messages just after an offset; 0 begins with the oldest that is kept.
func After(offset uint64) HistoryRange { return HistoryRange{kind: wire.After, offset: offset} }

// beyond is the part behind a page that is not empty, in the same direction.
func (h HistoryRange) beyond(page *Page) HistoryRange {
	if h.kind == wire.After {
		return After(page.Messages[len(page.Messages)-1].Position.Offset)
	}
	return Before(page.Messages[0].Position.Offset)
}
