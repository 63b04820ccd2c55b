package millrace

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"millrace.dev/go/internal/wire"
)

const (
	// streamWindow is what a stream may send before it is read: as much as a node queues for a session.
	streamWindow = 256 << 10
	// connectionWindow is the same for all streams together, of which some may wait for others.
	connectionWindow = 4 << 20
	// streamsMax are open at once: one for each subscription that a node gives a session, and those that end.
	streamsMax = 1_024
	// quicKeepAlive: routers forget a silent UDP flow after as little as 30 seconds.
	quicKeepAlive = 20 * time.Second
	// quicIdleMax ends a connection from which nothing comes; a node may have less.
	quicIdleMax = time.Minute
	// quicNormal is the client's own end.
	quicNormal = quic.ApplicationErrorCode(0)
	// sessionsMax are remembered for a quick return.
	sessionsMax = 32
	// tableBytes stand before the one segment of a frame and tell its length.
	tableBytes = 8
)

// quicTransport opens QUIC connections, quic://.
type quicTransport struct {
	tls    *tls.Config
	config *quic.Config
}

// newQUICTransport takes TLS settings; nil for what the system trusts.
func newQUICTransport(config *tls.Config) *quicTransport {
	own := &tls.Config{}
	if config != nil {
		own = config.Clone()
	}
	own.NextProtos = []string{wire.Subprotocol}
	own.MinVersion = tls.VersionTLS13
	if own.ClientSessionCache == nil {
		own.ClientSessionCache = tls.NewLRUClientSessionCache(sessionsMax)
	}
	return &quicTransport{tls: own, config: &quic.Config{
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connectionWindow,
		MaxConnectionReceiveWindow:     connectionWindow,
		MaxIncomingStreams:             -1,
		MaxIncomingUniStreams:          streamsMax,
		KeepAlivePeriod:                quicKeepAlive,
		MaxIdleTimeout:                 quicIdleMax,
		EnableDatagrams:                true,
	}}
}

func (t *quicTransport) dial(ctx context.Context, to endpoint) (connection, error) {
	host, port := to.split()
	config := t.tls
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = host
	}
	conn, err := quic.DialAddr(ctx, net.JoinHostPort(host, port), config, t.config)
	if err != nil {
		var closed *quic.ApplicationError
		if errors.As(err, &closed) {
			return nil, quicEndOf(err)
		}
		return nil, err
	}
	control, err := conn.OpenStreamSync(ctx)
	if err != nil {
		_ = conn.CloseWithError(quicNormal, "")
		return nil, err
	}
	c := &quicConnection{
		conn:    conn,
		control: control,
		frames:  make(chan []byte),
		greeted: make(chan struct{}),
		over:    make(chan struct{}),
		turns:   map[uint64]chan struct{}{},
	}
	c.readers.Go(c.readControl)
	c.readers.Go(c.acceptStreams)
	c.readers.Go(c.readDatagrams)
	return c, nil
}

// quicConnection is one connection: the control stream both ways, and a stream of the node for each subscription. A goroutine
// reads each stream and ends with it, or with the connection. Streams are independent, but nothing of a channel is handed out
// before the node's first word on the control stream, and streams of one channel are read one after the other. A stream that
// waits is not read, so that its sender has to wait, too.
type quicConnection struct {
	conn    *quic.Conn
	control *quic.Stream
	frames  chan []byte
	// greeted is closed by the node's first word.
	greeted chan struct{}
	// over is closed when the connection is, and then err says why.
	over chan struct{}
	once sync.Once
	err  error
	// readers are the goroutines that read.
	readers sync.WaitGroup

	mu sync.Mutex
	// turns has what the newest stream of each channel closes when it ends.
	turns map[uint64]chan struct{}
}

func (c *quicConnection) receive() ([]byte, error) {
	select {
	case frame := <-c.frames:
		return frame, nil
	case <-c.over:
		return nil, c.err
	}
}

func (c *quicConnection) send(frames *batch) error {
	_, err := c.control.Write(frames.bytes)
	return err
}

// close ends the control stream, behind what was sent; the node answers with the end of the connection.
func (c *quicConnection) close() {
	if c.control.Close() == nil {
		<-c.over
	}
	c.abort()
	c.readers.Wait()
}

func (c *quicConnection) abort() {
	c.fail(&DisconnectedError{Reason: "the client ended the connection"})
	_ = c.conn.CloseWithError(quicNormal, "")
}

// fail ends the connection for whoever receives; the first reason counts.
func (c *quicConnection) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.over)
	})
}

// hand gives a frame to whoever receives; false if nobody does any more.
func (c *quicConnection) hand(frame []byte) bool {
	select {
	case c.frames <- frame:
		return true
	case <-c.over:
		return false
	}
}

func (c *quicConnection) readControl() {
	for isFirst := true; ; isFirst = false {
		frame, err := readFrame(c.control)
		if err == io.EOF {
			err = &ProtocolError{Err: errors.New("the control stream ended")}
		}
		if err != nil {
			c.fail(quicEndOf(err))
			return
		}
		if !c.hand(frame) {
			return
		}
		if isFirst {
			close(c.greeted)
		}
	}
}

