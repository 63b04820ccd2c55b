// Package wire is the codec of the protocol between a client and a data node: frames as protocol/schema/client.capnp shapes
// them, under the rules of protocol/SPEC.md. It knows Cap'n Proto's encoding as far as these frames use it, and nothing else
// of the protocol.
//
// An SDK writes client frames and reads server frames. The other two directions are here for tests: for models of a node,
// and for the golden vectors.
package wire

import "fmt"

const (
	// Version is the protocol version that this package speaks.
	Version = 1
	// Subprotocol is the WebSocket sub-protocol; the name carries the major version.
	Subprotocol = "millrace.v1"

	// ClientFrameBytesMax is the size of the largest frame from a client.
	ClientFrameBytesMax = 256 << 10
	// ServerFrameBytesMax is the size of the largest frame from a node.
	ServerFrameBytesMax = 1 << 20
	// PayloadBytesCap is the hard cap of a message's body; a node's own limit is at most this.
	PayloadBytesCap = 64 << 10
	// SubscriptionsCap is the hard cap of subscriptions of one session, and so of those in a hello.
	SubscriptionsCap = 1_000
	// PageMessagesMax is the most messages of a page.
	PageMessagesMax = 1_000
	// TokenBytesMax is the length of the longest access token.
	TokenBytesMax = 4 << 10
	// AgentBytesMax is the length of the longest agent of a hello.
	AgentBytesMax = 128
	// FeatureReadPositions is the bit of a client that is told where its user's read positions stand, and may move them.
	FeatureReadPositions = 1
	// EndpointsMax is the most endpoints of a go-away.
	EndpointsMax = 16
	// NameBytesMax is the length of the longest name of a channel or a user.
	NameBytesMax = 128
)

// Codes under which a peer hears of a frame that is refused.
const (
	codeBadFrame = 4000
	codeTooLarge = 4003
	codeInvalid  = 4004
)

// FrameError says why bytes are no frame of this protocol. All of it is the peer's fault.
type FrameError struct {
	// Code is the code of the protocol under which the peer hears of it.
	Code   uint16
	reason string
}

func (e *FrameError) Error() string { return e.reason }

func badFrame(reason string) error { return &FrameError{Code: codeBadFrame, reason: reason} }

func invalid(reason string) error { return &FrameError{Code: codeInvalid, reason: reason} }

func tooLarge(what string, size, sizeMax int) error {
	return &FrameError{Code: codeTooLarge, reason: fmt.Sprintf("%s has a size of %d, limit is %d", what, size, sizeMax)}
}

// Position is a place in a channel's history.
type Position struct {
	Epoch  uint32
	Offset uint64
}

// HistoryClass is what a channel keeps of its messages.
type HistoryClass uint8

// Kinds of channels.
const (
	Durable HistoryClass = iota
	Windowed
	NoHistory
	historyClasses
)

// StartKind tells how a subscription starts.
type StartKind uint8

// Starts of a subscription.
const (
	StartLive StartKind = iota
	StartAfter
	StartAttach
	startKinds
)

// RangeKind tells which part of the history a page shows.
type RangeKind uint8

// Parts of a history.
const (
	Newest RangeKind = iota
	Before
	After
	rangeKinds
)

// RecoveryKind tells what became of the position that a resuming client showed.
type RecoveryKind uint8

// Outcomes of a resume.
const (
	RecoveryNone RecoveryKind = iota
	RecoveryWhole
	RecoveryReload
	recoveryKinds
)
