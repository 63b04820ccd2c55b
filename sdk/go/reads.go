package millrace

import "millrace.dev/go/internal/wire"

// Unread tells how far the user has read a channel, on whichever device, and what is unread.
type Unread struct {
	// Count is how many messages stand behind the read position: other people's and the user's own.
	Count uint64
	// Read is the position up to and with which everything is read; offset 0 if nothing is.
	Read Position
	// Newest is the newest message that is known. A [Sender] alone hears of new ones only when it sends.
	Newest Position
}

// reads is how far the user has read one channel, and how much is unread. The node tells where the position stands; marks of the
// application count here at once, the furthest one waits until the node has stored it, and one at a time is on its way.
type reads struct {
	// newest is the newest message that is known, if hasNewest: not before the first answer, nor in a channel without history.
	newest    Position
	hasNewest bool
	// read is where the node says that the position stands, if hasRead.
	read    Position
	hasRead bool
	// isFresh: the connection is new, and what the node says next counts, whatever was known before.
	isFresh bool
	// wanted is the furthest that the application has marked and the node has not stored; offset 0 for nothing.
	wanted Position
	// nearer is another mark that is not stored, behind wanted: it counts if the node refuses that one. Offset 0 for none.
	nearer Position
	// under is the mark that the node was asked to store, since askedAt; not if that is 0.
	under   Position
	askedAt instant
	// pausedUntil is when the mark is tried again.
	pausedUntil instant
	// told is what the application was told last, if isTold.
	told   Unread
	isTold bool
}

// subscribed says that the session is subscribed or attached; head is the newest message, if the channel keeps any.
func (r *reads) subscribed(head Position, keepsHistory bool) {
	r.newest, r.hasNewest, r.isFresh = head, keepsHistory, true
	if !keepsHistory {
		r.hasRead = false
		r.giveUp()
	}
}

// seen says that there is a message at a position.
func (r *reads) seen(at Position) {
	if at.Offset == 0 || !r.hasNewest || !isBehind(r.newest, at) {
		return
	}
	// Others stand now where messages of the old epoch were lost.
	for _, read := range []*Position{&r.read, &r.wanted, &r.nearer} {
		if read.Offset > 0 && read.Epoch < at.Epoch {
			*read = Position{Epoch: at.Epoch, Offset: min(read.Offset, at.Offset-1)}
		}
	}
	r.newest = at
}

// moved says where the position stands, as the node tells.
func (r *reads) moved(to Position) {
	if r.isFresh || !r.hasRead || isBehind(r.read, to) {
		r.read, r.hasRead = to, true
	}
	r.isFresh = false
	for _, mark := range []*Position{&r.wanted, &r.nearer} {
		if !isBehind(to, *mark) {
			*mark = Position{}
		}
	}
}

// mark says that the application has read so far.
func (r *reads) mark(at Position) {
	if at.Offset == 0 || r.hasRead && !isBehind(r.read, at) || at == r.wanted {
		return
	}
	// A position that may be ahead of the channel takes no other with it when it is refused.
	other := at
	if isBehind(r.wanted, at) {
		other, r.wanted = r.wanted, at
	}
	if r.nearer.Offset == 0 || r.isKnown(other) && (!r.isKnown(r.nearer) || isBehind(r.nearer, other)) {
		r.nearer = other
	}
}

// isKnown tells whether a message is known to be there.
func (r *reads) isKnown(at Position) bool { return r.hasNewest && !isBehind(r.newest, at) }

// due is the mark to send now. It is under way once asked says so.
func (r *reads) due(now instant) (Position, bool) {
	return r.wanted, r.wanted.Offset > 0 && r.askedAt == 0 && r.pausedUntil <= now
}

func (r *reads) asked(now instant, at Position) { r.under, r.askedAt, r.pausedUntil = at, now, 0 }

// answered says that the node has stored the mark.
func (r *reads) answered(at Position) {
	r.askedAt = 0
	r.moved(at)
}

// refused says that the node refused the mark: for good if retryAt is 0.
func (r *reads) refused(retryAt instant) {
	if retryAt == 0 && r.askedAt != 0 {
		switch r.under {
		case r.wanted:
			r.wanted, r.nearer = r.nearer, Position{}
		case r.nearer:
			r.nearer = Position{}
		}
	}
	r.askedAt, r.pausedUntil = 0, retryAt
}

