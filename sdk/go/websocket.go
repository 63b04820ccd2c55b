package millrace

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"

	"millrace.dev/go/internal/wire"
)

// webSocketTransport opens WebSocket connections, ws:// and wss://.
type webSocketTransport struct {
	client *http.Client
}

// newWebSocketTransport takes a client for the handshake, or nil for the usual one, with TLS settings if there are any.
func newWebSocketTransport(client *http.Client, config *tls.Config) *webSocketTransport {
	if client == nil {
		client = http.DefaultClient
		if usual, ok := http.DefaultTransport.(*http.Transport); ok && config != nil {
			usual = usual.Clone()
			usual.TLSClientConfig = config.Clone()
			client = &http.Client{Transport: usual}
		}
	}
	// A copy, because every answer passes through our hands on its way.
	own := *client
	if own.Transport == nil {
		own.Transport = http.DefaultTransport
	}
	own.Transport = &upgrades{next: own.Transport}
	// A token goes where the application sent it, and nowhere else.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &webSocketTransport{client: &own}
}

func (t *webSocketTransport) dial(ctx context.Context, to endpoint) (connection, error) {
	var out *outlet
	ctx = context.WithValue(ctx, outletKey{}, &out)
	socket, response, err := websocket.Dial(ctx, to.String(), &websocket.DialOptions{
		HTTPClient:      t.client,
		Subprotocols:    []string{wire.Subprotocol},
		CompressionMode: websocket.CompressionDisabled,
		OnPingReceived:  func(context.Context, []byte) bool { return out.hasRoom() },
	})
	if err != nil {
		return nil, handshakeError(response, err)
	}
	if socket.Subprotocol() != wire.Subprotocol {
		// The connection is of no use; how it ends does not matter.
		_ = socket.CloseNow()
		return nil, errors.New("the server does not speak " + wire.Subprotocol)
	}
	socket.SetReadLimit(wire.ServerFrameBytesMax)
	return &webSocket{socket: socket, out: out, goodbye: websocket.StatusNormalClosure}, nil
}

// handshakeError says what a server answered that is no node.
func handshakeError(response *http.Response, err error) error {
	if response == nil || response.StatusCode == http.StatusSwitchingProtocols {
		return err
	}
	if response.Body != nil {
		// A part of the answer is as good.
		body, _ := io.ReadAll(io.LimitReader(response.Body, 256))
		if text := strings.TrimSpace(strings.ToValidUTF8(string(body), "\uFFFD")); text != "" {
			return fmt.Errorf("the server answered %d: %s", response.StatusCode, text)
		}
	}
	return fmt.Errorf("the server answered %d", response.StatusCode)
}

// webSocket is one connection.
type webSocket struct {
	socket *websocket.Conn
	out    *outlet
	input  []byte
	// goodbye is what to close with.
	goodbye websocket.StatusCode
}

func (w *webSocket) receive() ([]byte, error) {
	kind, reader, err := w.socket.Reader(context.Background())
	if err != nil {
		return nil, endOf(err)
	}
	if kind != websocket.MessageBinary {
		w.goodbye = websocket.StatusUnsupportedData
		return nil, &ProtocolError{Err: errors.New("a text message, where every frame is binary")}
	}
	w.input = w.input[:0]
	for {
		if len(w.input) == cap(w.input) {
			w.input = append(w.input, 0)[:len(w.input)]
		}
		read, err := reader.Read(w.input[len(w.input):cap(w.input)])
		w.input = w.input[:len(w.input)+read]
		if err == io.EOF {
			return w.input, nil
		}
		if err != nil {
			return nil, endOf(err)
		}
	}
}

// endOf says how a connection ended.
func endOf(err error) error {
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code >= 4000:
		return refusal(uint16(closed.Code), closed.Reason, 0)
	case errors.As(err, &closed):
		reason := strings.TrimSpace(fmt.Sprintf("closed with %d %s", closed.Code, closed.Reason))
		return &DisconnectedError{Reason: reason, Err: err}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return &ProtocolError{Err: err}
	default:
		return &DisconnectedError{Reason: err.Error(), Err: err}
	}
}

func (w *webSocket) send(frames *batch) error {
	w.out.hold()
	begin := 0
	for _, end := range frames.ends {
		if err := w.socket.Write(context.Background(), websocket.MessageBinary, frames.bytes[begin:end]); err != nil {
			return err
		}
		begin = end
	}
	return w.out.flush()
}

func (w *webSocket) close() {
	// What is left to say has been said, or will not be heard.
	_ = w.socket.Close(w.goodbye, "")
}

func (w *webSocket) abort() {
	w.out.abort()
	// It is closed already.
	_ = w.socket.CloseNow()
}
