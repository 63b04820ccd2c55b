package millrace

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Error is what every error of this package is: it says what to do next. Get it with [errors.As], or ask [AdviceOf].
//
// The SDK has already done what can be done without the application (reconnect, resume, send again), so an error that reaches
// a caller is final for that call.
type Error interface {
	error
	// Advice is what to do about it.
	Advice() Advice
}

// AdviceOf says what to do about an error of this package, wrapped or not. Of errors that are not of this package,
// [context.DeadlineExceeded] gives [Retry], everything else [DoNotRetry].
func AdviceOf(err error) Advice {
	var advised Error
	switch {
	case errors.As(err, &advised):
		return advised.Advice()
	case errors.Is(err, context.DeadlineExceeded):
		return Retry
	default:
		return DoNotRetry
	}
}

// IsRetryable tells whether the same call can succeed later with nothing changed. A retry of a message that is
// [UnconfirmedError] may store it twice.
func IsRetryable(err error) bool {
	advice := AdviceOf(err)
	return advice == Retry || advice == Reconnect
}

// RetryAfter is when to try again, if the node said so, else 0.
func RetryAfter(err error) time.Duration {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.RetryAfter
	}
	return 0
}

// CodeOf is the code of the protocol behind an error, or 0 if there is none.
func CodeOf(err error) Code {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return 0
}

// A RefusedError says that the node refused with a code of the protocol. It is its code: errors.Is(err, CodeNoAccess).
type RefusedError struct {
	// Code says why, and what to do.
	Code Code
	// Message says what happened, for a person.
	Message string
	// RetryAfter is when to try again; 0 if the node does not say.
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("refused (%v)", e.Code)
	}
	return fmt.Sprintf("%s (%v)", e.Message, e.Code)
}

// Advice is that of the code.
func (e *RefusedError) Advice() Advice { return e.Code.Advice() }

// Is tells whether target is the code.
func (e *RefusedError) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// An UnconfirmedError says that it is not known whether a message was stored: it had been sent, and then Err happened. It may
// yet be stored within a minute, even behind messages that were sent after it. A message that fails with any other error was
// certainly not stored.
type UnconfirmedError struct {
	// Err is what ended the wait.
	Err error
}

func (e *UnconfirmedError) Error() string {
	return "it is not known whether the message was stored: " + e.Err.Error()
}

// Unwrap gives what ended the wait.
func (e *UnconfirmedError) Unwrap() error { return e.Err }

// Advice is that of what ended the wait.
func (e *UnconfirmedError) Advice() Advice { return AdviceOf(e.Err) }

func unconfirmed(err error) error {
	if _, ok := err.(*UnconfirmedError); ok {
		return err
	}
	return &UnconfirmedError{Err: err}
}

// A ConnectError says that no connection could be made.
type ConnectError struct {
	// Endpoint is the URL that was tried.
	Endpoint string
	// Err is what failed.
	Err error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("cannot connect to %s: %v", e.Endpoint, e.Err)
}

// Unwrap gives what failed.
func (e *ConnectError) Unwrap() error { return e.Err }

// Advice is [Reconnect].
func (e *ConnectError) Advice() Advice { return Reconnect }

// A DisconnectedError says that the connection ended without a code of the protocol.
type DisconnectedError struct {
	// Reason is what is known about it.
	Reason string
	// Err is what failed, if something did.
	Err error
}

func (e *DisconnectedError) Error() string { return "the connection was lost: " + e.Reason }

// Unwrap gives what failed.
func (e *DisconnectedError) Unwrap() error { return e.Err }

// Advice is [Reconnect].
func (e *DisconnectedError) Advice() Advice { return Reconnect }

func disconnected(reason string) error { return &DisconnectedError{Reason: reason} }

// A ProtocolError says that the other side sent bytes that are not this protocol.
type ProtocolError struct {
	// Err says what is wrong with them.
	Err error
}

func (e *ProtocolError) Error() string { return "the node broke the protocol: " + e.Err.Error() }

// Unwrap says what is wrong with the bytes.
func (e *ProtocolError) Unwrap() error { return e.Err }

// Advice is [Reconnect].
func (e *ProtocolError) Advice() Advice { return Reconnect }

// A URLError says that a URL cannot be used.
type URLError struct {
	// Reason is what is wrong with it.
	Reason string
}

func (e *URLError) Error() string { return "the URL cannot be used: " + e.Reason }

