package millrace

import (
	"slices"
	"strings"
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
	check("QUIC://host:7443/", "quic://host:7443")
}

func TestURLsOfOneNodeBelongTogether(t *testing.T) {
	check := func(urls, expect []string) {
		t.Helper()
		var parsed []endpoint
		for _, url := range urls {
			one, err := parseEndpoint(url)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, one)
		}
		var grouped []string
		for _, one := range group(parsed) {
			grouped = append(grouped, strings.ReplaceAll(one.String(), connectPath, ""))
		}
		if !slices.Equal(grouped, expect) {
			t.Errorf("%q: %q, not %q", urls, grouped, expect)
		}
	}
	check([]string{"wss://a", "quic://a"}, []string{"quic://a or wss://a"})
	check([]string{"wss://A:7", "wss://b", "quic://a:7"}, []string{"quic://a:7 or wss://A:7", "wss://b"})
	check([]string{"quic://a:1", "quic://a:2", "wss://a:2", "wss://a:1"},
		[]string{"quic://a:1 or wss://a:1", "quic://a:2 or wss://a:2"})
	check([]string{"wss://a", "quic://a:4433"}, []string{"quic://a:4433 or wss://a"})
	check([]string{"wss://a", "quic://b"}, []string{"wss://a", "quic://b"})
	check([]string{"quic://a", "quic://a:2", "wss://a"}, []string{"quic://a or wss://a", "quic://a:2"})
	check([]string{"wss://[::1]", "quic://[::1]:443"}, []string{"quic://[::1]:443 or wss://[::1]"})
	// Whoever blocks the secure ways must not see the token.
	check([]string{"ws://a:7400", "wss://a:7443", "ws://b"}, []string{"wss://a:7443", "ws://b"})
	check([]string{"ws://a", "quic://a"}, []string{"quic://a"})
}

func TestWhatCannotBeAURLIsRefused(t *testing.T) {
	check := func(url, reason string) {
		t.Helper()
		if _, err := parseEndpoint(url); err == nil || err.Error() != "the URL cannot be used: "+reason {
			t.Errorf("%s: %v, not %s", url, err, reason)
		}
	}
	check("127.0.0.1:7400", `"127.0.0.1:7400" has no scheme; write wss://host, quic://host or ws://host:port`)
	check("quic://host/a", `a quic:// URL has no path, and this one has "/a"`)
	check("ftp://host", `"ftp" is no scheme for a connection; use wss://, quic:// or ws://`)
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
	e.advise([]string{"c:1", "ftp://no", "ws://d:2", "no host"}, 1)
	check(&e, "ws://c:1", "ws://d:2", "ws://b")
	// A client that came encrypted is not sent away in clear.
	e = configured("wss://a")
	check(&e, "wss://a")
	e.advise([]string{"ws://b", "c", "wss://d"}, 0)
	check(&e, "wss://d", "wss://c", "wss://a")
	// A bare host is reached by all the ways that this one is.
	e = endpoints{configured: group(configured("wss://a", "quic://a").configured)}
	e.take()
	e.advise([]string{"ws://b", "c"}, 0)
	if to := e.take(); to.String() != "quic://c or wss://c/v1/connect" {
		t.Fatal(to)
	}
}

func TestAListMayNameWaysThatOnlyBrowsersGo(t *testing.T) {
	token := WithToken("token")
	more := []Option{token, WithURL("wss://chat.example"), WithURL("quic://chat.example")}
	if _, found, err := newSettings("https://chat.example", more); err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
	if _, _, err := newSettings("https://chat.example", []Option{token}); err == nil {
		t.Error("a client went where only browsers go")
	}
}
