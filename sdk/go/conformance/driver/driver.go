package main

import (
	"context"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	millrace "millrace.dev/go"
)

// of names a client's channel.
type of struct{ client, channel string }

// ask names a question of a token function.
type ask struct {
	client string
	number uint64
}

// driver has clients, subscriptions and senders by the names that the runner gives them.
type driver struct {
	mu      sync.Mutex
	clients map[string]*millrace.Client
	readers map[of]*reader
	senders map[of]*sender
	// asks are those that wait for an answer.
	asks map[ask]chan answer
}

// answer is a token, or why there is none.
type answer struct {
	token string
	err   error
}

func newDriver() *driver {
	return &driver{
		clients: map[string]*millrace.Client{}, readers: map[of]*reader{}, senders: map[of]*sender{},
		asks: map[ask]chan answer{},
	}
}

// begin begins what a line asks for; the answer comes as an event.
func (d *driver) begin(line []byte) {
	id, name, c, err := parse(line)
	if err != nil {
		unsupported(id, err.Error())
		return
	}
	channel := of{c.Client, c.Channel}
	switch name {
	case "connect":
		d.connect(id, &c)
		return
	case "token":
		d.token(id, &c)
		return
	}
	client := d.client(c.Client)
	if client == nil {
		unsupported(id, "no client "+c.Client)
		return
	}
	switch name {
	case "subscribe":
		go d.subscribe(id, client, channel, &c)
	case "unsubscribe", "pause", "unpause":
		d.tell(id, channel, name)
	case "send":
		body, err := bodyOf(&c)
		if err != nil {
			unsupported(id, err.Error())
			return
		}
		d.sender(client, channel).push(message{id, body})
	case "mark-read":
		if c.Position == nil {
			unsupported(id, "no position")
			return
		}
		position := millrace.Position{Epoch: c.Position.Epoch, Offset: c.Position.Offset}
		go func() {
			if err := d.markRead(client, channel, position); err != nil {
				failed(id, err)
				return
			}
			done(id, nil)
		}()
	case "history":
		s := d.sender(client, channel)
		go func() {
			page, err := s.page(&c)
			if err != nil {
				failed(id, err)
				return
			}
			messages := []object{}
			for _, message := range page.Messages {
				messages = append(messages, messageOf(message))
			}
			done(id, object{"messages": messages, "more": page.More})
		}()
	case "close":
		go func() {
			if err := client.Close(); err != nil {
				failed(id, err)
				return
			}
			done(id, nil)
		}()
	}
}

func (d *driver) client(name string) *millrace.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clients[name]
}

func (d *driver) connect(id uint64, c *command) {
	options, err := d.options(c)
	if err != nil {
		unsupported(id, err.Error())
		return
	}
	if c.Lazy {
		client, err := millrace.ConnectLazy(c.URL, options...)
		d.connected(id, c.Client, client, err)
		return
	}
	go func() {
		client, err := millrace.Connect(context.Background(), c.URL, options...)
		d.connected(id, c.Client, client, err)
	}()
}

func (d *driver) connected(id uint64, name string, client *millrace.Client, err error) {
	if err != nil {
		failed(id, err)
		return
	}
	d.mu.Lock()
	d.clients[name] = client
	d.mu.Unlock()
	done(id, nil)
	go func() {
		for state := range client.States(context.Background()) {
			event := stateOf(state)
			event["event"], event["client"] = "state", name
			emit(event)
		}
	}()
}

