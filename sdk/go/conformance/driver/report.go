package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	millrace "millrace.dev/go"
)

// What the SDK says, as events are written.

func positionOf(position millrace.Position) object {
	return object{"epoch": position.Epoch, "offset": position.Offset}
}

func messageOf(message *millrace.Message) object {
	told := object{
		"position": positionOf(message.Position),
		"time_ms":  message.Time.UnixMilli(),
		"user":     message.User,
		"producer": strconv.FormatUint(message.Producer, 10),
		"sequence": message.Sequence,
	}
	if utf8.Valid(message.Body) {
		told["text"] = string(message.Body)
	} else {
		told["base64"] = base64.StdEncoding.EncodeToString(message.Body)
	}
	return told
}

// eventOf is an event without its client and channel.
func eventOf(event millrace.Event, err error) object {
	switch event := event.(type) {
	case *millrace.Message:
		told := messageOf(event)
		told["event"] = "message"
		return told
	case *millrace.Skipped:
		told := object{"event": "skipped"}
		switch event.Reason {
		case millrace.SlowConsumer:
			told["reason"], told["first"], told["last"] = "slow-consumer", positionOf(event.First), positionOf(event.Last)
		case millrace.QueueFull:
			told["reason"], told["messages"] = "queue-full", event.Messages
		case millrace.Interrupted:
			told["reason"] = "interrupted"
		}
		return told
	case *millrace.Reset:
		return object{"event": "reset", "code": uint16(event.Reason), "position": positionOf(event.Position)}
	case millrace.CanPublish:
		return object{"event": "can_publish", "can_publish": bool(event)}
	default:
		return object{"event": "ended", "error": errorOf(err)}
	}
}

func stateOf(state millrace.State) object {
	told := object{"state": state.Phase.String()}
	switch state.Phase {
	case millrace.Connected:
		told["session"], told["node"] = state.Session.String(), state.Node
	case millrace.Reconnecting:
		told["attempt"], told["delay_ms"] = state.Attempt, state.Delay.Milliseconds()
	}
	if state.Err != nil {
		told["error"] = errorOf(state.Err)
	}
	return told
}

func errorOf(err error) object {
	told := object{"kind": kindOf(err), "advice": adviceOf(err), "message": err.Error()}
	if code := millrace.CodeOf(err); code != 0 {
		told["code"] = uint16(code)
	}
	if after := millrace.RetryAfter(err); after != 0 {
		told["retry_after_ms"] = after.Milliseconds()
	}
	if unknown, ok := err.(*millrace.UnconfirmedError); ok {
		told["cause"] = errorOf(unknown.Err)
	}
	return told
}

func kindOf(err error) string {
	switch err.(type) {
	case *millrace.RefusedError:
		return "refused"
	case *millrace.UnconfirmedError:
		return "unconfirmed"
	case *millrace.ConnectError:
		return "connect"
	case *millrace.DisconnectedError:
		return "disconnected"
	case *millrace.ProtocolError:
		return "protocol"
	case *millrace.URLError:
		return "url"
	case *millrace.NameError:
		return "name"
	case *millrace.TooLargeError:
		return "too-large"
	case *millrace.TokenError:
		return "token"
	case *millrace.TimeoutError:
		return "timed-out"
	case *millrace.AlreadySubscribedError:
		return "already-subscribed"
	}
	switch {
	case errors.Is(err, millrace.ErrTooManyRequests):
		return "too-many-requests"
	case errors.Is(err, millrace.ErrClosed):
		return "closed"
	default:
		// A kind that this driver does not know fails its scenario.
		return fmt.Sprintf("unknown: %T", err)
	}
}

func adviceOf(err error) string {
	switch millrace.AdviceOf(err) {
	case millrace.DoNotRetry:
		return "do-not-retry"
	case millrace.Retry:
		return "retry"
	case millrace.Reconnect:
		return "reconnect"
	case millrace.Reload:
		return "reload"
	default:
		return "authenticate"
	}
}
