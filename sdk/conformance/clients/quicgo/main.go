// Quicgo judges a Millrace data node over QUIC with quic-go, a QUIC library that nobody here wrote.
//
//	go run . -address 127.0.0.1:PORT -ca ca.pem -token T [-channel general]
//
// The channel is durable, the token's user may read and publish there. Others may use it meanwhile.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/quic-go/quic-go"

	"millrace.dev/go/internal/wire"
)

const (
	subprotocol = "millrace.v1"
	patience    = 10 * time.Second
)

var (
	address = flag.String("address", "", "HOST:PORT of the node")
	ca      = flag.String("ca", "", "PEM file of the authority")
	token   = flag.String("token", "", "a token")
	channel = flag.String("channel", "general", "a durable channel")
)

// received is a frame, the stream that it came on, or how reading ended.
type received struct {
	stream quic.StreamID
	frame  wire.ServerFrame
	err    error
}

// session is a connection after its hello.
type session struct {
	conn               *quic.Conn
	control            *quic.Stream
	frames             chan received
	passed             []received
	request            uint32
	producer, sequence uint64
}

func open(ctx context.Context, config *tls.Config, more *quic.Config) (*session, error) {
	remote, err := net.ResolveUDPAddr("udp", *address)
	if err != nil {
		return nil, err
	}
	// A transport of its own has connection ids, without which there is no other path.
	transport, err := path()
	if err != nil {
		return nil, err
	}
	conn, err := transport.DialEarly(ctx, remote, config, more)
	if err != nil {
		return nil, err
	}
	control, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, control: control, frames: make(chan received, 1024), producer: rand.Uint64() | 1}
	go s.read(control.StreamID(), control)
	go func() {
		for {
			stream, err := conn.AcceptUniStream(context.Background())
			if err != nil {
				s.frames <- received{stream: -1, err: err}
				return
			}
			go s.read(stream.StreamID(), stream)
		}
	}()
	hello := wire.Hello{VersionMin: 1, VersionMax: 1, Token: *token, Agent: "conformance/quic-go"}
	answer, err := s.ask(wire.ClientFrame{Kind: wire.ClientHello, Hello: hello})
	if err != nil {
		return nil, err
	}
	return s, expect(answer.frame.Kind == wire.ServerWelcome, "a welcome instead of %v", answer.frame.Kind)
}

// path is a way to the node from a port of its own.
func path() (*quic.Transport, error) {
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	return &quic.Transport{Conn: socket}, err
}

func (s *session) read(id quic.StreamID, from io.Reader) {
	for {
		table := make([]byte, 8)
		if _, err := io.ReadFull(from, table); err != nil {
			s.frames <- received{stream: id, err: err}
			return
		}
		frame := make([]byte, 8+8*binary.LittleEndian.Uint32(table[4:]))
		copy(frame, table)
		if _, err := io.ReadFull(from, frame[8:]); err != nil {
			s.frames <- received{stream: id, err: err}
			return
		}
		got := received{stream: id}
		got.err = got.frame.Decode(frame)
		s.frames <- got
	}
}

func (s *session) send(frame wire.ClientFrame) error {
	_, err := s.control.Write(wire.AppendClient(nil, &frame))
	return err
}

// until gives the next frame that fits; those before it wait.
func (s *session) until(what string, fits func(*received) bool) (received, error) {
	for i := range s.passed {
		if fits(&s.passed[i]) {
			found := s.passed[i]
			s.passed = append(s.passed[:i], s.passed[i+1:]...)
			return found, nil
		}
	}
	timeout := time.After(patience)
	for {
		select {
		case got := <-s.frames:
			if fits(&got) {
				return got, nil
			}
			if got.stream == -1 {
				return got, fmt.Errorf("waiting for %s: %w", what, got.err)
			}
			if got.err == nil && got.frame.Kind == wire.ServerPing {
				if err := s.send(wire.ClientFrame{Kind: wire.ClientPong}); err != nil {
					return got, err
				}
				continue
			}
			s.passed = append(s.passed, got)
		case <-timeout:
			return received{}, fmt.Errorf("no %s within %v", what, patience)
		}
	}
}

