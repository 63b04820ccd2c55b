package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
)

// vectors is a file of sdk/conformance/vectors.
type vectors struct {
	Schema string
	Root   string
	Frames []struct {
		Name, Hex string
		Meaning   map[string]any
	}
	Refused []struct {
		Name, Hex, Error string
		Code             uint16
	}
}

func loadVectors(t testing.TB, name string) (loaded vectors) {
	t.Helper()
	readJSON(t, name, &loaded)
	if len(loaded.Frames) < 20 || len(loaded.Refused) < 20 {
		t.Fatalf("%s has %d frames and %d refused", name, len(loaded.Frames), len(loaded.Refused))
	}
	return loaded
}

func readJSON(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "conformance", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, digits string) []byte {
	t.Helper()
	decoded, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

// codec is one direction of the wire: what a frame means, and what it means once encoded again.
type codec struct {
	meaning func(input []byte) (map[string]any, error)
	again   func(input []byte) ([]byte, error)
}

var codecs = map[string]codec{
	"client.json": {
		meaning: func(input []byte) (map[string]any, error) {
			var frame ClientFrame
			err := frame.Decode(input)
			return clientMeaning(&frame), err
		},
		again: func(input []byte) ([]byte, error) {
			var frame ClientFrame
			err := frame.Decode(input)
			return AppendClient(nil, &frame), err
		},
	},
	"server.json": {
		meaning: func(input []byte) (map[string]any, error) {
			var frame ServerFrame
			err := frame.Decode(input)
			return serverMeaning(&frame), err
		},
		again: func(input []byte) ([]byte, error) {
			var frame ServerFrame
			err := frame.Decode(input)
			return AppendServer(nil, &frame), err
		},
	},
}

func TestFramesMeanWhatTheVectorsSay(t *testing.T) {
	for file, codec := range codecs {
		for _, vector := range loadVectors(t, file).Frames {
			t.Run(file+"/"+vector.Name, func(t *testing.T) {
				input := unhex(t, vector.Hex)
				check := func(how string, input []byte) {
					t.Helper()
					meaning, err := codec.meaning(input)
					if err != nil {
						t.Fatalf("%s: %v", how, err)
					}
					if !reflect.DeepEqual(meaning, vector.Meaning) {
						t.Fatalf("%s means\n%v, not\n%v", how, meaning, vector.Meaning)
					}
				}
				check("as it is", input)
				for shift := 1; shift < wordBytes; shift++ {
					shifted := append(make([]byte, shift), input...)
					check("from an odd address", shifted[shift:])
				}
				again, err := codec.again(input)
				if err != nil {
					t.Fatal(err)
				}
				check("encoded again", again)
				for length := range len(input) {
					_, err := codec.meaning(input[:length])
					var refused *FrameError
					if !errors.As(err, &refused) || refused.Code != codeBadFrame {
						t.Fatalf("cut after %d bytes: %v", length, err)
					}
				}
			})
		}
	}
}

func TestFramesThatAreRefused(t *testing.T) {
	for file, codec := range codecs {
		for _, vector := range loadVectors(t, file).Refused {
			t.Run(file+"/"+vector.Name, func(t *testing.T) {
				_, err := codec.meaning(unhex(t, vector.Hex))
				var refused *FrameError
				if !errors.As(err, &refused) || refused.Code != vector.Code {
					t.Fatalf("%v, not code %d (%s)", err, vector.Code, vector.Error)
				}
			})
		}
	}
}

// Another library lays objects out in another order.
func TestFramesOfAnotherLibrary(t *testing.T) {
	foreign := map[string]map[string]string{}
	readJSON(t, "foreign.json", &foreign)
	for file, codec := range codecs {
		loaded := loadVectors(t, file)
		if len(foreign[loaded.Root]) < 20 {
			t.Fatalf("only %d frames for %s", len(foreign[loaded.Root]), loaded.Root)
		}
		for _, vector := range loaded.Frames {
			digits, ok := foreign[loaded.Root][vector.Name]
			if !ok {
				continue
			}
			meaning, err := codec.meaning(unhex(t, digits))
			if err != nil || !reflect.DeepEqual(meaning, vector.Meaning) {
				t.Errorf("%s/%s: %v means\n%v, not\n%v", file, vector.Name, err, meaning, vector.Meaning)
			}
		}
	}
}

func clientMeaning(frame *ClientFrame) map[string]any {
	meaning := map[string]any{"request": number(frame.Request)}
	switch frame.Kind {
	case ClientHello:
		subscriptions := []any{}
		for i := range frame.Hello.Subscriptions {
			subscriptions = append(subscriptions, subscribeMeaning(&frame.Hello.Subscriptions[i]))
		}
		meaning["hello"] = map[string]any{
			"versionMin": number(frame.Hello.VersionMin), "versionMax": number(frame.Hello.VersionMax),
			"features": decimal(frame.Hello.Features), "token": frame.Hello.Token, "agent": frame.Hello.Agent,
			"subscriptions": subscriptions,
		}
	case ClientSubscribe:
		meaning["subscribe"] = subscribeMeaning(&frame.Subscribe)
	case ClientUnsubscribe:
		meaning["unsubscribe"] = map[string]any{"channel": decimal(frame.Unsubscribe.Channel)}
	case ClientPublish:
		meaning["publish"] = map[string]any{
			"channel": decimal(frame.Publish.Channel), "producer": decimal(frame.Publish.Producer),
			"sequence": decimal(frame.Publish.Sequence), "body": hex.EncodeToString(frame.Publish.Body),
		}
	case ClientHistory:
		history := map[string]any{
			"channel": decimal(frame.History.Channel), "messagesMax": number(frame.History.MessagesMax),
		}
		switch frame.History.Range {
		case Newest:
			history["newest"] = nil
		case Before:
			history["before"] = decimal(frame.History.Offset)
		case After:
			history["after"] = decimal(frame.History.Offset)
		}
		meaning["history"] = history
	case ClientRefresh:
		meaning["refresh"] = map[string]any{"token": frame.Refresh.Token}
	case ClientPong:
		meaning["pong"] = nil
	case ClientMarkRead:
		meaning["markRead"] = map[string]any{
			"channel": decimal(frame.MarkRead.Channel), "position": positionMeaning(frame.MarkRead.Position),
		}
	case ClientUnknown:
		meaning["unknown"] = nil
	}
	return meaning
}

func subscribeMeaning(subscribe *Subscribe) map[string]any {
	meaning := map[string]any{"channel": subscribe.Channel}
	switch subscribe.Start {
	case StartLive:
		meaning["live"] = nil
	case StartAfter:
		meaning["after"] = positionMeaning(subscribe.After)
	case StartAttach:
		meaning["attach"] = nil
	}
	return meaning
}

func serverMeaning(frame *ServerFrame) map[string]any {
	meaning := map[string]any{"request": number(frame.Request)}
	switch frame.Kind {
	case ServerWelcome:
		welcome := &frame.Welcome
		meaning["welcome"] = map[string]any{
			"version": number(welcome.Version), "heartbeatMs": number(welcome.HeartbeatMs),
			"features": decimal(welcome.Features), "session": hex.EncodeToString(welcome.Session[:]),
			"tokenExpiresMs":   strconv.FormatInt(welcome.TokenExpiresMs, 10),
			"payloadBytesMax":  number(welcome.PayloadBytesMax),
			"subscriptionsMax": number(welcome.SubscriptionsMax), "node": welcome.Node,
		}
	case ServerSubscribed:
		subscribed := &frame.Subscribed
		recovery := map[string]any{}
		switch subscribed.Recovery {
		case RecoveryNone:
			recovery["none"] = nil
		case RecoveryWhole:
			recovery["whole"] = nil
		case RecoveryReload:
			recovery["reload"] = number(subscribed.Reload)
		}
		meaning["subscribed"] = map[string]any{
			"name": subscribed.Name, "channel": decimal(subscribed.Channel),
			"position": positionMeaning(subscribed.Position), "canPublish": subscribed.CanPublish,
			"history": []string{"durable", "windowed", "none"}[subscribed.History], "recovery": recovery,
		}
	case ServerUnsubscribed:
		meaning["unsubscribed"] = map[string]any{
			"channel": decimal(frame.Unsubscribed.Channel), "code": number(frame.Unsubscribed.Code),
			"reason": frame.Unsubscribed.Reason,
		}
	case ServerPublished:
		published := &frame.Published
		meaning["published"] = map[string]any{
			"channel": decimal(published.Channel), "producer": decimal(published.Producer),
			"sequence": decimal(published.Sequence), "position": positionMeaning(published.Position),
			"duplicate": published.Duplicate,
		}
	case ServerMessage:
		meaning["message"] = messageMeaning(&frame.Message)
	case ServerPage:
		messages := []any{}
		for i := range frame.Page.Messages {
			messages = append(messages, messageMeaning(&frame.Page.Messages[i]))
		}
		meaning["page"] = map[string]any{
			"channel": decimal(frame.Page.Channel), "messages": messages, "more": frame.Page.More,
		}
	case ServerRefreshed:
		meaning["refreshed"] = map[string]any{
			"tokenExpiresMs": strconv.FormatInt(frame.Refreshed.TokenExpiresMs, 10),
		}
	case ServerError:
		meaning["error"] = map[string]any{
			"code": number(frame.Error.Code), "message": frame.Error.Message,
			"retryAfterMs": number(frame.Error.RetryAfterMs), "channel": frame.Error.Channel,
		}
	case ServerPing:
		meaning["ping"] = nil
	case ServerGoAway:
		endpoints := []any{}
		for _, endpoint := range frame.GoAway.Endpoints {
			endpoints = append(endpoints, endpoint)
		}
		meaning["goAway"] = map[string]any{
			"code": number(frame.GoAway.Code), "afterMs": number(frame.GoAway.AfterMs), "endpoints": endpoints,
		}
	case ServerRead:
		meaning["read"] = map[string]any{
			"channel": decimal(frame.Read.Channel), "position": positionMeaning(frame.Read.Position),
		}
	case ServerSkipped:
		meaning["skipped"] = map[string]any{
			"channel": decimal(frame.Skipped.Channel), "first": positionMeaning(frame.Skipped.First),
			"last": positionMeaning(frame.Skipped.Last),
		}
	case ServerUnknown:
		meaning["unknown"] = nil
	}
	return meaning
}

func messageMeaning(message *Message) map[string]any {
	return map[string]any{
		"channel": decimal(message.Channel), "position": positionMeaning(message.Position),
		"timeMs": strconv.FormatInt(message.TimeMs, 10), "user": string(message.User),
		"producer": decimal(message.Producer), "sequence": decimal(message.Sequence),
		"body": hex.EncodeToString(message.Body),
	}
}

func positionMeaning(position Position) map[string]any {
	return map[string]any{"epoch": number(position.Epoch), "offset": decimal(position.Offset)}
}

func number[N uint16 | uint32](n N) json.Number { return json.Number(decimal(uint64(n))) }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
