package millrace

import (
	"encoding/hex"
	"fmt"
	"time"
)

// State is what a client's connection does.
type State struct {
	// Phase is where it is; the fields below belong to some phases only.
	Phase Phase
	// Session names the session in logs and support cases, when [Connected].
	Session SessionID
	// Node is the name of the node, when [Connected].
	Node string
	// Attempt is which try comes next, counted from 1 since the connection last held, when [Reconnecting].
	Attempt int
	// Delay is how long from this state's beginning until the try, when [Reconnecting].
	Delay time.Duration
	// Err is what ended the last connection, when [Reconnecting]; what ended the client, when [Closed], nil if the application
	// did and every message had its end.
	Err error
}

// IsConnected tells whether requests reach a node now.
func (s State) IsConnected() bool { return s.Phase == Connected }

// Phase is where a client's connection is.
type Phase uint8

const (
	// Connecting for the first time.
	Connecting Phase = iota
	// Connected is when requests reach a node.
	Connected
	// Reconnecting is when the connection was lost, or could not be made, and is tried again.
	Reconnecting
	// Closed for good.
	Closed
)

// String names the phase.
func (p Phase) String() string {
	switch p {
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	case Reconnecting:
		return "reconnecting"
	case Closed:
		return "closed"
	default:
		return fmt.Sprintf("phase %d", uint8(p))
	}
}

// SessionID names a session.
type SessionID [16]byte

// String gives 32 hexadecimal digits.
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }
