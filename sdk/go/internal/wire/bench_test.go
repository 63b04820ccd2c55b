package wire

import (
	"strings"
	"testing"
)

func BenchmarkDecodeMessage(b *testing.B) {
	input := AppendServer(nil, &ServerFrame{Kind: ServerMessage, Message: Message{
		Channel: 7, Position: Position{Epoch: 1, Offset: 41}, TimeMs: 1, User: []byte("alice"), Producer: 8, Sequence: 9,
		Body: []byte(strings.Repeat("m", 100)),
	}})
	var frame ServerFrame
	b.SetBytes(int64(len(input)))
	b.ReportAllocs()
	for b.Loop() {
		if err := frame.Decode(input); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodePublish(b *testing.B) {
	frame := ClientFrame{Request: 1, Kind: ClientPublish, Publish: Publish{
		Channel: 7, Producer: 8, Sequence: 9, Body: []byte(strings.Repeat("m", 100)),
	}}
	buf := AppendClient(nil, &frame)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendClient(buf[:0], &frame)
	}
}
