//! Handles of a channel: a [`Channel`] reads and sends, a [`Sender`] sends.

use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use millrace_protocol::client::{HistoryClass, HistoryRange};
use millrace_protocol::id::{Offset, Position};
use tokio::sync::{oneshot, watch};

use crate::client::TaskHandle;
use crate::engine::{Handle, Key};
use crate::error::Error;
use crate::event::{Event, Page, Skipped, Unread};
use crate::inbox::{Call, Inbox};
use crate::state::UnreadWatch;
use crate::task::{Command, OpenHandle};
use crate::window::Window;

/// Messages of a page, unless more or fewer are asked for.
const PAGE_MESSAGES: u32 = 50;

/// A subscription to a channel, with the right to publish as far as the user has it. Dropped, it unsubscribes.
///
/// Read it: the client keeps at most its queue for it. When that is full, the client takes no more messages for this
/// channel and, once there is room, reads from the history what was missed; other channels go on meanwhile. In a channel
/// that keeps no history, what finds no room is dropped, and [`Event::Skipped`] says how much.
#[derive(Debug)]
pub struct Channel {
    sender: Sender,
    inbox: Arc<Inbox>,
    position: Position,
    history: HistoryClass,
    can_publish: bool,
    _reader: HandleGuard,
}

/// A handle to publish to a channel and to read its history. Clones share one order of messages.
#[derive(Debug, Clone)]
pub struct Sender {
    name: Arc<str>,
    key: Key,
    window: Arc<Window>,
    unread: watch::Receiver<Option<Unread>>,
    _sender: Arc<HandleGuard>,
}

/// Says that a handle is gone.
#[derive(Debug)]
struct HandleGuard {
    key: Key,
    handle: Handle,
    task: Arc<TaskHandle>,
}

impl Drop for HandleGuard {
    fn drop(&mut self) {
        self.task.bell.ring(Call::Released(self.key, self.handle));
    }
}

impl Channel {
    /// `None` if the handle has no inbox, which only a closed client's has not.
    pub(crate) fn new(name: String, handle: OpenHandle, task: Arc<TaskHandle>) -> Option<Self> {
        let reader = HandleGuard { key: handle.key, handle: Handle::Reader, task: task.clone() };
        let sender = Sender {
            name: name.into(),
            key: handle.key,
            window: handle.window,
            unread: handle.unread,
            _sender: Arc::new(HandleGuard { key: handle.key, handle: Handle::Sender, task }),
        };
        Some(Self {
            sender,
            inbox: handle.inbox?,
            position: handle.opened.position,
            history: handle.opened.history,
            can_publish: handle.opened.can_publish,
            _reader: reader,
        })
    }

    /// The next event, in order. `None` after [`Event::Ended`], or once the client is closed and everything is read.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = std::task::ready!(self.inbox.poll_next(cx));
        match &event {
            Some(Event::Message(message)) => self.position = message.position,
            Some(Event::Reset { position, .. }) => self.position = *position,
            Some(Event::Skipped(Skipped::SlowConsumer { last, .. })) => self.position = *last,
            Some(Event::CanPublish(can_publish)) => self.can_publish = *can_publish,
            Some(Event::Skipped(_) | Event::Ended(_)) | None => {}
        }
        Poll::Ready(event)
    }

    /// The place behind the last event that [`Channel::next`] returned: kept, it is where a later
    /// [`Client::subscribe_from`](crate::Client::subscribe_from) goes on.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What the channel keeps of its messages.
    pub fn history_class(&self) -> HistoryClass {
        self.history
    }

    /// Whether the user may publish, as of the last event.
    pub fn can_publish(&self) -> bool {
        self.can_publish
    }

    /// Name of the channel.
    pub fn name(&self) -> &str {
        self.sender.name()
    }

    /// A handle to send from elsewhere. The channel's own sends and those of its senders share one order.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Sends a message; see [`Sender::send`].
    ///
    /// # Errors
    /// As [`Sender::send`].
    ///
    /// # Cancel safety
    /// As [`Sender::send`].
    pub async fn send(&self, body: impl Into<Bytes>) -> Result<Position, Error> {
        self.sender.send(body).await
    }

    /// Sends a message without waiting for its acknowledgement; see [`Sender::submit`].
    ///
    /// # Errors
    /// As [`Sender::submit`].
    ///
    /// # Cancel safety
    /// As [`Sender::submit`].
    pub async fn submit(&self, body: impl Into<Bytes>) -> Result<Ticket, Error> {
        self.sender.submit(body).await
    }

    /// Says that the user has read everything up to and with a position, such as a message's; see [`Sender::mark_read`].
    ///
    /// # Errors
    /// As [`Sender::mark_read`].
    ///
    /// # Cancel safety
    /// As [`Sender::mark_read`].
    pub async fn mark_read(&self, position: Position) -> Result<(), Error> {
        self.sender.mark_read(position).await
    }

    /// How much is unread; see [`Sender::unread`].
    pub fn unread(&self) -> Option<Unread> {
        self.sender.unread()
    }

    /// Follows how much is unread.
    pub fn watch_unread(&self) -> UnreadWatch {
        self.sender.watch_unread()
    }

    /// Reads the history; see [`Sender::history`].
    pub fn history(&self) -> History<'_> {
        self.sender.history()
    }
}

impl Stream for Channel {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}

impl Sender {
    pub(crate) fn new(name: Arc<str>, handle: &OpenHandle, task: Arc<TaskHandle>) -> Self {
        let guard = HandleGuard { key: handle.key, handle: Handle::Sender, task };
        let unread = handle.unread.clone();
        Self { name, key: handle.key, window: handle.window.clone(), unread, _sender: Arc::new(guard) }
    }

