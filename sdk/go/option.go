package millrace

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"millrace.dev/go/internal/wire"
)

// agent is what a client calls itself unless the application says something else.
const agent = "millrace-go/0.1.0"

// A TokenFunc gets an access token. It is called before the first connection, when three quarters of a token's time are over,
// and when a node refuses the last one; a token that is still good is used again. Only one call is under way at a time; ctx
// ends after [WithRequestTimeout] and when the client closes.
type TokenFunc func(ctx context.Context) (string, error)

// An Option sets what a client does. Every setting but the token has a default that suits an interactive application.
type Option func(*settings) error

// settings is what options set.
type settings struct {
	engine      engineConfig
	window      windowLimits
	tokens      TokenFunc
	tokensRenew bool
	urls        []string
	httpClient  *http.Client
	tls         *tls.Config
	log         *slog.Logger
}

func newSettings(url string, options []Option) (*settings, []endpoint, error) {
	s := &settings{
		engine: engineConfig{
			agent:          agent,
			queue:          queueLimits{messagesMax: 1024, bytesMax: 1 << 20},
			backoff:        backoffLimits{first: 250 * time.Millisecond, max: 30 * time.Second},
			connectTimeout: 10 * time.Second,
			requestTimeout: 30 * time.Second,
			sendTimeout:    2 * time.Minute,
			closeTimeout:   5 * time.Second,
		},
		window: windowLimits{messagesMax: 256, bytesMax: 4 << 20},
		urls:   []string{url},
		log:    slog.New(slog.DiscardHandler),
	}
	WithToken("")(s)
	for _, option := range options {
		if err := option(s); err != nil {
			return nil, nil, err
		}
	}
	var endpoints []endpoint
	for _, url := range s.urls {
		// A list may be what GET /v1/endpoints gives, with ways that only browsers go.
		if len(s.urls) > 1 && strings.HasPrefix(strings.ToLower(url), "https://") {
			continue
		}
		parsed, err := parseEndpoint(url)
		if err != nil {
			return nil, nil, err
		}
		endpoints = append(endpoints, parsed)
	}
	return s, group(endpoints), nil
}

// WithToken gives an access token, used as long as it is good. When it has expired the client closes with its error;
// [WithTokenFunc] has no such end.
func WithToken(token string) Option {
	return func(s *settings) error {
		s.tokens = func(context.Context) (string, error) { return token, nil }
		s.tokensRenew = false
		return nil
	}
}

// WithTokenFunc gives a function that gets access tokens.
func WithTokenFunc(tokens TokenFunc) Option {
	return func(s *settings) error {
		if tokens == nil {
			return &InvalidError{What: "token function", Reason: "it is nil"}
		}
		s.tokens, s.tokensRenew = tokens, true
		return nil
	}
}

// WithURL names another URL of the same deployment; GET /v1/endpoints has them all. A quic and a wss URL of one host are two ways
// to one node: they race, with QUIC a moment ahead, so that a network without UDP costs a fraction of a second. Other nodes are
// tried when the ones before them do not answer. A ws URL is not used where its host has a secure one.
func WithURL(url string) Option {
	return func(s *settings) error {
		s.urls = append(s.urls, url)
		return nil
	}
}

// WithAgent sets name and version of the application, for the operator's eyes; cut at 128 bytes. Default: those of the SDK.
func WithAgent(name string) Option {
	return func(s *settings) error {
		name := strings.ToValidUTF8(name, "\uFFFD")
		for len(name) > wire.AgentBytesMax {
			_, size := utf8.DecodeLastRuneInString(name)
			name = name[:len(name)-size]
		}
		s.engine.agent = name
		return nil
	}
}

// WithQueue bounds what may wait for the application in each subscription before the client stops taking messages for it.
// Default: 1,024 messages and 1 MiB of bodies. The bytes are exceeded by at most one page of history (512 KiB).
func WithQueue(messagesMax, bytesMax int) Option {
	return func(s *settings) error {
		s.engine.queue = queueLimits{messagesMax: messagesMax, bytesMax: bytesMax}
		return checkBounds("queue", messagesMax, bytesMax)
	}
}

