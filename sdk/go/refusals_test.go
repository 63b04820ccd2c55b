package millrace_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// What is refused, and what is said about it.

// stranger is a server that is no node: it answers everything with the same bytes, or nothing.
func stranger(t *testing.T, answer string) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if answer != "" {
				input := make([]byte, 4_096)
				conn.Read(input)
				conn.Write([]byte(answer))
			}
		}
	}()
	return "ws://" + listener.Addr().String()
}

func TestAFirstConnectionThatFailsSaysWhy(t *testing.T) {
	check := func(url, expect string) {
		t.Helper()
		_, err := millrace.Connect(inTime(t), url, quick(millrace.WithConnectTimeout(200*time.Millisecond))...)
		if err == nil || !strings.Contains(err.Error(), expect) || !millrace.IsRetryable(err) {
			t.Fatalf("%v, not %s", err, expect)
		}
	}
	check(stranger(t, ""), "timed out waiting for the connection")
	check(stranger(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\nno such page"),
		"the server answered 404: no such page")
	check(stranger(t, "SSH-2.0-OpenSSH\r\n"), "malformed HTTP")
	// A token goes where the application sent it, and nowhere else.
	elsewhere := strings.Replace(newServer(t, 1).URL(), "ws", "http", 1) + "/v1/connect"
	check(stranger(t, "HTTP/1.1 302 Found\r\nLocation: "+elsewhere+"\r\nContent-Length: 0\r\n\r\n"), "the server answered 302")
	// Nobody listens on a port that was just given back.
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	url := "ws://" + listener.Addr().String()
	listener.Close()
	check(url, "cannot connect to "+url+"/v1/connect: ")
}

func TestWhatCannotBeUsedIsRefusedAtOnce(t *testing.T) {
	check := func(url, expect string, options ...millrace.Option) {
		t.Helper()
		_, err := millrace.Connect(inTime(t), url, options...)
		if _, lazy := millrace.ConnectLazy(url, options...); err == nil || err.Error() != expect || lazy == nil ||
			millrace.AdviceOf(err) != millrace.DoNotRetry {
			t.Fatalf("%v and %v, not %s", err, lazy, expect)
		}
	}
	check("https://host", `the URL cannot be used: "https" is no scheme for a connection; use wss://, quic:// or ws://`)
	check("host:1", `the URL cannot be used: "host:1" has no scheme; write wss://host, quic://host or ws://host:port`)
	check("wss://host", "the TLS configuration cannot be used: it is nil", millrace.WithTLSConfig(nil))
	check("ws://host", "the window cannot be used: its bounds must be from 1 to 2^31 - 1", millrace.WithWindow(0, 1))
	check("ws://host", "the token function cannot be used: it is nil", millrace.WithTokenFunc(nil))
	check("ws://host", "the connect timeout cannot be used: it must be above zero", millrace.WithConnectTimeout(0))
	check("ws://host", "the back-off cannot be used: its first wait must be above zero and not above its longest",
		millrace.WithBackoff(time.Second, time.Millisecond))
}

func TestAWrongTokenIsNotTriedForEver(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	server.Node(func(n *model.Node) { n.Token = "good" })
	_, err := millrace.Connect(ctx, urlOf(server), quickTo(server)...)
	if !errors.Is(err, millrace.CodeBadToken) || millrace.AdviceOf(err) != millrace.Authenticate {
		t.Fatal(err)
	}
	// In the background, a function is asked again a few times.
	asked := 0
	tokens := func(context.Context) (string, error) {
		asked++
		return "bad", nil
	}
	client := must(millrace.ConnectLazy(urlOf(server), quickTo(server, millrace.WithTokenFunc(tokens))...))
	var last millrace.State
	for last = range client.States(ctx) {
	}
	if last.Phase != millrace.Closed || !errors.Is(last.Err, millrace.CodeBadToken) || asked != 3 {
		t.Fatalf("%+v after %d tokens", last, asked)
	}
	if _, err := client.Sender(ctx, "general"); !errors.Is(err, millrace.CodeBadToken) {
		t.Fatal(err)
	}
}

func TestATokenFunctionMayFailAndIsAskedForNewTokens(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	down := errors.New("the backend is down")
	failing := func(context.Context) (string, error) { return "", down }
	_, err := millrace.Connect(ctx, urlOf(server), quickTo(server, millrace.WithTokenFunc(failing))...)
	var failed *millrace.TokenError
	if !errors.As(err, &failed) || !errors.Is(err, down) || err.Error() != "no token could be had: the backend is down" {
		t.Fatal(err)
	}
	// A function that does not come back holds nothing.
	stuck := func(context.Context) (string, error) { select {} }
	_, err = millrace.Connect(ctx, urlOf(server),
		quick(millrace.WithTokenFunc(stuck), millrace.WithRequestTimeout(20*time.Millisecond))...)
	var timeout *millrace.TimeoutError
	if !errors.As(err, &timeout) || timeout.Awaited != millrace.AwaitedToken {
		t.Fatal(err)
	}

	server.Node(func(n *model.Node) { n.TokenExpiresMs = time.Now().UnixMilli() + 200 })
	count := 0
	counting := func(context.Context) (string, error) {
		count++
		return fmt.Sprintf("token %d", count), nil
	}
	connections := server.Connections()
	connect(t, server, millrace.WithTokenFunc(counting))
	until(t, server, func(n *model.Node) bool { return slices.Equal(n.Refreshed, []string{"token 2"}) })
	if server.Connections() != connections+1 {
		t.Fatal("the connection did not hold")
	}
}

func TestChannelsAreRefusedOneByOne(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	client := connect(t, server)
	_, err := client.Subscribe(ctx, "secret")
	if !errors.Is(err, millrace.CodeNoAccess) || err.Error() != "no such channel (no-access)" {
		t.Fatal(err)
	}
	var name *millrace.NameError
	for _, bad := range []string{"", "a b", "a\x00", "\xff", strings.Repeat("a", 129), "a😀"} {
		if _, err := client.Subscribe(ctx, bad); !errors.As(err, &name) {
			t.Fatalf("%q: %v", bad, err)
		}
	}
	general := must(client.Subscribe(ctx, "general"))
	var twice *millrace.AlreadySubscribedError
	if _, err := client.Subscribe(ctx, "general"); !errors.As(err, &twice) || twice.Channel != "general" {
		t.Fatal(err)
	}
	must(0, general.Close())
	must(client.Subscribe(ctx, "general"))
	if !client.State().IsConnected() {
		t.Fatal(client.State())
	}
}

func TestMessagesAreRefusedOneByOne(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	sender := must(connect(t, server).Sender(ctx, "general"))
	if _, err := sender.Send(ctx, make([]byte, 20_000)); !errors.Is(err, millrace.CodeTooLarge) {
		t.Fatal(err)
	}
	server.Node(func(n *model.Node) { n.Faults.PublishRefused = 1_000 })
	// Every refusal that may pass is tried again; in the end comes one that does not.
	_, err := sender.Send(ctx, []byte("x"))
	if !errors.Is(err, millrace.CodeTooLarge) && !errors.Is(err, millrace.CodeArchived) {
		t.Fatal(err)
	}
	server.Node(func(n *model.Node) { n.Faults.PublishRefused = 0 })
	must(sender.Send(ctx, []byte("y")))
}

func TestTimeIsUpForRequestsWithoutAnAnswer(t *testing.T) {
	server, ctx := newServer(t, 1), inTime(t)
	short := 100 * time.Millisecond
	client := connect(t, server, millrace.WithRequestTimeout(short), millrace.WithSendTimeout(short))
	sender := must(client.Sender(ctx, "general"))
	server.Stall(true)
	ticket := must(sender.Submit(ctx, []byte("x")))
	_, read := sender.Page(ctx, millrace.Newest(), 1)
	_, sent := ticket.Wait(ctx)
	_, opened := client.Sender(ctx, "news")
	var unknown *millrace.UnconfirmedError
	var timeout *millrace.TimeoutError
	if !errors.As(sent, &unknown) || !errors.As(sent, &timeout) || timeout.Awaited != millrace.AwaitedAcknowledgement {
		t.Fatal(sent)
	}
	for _, err := range []error{read, opened} {
		if !errors.As(err, &timeout) || timeout.Awaited != millrace.AwaitedAnswer {
			t.Fatal(err)
		}
	}
}