func (c *quicConnection) acceptStreams() {
	for {
		stream, err := c.conn.AcceptUniStream(c.conn.Context())
		if err != nil {
			if cause := context.Cause(c.conn.Context()); cause != nil {
				err = cause
			}
			c.fail(quicEndOf(err))
			return
		}
		c.readers.Go(func() { c.readChannel(stream) })
	}
}

// readChannel hands out the frames of a channel's stream, when it is its turn.
func (c *quicConnection) readChannel(stream *quic.ReceiveStream) {
	select {
	case <-c.greeted:
	case <-c.over:
		return
	}
	frame, err := readFrame(stream)
	if err != nil {
		c.failChannel(err)
		return
	}
	var first wire.ServerFrame
	if err := first.Decode(frame); err != nil {
		c.fail(&ProtocolError{Err: err})
		return
	}
	if first.Kind != wire.ServerSubscribed {
		c.fail(&ProtocolError{Err: errors.New("a channel's stream does not begin with the answer to a subscription")})
		return
	}
	before, done := c.takeTurn(first.Subscribed.Channel)
	defer done()
	select {
	case <-before:
	case <-c.over:
		return
	}
	for c.hand(frame) {
		if frame, err = readFrame(stream); err == io.EOF {
			return
		}
		if err != nil {
			c.failChannel(err)
			return
		}
	}
}

// failChannel ends the connection for what became of one stream; that of the whole connection is told elsewhere.
func (c *quicConnection) failChannel(err error) {
	var cut *quic.StreamError
	var broken *ProtocolError
	switch {
	case errors.As(err, &cut):
		c.fail(&DisconnectedError{Reason: "the node cut a stream off", Err: err})
	case errors.As(err, &broken), errors.Is(err, io.EOF):
		c.fail(&ProtocolError{Err: err})
	}
}

// takeTurn has a stream wait for those of its channel that came before it.
func (c *quicConnection) takeTurn(channel uint64) (before <-chan struct{}, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	earlier, isLater := c.turns[channel]
	if !isLater {
		earlier = make(chan struct{})
		close(earlier)
	}
	ended := make(chan struct{})
	c.turns[channel] = ended
	return earlier, func() {
		close(ended)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.turns[channel] == ended {
			delete(c.turns, channel)
		}
	}
}

// readDatagrams takes pings; anything else is ignored, as the protocol says.
func (c *quicConnection) readDatagrams() {
	for {
		datagram, err := c.conn.ReceiveDatagram(c.conn.Context())
		if err != nil {
			return
		}
		var frame wire.ServerFrame
		if frame.Decode(datagram) == nil && frame.Kind == wire.ServerPing && !c.hand(datagram) {
			return
		}
	}
}

// readFrame reads one whole frame; io.EOF if the stream ends before it.
func readFrame(stream io.Reader) ([]byte, error) {
	var table [tableBytes]byte
	switch _, err := io.ReadFull(stream, table[:]); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &ProtocolError{Err: errors.New("a stream ended within a frame")}
	case err != nil:
		return nil, err
	}
	segments, words := binary.LittleEndian.Uint32(table[:4]), binary.LittleEndian.Uint32(table[4:])
	if segments != 0 || words == 0 {
		return nil, &ProtocolError{Err: errors.New("a frame begins with the table of one segment that is not empty")}
	}
	bytes := tableBytes + 8*uint64(words)
	if bytes > wire.ServerFrameBytesMax {
		return nil, &ProtocolError{Err: fmt.Errorf("a frame of %d bytes, the limit is %d", bytes, wire.ServerFrameBytesMax)}
	}
	// Room is taken as bytes arrive, never because a length was announced.
	frame := append(make([]byte, 0, min(bytes, 4<<10)), table[:]...)
	for uint64(len(frame)) < bytes {
		begin := len(frame)
		frame = append(frame, make([]byte, min(bytes-uint64(begin), 16<<10))...)
		if _, err := io.ReadFull(stream, frame[begin:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = &ProtocolError{Err: errors.New("a stream ended within a frame")}
			}
			return nil, err
		}
	}
	return frame, nil
}

// quicEndOf says how a connection ended.
func quicEndOf(err error) error {
	var closed *quic.ApplicationError
	var broken *ProtocolError
	switch {
	case errors.As(err, &broken):
		return broken
	case errors.As(err, &closed) && closed.Remote && closed.ErrorCode >= 4000 && closed.ErrorCode <= 1<<16-1:
		return refusal(uint16(closed.ErrorCode), closed.ErrorMessage, 0)
	case errors.As(err, &closed):
		reason := strings.TrimSpace(fmt.Sprintf("closed with %d %s", closed.ErrorCode, closed.ErrorMessage))
		return &DisconnectedError{Reason: reason, Err: err}
	default:
		return &DisconnectedError{Reason: err.Error(), Err: err}
	}
}