// options are those of the SDK; what is not given stays at its default.
func (d *driver) options(c *command) ([]millrace.Option, error) {
	var options []millrace.Option
	switch {
	case c.Token != nil && !c.TokenProvider:
		options = append(options, millrace.WithToken(*c.Token))
	case c.Token == nil && c.TokenProvider:
		options = append(options, millrace.WithTokenFunc(d.tokens(c.Client)))
	default:
		return nil, errors.New("either token or token_provider")
	}
	for _, url := range c.URLs {
		options = append(options, millrace.WithURL(url))
	}
	if c.QueueMessages != nil || c.QueueBytes != nil {
		options = append(options, millrace.WithQueue(or(c.QueueMessages, 1024), or(c.QueueBytes, 1<<20)))
	}
	if c.WindowMessages != nil || c.WindowBytes != nil {
		options = append(options, millrace.WithWindow(or(c.WindowMessages, 256), or(c.WindowBytes, 4<<20)))
	}
	ms := func(number int) time.Duration { return time.Duration(number) * time.Millisecond }
	if c.BackoffFirstMs != nil || c.BackoffMaxMs != nil {
		options = append(options, millrace.WithBackoff(ms(or(c.BackoffFirstMs, 250)), ms(or(c.BackoffMaxMs, 30_000))))
	}
	for _, row := range []struct {
		given *int
		with  func(time.Duration) millrace.Option
	}{
		{c.ConnectTimeoutMs, millrace.WithConnectTimeout},
		{c.RequestTimeoutMs, millrace.WithRequestTimeout},
		{c.SendTimeoutMs, millrace.WithSendTimeout},
		{c.CloseTimeoutMs, millrace.WithCloseTimeout},
	} {
		if row.given != nil {
			options = append(options, row.with(ms(*row.given)))
		}
	}
	return options, nil
}

func or(given *int, otherwise int) int {
	if given == nil {
		return otherwise
	}
	return *given
}

