package millrace_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	millrace "millrace.dev/go"
)

// The SDK against the real server: the program that MILLRACE_BIN names, by default a debug build beside the module.

// realServer is a server in a folder of its own, behind a door that stays where it is when the server is killed.
type realServer struct {
	t      *testing.T
	binary string
	folder string

	mu      sync.Mutex
	process *exec.Cmd
	// ready is what the server printed last.
	ready struct{ URL, Token, User string }
	door  net.Listener
	open  map[net.Conn]bool
}

func startServer(t *testing.T) *realServer {
	t.Helper()
	binary := os.Getenv("MILLRACE_BIN")
	if binary == "" {
		binary = filepath.Join("..", "..", "target", "debug", "millrace")
	}
	binary, err := filepath.Abs(binary)
	if err == nil {
		_, err = os.Stat(binary)
	}
	if err != nil {
		t.Fatalf("the server is not built (cargo build --package millrace, or set MILLRACE_BIN): %v", err)
	}
	s := &realServer{
		t: t, binary: binary, folder: t.TempDir(), door: must(net.Listen("tcp", "127.0.0.1:0")), open: map[net.Conn]bool{},
	}
	t.Cleanup(func() {
		s.door.Close()
		s.kill()
	})
	go s.answerDoor()
	s.start()
	return s
}

// start runs the server and waits until it is ready.
func (s *realServer) start() {
	s.t.Helper()
	process := exec.Command(s.binary, "dev", "--json", "--ephemeral-ports", "--set", "log.filter=warn")
	process.Dir, process.Stderr, process.Env = s.folder, os.Stderr, plainEnvironment()
	output := must(process.StdoutPipe())
	must(0, process.Start())
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if err != nil {
		s.t.Fatalf("the server is not ready: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	must(0, json.Unmarshal(line, &s.ready))
	s.process = process
}

// plainEnvironment has nothing that the server would take for a setting.
func plainEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "MILLRACE_") })
}

// kill ends the server as a crash does: nothing is told, nothing is written.
func (s *realServer) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	// It may have ended by itself, which the test has noticed then.
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
	for conn := range s.open {
		_ = conn.Close()
	}
}

func (s *realServer) answerDoor() {
	for {
		outside, err := s.door.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		inside, err := net.Dial("tcp", strings.TrimPrefix(s.ready.URL, "ws://"))
		if err != nil || s.process == nil {
			_ = outside.Close()
			s.mu.Unlock()
			continue
		}
		s.open[outside], s.open[inside] = true, true
		s.mu.Unlock()
		for _, pair := range [][2]net.Conn{{outside, inside}, {inside, outside}} {
			go func() {
				// Either end ends both.
				_, _ = io.Copy(pair[1], pair[0])
				s.hangUp(outside, inside)
			}()
		}
	}
}

// hangUp breaks connections; all of them if none are named.
func (s *realServer) hangUp(conns ...net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		if len(conns) == 0 || slices.Contains(conns, conn) {
			_ = conn.Close()
			delete(s.open, conn)
		}
	}
}

func (s *realServer) url() string { return "ws://" + s.door.Addr().String() }

// run runs a command of the server's program as an operator would.
func (s *realServer) run(arguments ...string) string {
	s.t.Helper()
	command := exec.Command(s.binary, arguments...)
	command.Dir, command.Env = s.folder, plainEnvironment()
	var complaint bytes.Buffer
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		s.t.Fatalf("millrace %s: %v: %s", strings.Join(arguments, " "), err, complaint.String())
	}
	return strings.TrimSpace(string(output))
}

