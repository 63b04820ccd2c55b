// Command centrifuge is the engine of Centrifugo, its library, behind a small server: HS256 tokens on connect, channels that anybody who
// has connected may subscribe and publish to. Usage: centrifuge [PORT], 0 for any; prints {"listening": "127.0.0.1:<port>"}. With "version" it
// prints the library's version instead.
//
// Channels that begin with "recover:" keep their newest messages in memory, and subscribers recover what they missed; others keep nothing.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
)

const (
	secret        = "the token secret of a benchmark run"
	recoverPrefix = "recover:"
	historySize   = 300
	historyTTL    = 300 * time.Second
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	port := "0"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	if port == "version" {
		fmt.Println(version())
		return nil
	}
	node, err := centrifuge.New(centrifuge.Config{
		LogLevel:   centrifuge.LogLevelWarn,
		LogHandler: func(entry centrifuge.LogEntry) { log.Println(entry.Message, entry.Fields) },
		// The default of 128 is less than what many-room scenarios join with one connection.
		ClientChannelLimit: 10_000,
		// The default, named because the comparison depends on it: a slow reader that has more waiting is disconnected.
		ClientQueueMaxSize: 1 << 20,
		// The limits that Centrifugo sets by default.
		HistoryMaxPublicationLimit:  300,
		RecoveryMaxPublicationLimit: 300,
	})
	if err != nil {
		return fmt.Errorf("make the node: %w", err)
	}
	handle(node)
	if err := node.Run(); err != nil {
		return fmt.Errorf("run the node: %w", err)
	}

	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		// Less memory per connection at no cost for messages of this size; Centrifugo's documentation advises both.
		ReadBufferSize:     512,
		UseWriteBufferPool: true,
		// The defaults of Centrifugo.
		PingPongConfig: centrifuge.PingPongConfig{PingInterval: 25 * time.Second, PongTimeout: 8 * time.Second},
	}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// Ends with the listener, below.
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Printf("{\"listening\": %q}\n", listener.Addr())
	select {
	case <-ctx.Done():
		return server.Close()
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	}
}

// version is that of the library that this was built with.
func version() string {
	build, _ := debug.ReadBuildInfo()
	if build != nil {
		for _, module := range build.Deps {
			if module.Path == "github.com/centrifugal/centrifuge" {
				return module.Version
			}
		}
	}
	return "unknown"
}

// handle says who may do what.
func handle(node *centrifuge.Node) {
	node.OnConnecting(func(_ context.Context, event centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		user, expires, err := verify(event.Token, time.Now())
		if err != nil {
			return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
		}
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: user, ExpireAt: expires}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(event centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			answer(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{EnableRecovery: keeps(event.Channel)}}, nil)
		})
		client.OnPublish(func(event centrifuge.PublishEvent, answer centrifuge.PublishCallback) {
			reply := centrifuge.PublishReply{}
			if keeps(event.Channel) {
				reply.Options = centrifuge.PublishOptions{HistorySize: historySize, HistoryTTL: historyTTL}
			}
			answer(reply, nil)
		})
	})
}

func keeps(channel string) bool {
	return strings.HasPrefix(channel, recoverPrefix)
}

var errToken = errors.New("not a valid token")

// verify takes a JSON Web Token signed with HS256 and returns its user and when it expires (Unix time, seconds).
func verify(token string, now time.Time) (user string, expires int64, err error) {
	signed, signature, ok := cutLast(token)
	header, claims, more := strings.Cut(signed, ".")
	if !ok || !more {
		return "", 0, errToken
	}
	given, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		return "", 0, errToken
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	if !hmac.Equal(given, mac.Sum(nil)) {
		return "", 0, errToken
	}
	var head struct {
		Algorithm string `json:"alg"`
	}
	var body struct {
		Subject string `json:"sub"`
		Expires int64  `json:"exp"`
	}
	if decode(header, &head) != nil || decode(claims, &body) != nil || head.Algorithm != "HS256" || body.Subject == "" {
		return "", 0, errToken
	}
	if body.Expires <= now.Unix() {
		return "", 0, errToken
	}
	return body.Subject, body.Expires, nil
}

func cutLast(token string) (signed, signature string, ok bool) {
	dot := strings.LastIndexByte(token, '.')
	if dot < 0 {
		return "", "", false
	}
	return token[:dot], token[dot+1:], true
}

func decode(part string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.NewDecoder(bytes.NewReader(raw)).Decode(into)
}