// tokens is a token function that asks the runner.
func (d *driver) tokens(client string) millrace.TokenFunc {
	var number uint64
	return func(ctx context.Context) (string, error) {
		answered := make(chan answer, 1)
		d.mu.Lock()
		number++
		asked := ask{client, number}
		d.asks[asked] = answered
		d.mu.Unlock()
		emit(object{"event": "token_wanted", "client": client, "ask": asked.number})
		select {
		case a := <-answered:
			return a.token, a.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (d *driver) token(id uint64, c *command) {
	var a answer
	switch {
	case c.Token != nil && c.Error == nil:
		a.token = *c.Token
	case c.Token == nil && c.Error != nil:
		a.err = errors.New(*c.Error)
	default:
		unsupported(id, "either token or error")
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := ask{c.Client, c.Ask}
	answered, ok := d.asks[asked]
	if !ok {
		unsupported(id, "nobody asks for this token")
		return
	}
	delete(d.asks, asked)
	answered <- a
	done(id, nil)
}

func (d *driver) subscribe(id uint64, client *millrace.Client, name of, c *command) {
	start := millrace.StartLive()
	switch {
	case c.Start.after != nil:
		start = millrace.StartAfter(millrace.Position{Epoch: c.Start.after.Epoch, Offset: c.Start.after.Offset})
	case c.Start.afterOffset != nil:
		start = millrace.StartAfterOffset(*c.Start.afterOffset)
	}
	channel, err := client.SubscribeFrom(context.Background(), name.channel, start)
	if err != nil {
		failed(id, err)
		return
	}
	r := &reader{name: name, channel: channel, orders: make(chan order)}
	d.mu.Lock()
	d.readers[name] = r
	d.mu.Unlock()
	done(id, object{
		"position": positionOf(channel.Position()), "history": channel.History().String(), "can_publish": channel.CanPublish(),
	})
	go r.run(!c.Paused)
	go r.tellUnread()
}

// order is what a subscription's goroutine is told.
type order struct {
	id   uint64
	what string
}

func (d *driver) tell(id uint64, name of, what string) {
	d.mu.Lock()
	r := d.readers[name]
	if what == "unsubscribe" {
		delete(d.readers, name)
	}
	d.mu.Unlock()
	if r == nil {
		unsupported(id, "no such subscription")
		return
	}
	r.orders <- order{id, what}
}

// reader reads a subscription until it is told to stop.
type reader struct {
	name    of
	channel *millrace.Channel
	orders  chan order
}

// tellUnread tells how much is unread, until the client is closed.
func (r *reader) tellUnread() {
	for unread := range r.channel.Unreads(context.Background()) {
		emit(object{
			"event": "unread", "client": r.name.client, "channel": r.name.channel, "count": unread.Count,
			"read": positionOf(unread.Read), "newest": positionOf(unread.Newest),
		})
	}
}

func (r *reader) run(reads bool) {
	for {
		var next order
		if reads {
			next = r.read()
		} else {
			next = <-r.orders
		}
		switch next.what {
		case "pause":
			reads = false
		case "unpause":
			reads = true
		case "unsubscribe":
			if err := r.channel.Close(); err != nil {
				failed(next.id, err)
				return
			}
		}
		done(next.id, nil)
		if next.what == "unsubscribe" {
			return
		}
	}
}

// read tells events until there is an order. Nothing is told after it has returned.
func (r *reader) read() order {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for event, err := range r.channel.Events(ctx) {
			if errors.Is(err, context.Canceled) {
				return
			}
			told := eventOf(event, err)
			told["client"], told["channel"] = r.name.client, r.name.channel
			emit(told)
		}
	}()
	next := <-r.orders
	cancel()
	<-stopped
	return next
}

// message is a message to send.
type message struct {
	id   uint64
	body []byte
}

// sender gives messages to the SDK in the order in which they were read, however long one of them waits for room.
type sender struct {
	client  *millrace.Client
	channel string
	// wake has a token while there may be messages.
	wake chan struct{}

	mu       sync.Mutex
	messages []message

	opening sync.Mutex
	opened  *millrace.Sender
}

func (d *driver) sender(client *millrace.Client, name of) *sender {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.senders[name]
	if s == nil {
		s = &sender{client: client, channel: name.channel, wake: make(chan struct{}, 1)}
		d.senders[name] = s
		go s.run()
	}
	return s
}

// markRead marks by the subscription if there is one: a sender is opened with a connection, and who reads marks without one, too.
func (d *driver) markRead(client *millrace.Client, name of, position millrace.Position) error {
	d.mu.Lock()
	r := d.readers[name]
	d.mu.Unlock()
	if r != nil {
		return r.channel.MarkRead(context.Background(), position)
	}
	handle, err := d.sender(client, name).handle()
	if err != nil {
		return err
	}
	return handle.MarkRead(context.Background(), position)
}

func (s *sender) push(m message) {
	s.mu.Lock()
	s.messages = append(s.messages, m)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) run() {
	for range s.wake {
		s.mu.Lock()
		messages := s.messages
		s.messages = nil
		s.mu.Unlock()
		for _, m := range messages {
			s.send(m)
		}
	}
}

func (s *sender) send(m message) {
	ctx := context.Background()
	handle, err := s.handle()
	if err != nil {
		failed(m.id, err)
		return
	}
	ticket, err := handle.Submit(ctx, m.body)
	if err != nil {
		failed(m.id, err)
		return
	}
	emit(object{"event": "submitted", "id": m.id})
	go func() {
		position, err := ticket.Wait(ctx)
		if err != nil {
			failed(m.id, err)
			return
		}
		done(m.id, object{"position": positionOf(position)})
	}()
}

// handle opens the sender once and keeps it.
func (s *sender) handle() (*millrace.Sender, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	if s.opened != nil {
		return s.opened, nil
	}
	opened, err := s.client.Sender(context.Background(), s.channel)
	if err == nil {
		s.opened = opened
	}
	return opened, err
}

func (s *sender) page(c *command) (*millrace.Page, error) {
	handle, err := s.handle()
	if err != nil {
		return nil, err
	}
	span := millrace.Newest()
	if c.Before != nil {
		span = millrace.Before(*c.Before)
	}
	if c.After != nil {
		span = millrace.After(*c.After)
	}
	return handle.Page(context.Background(), span, c.Limit)
}

// bodyOf is a body as it is written.
func bodyOf(c *command) ([]byte, error) {
	switch {
	case c.Text != nil && c.Base64 == nil:
		return []byte(*c.Text), nil
	case c.Text == nil && c.Base64 != nil:
		return base64.StdEncoding.DecodeString(*c.Base64)
	default:
		return nil, errors.New("either text or base64")
	}
}
