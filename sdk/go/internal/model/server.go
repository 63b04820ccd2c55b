package model

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"

	"millrace.dev/go/internal/wire"
)

// Server is the model behind a real socket. It breaks connections at any byte when told to.
type Server struct {
	http *httptest.Server
	// quic is nil without QUIC.
	quic *quic.Listener

	mu sync.Mutex
	// changed is closed when something may have happened, and is another then.
	changed chan struct{}
	node    *Node
	// connections counts them; only the newest has a session.
	connections int
	// quicConnections are those of them by QUIC.
	quicConnections int
	// cutBelow: connections break after so many bytes, drawn below this; 0 for never.
	cutBelow  uint64
	dice      Dice
	isStalled bool
	// stalling counts frames that are read and kept from the model.
	stalling int
}

// NewServer starts a server on a port of the system's choice.
func NewServer(seed uint64) *Server {
	s := newServer(seed)
	s.http.Start()
	return s
}

// NewTLSServer starts a server with a certificate that [Server.HTTPClient] trusts.
func NewTLSServer(seed uint64) *Server {
	s := newServer(seed)
	s.http.StartTLS()
	return s
}

func newServer(seed uint64) *Server {
	s := &Server{changed: make(chan struct{}), node: NewNode(seed), dice: Dice{seed}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.Listener = &cuttingListener{Listener: s.http.Listener, server: s}
	return s
}

// Close ends the server and its connections.
func (s *Server) Close() {
	s.HangUp()
	if s.quic != nil {
		_ = s.quic.Close()
	}
	s.http.Close()
}

// URL is where it listens.
func (s *Server) URL() string { return strings.Replace(s.http.URL, "http", "ws", 1) }

// HTTPClient trusts the server's certificate.
func (s *Server) HTTPClient() *http.Client { return s.http.Client() }

// Node changes the model.
func (s *Server) Node(change func(n *Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.node)
	s.tell()
}

// tell wakes everybody who waits for a change. The lock is held.
func (s *Server) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// CutBelow lets each connection, from the next one on, break after less than so many bytes; 0 for never.
func (s *Server) CutBelow(bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutBelow = bytes
}

// Stall stops reading frames, or goes on.
func (s *Server) Stall(isStalled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isStalled = isStalled
	s.tell()
}

// IsStalling tells whether a frame is read and kept from the model. Call it in [Server.Until].
func (s *Server) IsStalling() bool { return s.stalling > 0 }

// HangUp ends the session without a word.
func (s *Server) HangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections++
	s.tell()
}

// Connections is how many sessions there were.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// QUICConnections is how many of them were by QUIC.
func (s *Server) QUICConnections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quicConnections
}

// Until waits until the model is as expected; false if ctx ends first.
func (s *Server) Until(ctx context.Context, expect func(n *Node) bool) bool {
	for {
		s.mu.Lock()
		isExpected, changed := expect(s.node), s.changed
		s.mu.Unlock()
		if isExpected {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Server) serve(writer http.ResponseWriter, request *http.Request) {
	if request.URL.Path != "/v1/connect" {
		http.Error(writer, "no such page", http.StatusNotFound)
		return
	}
	socket, err := websocket.Accept(writer, request, &websocket.AcceptOptions{Subprotocols: []string{wire.Subprotocol}})
	if err != nil {
		return
	}
	// The session is over, however the connection ends.
	defer func() { _ = socket.CloseNow() }()
	socket.SetReadLimit(wire.ClientFrameBytesMax)
	s.mu.Lock()
	s.connections++
	number := s.connections
	s.node.Accept()
	s.tell()
	s.mu.Unlock()

	ctx, cancel := context.WithCancel(request.Context())
	defer cancel()
	go func() {
		defer cancel()
		s.read(ctx, socket, number)
	}()
	s.write(ctx, socket, number)
}

// read gives frames to the model until the connection ends.
func (s *Server) read(ctx context.Context, socket *websocket.Conn, number int) {
	for {
		_, frame, err := socket.Read(ctx)
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
			s.node.Receive(frame)
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

// write sends what the model says until the session is over.
func (s *Server) write(ctx context.Context, socket *websocket.Conn, number int) {
	for {
		s.mu.Lock()
		if s.connections != number {
			s.mu.Unlock()
			return
		}
		var out [][]byte
		for frame, ok := s.node.TakeOut(); ok; frame, ok = s.node.TakeOut() {
			out = append(out, frame)
		}
		closing, changed := s.node.Closing, s.changed
		s.mu.Unlock()
		for _, frame := range out {
			if socket.Write(ctx, websocket.MessageBinary, frame) != nil {
				return
			}
		}
		if closing != 0 {
			// The client may be gone before it answers.
			_ = socket.Close(websocket.StatusCode(closing), "closing")
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// cuttingListener gives each connection the bytes that it may carry.
type cuttingListener struct {
	net.Listener
	server *Server
}

// Accept implements [net.Listener].
func (l *cuttingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if l.server.cutBelow == 0 {
		return conn, nil
	}
	return &cutConn{Conn: conn, cutter: cutter{left: int(l.server.dice.Below(l.server.cutBelow))}}, nil
}

// cutConn breaks after so many bytes, both ways together.
type cutConn struct {
	net.Conn
	cutter
}

// cutter counts the bytes that may still pass, both ways together; a negative count has no end.
type cutter struct {
	mu   sync.Mutex
	left int
}

func (c *cutter) take(bytes int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left < 0 {
		return bytes
	}
	taken := min(bytes, c.left)
	c.left -= taken
	return taken
}

// Read implements [net.Conn].
func (c *cutConn) Read(into []byte) (int, error) {
	read, err := c.Conn.Read(into)
	passes := c.take(read)
	if passes < read {
		_ = c.Close()
		return passes, net.ErrClosed
	}
	// An error may be a deadline, by which the HTTP server takes a connection back from its reader.
	return read, err
}

// Write implements [net.Conn].
func (c *cutConn) Write(bytes []byte) (int, error) {
	passes := c.take(len(bytes))
	written, err := c.Conn.Write(bytes[:passes])
	if passes < len(bytes) && err == nil {
		_ = c.Close()
		return written, net.ErrClosed
	}
	return written, err
}
