package millrace

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	// connectPath is where a node takes connections.
	connectPath = "/v1/connect"

	schemeWS   = "ws"
	schemeWSS  = "wss"
	schemeQUIC = "quic"
)

// endpoint is a URL that a client can connect to, checked and complete.
type endpoint struct {
	scheme string
	// host has the port, if the URL has one, and brackets if it is an IPv6 address.
	host string
	// target is path and query; a QUIC endpoint has none.
	target string
	// beside is the same node by WebSocket, for a QUIC endpoint that has one.
	beside *endpoint
}

func (e endpoint) String() string {
	text := e.scheme + "://" + e.host + e.target
	if e.beside != nil {
		text += " or " + e.beside.String()
	}
	return text
}

// isSecure tells whether nobody on the way can read a token.
func (e endpoint) isSecure() bool { return e.scheme != schemeWS }

// split is the host without brackets, in lower case, and the port.
func (e endpoint) split() (host, port string) {
	host, port = e.host, "443"
	if e.scheme == schemeWS {
		port = "80"
	}
	// A colon within brackets is of the address.
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		host, port = host[:colon], host[colon+1:]
	}
	return strings.ToLower(strings.Trim(host, "[]")), port
}

// parseEndpoint reads a URL as people write it.
func parseEndpoint(url string) (endpoint, error) {
	refuse := func(reason string) (endpoint, error) {
		return endpoint{}, &URLError{Reason: reason}
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return refuse(strconv.Quote(url) + " has no scheme; write wss://host, quic://host or ws://host:port")
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case schemeWS, schemeWSS, schemeQUIC:
	default:
		return refuse(strconv.Quote(scheme) + " is no scheme for a connection; use wss://, quic:// or ws://")
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
	case scheme == schemeQUIC && target != "" && target != "/":
		return refuse("a quic:// URL has no path, and this one has " + strconv.Quote(target))
	case scheme == schemeQUIC:
		target = ""
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

// group puts together what leads to one node, in the order of the URLs. A quic URL belongs to the wss URL of the same host and
// port or, where ports differ, to the first of the host that has none. A host with a secure URL loses its ws URLs: whoever can
// block the secure ways must not see the token.
func group(urls []endpoint) []endpoint {
	isSecure := map[string]bool{}
	for _, url := range urls {
		if host, _ := url.split(); url.isSecure() {
			isSecure[host] = true
		}
	}
	grouped := slices.DeleteFunc(slices.Clone(urls), func(url endpoint) bool {
		host, _ := url.split()
		return !url.isSecure() && isSecure[host]
	})
	for _, needsSamePort := range []bool{true, false} {
		for i := 0; i < len(grouped); i++ {
			other := slices.IndexFunc(grouped[i+1:], func(other endpoint) bool { return fit(grouped[i], other, needsSamePort) })
			if other < 0 {
				continue
			}
			other += i + 1
			quic, webSocket := grouped[i], grouped[other]
			if quic.scheme != schemeQUIC {
				quic, webSocket = webSocket, quic
			}
			quic.beside = &webSocket
			grouped[i] = quic
			grouped = slices.Delete(grouped, other, other+1)
		}
	}
	return grouped
}

// fit tells whether one is a way by QUIC and the other a way by WebSocket to the same node.
func fit(a, b endpoint, needsSamePort bool) bool {
	aHost, aPort := a.split()
	bHost, bPort := b.split()
	return (a.scheme == schemeQUIC) != (b.scheme == schemeQUIC) && a.beside == nil && b.beside == nil &&
		aHost == bHost && (!needsSamePort || aPort == bPort)
}

// endpoints are the nodes of a deployment, in the order in which they are tried.
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
// same schemes. What cannot be used is left out, and so is what would send the token in clear after an encrypted connection.
func (e *endpoints) advise(urls []string, spread uint64) {
	schemes := []string{e.last.scheme}
	if e.last.beside != nil {
		schemes = append(schemes, e.last.beside.scheme)
	}
	var advised []endpoint
	take := func(url string) {
		if parsed, err := parseEndpoint(url); err == nil && (!e.last.isSecure() || parsed.isSecure()) {
			advised = append(advised, parsed)
		}
	}
	for _, url := range urls {
		if strings.Contains(url, "://") {
			take(url)
			continue
		}
		for _, scheme := range schemes {
			take(scheme + "://" + url)
		}
	}
	e.advised = group(advised)
	if count := uint64(len(e.advised)); count > 0 {
		first := spread % count
		e.advised = append(e.advised[first:], e.advised[:first]...)
	}
}
