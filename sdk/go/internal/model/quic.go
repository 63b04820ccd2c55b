package model

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"

	"github.com/quic-go/quic-go"

	"millrace.dev/go/internal/wire"
)

// NewQUICServer starts a server that is reached by QUIC, and by wss; [Server.TLS] trusts its certificate.
func NewQUICServer(seed uint64) *Server {
	s := newServer(seed)
	s.http.StartTLS()
	config := s.http.TLS.Clone()
	config.NextProtos = []string{wire.Subprotocol}
	listener, err := quic.ListenAddr("127.0.0.1:0", config, &quic.Config{MaxIncomingStreams: 1, MaxIncomingUniStreams: -1})
	if err != nil {
		panic(err)
	}
	s.quic = listener
	go func() {
		for {
			conn, err := listener.Accept(context.Background())
			if err != nil {
				return
			}
			go s.serveQUIC(conn)
		}
	}()
	return s
}

// HasQUIC tells whether it is reached by QUIC.
func (s *Server) HasQUIC() bool { return s.quic != nil }

// QUICURL is where it listens for QUIC.
func (s *Server) QUICURL() string { return "quic://" + s.quic.Addr().String() }

// TLS trusts the server's certificate.
func (s *Server) TLS() *tls.Config {
	return s.http.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
}

// outgoing is a frame and where it belongs.
type outgoing struct {
	frame []byte
	// channel is 0 for the control stream.
	channel uint64
	// begins a stream of the channel, in the place of an older one; ends the channel's stream.
	begins, ends bool
}

// route takes what the model says, while it is known what it says it to. The lock is held.
func (s *Server) route(queue []outgoing) []outgoing {
	for bytes, ok := s.node.TakeOut(); ok; bytes, ok = s.node.TakeOut() {
		var frame wire.ServerFrame
		if err := frame.Decode(bytes); err != nil {
			panic(err)
		}
		out := outgoing{frame: bytes}
		switch frame.Kind {
		case wire.ServerSubscribed:
			out.begins = s.node.Session[s.node.Channel(frame.Subscribed.Name)]
			out.channel, out.ends = frame.Subscribed.Channel, !out.begins
		case wire.ServerMessage:
			out.channel = frame.Message.Channel
		case wire.ServerSkipped:
			out.channel = frame.Skipped.Channel
		case wire.ServerUnsubscribed:
			out.channel, out.ends = frame.Unsubscribed.Channel, true
		}
		queue = append(queue, out)
	}
	return queue
}

// serveQUIC has a client's one stream, and opens one for each subscription that carries messages.
func (s *Server) serveQUIC(conn *quic.Conn) {
	code := quic.ApplicationErrorCode(0)
	defer func() { _ = conn.CloseWithError(code, "closing") }()
	control, err := conn.AcceptStream(conn.Context())
	if err != nil {
		return
	}
	s.mu.Lock()
	s.connections++
	s.quicConnections++
	number := s.connections
	cut := &cutter{left: -1}
	if s.cutBelow > 0 {
		cut.left = int(s.dice.Below(s.cutBelow))
	}
	s.node.Accept()
	s.tell()
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(conn.Context())
	defer cancel()
	// Under the lock.
	var waiting []outgoing
	go func() {
		defer cancel()
		s.readQUIC(control, number, cut, &waiting)
	}()
	streams := map[uint64]*quic.SendStream{}
	for {
		s.mu.Lock()
		if s.connections != number {
			s.mu.Unlock()
			return
		}
		queue := s.route(waiting)
		waiting = nil
		closing, changed := s.node.Closing, s.changed
		s.mu.Unlock()
		for _, out := range queue {
			if !s.say(ctx, conn, control, streams, out, cut) {
				return
			}
		}
		if closing != 0 {
			code = quic.ApplicationErrorCode(closing)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// say writes one frame where it belongs; false if the connection breaks.
func (s *Server) say(
	ctx context.Context, conn *quic.Conn, control *quic.Stream, streams map[uint64]*quic.SendStream, out outgoing, cut *cutter,
) bool {
	passes := cut.take(len(out.frame))
	stream, hasStream := streams[out.channel]
	if out.begins {
		if hasStream {
			_ = stream.Close()
		}
		opened, err := conn.OpenUniStreamSync(ctx)
		if err != nil {
			return false
		}
		stream, hasStream, streams[out.channel] = opened, true, opened
	}
	var err error
	isAttached := out.ends && out.frame != nil && hasStream && isSubscribed(out.frame)
	if hasStream && !isAttached {
		_, err = stream.Write(out.frame[:passes])
	} else {
		_, err = control.Write(out.frame[:passes])
	}
	if out.ends && hasStream {
		_ = stream.Close()
		delete(streams, out.channel)
	}
	return err == nil && passes == len(out.frame)
}

// isSubscribed tells the answer to a subscription without messages, which stands on the control stream.
func isSubscribed(bytes []byte) bool {
	var frame wire.ServerFrame
	return frame.Decode(bytes) == nil && frame.Kind == wire.ServerSubscribed
}

// readQUIC gives frames to the model until the client ends its stream.
func (s *Server) readQUIC(control *quic.Stream, number int, cut *cutter, waiting *[]outgoing) {
	for {
		frame, err := readClientFrame(control, cut)
		s.mu.Lock()
		for err == nil && s.isStalled && s.connections == number {
			s.stalling++
			s.tell()
			changed := s.changed
			s.mu.Unlock()
			<-changed
			s.mu.Lock()
			s.stalling--
		}
		switch {
		case err != nil:
			if s.connections == number {
				clear(s.node.Session)
			}
		case s.connections == number && s.node.Closing == 0:
			// What was to be said before was meant for the session as it was before.
			*waiting = s.route(*waiting)
			s.node.Receive(frame)
			*waiting = s.route(*waiting)
		default:
			s.node.Straggle(frame)
		}
		s.tell()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func readClientFrame(stream io.Reader, cut *cutter) ([]byte, error) {
	var table [8]byte
	if _, err := io.ReadFull(stream, table[:]); err != nil {
		return nil, err
	}
	frame := append(table[:], make([]byte, 8*binary.LittleEndian.Uint32(table[4:]))...)
	if _, err := io.ReadFull(stream, frame[8:]); err != nil {
		return nil, err
	}
	if cut.take(len(frame)) < len(frame) {
		return nil, io.ErrUnexpectedEOF
	}
	return frame, nil
}