func (s *session) ask(frame wire.ClientFrame) (received, error) {
	s.request++
	frame.Request = s.request
	if err := s.send(frame); err != nil {
		return received{}, err
	}
	return s.until("answer", func(got *received) bool { return got.err == nil && got.frame.Request == frame.Request })
}

func (s *session) subscribe(start wire.StartKind) (received, error) {
	subscribe := wire.Subscribe{Channel: *channel, Start: start}
	answer, err := s.ask(wire.ClientFrame{Kind: wire.ClientSubscribe, Subscribe: subscribe})
	if err != nil {
		return answer, err
	}
	return answer, expect(answer.frame.Kind == wire.ServerSubscribed, "subscribed instead of %v", answer.frame.Kind)
}

// echo publishes a message and waits for it, on the stream of the subscription.
func (s *session) echo(subscribed received, body []byte) error {
	s.sequence++
	publish := wire.Publish{Channel: subscribed.frame.Subscribed.Channel, Producer: s.producer, Sequence: s.sequence, Body: body}
	answer, err := s.ask(wire.ClientFrame{Kind: wire.ClientPublish, Publish: publish})
	if err != nil {
		return err
	}
	if err := expect(answer.frame.Kind == wire.ServerPublished, "published instead of %v", answer.frame.Kind); err != nil {
		return err
	}
	got, err := s.until("message", func(got *received) bool {
		return got.err == nil && got.frame.Kind == wire.ServerMessage && bytes.Equal(got.frame.Message.Body, body)
	})
	if err != nil {
		return err
	}
	return expect(got.stream == subscribed.stream, "stream %d of a message, not %d", subscribed.stream, got.stream)
}

func marked(text string, n int) []byte {
	return fmt.Appendf(nil, "%s %d %x", text, n, rand.Uint64())
}

func expect(holds bool, format string, more ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf("expected "+format, more...)
}

// with runs a case in a session.
func with(config *tls.Config, more *quic.Config, act func(*session) error) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s, err := open(ctx, config, more)
		if err != nil {
			return err
		}
		defer func() { _ = s.conn.CloseWithError(0, "") }()
		return act(s)
	}
}

func main() {
	flag.Parse()
	pem, err := os.ReadFile(*ca)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		fmt.Println("no authority in", *ca, err)
		os.Exit(2)
	}
	config := &tls.Config{
		RootCAs: roots, ServerName: "localhost", NextProtos: []string{subprotocol},
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
	datagrams := &quic.Config{EnableDatagrams: true}
	passed, failed := 0, 0
	check := func(name string, act func() error) {
		start := time.Now()
		if err := act(); err != nil {
			failed++
			fmt.Printf("FAIL  %s: %v\n", name, err)
			return
		}
		passed++
		fmt.Printf("ok    %s (%.2f s)\n", name, time.Since(start).Seconds())
	}
	check("handshake: version 1, the protocol's name", with(config, nil, handshake))
	check("handshake: another protocol is refused", otherProtocol(config))
	check("streams: a subscription has its own, an attached one none", with(config, nil, streams))
	check("datagrams: a pong may come in one, anything else is ignored", with(config, datagrams, pongs))
	check("migration: three other ports, in the middle of messages", with(config, nil, migration))
	check("end: a second stream is not allowed, a goodbye is answered with 0", with(config, nil, goodbye))
	check("end: what is no frame ends it with 4000", with(config, nil, garbage))
	check("resumption: the hello comes with the first packets", with(config, nil, resumed))
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		os.Exit(1)
	}
}

func handshake(s *session) error {
	state := s.conn.ConnectionState()
	return expect(state.Version == quic.Version1 && state.TLS.NegotiatedProtocol == subprotocol, "version 1: %+v", state.Version)
}

func otherProtocol(config *tls.Config) func() error {
	return func() error {
		other := config.Clone()
		other.NextProtos = []string{"h2"}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := quic.DialAddr(ctx, *address, other, nil)
		var refused *quic.TransportError
		return expect(errors.As(err, &refused) && refused.ErrorCode.IsCryptoError(), "a TLS alert: %v", err)
	}
}