// giveUp says that marks are of no use: the node does not know them, or the channel is gone.
func (r *reads) giveUp() {
	r.wanted, r.nearer, r.askedAt, r.pausedUntil = Position{}, Position{}, 0, 0
}

// disconnected says that the connection is gone, or the session's place in the channel.
func (r *reads) disconnected() { r.askedAt, r.pausedUntil = 0, 0 }

// isPending tells whether a mark is not stored yet.
func (r *reads) isPending() bool { return r.wanted.Offset > 0 }

// retryAt is when to look at due again; 0 for never.
func (r *reads) retryAt() instant {
	if r.isPending() {
		return r.pausedUntil
	}
	return 0
}

// tell tells whether what the application should know is not what it was told last; from now on it is.
func (r *reads) tell() bool {
	unread, known := r.unread()
	isNews := unread != r.told || known != r.isTold
	r.told, r.isTold = unread, known
	return isNews
}

// unread is how much is unread, if that is known.
func (r *reads) unread() (Unread, bool) {
	if !r.hasNewest || !r.hasRead {
		return Unread{}, false
	}
	read := r.read
	if r.isPending() && isBehind(read, r.wanted) {
		read = r.wanted
	}
	unread := Unread{Read: read, Newest: r.newest}
	// A position of a later epoch than the newest message is behind no message that is known.
	if isBehind(read, r.newest) && r.newest.Offset > read.Offset {
		unread.Count = r.newest.Offset - read.Offset
	}
	return unread, true
}

// isBehind compares places: a later epoch counts more than any offset; nothing is behind offset 0, which is no message.
func isBehind(from, to Position) bool {
	if to.Offset == 0 {
		return false
	}
	return from.Offset == 0 || from.Epoch < to.Epoch || from.Epoch == to.Epoch && from.Offset < to.Offset
}

// markRead says that the user has read a channel so far.
func (e *engine) markRead(now instant, c *channel, at Position) {
	keepsNothing := c.facts != nil && c.facts.history == NoHistory
	if !e.hasReads || keepsNothing || c.isGone || c.ended != nil || e.whyClosed() != nil {
		return
	}
	c.reads.mark(at)
	e.tellUnread(c)
	e.sync(now, c)
}

// readMoved takes where the user's read position stands, in answer to a mark or unasked.
func (e *engine) readMoved(now instant, number uint32, said *wire.Read) {
	c := e.byNumber[said.Channel]
	r, isAnswer := e.takeRequest(number)
	isAnswer = isAnswer && r.kind == requestMarkRead
	if isAnswer {
		c = r.channel
	}
	if c == nil || c.isGone {
		return
	}
	if isAnswer {
		c.reads.answered(Position(said.Position))
		c.backoff.reset()
	} else {
		c.reads.moved(Position(said.Position))
	}
	e.tellUnread(c)
	e.sync(now, c)
	e.finishIfFlushed(now)
}

func (e *engine) markRefused(now instant, c *channel, err *RefusedError) {
	if err.Code == CodeNotSubscribed || IsRetryable(err) {
		c.reads.refused(now.after(retryWait(&c.backoff, err, &e.random)))
	} else {
		e.note("the node refuses a read position", err)
		c.reads.refused(0)
	}
	e.tellUnread(c)
}

// seen says that there is a message at a position of a channel.
func (e *engine) seen(c *channel, at Position) {
	c.reads.seen(at)
	e.tellUnread(c)
}

// tellUnread tells the application what is unread, if that has changed. Between two of the shell's turns it is told once.
func (e *engine) tellUnread(c *channel) {
	if !c.hasUnreadNews {
		c.hasUnreadNews = true
		e.unreadNews = append(e.unreadNews, c)
	}
}

// pollUnread gives a channel of which the application may be told something new about what is unread; nil if there is none.
func (e *engine) pollUnread() *channel {
	for len(e.unreadNews) > 0 {
		c := e.unreadNews[0]
		e.unreadNews = e.unreadNews[1:]
		c.hasUnreadNews = false
		if c.reads.tell() {
			return c
		}
	}
	return nil
}
