package millrace

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace.dev/go/internal/wire"
)

// Scripts of channels: what a node says, what the engine does about it.

func TestAReaderThatIsFullPullsAndOthersGoOn(t *testing.T) {
	config := testConfig()
	config.queue = queueLimits{messagesMax: 4, bytesMax: 1 << 20}
	b := newWelcomedBench(t, config)
	c := b.read("general")
	for offset := range uint64(4) {
		b.push(offset + 1)
	}
	b.expectLog("starved")
	attach := b.frame()
	b.expectSubscribe(attach, wire.Subscribe{Channel: "general", Start: wire.StartAttach})
	for offset := range uint64(5) {
		b.push(offset + 5)
	}
	if len(b.events) != 4 {
		t.Fatalf("messages are taken that have no room: %v", b.events)
	}
	b.say(subscribedFrame(attach.Request, "general", 9, wire.RecoveryNone))
	if frames := b.frames(); frames != nil {
		t.Fatalf("%+v", frames)
	}
	b.engine.taken(b.now, c, 2, 4)
	page := b.frame()
	b.expectHistory(page, wire.After, 4, 2)
	b.say(pageFrame(page.Request, 5, 6, true))
	b.expectLog("starved")
	b.engine.taken(b.now, c, 4, 8)
	page = b.frame()
	b.expectHistory(page, wire.After, 6, 4)
	b.say(pageFrame(page.Request, 7, 9, false))
	resume := b.frame()
	b.expectSubscribe(resume, wire.Subscribe{
		Channel: "general", Start: wire.StartAfter, After: wire.Position{Epoch: 1, Offset: 9},
	})
	b.say(subscribedFrame(resume.Request, "general", 9, wire.RecoveryWhole))
	b.push(10)
	b.expectEvents("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
}

func TestARemovedUserIsToldAndWhatWasSentHasItsEnd(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.read("general")
	first := b.send(c, "sent")
	b.expectPublish(1, "sent")
	second := b.send(c, "waiting")
	b.say(&wire.ServerFrame{Kind: wire.ServerUnsubscribed, Unsubscribed: wire.Unsubscribed{
		Channel: 7, Code: uint16(CodeRemoved), Reason: "removed",
	}})
	var unknown *UnconfirmedError
	if len(b.sent) != 2 || b.sent[0].ticket != first || !errors.As(b.sent[0].err, &unknown) ||
		b.sent[1].ticket != second || errors.As(b.sent[1].err, &unknown) || !errors.Is(b.sent[1].err, CodeRemoved) {
		t.Fatalf("%+v", b.sent)
	}
	b.expectEvents("ended removed (removed)")
	b.send(c, "late")
	if !errors.Is(b.sent[2].err, CodeRemoved) {
		t.Fatalf("%+v", b.sent[2])
	}
	// Let in again, the user opens the channel anew.
	if again := b.open("general", nil); again == c {
		t.Fatal("it is the channel that ended")
	}
}

func TestAMessageOverTheLimitDoesNotLeave(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	b.send(c, strings.Repeat("x", 16<<10+1))
	var large *TooLargeError
	if !errors.As(b.sent[0].err, &large) || *large != (TooLargeError{Bytes: 16_385, BytesMax: 16_384}) ||
		!errors.Is(b.sent[0].err, CodeTooLarge) {
		t.Fatal(b.sent[0].err)
	}
	if frames := b.frames(); frames != nil {
		t.Fatalf("%+v", frames)
	}
}

func TestAHandleIsTriedUntilItsTimeIsOver(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	start, call, tries := StartLive(), &opening{}, 0
	if _, err := b.engine.open(b.now, "general", &start, call); err != nil {
		t.Fatal(err)
	}
	for !call.isDone {
		for _, frame := range b.frames() {
			if frame.Kind == wire.ClientSubscribe {
				tries++
				b.refuse(frame.Request, CodeUnavailable)
			}
		}
		b.pass(50 * time.Millisecond)
		b.say(&wire.ServerFrame{Kind: wire.ServerPing})
	}
	if tries < 5 || tries > 40 || !errors.Is(call.err, CodeUnavailable) {
		t.Fatalf("%d tries, %v", tries, call.err)
	}
	if len(b.engine.channels) != 0 {
		t.Fatal("nobody wants the channel any more")
	}
}

func TestASessionThatLostASubscriptionIsMended(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	b.send(c, "a")
	b.refuse(b.frame().Request, CodeNotSubscribed)
	b.pass(200 * time.Millisecond)
	frames := b.frames()
	b.expectSubscribe(frames[1], wire.Subscribe{Channel: "general", Start: wire.StartAttach})
	b.say(subscribedFrame(frames[1].Request, "general", 0, wire.RecoveryNone))
	b.pass(200 * time.Millisecond)
	b.acknowledge(b.expectPublish(1, "a"), 1)
	if len(b.sent) != 1 || b.sent[0].position != (Position{1, 1}) {
		t.Fatalf("%+v", b.sent)
	}
}

func TestAPageIsAskedForAgainOnTheNextConnection(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	call := &pageCall{}
	b.engine.readHistory(b.now, c, call, Newest(), 50)
	b.expectHistory(b.frame(), wire.Newest, 0, 50)
	b.engine.handleDisconnected(b.now, disconnected("cut"))
	b.pass(100 * time.Millisecond)
	hello := b.helloAgain()
	b.say(subscribedFrame(hello.Request, "general", 1, wire.RecoveryNone))
	page := b.frame()
	b.expectHistory(page, wire.Newest, 0, 50)
	b.say(pageFrame(page.Request, 1, 1, false))
	if len(b.pages) != 1 || call.err != nil || len(call.page.Messages) != 1 || call.page.More {
		t.Fatalf("%+v", call)
	}
	for range historiesMax {
		b.engine.readHistory(b.now, c, &pageCall{}, Newest(), 50)
	}
	call = &pageCall{}
	b.engine.readHistory(b.now, c, call, Newest(), 50)
	if !errors.Is(call.err, ErrTooManyRequests) || !IsRetryable(call.err) {
		t.Fatal(call.err)
	}
}

func TestARefusedPageIsAskedForAgainWhileThereIsTime(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	for range 6 {
		b.engine.readHistory(b.now, c, &pageCall{}, Newest(), 50)
	}
	frames := b.frames()
	if len(frames) != historiesAskedMax {
		t.Fatalf("%d are asked for", len(frames))
	}
	b.refuse(frames[0].Request, CodeNoHistory)
	if len(b.pages) != 1 || !errors.Is(b.pages[0].err, CodeNoHistory) {
		t.Fatalf("%+v", b.pages)
	}
	asked := 0
	for open := frames[1:]; len(b.pages) == 1; {
		for _, frame := range open {
			b.refuse(frame.Request, CodeBusy)
		}
		b.pass(500 * time.Millisecond)
		b.say(&wire.ServerFrame{Kind: wire.ServerPing})
		open = slices.DeleteFunc(b.frames(), func(f *wire.ClientFrame) bool { return f.Kind != wire.ClientHistory })
		asked += len(open)
	}
	if asked <= 5 || !errors.Is(b.pages[1].err, CodeBusy) {
		t.Fatalf("%d tries, %v", asked, b.pages[1].err)
	}
}

// Answers to what was sent before the node ended the subscription do not count for what is sent after.
func TestAnswersThatComeLateAreForNobody(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	b.send(c, "a")
	late := b.frame()
	b.say(&wire.ServerFrame{Kind: wire.ServerUnsubscribed, Unsubscribed: wire.Unsubscribed{
		Channel: 7, Code: uint16(CodeUnavailable), Reason: "away",
	}})
	b.pass(100 * time.Millisecond)
	b.say(subscribedFrame(b.frame().Request, "general", 0, wire.RecoveryNone))
	b.expectPublish(1, "a")
	b.refuse(late.Request, CodeTooLarge)
	b.refuse(late.Request, CodeRateLimited)
	if len(b.sent) != 0 {
		t.Fatalf("%+v", b.sent)
	}
	b.send(c, "b")
	b.expectPublish(2, "b") // nothing halts
}

func TestClosingWaitsForWhatWasSent(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.read("general")
	b.send(c, "a")
	b.engine.close(b.now)
	b.expectLog()
	if _, err := b.engine.open(b.now, "general", nil, &opening{}); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	b.acknowledge(b.expectPublish(1, "a"), 1)
	b.expectLog("disconnect", "closed <nil>")
	b.expectEvents("ended <nil>")
	if len(b.sent) != 1 || b.sent[0].err != nil {
		t.Fatalf("%+v", b.sent)
	}

	b = newWelcomedBench(t, testConfig())
	c = b.open("general", nil)
	b.send(c, "a")
	b.frames()
	b.engine.close(b.now)
	b.pass(5 * time.Second)
	b.expectLog("disconnect", "closed timed out waiting for the last acknowledgements")
	var unknown *UnconfirmedError
	if !errors.As(b.sent[0].err, &unknown) {
		t.Fatal(b.sent[0].err)
	}
}

func TestAClosedHandleIsUnsubscribedAfterItsMessages(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	b.send(c, "a")
	b.engine.release(b.now, c, senderHandle)
	b.acknowledge(b.expectPublish(1, "a"), 1)
	if frame := b.frame(); frame.Kind != wire.ClientUnsubscribe || frame.Unsubscribe.Channel != 7 {
		t.Fatalf("%+v", frame)
	}
	if len(b.engine.channels) != 0 {
		t.Fatal("nobody wants the channel any more")
	}
}

func TestDuplicatesAreDroppedAndGapsAreRead(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.read("general")
	b.push(1)
	b.push(1)
	b.expectEvents("1")
	b.push(3)
	b.expectEvents()
	attach := b.frame()
	b.expectSubscribe(attach, wire.Subscribe{Channel: "general", Start: wire.StartAttach})
	// Of the subscription that is replaced.
	b.push(2)
	b.expectEvents()
	b.say(subscribedFrame(attach.Request, "general", 3, wire.RecoveryNone))
	page := b.frame()
	b.expectHistory(page, wire.After, 1, pageMessagesMax)
	b.say(pageFrame(page.Request, 2, 3, false))
	b.expectEvents("2", "3")
}

func TestWhatANodeSkipsIsTold(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.read("general")
	skip := func(first, last uint64) {
		b.say(&wire.ServerFrame{Kind: wire.ServerSkipped, Skipped: wire.Skipped{
			Channel: 7, First: wire.Position{Epoch: 1, Offset: first}, Last: wire.Position{Epoch: 1, Offset: last},
		}})
	}
	b.push(1)
	skip(2, 5)
	skip(4, 5)
	b.push(6)
	b.expectEvents("1", "skipped slow consumer 2 5 0", "6")
}

func TestAChannelWithoutHistoryTellsWhatWasMissed(t *testing.T) {
	config := testConfig()
	config.queue = queueLimits{messagesMax: 2, bytesMax: 1 << 20}
	b := newWelcomedBench(t, config)
	start := StartLive()
	c, err := b.engine.open(b.now, "typing", &start, &opening{})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(request uint32) {
		b.say(&wire.ServerFrame{Request: request, Kind: wire.ServerSubscribed, Subscribed: wire.Subscribed{
			Name: "typing", Channel: 7, Position: wire.Position{Epoch: 1}, History: wire.NoHistory, CanPublish: true,
		}})
	}
	answer(b.frame().Request)
	for range 5 {
		b.push(0)
	}
	b.expectEvents("0", "0")
	b.expectLog("starved")
	b.engine.taken(b.now, c, 2, 4)
	b.expectEvents("skipped queue full 0 0 3")
	b.engine.taken(b.now, c, 1, 0)
	b.engine.handleDisconnected(b.now, disconnected("cut"))
	b.pass(100 * time.Millisecond)
	answer(b.helloAgain().Request)
	b.expectEvents("skipped interrupted 0 0 0")
}

func TestTheRightToPublishIsTold(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	b.read("general")
	news := subscribedFrame(0, "general", 0, wire.RecoveryNone)
	news.Subscribed.CanPublish = false
	b.say(news)
	b.expectEvents("millrace.CanPublish false")
	news.Subscribed.CanPublish = true
	b.say(news)
	b.expectEvents("millrace.CanPublish true")
}

func TestWhatTheApplicationTakesBackDoesNotHoldUpTheRest(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	first, second := b.send(c, "1"), b.send(c, "2")
	b.send(c, "3")
	gone := errors.New("taken back")
	take := func(ticket *Ticket) {
		b.engine.cancelSend(b.now, c, ticket, gone)
		b.act()
	}
	take(second)
	if len(b.sent) != 1 || b.sent[0].ticket != second || b.sent[0].err != gone {
		t.Fatalf("%+v", b.sent)
	}
	publishes := b.frames()
	take(first)
	var unknown *UnconfirmedError
	if len(b.sent) != 2 || !errors.As(b.sent[1].err, &unknown) || !errors.Is(b.sent[1].err, gone) {
		t.Fatalf("it is under way: %+v", b.sent)
	}
	take(first)
	if len(publishes) != 2 || publishes[1].Publish.Sequence != 2 || string(publishes[1].Publish.Body) != "3" {
		t.Fatalf("%+v", publishes)
	}
	b.acknowledge(publishes[0], 1)
	b.acknowledge(publishes[1], 2)
	if len(b.sent) != 3 || b.sent[2].err != nil {
		t.Fatalf("%+v", b.sent)
	}
}

func TestAPageThatNobodyWaitsForGivesItsPlaceBack(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	c := b.open("general", nil)
	calls := make([]*pageCall, historiesMax)
	for i := range calls {
		calls[i] = &pageCall{}
		b.engine.readHistory(b.now, c, calls[i], Newest(), 1)
	}
	asked := b.frames()
	if len(asked) != historiesAskedMax {
		t.Fatalf("%d asked", len(asked))
	}
	for _, call := range calls[:historiesAskedMax] {
		b.engine.abandonHistory(b.now, c, call)
	}
	if next := b.frames(); len(next) != historiesAskedMax {
		t.Fatalf("%d asked instead", len(next))
	}
	// The answer to what was given up is for nobody.
	b.say(pageFrame(asked[0].Request, 1, 1, false))
	late := &pageCall{}
	b.engine.readHistory(b.now, c, late, Newest(), 1)
	b.act()
	if len(b.pages) != 0 {
		t.Fatalf("%+v", b.pages)
	}
}

func TestAChannelWithoutHistoryIsReadWhenItSaysSo(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	answer := func(asked *wire.ClientFrame) {
		frame := subscribedFrame(asked.Request, "typing", 0, wire.RecoveryNone)
		frame.Subscribed.History = wire.NoHistory
		b.say(frame)
	}
	open := func(start *Start) *opening {
		call := &opening{}
		if _, err := b.engine.open(b.now, "typing", start, call); err != nil {
			t.Fatal(err)
		}
		return call
	}
	sender := open(nil)
	attach := b.frame()
	for _, start := range []Start{StartLive(), StartAfterOffset(3), StartAfter(Position{Epoch: 1, Offset: 9})} {
		reader := open(&start)
		if asked := b.frames(); len(asked) > 0 {
			attach = asked[len(asked)-1]
		}
		answer(attach)
		if !sender.isDone || reader.isDone {
			t.Fatalf("%+v: the right to publish is no subscription", start)
		}
		read := b.frame()
		b.expectSubscribe(read, wire.Subscribe{Channel: "typing", Start: wire.StartLive})
		answer(read)
		if !reader.isDone || reader.err != nil {
			t.Fatalf("%+v", reader)
		}
		b.expectEvents()
		b.engine.release(b.now, b.engine.byName["typing"], readerHandle)
		b.engine.release(b.now, b.engine.byName["typing"], senderHandle)
		attach = b.frame()
	}
}

func TestChannelsTakeTurns(t *testing.T) {
	b := newWelcomedBench(t, testConfig())
	general := b.open("general", nil)
	c, err := b.engine.open(b.now, "news", nil, &opening{})
	if err != nil {
		t.Fatal(err)
	}
	answer := subscribedFrame(b.frame().Request, "news", 0, wire.RecoveryNone)
	answer.Subscribed.Channel = 8
	b.say(answer)
	for range 2 * requestsMax {
		b.send(general, "g")
	}
	b.send(c, "n")
	frames := b.frames()
	at := slices.IndexFunc(frames, func(f *wire.ClientFrame) bool { return f.Publish.Channel == 8 })
	if at != messagesPerTurn || len(frames) != requestsMax {
		t.Fatalf("the other channel's message is number %d of %d", at, len(frames))
	}
}

// Whatever a source file of the engine names would be a clock, a socket, a lock or a goroutine.
func TestTheEngineIsPure(t *testing.T) {
	files := []string{
		"backoff.go", "code.go", "endpoint.go", "engine.go", "engine_calls.go", "engine_channel.go", "engine_connection.go",
		"engine_receive.go", "engine_transmit.go", "event.go", "name.go", "outbox.go", "random.go", "reads.go",
		"state.go", "subscription.go",
	}
	allowed := []string{
		"encoding/hex", "errors", "fmt", "math", "math/bits", "millrace.dev/go/internal/wire", "net/netip", "slices", "sort",
		"strconv", "strings", "time", "unicode", "unicode/utf8",
	}
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "Tick", "NewTicker"}
	for _, name := range files {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range file.Imports {
			if !slices.Contains(allowed, strings.Trim(imported.Path.Value, `"`)) {
				t.Errorf("%s imports %s", name, imported.Path.Value)
			}
		}
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%v: a core has no goroutines", set.Position(node.Pos()))
			case *ast.SelectorExpr:
				if of, ok := node.X.(*ast.Ident); ok && of.Name == "time" && slices.Contains(clock, node.Sel.Name) {
					t.Errorf("%v: a core has no clock", set.Position(node.Pos()))
				}
			}
			return true
		})
	}
}

func ExampleAdviceOf() {
	err := fmt.Errorf("open the chat: %w", &RefusedError{Code: CodeNoAccess, Message: "no such channel"})
	fmt.Println(AdviceOf(err), IsRetryable(err), err)
	// Output: do not retry false open the chat: no such channel (no-access)
}