func (s *realServer) connect(token string, options ...millrace.Option) *millrace.Client {
	s.t.Helper()
	client, err := millrace.Connect(inTime(s.t), s.url(), quick(append(options, millrace.WithToken(token))...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestTwoUsersChat(t *testing.T) {
	server, ctx := startServer(t), inTime(t)
	server.run("channel", "create", "plans", "--owner", "alice", "--member", "bob")
	alice, bob := server.connect(server.run("token", "issue", "alice")), server.connect(server.run("token", "issue", "bob"))
	plans, heard := must(alice.Subscribe(ctx, "plans")), must(bob.Subscribe(ctx, "plans"))
	for number, text := range []string{"hi", "", "größe 世界", strings.Repeat("x", 16<<10)} {
		position := must(plans.Send(ctx, []byte(text)))
		message := nextMessage(t, heard)
		if message.Position != position || position.Offset != uint64(number)+1 || message.User != "alice" ||
			message.Text() != text || time.Since(message.Time).Abs() > time.Hour {
			t.Fatalf("%v, heard %v of %s at %v", position, message.Position, message.User, message.Time)
		}
	}
	_, err := plans.Send(ctx, make([]byte, 64<<10))
	if !errors.Is(err, millrace.CodeTooLarge) {
		t.Fatal(err)
	}
	carol := server.connect(server.run("token", "issue", "carol"))
	for _, name := range []string{"plans", "nothing"} {
		if _, err := carol.Subscribe(ctx, name); !errors.Is(err, millrace.CodeNoAccess) {
			t.Fatal(err)
		}
	}
	server.run("member", "remove", "plans", "bob")
	if _, err := heard.Next(ctx); !errors.Is(err, millrace.CodeRemoved) {
		t.Fatal(err)
	}
	server.run("channel", "archive", "plans")
	if _, err := plans.Next(ctx); !errors.Is(err, millrace.CodeArchived) && err != nil {
		t.Fatal(err)
	}
}

func TestHistoryIsReadBothWays(t *testing.T) {
	server, ctx := startServer(t), inTime(t)
	client := server.connect(server.ready.Token)
	sender := must(client.Sender(ctx, "general"))
	var expect []uint64
	var last *millrace.Ticket
	for number := range uint64(250) {
		last = must(sender.Submit(ctx, fmt.Append(nil, number)))
		expect = append(expect, number+1)
	}
	must(last.Wait(ctx))
	var back, forth []uint64
	for page, err := range sender.Pages(ctx, millrace.Newest(), 40) {
		back = append(offsetsOf(must(page, err)), back...)
	}
	for page, err := range sender.Pages(ctx, millrace.After(0), 0) {
		forth = append(forth, offsetsOf(must(page, err))...)
	}
	if !slices.Equal(back, expect) || !slices.Equal(forth, expect) {
		t.Fatalf("%v\n%v", back, forth)
	}
	// Resumes that the node replays, and ones that are read from the history.
	for _, after := range []uint64{0, 100, 249} {
		start := millrace.StartAfter(millrace.Position{Epoch: 1, Offset: after})
		channel := must(client.SubscribeFrom(ctx, "general", start))
		expectOffsets(t, channel, after+1, 250)
		must(0, channel.Close())
	}
	channel := must(client.SubscribeFrom(ctx, "general", millrace.StartAfter(millrace.Position{Epoch: 1, Offset: 999})))
	event, err := channel.Next(ctx)
	if reset, ok := event.(*millrace.Reset); !ok || reset.Reason != millrace.CodePositionAhead || reset.Position.Offset != 250 {
		t.Fatalf("%v %v", event, err)
	}
}

// The server is killed while a user types and another reads, again and again: nothing acknowledged is lost, nothing is stored
// twice, and the reader sees exactly what is stored.
func TestAServerThatIsKilledLosesNothing(t *testing.T) {
	server, ctx := startServer(t), inTime(t)
	writer := server.connect(server.ready.Token, millrace.WithWindow(16, 1<<20))
	reader := server.connect(server.ready.Token, millrace.WithQueue(64, 1<<20))
	sender := must(writer.Sender(ctx, "general"))
	channel := must(reader.SubscribeFrom(ctx, "general", millrace.StartAfterOffset(0)))

	const messages, kills = 600, 3
	type result struct {
		positions []millrace.Position
		err       error
	}
	sent := make(chan result, 1)
	var done sync.WaitGroup
	progress := make(chan int, messages)
	done.Go(func() {
		var r result
		var tickets []*millrace.Ticket
		for number := range messages {
			ticket, err := sender.Submit(ctx, fmt.Append(nil, number))
			if err != nil {
				r.err = err
				break
			}
			tickets = append(tickets, ticket)
			progress <- number
		}
		for _, ticket := range tickets {
			position, err := ticket.Wait(ctx)
			r.positions, r.err = append(r.positions, position), errors.Join(r.err, err)
		}
		sent <- r
	})
	done.Go(func() {
		for number := range progress {
			if number%(messages/(kills+1)) == messages/(kills+1)-1 && number < messages-2 {
				server.kill()
				server.start()
			}
			if number == messages-1 {
				return
			}
		}
	})
	var seen []millrace.Position
	for number := range messages {
		message := nextMessage(t, channel)
		if message.Text() != fmt.Sprint(number) {
			t.Fatalf("%q is number %d", message.Text(), number)
		}
		seen = append(seen, message.Position)
	}
	r := <-sent
	done.Wait()
	if r.err != nil || !slices.Equal(r.positions, seen) {
		t.Fatalf("%v: acknowledged at %v, seen at %v", r.err, r.positions, seen)
	}
	var stored []string
	for page, err := range sender.Pages(ctx, millrace.After(0), 1_000) {
		for _, message := range must(page, err).Messages {
			stored = append(stored, message.Text())
		}
	}
	for number, text := range stored {
		if text != fmt.Sprint(number) || len(stored) != messages {
			t.Fatalf("%d are stored, %q is number %d", len(stored), text, number)
		}
	}
}

// A kept position is all that a later run of the application needs, also when the server has been restarted in between.
func TestAPositionOutlivesClientAndServer(t *testing.T) {
	server, ctx := startServer(t), inTime(t)
	client := server.connect(server.ready.Token)
	channel := must(client.Subscribe(ctx, "general"))
	must(channel.Send(ctx, []byte("first")))
	kept := nextMessage(t, channel).Position
	must(0, client.Close())
	other := server.connect(server.ready.Token)
	must(must(other.Sender(ctx, "general")).Send(ctx, []byte("missed")))
	server.kill()
	server.start()
	channel = must(server.connect(server.ready.Token).SubscribeFrom(ctx, "general", millrace.StartAfter(kept)))
	if text := nextMessage(t, channel).Text(); text != "missed" {
		t.Fatal(text)
	}
}

func TestTokensExpireAndAreRenewed(t *testing.T) {
	server, ctx := startServer(t), inTime(t)
	// A token that is used as long as it is good ends the client.
	fixed := server.connect(server.run("token", "issue", "alice", "--ttl", "3s"))
	// A function keeps the connection.
	count := 0
	tokens := func(context.Context) (string, error) {
		count++
		return server.run("token", "issue", "alice", "--ttl", "3s"), nil
	}
	client, err := millrace.Connect(ctx, server.url(), millrace.WithTokenFunc(tokens))
	if err != nil {
		t.Fatal(err)
	}
	session := client.State().Session
	for state := range fixed.States(ctx) {
		if state.Phase == millrace.Closed && !errors.Is(state.Err, millrace.CodeTokenExpired) {
			t.Fatal(state.Err)
		}
	}
	must(must(client.Sender(ctx, "general")).Send(ctx, []byte("still here")))
	if state := client.State(); state.Session != session {
		t.Fatalf("the session is another: %+v", state)
	}
	must(0, client.Close())
	if count < 2 {
		t.Fatalf("%d tokens were asked for", count)
	}
}

func TestASessionThatIsCutResumesWhole(t *testing.T) {
	server, ctx := startServer(t), inTime(t)
	writer, reader := server.connect(server.ready.Token), server.connect(server.ready.Token)
	channel := must(reader.Subscribe(ctx, "general"))
	sender := must(writer.Sender(ctx, "general"))
	for round := range uint64(10) {
		for range 20 {
			must(sender.Submit(ctx, []byte("x")))
		}
		server.hangUp()
		must(sender.Send(ctx, []byte("x")))
		expectOffsets(t, channel, round*21+1, round*21+21)
	}
}
