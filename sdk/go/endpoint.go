package millrace

import (
	"net/netip"
	"strconv"
	"strings"
)

const (
	// connectPath is where a node takes connections.
	connectPath = "/v1/connect"

	schemeWS  = "ws"
	schemeWSS = "wss"
)

// endpoint is a URL that a client can connect to, checked and complete.
type endpoint struct {
	scheme string
	// host has the port, if the URL has one, and brackets if it is an IPv6 address.
	host string
	// target is path and query.
	target string
}

func (e endpoint) String() string { return e.scheme + "://" + e.host + e.target }

// parseEndpoint reads a URL as people write it.
func parseEndpoint(url string) (endpoint, error) {
	refuse := func(reason string) (endpoint, error) {
		return endpoint{}, &URLError{Reason: reason}
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return refuse(strconv.Quote(url) + " has no scheme; write ws://host:port or wss://host")
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case schemeWS, schemeWSS:
	case "quic", "https":
		return refuse(scheme + ":// is not supported by this version; use ws:// or wss://")
	default:
		return refuse(strconv.Quote(scheme) + " is no scheme for a connection; use ws:// or wss://")
	}
	rest, _, _ = strings.Cut(rest, "#")
	authority, target := rest, ""
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		authority, target = rest[:end], rest[end:]
	}
	if strings.Contains(authority, "@") {
		return refuse("it must not carry credentials; use a token")
	}
	host, port := authority, ""
	if strings.HasPrefix(authority, "[") {
		inner, behind, closed := strings.Cut(authority[1:], "]")
		if address, err := netip.ParseAddr(inner); !closed || err != nil || !address.Is6() || address.Zone() != "" {
			return refuse(strconv.Quote(authority) + " is no host")
		}
		host, port = inner, behind
	} else if colon := strings.IndexByte(authority, ':'); colon >= 0 {
		host, port = authority[:colon], authority[colon:]
	}
	if !strings.HasPrefix(authority, "[") && !isHostName(host) {
		return refuse(strconv.Quote(host) + " is no host")
	}
	if port != "" {
		digits, isPort := strings.CutPrefix(port, ":")
		number, err := strconv.ParseUint(digits, 10, 16)
		if !isPort || err != nil || number == 0 {
			return refuse(strconv.Quote(digits) + " is no port")
		}
	}
	for _, char := range []byte(target) {
		if char <= ' ' || char > '~' {
			return refuse(strconv.Quote(target) + " is no path")
		}
	}
	switch {
	case target == "" || target == "/":
		target = connectPath
	case strings.HasPrefix(target, "?"):
		target = connectPath + target
	}
	return endpoint{scheme: scheme, host: authority, target: target}, nil
}

func isHostName(host string) bool {
	for _, char := range []byte(host) {
		isLetter := char|0x20 >= 'a' && char|0x20 <= 'z'
		isDigit := char >= '0' && char <= '9'
		if !isLetter && !isDigit && char != '-' && char != '.' && char != '_' {
			return false
		}
	}
	return host != ""
}

// endpoints are the URLs of a deployment, in the order in which they are tried.
type endpoints struct {
	configured []endpoint
	// advised are from a node that goes away; tried once each, before the others, the last first.
	advised []endpoint
	// preferred is the last that worked.
	preferred *endpoint
	last      endpoint
	next      int
}

// take names the one to try now; each call names the next.
func (e *endpoints) take() endpoint {
	switch {
	case len(e.advised) > 0:
		e.last = e.advised[len(e.advised)-1]
		e.advised = e.advised[:len(e.advised)-1]
	case e.preferred != nil:
		e.last, e.preferred = *e.preferred, nil
	default:
		e.last = e.configured[e.next%len(e.configured)]
		e.next = (e.next + 1) % len(e.configured)
	}
	return e.last
}

// worked says that the one named last has worked: it is tried first again.
func (e *endpoints) worked() {
	last := e.last
	e.advised, e.preferred = nil, &last
}

// advise takes a node's word on where to go, beginning at a place that spreads its clients. A bare host and port is of the
// same scheme. What cannot be used is left out, and so is what would send the token in clear after an encrypted connection.
func (e *endpoints) advise(urls []string, spread uint64) {
	e.advised = nil
	for _, url := range urls {
		if !strings.Contains(url, "://") {
			url = e.last.scheme + "://" + url
		}
		if parsed, err := parseEndpoint(url); err == nil && (e.last.scheme != schemeWSS || parsed.scheme == schemeWSS) {
			e.advised = append(e.advised, parsed)
		}
	}
	if count := uint64(len(e.advised)); count > 0 {
		first := spread % count
		e.advised = append(e.advised[first:], e.advised[:first]...)
	}
}
