// The conformance driver of the Go SDK: commands on standard input, events on standard output, as sdk/conformance/DRIVER.md
// says. It decides nothing.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// capabilities is what this SDK has beyond what every SDK must.
var capabilities = []string{
	"fail-fast", "lazy", "token-provider", "endpoints", "pause", "after-offset", "queue", "window", "timeouts", "backoff",
	"read-positions",
}

const lineBytesMax = 1 << 20

// object is a JSON object to be written.
type object map[string]any

func main() {
	emit(object{
		"event": "ready", "protocol": 1, "sdk": "go", "version": "0.1.0", "capabilities": capabilities,
	})
	d := newDriver()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	for lines.Scan() {
		d.begin(lines.Bytes())
	}
	// Nobody listens any more: end without a word, whatever is open.
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var output sync.Mutex

// emit writes one event. The runner always reads, so that this does not wait for long.
func emit(event object) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		// The runner has gone.
		os.Exit(0)
	}
}

func done(id uint64, fields object) {
	if fields == nil {
		fields = object{}
	}
	fields["event"], fields["id"] = "done", id
	emit(fields)
}

func failed(id uint64, err error) {
	emit(object{"event": "failed", "id": id, "error": errorOf(err)})
}

func unsupported(id uint64, why string) {
	emit(object{"event": "failed", "id": id, "error": object{
		"kind": "unsupported", "advice": "do-not-retry", "message": why,
	}})
}

// command is what a line asks for. Its fields are those of all commands; known says which belong to which.
type command struct {
	Client, Channel  string
	URL              string
	URLs             []string
	Token            *string
	TokenProvider    bool `json:"token_provider"`
	Lazy             bool
	QueueMessages    *int `json:"queue_messages"`
	QueueBytes       *int `json:"queue_bytes"`
	WindowMessages   *int `json:"window_messages"`
	WindowBytes      *int `json:"window_bytes"`
	BackoffFirstMs   *int `json:"backoff_first_ms"`
	BackoffMaxMs     *int `json:"backoff_max_ms"`
	ConnectTimeoutMs *int `json:"connect_timeout_ms"`
	RequestTimeoutMs *int `json:"request_timeout_ms"`
	SendTimeoutMs    *int `json:"send_timeout_ms"`
	CloseTimeoutMs   *int `json:"close_timeout_ms"`
	Start            start
	Paused           bool
	Text, Base64     *string
	Before, After    *uint64
	Limit            int
	Position         *struct {
		Epoch  uint32
		Offset uint64
	}
	Ask   uint64
	Error *string
}

// known has the fields of each command.
var known = map[string][]string{
	"connect": {
		"client", "url", "token", "token_provider", "lazy", "urls", "queue_messages", "queue_bytes", "window_messages",
		"window_bytes", "backoff_first_ms", "backoff_max_ms", "connect_timeout_ms", "request_timeout_ms", "send_timeout_ms",
		"close_timeout_ms",
	},
	"subscribe":   {"client", "channel", "start", "paused"},
	"unsubscribe": {"client", "channel"},
	"pause":       {"client", "channel"},
	"unpause":     {"client", "channel"},
	"send":        {"client", "channel", "text", "base64"},
	"mark-read":   {"client", "channel", "position"},
	"history":     {"client", "channel", "before", "after", "limit"},
	"token":       {"client", "ask", "token", "error"},
	"close":       {"client"},
}

// parse reads a line. The number is there if the line has one, whatever else is wrong.
func parse(line []byte) (id uint64, name string, c command, err error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(line, &fields); err != nil {
		return 0, "", c, err
	}
	if err := json.Unmarshal(fields["id"], &id); err != nil {
		return 0, "", c, fmt.Errorf("id: %w", err)
	}
	if err := json.Unmarshal(fields["command"], &name); err != nil {
		return id, "", c, fmt.Errorf("command: %w", err)
	}
	allowed, ok := known[name]
	if !ok {
		return id, name, c, fmt.Errorf("no command %q", name)
	}
	delete(fields, "id")
	delete(fields, "command")
	for field := range fields {
		if !slices.Contains(allowed, field) {
			return id, name, c, fmt.Errorf("%s has no field %q", name, field)
		}
	}
	if err := json.Unmarshal(line, &c); err != nil {
		return id, name, c, err
	}
	return id, name, c, nil
}

// start is where a subscription starts: nothing or "live", {"after": …} or {"after_offset": …}.
type start struct {
	after *struct {
		Epoch  uint32
		Offset uint64
	}
	afterOffset *uint64
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *start) UnmarshalJSON(text []byte) error {
	if bytes.Equal(text, []byte(`"live"`)) {
		return nil
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &fields); err != nil || len(fields) != 1 {
		return errors.New("start is none of live, after, after_offset")
	}
	for name, value := range fields {
		switch name {
		case "after":
			return json.Unmarshal(value, &s.after)
		case "after_offset":
			return json.Unmarshal(value, &s.afterOffset)
		}
	}
	return errors.New("start is none of live, after, after_offset")
}