// Advice is [DoNotRetry].
func (e *URLError) Advice() Advice { return DoNotRetry }

// A NameError says that the name of a channel cannot be one. Names are 1 to 128 bytes of UTF-8: letters and digits of any
// script and -_.:@~.
type NameError struct {
	// Name is what was given.
	Name string
	// Reason is what is wrong with it.
	Reason string
}

func (e *NameError) Error() string { return "the channel's name cannot be used: " + e.Reason }

// Advice is [DoNotRetry].
func (e *NameError) Advice() Advice { return DoNotRetry }

// An InvalidError says that the caller gave something else that cannot be used: a position, an option.
type InvalidError struct {
	// What is what was given.
	What string
	// Reason is what is wrong with it.
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("the %s cannot be used: %s", e.What, e.Reason)
}

// Advice is [DoNotRetry].
func (e *InvalidError) Advice() Advice { return DoNotRetry }

// A TooLargeError says that a message is larger than the node takes.
type TooLargeError struct {
	// Bytes is the size of the body.
	Bytes int
	// BytesMax is the limit for a body.
	BytesMax int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the message is %d bytes, the limit is %d", e.Bytes, e.BytesMax)
}

// Advice is [DoNotRetry].
func (e *TooLargeError) Advice() Advice { return DoNotRetry }

// Is tells whether target is [CodeTooLarge], which a node would have said.
func (e *TooLargeError) Is(target error) bool { return target == error(CodeTooLarge) }

// A TokenError says that the application's [TokenFunc] failed, or gave what cannot be a token.
type TokenError struct {
	// Err is what failed.
	Err error
}

func (e *TokenError) Error() string { return "no token could be had: " + e.Err.Error() }

// Unwrap gives what failed.
func (e *TokenError) Unwrap() error { return e.Err }

// Advice is [Authenticate].
func (e *TokenError) Advice() Advice { return Authenticate }

// A TimeoutError says that nothing came within the time for it.
type TimeoutError struct {
	// Awaited is what was waited for.
	Awaited Awaited
}

func (e *TimeoutError) Error() string { return "timed out waiting for " + e.Awaited.String() }

// Timeout is true, as for the errors of package net.
func (e *TimeoutError) Timeout() bool { return true }

// Advice is [Retry].
func (e *TimeoutError) Advice() Advice { return Retry }

// Awaited is what was waited for in vain.
type Awaited uint8

const (
	// AwaitedConnection is a connection with a welcome.
	AwaitedConnection Awaited = iota
	// AwaitedToken is a token from the application's [TokenFunc].
	AwaitedToken
	// AwaitedAnswer is the answer to a request.
	AwaitedAnswer
	// AwaitedAcknowledgement is the acknowledgement of a message.
	AwaitedAcknowledgement
	// AwaitedHeartbeat is any sign of life from the node.
	AwaitedHeartbeat
	// AwaitedFlush is all acknowledgements, while closing.
	AwaitedFlush
)

// String names it.
func (a Awaited) String() string {
	switch a {
	case AwaitedConnection:
		return "the connection"
	case AwaitedToken:
		return "a token"
	case AwaitedAnswer:
		return "an answer"
	case AwaitedAcknowledgement:
		return "an acknowledgement"
	case AwaitedHeartbeat:
		return "a heartbeat"
	case AwaitedFlush:
		return "the last acknowledgements"
	default:
		return fmt.Sprintf("awaited %d", uint8(a))
	}
}

// An AlreadySubscribedError says that the client reads this channel already; a second reader would take messages from the
// first.
type AlreadySubscribedError struct {
	// Channel is the name of the channel.
	Channel string
}

func (e *AlreadySubscribedError) Error() string {
	return fmt.Sprintf("this client has a subscription to %s already", e.Channel)
}

// Advice is [DoNotRetry].
func (e *AlreadySubscribedError) Advice() Advice { return DoNotRetry }

// plainError is an error that is known by its identity.
type plainError struct {
	text   string
	advice Advice
}

func (e *plainError) Error() string  { return e.text }
func (e *plainError) Advice() Advice { return e.advice }

var (
	// ErrClosed says that the application closed the client, or the handle.
	ErrClosed error = &plainError{"the client is closed", DoNotRetry}
	// ErrTooManyRequests says that as many history requests of a channel wait as may.
	ErrTooManyRequests error = &plainError{"too many history requests wait for an answer", Retry}
)
