package millrace

import (
	"slices"
	"testing"
)

func TestURLsAreRead(t *testing.T) {
	check := func(url, expect string) {
		t.Helper()
		if parsed, err := parseEndpoint(url); err != nil || parsed.String() != expect {
			t.Errorf("%s: %v %v, not %s", url, parsed, err, expect)
		}
	}
	check("ws://127.0.0.1:7400", "ws://127.0.0.1:7400/v1/connect")
	check("WSS://chat.example", "wss://chat.example/v1/connect")
	check("ws://localhost:1/a/b?c=d#e", "ws://localhost:1/a/b?c=d")
	check("ws://[::1]:7400/", "ws://[::1]:7400/v1/connect")
	check("ws://host?x", "ws://host/v1/connect?x")
}

func TestWhatCannotBeAURLIsRefused(t *testing.T) {
	check := func(url, reason string) {
		t.Helper()
		if _, err := parseEndpoint(url); err == nil || err.Error() != "the URL cannot be used: "+reason {
			t.Errorf("%s: %v, not %s", url, err, reason)
		}
	}
	check("127.0.0.1:7400", `"127.0.0.1:7400" has no scheme; write ws://host:port or wss://host`)
	check("quic://host", "quic:// is not supported by this version; use ws:// or wss://")
	check("ftp://host", `"ftp" is no scheme for a connection; use ws:// or wss://`)
	check("ws://", `"" is no host`)
	check("ws://[::1", `"[::1" is no host`)
	check("ws://[host]:1", `"[host]:1" is no host`)
	check("ws://ho st", `"ho st" is no host`)
	check("ws://host:0", `"0" is no port`)
	check("ws://host:99999", `"99999" is no port`)
	check("ws://host:+1", `"+1" is no port`)
	check("ws://host:", `"" is no port`)
	check("ws://[::1]x", `"x" is no port`)
	check("ws://user:password@host", "it must not carry credentials; use a token")
	check("ws://host/a b", `"/a b" is no path`)
}

func TestTheEndpointThatWorkedIsTriedFirst(t *testing.T) {
	configured := func(urls ...string) endpoints {
		var e endpoints
		for _, url := range urls {
			parsed, err := parseEndpoint(url)
			if err != nil {
				t.Fatal(err)
			}
			e.configured = append(e.configured, parsed)
		}
		return e
	}
	check := func(e *endpoints, expect ...string) {
		t.Helper()
		var taken []string
		for range expect {
			taken = append(taken, e.take().String())
		}
		for i := range expect {
			expect[i] += connectPath
		}
		if !slices.Equal(taken, expect) {
			t.Fatalf("%q, not %q", taken, expect)
		}
	}
	e := configured("ws://a", "ws://b")
	check(&e, "ws://a", "ws://b")
	e.worked()
	check(&e, "ws://b", "ws://a")
	e.advise([]string{"c:1", "quic://no", "ws://d:2", "no host"}, 1)
	check(&e, "ws://c:1", "ws://d:2", "ws://b")
	// A client that came encrypted is not sent away in clear.
	e = configured("wss://a")
	check(&e, "wss://a")
	e.advise([]string{"ws://b", "c", "wss://d"}, 0)
	check(&e, "wss://d", "wss://c", "wss://a")
}
