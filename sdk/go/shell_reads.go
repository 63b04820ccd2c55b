package millrace

// markRead says that the user has read a channel so far.
func (s *shell) markRead(from *Sender, position Position) error {
	s.mu.Lock()
	defer s.unlock()
	err := s.engine.whyClosed()
	if err == nil && from.closed.Load() {
		err = ErrClosed
	}
	if err != nil {
		return err
	}
	s.engine.markRead(s.now(), from.channel, position)
	s.settle()
	return nil
}

// watchUnread is how much of a channel is unread, if that is known, and what is closed when it is another.
func (s *shell) watchUnread(c *channel) (Unread, bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := &c.shell
	if of.unreadChanged == nil {
		of.unreadChanged = make(chan struct{})
	}
	return of.unread, of.unreadKnown, of.unreadChanged
}

// showUnread shows the application how much of a channel is unread.
func (s *shell) showUnread(c *channel) {
	of := &c.shell
	of.unread, of.unreadKnown = c.reads.unread()
	if of.unreadChanged != nil {
		close(of.unreadChanged)
		of.unreadChanged = nil
	}
}
