package wire

import (
	"errors"
	"reflect"
	"testing"
)

// Whatever bytes come, decoding ends, names a code of the protocol or gives a frame within its limits, and a frame that was
// taken means the same once encoded again.
func FuzzServerFrame(f *testing.F) {
	seed(f, "server.json")
	f.Fuzz(func(t *testing.T, input []byte) {
		var frame, again ServerFrame
		if !taken(t, frame.Decode(input)) || frame.Kind == ServerUnknown {
			return
		}
		if len(frame.Page.Messages) > PageMessagesMax || len(frame.GoAway.Endpoints) > EndpointsMax ||
			len(frame.Message.Body) > PayloadBytesCap {
			t.Fatalf("over its limits: %+v", frame)
		}
		if err := again.Decode(AppendServer(nil, &frame)); err != nil {
			t.Fatalf("encoded again: %v", err)
		}
		if !reflect.DeepEqual(serverMeaning(&frame), serverMeaning(&again)) {
			t.Fatalf("%v, then %v", serverMeaning(&frame), serverMeaning(&again))
		}
	})
}

// As FuzzServerFrame, for what the models of a node in the tests read.
func FuzzClientFrame(f *testing.F) {
	seed(f, "client.json")
	f.Fuzz(func(t *testing.T, input []byte) {
		var frame, again ClientFrame
		if !taken(t, frame.Decode(input)) || frame.Kind == ClientUnknown {
			return
		}
		if len(frame.Hello.Subscriptions) > SubscriptionsCap {
			t.Fatalf("over its limits: %+v", frame)
		}
		if err := again.Decode(AppendClient(nil, &frame)); err != nil {
			t.Fatalf("encoded again: %v", err)
		}
		if !reflect.DeepEqual(clientMeaning(&frame), clientMeaning(&again)) {
			t.Fatalf("%v, then %v", clientMeaning(&frame), clientMeaning(&again))
		}
	})
}

func seed(f *testing.F, file string) {
	loaded := loadVectors(f, file)
	for _, vector := range loaded.Frames {
		f.Add(unhex(f, vector.Hex))
	}
	for _, vector := range loaded.Refused {
		f.Add(unhex(f, vector.Hex))
	}
}

// taken tells whether a frame was decoded; a refusal must have a code that names the peer's fault.
func taken(t *testing.T, err error) bool {
	var refused *FrameError
	if err != nil && (!errors.As(err, &refused) ||
		refused.Code != codeBadFrame && refused.Code != codeTooLarge && refused.Code != codeInvalid) {
		t.Fatalf("refused with %v", err)
	}
	return err == nil
}

func FuzzEncodedTexts(f *testing.F) {
	f.Add("general", "größe 世界", []byte("hi"))
	f.Add("", "a\x00b", []byte{})
	f.Fuzz(func(t *testing.T, name, user string, body []byte) {
		if len(body) > PayloadBytesCap || len(name)+len(user) > PayloadBytesCap {
			return
		}
		message := Message{
			Channel: 1, Position: Position{Epoch: 1, Offset: 2}, Producer: 3, Sequence: 4, User: []byte(user), Body: body,
		}
		// Behind another frame in the same buffer.
		buf := AppendServer(nil, &ServerFrame{Kind: ServerPing})
		begin := len(buf)
		buf = AppendServer(buf, &ServerFrame{Kind: ServerPage, Page: Page{Channel: 1, Messages: []Message{message, message}}})
		var frame ServerFrame
		err := frame.Decode(buf[begin:])
		if valid := string([]rune(user)) == user; (err == nil) != valid {
			t.Fatalf("%q: %v", user, err)
		}
		for _, decoded := range frame.Page.Messages {
			if err == nil && (string(decoded.User) != user || string(decoded.Body) != string(body)) {
				t.Fatalf("%q and %q became %q and %q", user, body, decoded.User, decoded.Body)
			}
		}
	})
}