// WithWindow bounds what may be on its way in each channel before [Sender.Send] and [Sender.Submit] wait. It is also what may
// wait while there is no connection. Default: 256 messages and 4 MiB of bodies.
func WithWindow(messagesMax, bytesMax int) Option {
	return func(s *settings) error {
		s.window = windowLimits{messagesMax: messagesMax, bytesMax: bytesMax}
		return checkBounds("window", messagesMax, bytesMax)
	}
}

func checkBounds(what string, messagesMax, bytesMax int) error {
	if messagesMax < 1 || bytesMax < 1 || messagesMax > math.MaxInt32 || bytesMax > math.MaxInt32 {
		return &InvalidError{What: what, Reason: "its bounds must be from 1 to 2^31 - 1"}
	}
	return nil
}

// WithBackoff sets the waits between tries to connect: each is drawn evenly from zero to a ceiling, which begins at first and
// doubles up to max. Default: 250 ms and 30 s.
func WithBackoff(first, max time.Duration) Option {
	return func(s *settings) error {
		if first <= 0 || max < first {
			return &InvalidError{What: "back-off", Reason: "its first wait must be above zero and not above its longest"}
		}
		s.engine.backoff = backoffLimits{first: first, max: max}
		return nil
	}
}

// WithConnectTimeout sets how long a try to connect may take, from the first packet to the node's welcome. Default: 10 s.
func WithConnectTimeout(timeout time.Duration) Option {
	return withTimeout("connect timeout", timeout, func(s *settings) *time.Duration { return &s.engine.connectTimeout })
}

// WithRequestTimeout sets how long a request may take, over reconnects; a connection on which one is unanswered for so long is
// given up. Default: 30 s.
func WithRequestTimeout(timeout time.Duration) Option {
	return withTimeout("request timeout", timeout, func(s *settings) *time.Duration { return &s.engine.requestTimeout })
}

// WithSendTimeout sets how long a message may wait for its acknowledgement, over reconnects; 0 waits for ever. Default: 2 min.
func WithSendTimeout(timeout time.Duration) Option {
	if timeout == 0 {
		return func(s *settings) error {
			s.engine.sendTimeout = 0
			return nil
		}
	}
	return withTimeout("send timeout", timeout, func(s *settings) *time.Duration { return &s.engine.sendTimeout })
}

// WithCloseTimeout sets how long [Client.Close] waits for acknowledgements. Default: 5 s.
func WithCloseTimeout(timeout time.Duration) Option {
	return withTimeout("close timeout", timeout, func(s *settings) *time.Duration { return &s.engine.closeTimeout })
}

func withTimeout(what string, timeout time.Duration, of func(*settings) *time.Duration) Option {
	return func(s *settings) error {
		if timeout <= 0 {
			return &InvalidError{What: what, Reason: "it must be above zero"}
		}
		*of(s) = timeout
		return nil
	}
}

// WithHTTPClient sets the client that makes the WebSocket handshake, for proxies and TLS settings of one's own. It must not
// have a Timeout, which would end connections; [WithConnectTimeout] bounds the handshake. Redirects are not followed. Default:
// [http.DefaultClient].
func WithHTTPClient(client *http.Client) Option {
	return func(s *settings) error {
		if client == nil || client.Timeout != 0 {
			return &InvalidError{What: "HTTP client", Reason: "it must not be nil or have a timeout"}
		}
		s.httpClient = client
		return nil
	}
}

// WithTLSConfig sets whom quic and wss connections trust and what certificate they show, such as RootCAs for an authority of
// one's own. [WithHTTPClient] has its own for wss. Default: what the system trusts.
func WithTLSConfig(config *tls.Config) Option {
	return func(s *settings) error {
		if config == nil {
			return &InvalidError{What: "TLS configuration", Reason: "it is nil"}
		}
		s.tls = config.Clone()
		return nil
	}
}

// WithLogger sets where the client logs changes of its connection, and what is odd about a node. Never a token or a body. A
// handler may ask the client, but must not close it, for closing waits until the handler has returned. One that is slow loses
// lines, and the next one says how many. Default: nowhere.
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) error {
		if log == nil {
			return &InvalidError{What: "logger", Reason: "it is nil"}
		}
		s.log = log
		return nil
	}
}
