package millrace

import "fmt"

// Code is an error code of the protocol: one number each, the same for ever. It is an error itself, so that
//
//	errors.Is(err, millrace.CodeNoAccess)
//
// tells why a node refused. A node may send codes that this version has no name for; their [Code.Advice] still holds.
type Code uint16

// The codes of the protocol.
const (
	// CodeBadFrame says that the bytes are no frame of this protocol.
	CodeBadFrame Code = 4000
	// CodeUnsupportedVersion says that client and node have no protocol version in common.
	CodeUnsupportedVersion Code = 4001
	// CodeUnexpectedFrame says that the first frame was not a hello, or that a second one came.
	CodeUnexpectedFrame Code = 4002
	// CodeTooLarge says that a frame, payload or name is over its limit.
	CodeTooLarge Code = 4003
	// CodeInvalid says that the data is not allowed where it stands, such as a name with a character that is not allowed.
	CodeInvalid Code = 4004
	// CodeNoAccess says that the channel does not exist, or that this user is no member of it.
	CodeNoAccess Code = 4005
	// CodeReadOnly says that the user may read the channel but not publish to it.
	CodeReadOnly Code = 4006
	// CodeArchived says that the channel is archived.
	CodeArchived Code = 4007
	// CodeTooManySubscriptions says that the session has as many subscriptions as it may have.
	CodeTooManySubscriptions Code = 4008
	// CodeOutOfOrder says that the producer's sequence is not the one that is expected next.
	CodeOutOfOrder Code = 4009
	// CodeNoHistory says that the channel keeps no history.
	CodeNoHistory Code = 4010
	// CodeRemoved says that the user was removed from the channel.
	CodeRemoved Code = 4011
	// CodeNotSubscribed says that there is no session subscription to this channel.
	CodeNotSubscribed Code = 4012
	// CodeEnded says that the session was ended by an operator or an application server.
	CodeEnded Code = 4013
	// CodeRateLimited says that there were too many requests.
	CodeRateLimited Code = 4100
	// CodeBusy says that the node has as much work as it can take.
	CodeBusy Code = 4101
	// CodeUnavailable says that the control plane cannot be reached now.
	CodeUnavailable Code = 4102
	// CodeUnknownOutcome says that it is not known whether the message was stored.
	CodeUnknownOutcome Code = 4103
	// CodeBlocked says that an earlier publish of this producer was refused, so this one waits its turn.
	CodeBlocked Code = 4104
	// CodeGoingAway says that the node is stopping or draining.
	CodeGoingAway Code = 4200
	// CodeSlowConsumer says that the session read too slowly and its queue is full.
	CodeSlowConsumer Code = 4201
	// CodeHeartbeatTimeout says that nothing was heard from the client for two heartbeats.
	CodeHeartbeatTimeout Code = 4202
	// CodeHandshakeTimeout says that no hello came in time.
	CodeHandshakeTimeout Code = 4203
	// CodeFenced says that the node lost its lease of the channel.
	CodeFenced Code = 4204
	// CodeInternal says that there is a fault of the node.
	CodeInternal Code = 4205
	// CodeEpochChanged says that the channel's history began anew.
	CodeEpochChanged Code = 4300
	// CodePositionTooOld says that too many messages were missed to send them again.
	CodePositionTooOld Code = 4301
	// CodePositionAhead says that the position is ahead of the channel.
	CodePositionAhead Code = 4302
	// CodeBadToken says that the token cannot be read or that its signature is wrong.
	CodeBadToken Code = 4400
	// CodeTokenExpired says that the token has expired.
	CodeTokenExpired Code = 4401
	// CodeTokenRevoked says that the token was revoked.
	CodeTokenRevoked Code = 4402
	// CodeTokenMismatch says that the new token is for another tenant or user.
	CodeTokenMismatch Code = 4403
)

var codeNames = map[Code]string{
	CodeBadFrame:             "bad-frame",
	CodeUnsupportedVersion:   "unsupported-version",
	CodeUnexpectedFrame:      "unexpected-frame",
	CodeTooLarge:             "too-large",
	CodeInvalid:              "invalid",
	CodeNoAccess:             "no-access",
	CodeReadOnly:             "read-only",
	CodeArchived:             "archived",
	CodeTooManySubscriptions: "too-many-subscriptions",
	CodeOutOfOrder:           "out-of-order",
	CodeNoHistory:            "no-history",
	CodeRemoved:              "removed",
	CodeNotSubscribed:        "not-subscribed",
	CodeEnded:                "ended",
	CodeRateLimited:          "rate-limited",
	CodeBusy:                 "busy",
	CodeUnavailable:          "unavailable",
	CodeUnknownOutcome:       "unknown-outcome",
	CodeBlocked:              "blocked",
	CodeGoingAway:            "going-away",
	CodeSlowConsumer:         "slow-consumer",
	CodeHeartbeatTimeout:     "heartbeat-timeout",
	CodeHandshakeTimeout:     "handshake-timeout",
	CodeFenced:               "fenced",
	CodeInternal:             "internal",
	CodeEpochChanged:         "epoch-changed",
	CodePositionTooOld:       "position-too-old",
	CodePositionAhead:        "position-ahead",
	CodeBadToken:             "bad-token",
	CodeTokenExpired:         "token-expired",
	CodeTokenRevoked:         "token-revoked",
	CodeTokenMismatch:        "token-mismatch",
}

// String gives the name of the code in kebab case, or its number if this version has no name for it.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// Error gives the same as [Code.String].
func (c Code) Error() string { return c.String() }

// Advice says what to do about the code, by its range.
func (c Code) Advice() Advice {
	switch {
	case c >= 4000 && c < 4100:
		return DoNotRetry
	case c >= 4100 && c < 4200:
		return Retry
	case c >= 4300 && c < 4400:
		return Reload
	case c >= 4400 && c < 4500:
		return Authenticate
	default:
		// It suits every WebSocket close code that is not the protocol's, too.
		return Reconnect
	}
}

// Advice is what to do about an error.
type Advice uint8

const (
	// DoNotRetry says that the same call will fail again.
	DoNotRetry Advice = iota
	// Retry says that the same call can succeed after a while.
	Retry
	// Reconnect says that the connection ended; a client that is open comes back by itself.
	Reconnect
	// Reload says that the position cannot be resumed: read the history again.
	Reload
	// Authenticate says that a new token is needed.
	Authenticate
)

// String names the advice.
func (a Advice) String() string {
	switch a {
	case DoNotRetry:
		return "do not retry"
	case Retry:
		return "retry"
	case Reconnect:
		return "reconnect"
	case Reload:
		return "reload"
	case Authenticate:
		return "authenticate"
	default:
		return fmt.Sprintf("advice %d", uint8(a))
	}
}
