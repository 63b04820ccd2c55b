package millrace_test

import (
	"net"
	"strings"
	"testing"

	millrace "millrace.dev/go"
	"millrace.dev/go/internal/model"
)

// TestTheSameHoldsOverQUIC runs what holds whatever carries the frames: every test of the shell that does not name a transport.
func TestTheSameHoldsOverQUIC(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"AChannelThatIsNotReadCostsItsQueueAndNobodyElse": TestAChannelThatIsNotReadCostsItsQueueAndNobodyElse,
		"AFastSenderWaitsForItsWindow":                    TestAFastSenderWaitsForItsWindow,
		"WhatIsSentOfflineIsBoundedAndLeavesLater":        TestWhatIsSentOfflineIsBoundedAndLeavesLater,
		"ANodeThatDoesNotReadStopsTheSender":              TestANodeThatDoesNotReadStopsTheSender,
		"AClientIsSharedByGoroutines":                     TestAClientIsSharedByGoroutines,
		"WhatIsSentIsStoredAndRead":                       TestWhatIsSentIsStoredAndRead,
		"MessagesOfOneSenderKeepTheirOrder":               TestMessagesOfOneSenderKeepTheirOrder,
		"HistoryIsReadPageByPage":                         TestHistoryIsReadPageByPage,
		"ASubscriptionBeginsWhereItIsTold":                TestASubscriptionBeginsWhereItIsTold,
		"IterationTellsWhatDidNotCome":                    TestIterationTellsWhatDidNotCome,
		"TheStateCanBeWatched":                            TestTheStateCanBeWatched,
		"AClientAnswersPingsAndLeavesWhenItIsTold":        TestAClientAnswersPingsAndLeavesWhenItIsTold,
		"ASilentConnectionIsReplaced":                     TestASilentConnectionIsReplaced,
		"ClosingFlushesAndEndsEverything":                 TestClosingFlushesAndEndsEverything,
		"ClosingDoesNotWaitForEver":                       TestClosingDoesNotWaitForEver,
		"AClosedChannelIsUnsubscribedAndItsSendersGoOn":   TestAClosedChannelIsUnsubscribedAndItsSendersGoOn,
		"AMessageIsTakenBackUnlessItHasLeft":              TestAMessageIsTakenBackUnlessItHasLeft,
		"AHandlerOfTheLogMayAskTheClient":                 TestAHandlerOfTheLogMayAskTheClient,
		"ASessionThatIsEndedEndsItsSubscriptions":         TestASessionThatIsEndedEndsItsSubscriptions,
		"AConnectionThatBreaksAtAnyByteLosesNothing":      TestAConnectionThatBreaksAtAnyByteLosesNothing,
		"WhatWasMissedComesBeforeWhatIsNew":               TestWhatWasMissedComesBeforeWhatIsNew,
		"LostHistoryIsToldToTheApplication":               TestLostHistoryIsToldToTheApplication,
		"AWrongTokenIsNotTriedForEver":                    TestAWrongTokenIsNotTriedForEver,
		"ATokenFunctionMayFailAndIsAskedForNewTokens":     TestATokenFunctionMayFailAndIsAskedForNewTokens,
		"ChannelsAreRefusedOneByOne":                      TestChannelsAreRefusedOneByOne,
		"MessagesAreRefusedOneByOne":                      TestMessagesAreRefusedOneByOne,
		"TimeIsUpForRequestsWithoutAnAnswer":              TestTimeIsUpForRequestsWithoutAnAnswer,
	} {
		t.Run(name, test)
	}
}

func TestQUICWinsWhereItGetsThrough(t *testing.T) {
	server, ctx := newQUICServer(t), inTime(t)
	client := must(millrace.Connect(ctx, server.URL(), quickTo(server, millrace.WithURL(server.QUICURL()))...))
	t.Cleanup(func() { _ = client.Close() })
	channel := must(client.Subscribe(ctx, "general"))
	must(channel.Send(ctx, []byte("a")))
	if message := nextMessage(t, channel); message.Text() != "a" {
		t.Fatal(message)
	}
	if server.QUICConnections() != 1 {
		t.Fatalf("%d sessions by QUIC", server.QUICConnections())
	}
}

// Whoever blocks UDP says nothing.
func TestWhereUDPIsBlockedWebSocketTakesOverAndIsRemembered(t *testing.T) {
	server, ctx := newQUICServer(t), inTime(t)
	silent := must(net.ListenPacket("udp", "127.0.0.1:0"))
	defer silent.Close()
	quic := "quic://" + silent.LocalAddr().String()
	client := must(millrace.Connect(ctx, server.URL(), quickTo(server, millrace.WithURL(quic))...))
	t.Cleanup(func() { _ = client.Close() })
	channel := must(client.Subscribe(ctx, "general"))
	for range 3 {
		server.HangUp()
		must(channel.Send(ctx, []byte("a")))
	}
	if server.QUICConnections() != 0 {
		t.Fatal("UDP is blocked")
	}
}

func TestWhereNeitherWayLeadsBothAreTold(t *testing.T) {
	server, ctx := newQUICServer(t), inTime(t)
	_, err := millrace.Connect(ctx, server.URL(), quick(millrace.WithURL(server.QUICURL()))...)
	if err == nil || !strings.Contains(err.Error(), "by QUIC: ") || !strings.Contains(err.Error(), "by WebSocket: ") ||
		strings.Count(err.Error(), "certificate") < 2 {
		t.Fatal(err)
	}
}

func newQUICServer(t *testing.T) *model.Server {
	t.Helper()
	server := model.NewQUICServer(1)
	t.Cleanup(server.Close)
	return server
}