func streams(s *session) error {
	attached, err := s.subscribe(wire.StartAttach)
	if err != nil {
		return err
	}
	if err := expect(attached.stream == 0, "attached on the control stream, not %d", attached.stream); err != nil {
		return err
	}
	subscribed, err := s.subscribe(wire.StartLive)
	if err != nil {
		return err
	}
	if err := expect(subscribed.stream%4 == 3, "a stream of the node, not %d", subscribed.stream); err != nil {
		return err
	}
	for n := range 50 {
		if err := s.echo(subscribed, bytes.Repeat(marked("echo", n), 1+n*10)); err != nil {
			return err
		}
	}
	unsubscribe := wire.Unsubscribe{Channel: subscribed.frame.Subscribed.Channel}
	last, err := s.ask(wire.ClientFrame{Kind: wire.ClientUnsubscribe, Unsubscribe: unsubscribe})
	if err != nil {
		return err
	}
	if err := expect(last.stream == subscribed.stream, "the last frame on stream %d", subscribed.stream); err != nil {
		return err
	}
	_, err = s.until("end of the stream", func(got *received) bool {
		return got.stream == subscribed.stream && errors.Is(got.err, io.EOF)
	})
	return err
}

func pongs(s *session) error {
	pong := wire.AppendClient(nil, &wire.ClientFrame{Kind: wire.ClientPong})
	for _, datagram := range [][]byte{pong, {}, []byte("nothing"), pong} {
		if err := s.conn.SendDatagram(datagram); err != nil {
			return err
		}
	}
	_, err := s.subscribe(wire.StartLive)
	return err
}

func migration(s *session) error {
	subscribed, err := s.subscribe(wire.StartLive)
	if err != nil {
		return err
	}
	for n := range 3 {
		transport, err := path()
		if err != nil {
			return err
		}
		path, err := s.conn.AddPath(transport)
		if err != nil {
			return fmt.Errorf("path %d: %w", n, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = path.Probe(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("probe of path %d: %w", n, err)
		}
		if err := path.Switch(); err != nil {
			return fmt.Errorf("switch to path %d: %w", n, err)
		}
		if err := s.echo(subscribed, marked("path", n)); err != nil {
			return fmt.Errorf("on path %d: %w", n, err)
		}
	}
	return nil
}

func goodbye(s *session) error {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.conn.OpenStreamSync(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a second stream: %w", err)
	}
	if err := s.control.Close(); err != nil {
		return err
	}
	return s.closed(0)
}

func garbage(s *session) error {
	if _, err := s.control.Write(append([]byte{0, 0, 0, 0, 1, 0, 0, 0}, bytes.Repeat([]byte{255}, 8)...)); err != nil {
		return err
	}
	// The error may come before the close, which may also be the first to come: it takes what waits on a stream with it.
	told, err := s.until("error", func(got *received) bool { return got.err == nil && got.frame.Kind == wire.ServerError })
	var closed *quic.ApplicationError
	if errors.As(err, &closed) {
		return expect(closed.Remote && closed.ErrorCode == 4000, "code 4000, not %d", closed.ErrorCode)
	}
	if err != nil {
		return err
	}
	if err := expect(told.frame.Error.Code == 4000, "code 4000, not %d", told.frame.Error.Code); err != nil {
		return err
	}
	return s.closed(4000)
}

// closed waits for the node's close with this code.
func (s *session) closed(code quic.ApplicationErrorCode) error {
	last, err := s.until("close", func(got *received) bool { return got.stream == -1 })
	if err != nil {
		return err
	}
	var closed *quic.ApplicationError
	if !errors.As(last.err, &closed) {
		return last.err
	}
	return expect(closed.Remote && closed.ErrorCode == code, "code %d, not %d", code, closed.ErrorCode)
}

func resumed(s *session) error {
	// The ticket of this run's earlier sessions; each counts once, and each session gives the next.
	state := s.conn.ConnectionState()
	return expect(state.Used0RTT && state.TLS.DidResume, "early data that was taken: %+v", state.Used0RTT)
}