    /// Name of the channel.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Largest body of a message that the node takes, in bytes, as it said when the connection was last made. A node that is
    /// reached later may take less; then the [`Ticket`] says so.
    pub fn payload_bytes_max(&self) -> usize {
        self.task().payload_bytes_max()
    }

    /// Sends a message and waits until it is acknowledged, which for a durable channel is when it is stored. It is tried
    /// again as often as it takes, over reconnects, and stored once.
    ///
    /// Returns its place; offset 0 in a channel without history, or if an earlier try had stored it so long ago that the
    /// node does not know where.
    ///
    /// # Errors
    /// - [`Error::Unconfirmed`] if it was sent and its fate is unknown; any other error says that it is not stored.
    /// - [`Error::Refused`] if the node refuses it for good, such as [`Code::ReadOnly`](crate::Code::ReadOnly).
    /// - [`Error::TooLarge`] if the body is over the node's limit.
    /// - [`Error::TimedOut`] if it could not be sent within the send timeout.
    /// - [`Error::Closed`], or what closed the client.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be sent all the same, or not; it is never sent twice.
    pub async fn send(&self, body: impl Into<Bytes>) -> Result<Position, Error> {
        self.submit(body).await?.await
    }

    /// Sends a message and returns as soon as it has its place in the order, which is once there is room in the window.
    /// The [`Ticket`] resolves when it is acknowledged. This is how to send fast: submit one after the other, and
    /// look at the tickets later, or never.
    ///
    /// # Errors
    /// - [`Error::TooLarge`] if the body is over [`Sender::payload_bytes_max`]: at once, before anything is submitted behind it.
    /// - [`Error::Closed`], or what closed the client.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the message is not sent.
    pub async fn submit(&self, body: impl Into<Bytes>) -> Result<Ticket, Error> {
        let body = body.into();
        let bytes_max = self.payload_bytes_max();
        if body.len() > bytes_max {
            return Err(Error::TooLarge { bytes: body.len(), bytes_max });
        }
        let admission = self.window.admit(body.len()).await;
        let (reply, answer) = oneshot::channel();
        self.task().tell(Command::Send { key: self.key, body, admission, reply }).await?;
        Ok(Ticket { answer })
    }

    /// Says that the user has read everything up to and with a position, such as a message's. It counts here at once and is told to the
    /// node until that has stored it, over reconnects; of many marks only the furthest goes. All sessions of the user, on whichever device,
    /// hear of it. A position that is behind where it stands already changes nothing.
    ///
    /// Mark while reading, as often as is convenient. What a node refuses, such as a position ahead of the channel, is dropped: then
    /// [`Sender::unread`] shows again where the position stands.
    ///
    /// # Errors
    /// [`Error::Closed`], or what closed the client.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing is marked.
    pub async fn mark_read(&self, position: Position) -> Result<(), Error> {
        self.task().tell(Command::MarkRead { key: self.key, position }).await
    }

    /// How far the user has read the channel, and how much is unread. `None` while that is not known: before the node has told, and in a
    /// channel that keeps no history.
    pub fn unread(&self) -> Option<Unread> {
        *self.unread.borrow()
    }

    /// Follows how much is unread.
    pub fn watch_unread(&self) -> UnreadWatch {
        UnreadWatch(self.unread.clone())
    }

    /// A page of history: the newest 50 messages, unless told otherwise.
    ///
    /// ```no_run
    /// # async fn example(sender: millrace_client::Sender) -> Result<(), millrace_client::Error> {
    /// let newest = sender.history().await?;
    /// if let Some(oldest) = newest.messages.first() {
    ///     let before = sender.history().before(oldest.position.offset).limit(100).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn history(&self) -> History<'_> {
        History { sender: self, range: HistoryRange::Newest, messages_max: PAGE_MESSAGES }
    }

    fn task(&self) -> &TaskHandle {
        &self._sender.task
    }
}

/// The acknowledgement of a message, to come. Dropping it changes nothing for the message.
#[derive(Debug)]
#[must_use = "only the ticket tells whether the message was stored"]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Position, Error>>,
}

impl Future for Ticket {
    type Output = Result<Position, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Without an answer the task ended in between: whether it had sent the message is not known.
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(Error::Closed.unconfirmed())))
    }
}

/// A page of history to read. Await it.
#[derive(Debug)]
#[must_use = "a page is read when it is awaited"]
pub struct History<'a> {
    sender: &'a Sender,
    range: HistoryRange,
    messages_max: u32,
}

impl<'a> History<'a> {
    /// The messages just before this offset.
    pub fn before(mut self, offset: u64) -> Self {
        self.range = HistoryRange::Before(Offset::new(offset).unwrap_or(Offset::FIRST));
        self
    }

    /// The messages just after this offset; 0 begins at the first.
    pub fn after(mut self, offset: u64) -> Self {
        self.range = HistoryRange::After(offset);
        self
    }

    /// At most so many messages. The node caps it at 1,000, and at 512 KiB of bodies.
    pub fn limit(mut self, messages_max: u32) -> Self {
        self.messages_max = messages_max.max(1);
        self
    }

    async fn read(self) -> Result<Page, Error> {
        let Self { sender, range, messages_max } = self;
        sender.task().ask(|reply| Command::History { key: sender.key, range, messages_max, reply }).await
    }
}

/// # Errors
/// [`Error::Refused`] if the node refuses, such as [`Code::NoHistory`](crate::Code::NoHistory); [`Error::TimedOut`] if there is no answer in
/// time; [`Error::TooManyRequests`] if 64 pages of the channel are under way; [`Error::Closed`], or what closed the client.
///
/// # Cancel safety
/// A dropped future loses nothing.
impl<'a> IntoFuture for History<'a> {
    type Output = Result<Page, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}
