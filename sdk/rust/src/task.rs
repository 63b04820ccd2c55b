//! The task behind a client: it owns the engine and the connection, and does what the engine asks, in turns.

use std::collections::HashMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millrace_protocol::client::HistoryRange;
use millrace_protocol::id::Position;
use slab::Slab;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::engine::subscription::Start;
use crate::engine::{Action, Config, Engine, Handle, Key, Opened};
use crate::error::{Awaited, Error};
use crate::event::{Page, Unread};
use crate::inbox::{Bell, Call, Inbox};
use crate::state::State;
use crate::token::TokenSource;
use crate::transport::{Connection, Dialer, Incoming};
use crate::window::{Admission, Window, WindowLimits};

/// Longest sleep of a client: a clock that jumped is noticed after so long.
const CLOCK_WATCH: Duration = Duration::from_secs(15);
/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 256;

/// What handles ask of the task.
pub(crate) enum Command {
    Open { name: String, start: Option<Start>, reply: oneshot::Sender<Result<OpenHandle, Error>> },
    Send { key: Key, body: Bytes, admission: Admission, reply: oneshot::Sender<Result<Position, Error>> },
    History { key: Key, range: HistoryRange, messages_max: u32, reply: oneshot::Sender<Result<Page, Error>> },
    MarkRead { key: Key, position: Position },
    Close,
}

/// What a handle is made of.
pub(crate) struct OpenHandle {
    pub(crate) key: Key,
    pub(crate) opened: Opened,
    pub(crate) window: Arc<Window>,
    pub(crate) unread: watch::Receiver<Option<Unread>>,
    /// Of a reader.
    pub(crate) inbox: Option<Arc<Inbox>>,
}

/// Who waits for a ticket of the engine.
enum Reply {
    Open { handle: Handle, reply: oneshot::Sender<Result<OpenHandle, Error>> },
    Send { reply: oneshot::Sender<Result<Position, Error>>, _admission: Admission },
    History { key: Key, reply: oneshot::Sender<Result<Page, Error>> },
}

/// What a task is started with.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) window: WindowLimits,
    pub(crate) tokens: TokenSource,
    pub(crate) dialer: Dialer,
    pub(crate) seed: u64,
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

pub(crate) struct Task {
    setup: Setup,
    engine: Engine,
    commands: mpsc::Receiver<Command>,
    commands_done: u64,
    bell: Arc<Bell>,
    state: watch::Sender<State>,
    /// For the handles, so that they refuse what the node would.
    payload_bytes_max: Arc<AtomicUsize>,
    replies: Slab<Reply>,
    /// Tickets of handles that are being opened.
    opening: Vec<usize>,
    /// Tickets of pages that are being read.
    reading: Vec<usize>,
    inboxes: HashMap<Key, Arc<Inbox>>,
    windows: HashMap<Key, Weak<Window>>,
    unreads: HashMap<Key, watch::Sender<Option<Unread>>>,
    connection: Option<Connection>,
    connecting: Pending<Result<Connection, Error>>,
    token: Pending<Result<Arc<str>, Error>>,
    /// The last connection that we closed, on its way out.
    leaving: Option<JoinHandle<()>>,
    is_over: bool,
}

/// What ends a wait.
enum Happening {
    Commands(usize),
    Bell,
    Turn(std::io::Result<()>),
    Connected(Result<Connection, Error>),
    Token(Result<Arc<str>, Error>),
    Timeout,
}

impl Task {
    pub(crate) fn new(
        setup: Setup,
        commands: mpsc::Receiver<Command>,
        bell: Arc<Bell>,
        state: watch::Sender<State>,
        payload_bytes_max: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            engine: Engine::new(setup.config.clone(), setup.seed, now(), unix_ms()),
            setup,
            commands,
            commands_done: 0,
            bell,
            state,
            payload_bytes_max,
            replies: Slab::new(),
            opening: Vec::new(),
            reading: Vec::new(),
            inboxes: HashMap::new(),
            windows: HashMap::new(),
            unreads: HashMap::new(),
            connection: None,
            connecting: None,
            token: None,
            leaving: None,
            is_over: false,
        }
    }

    /// Runs until the client is closed for good.
    pub(crate) async fn run(mut self) {
        self.engine.start(now());
        let mut commands = Vec::new();
        let mut has_handles = true;
        let mut frame = Vec::new();
        loop {
            self.act();
            if self.is_over {
                break;
            }
            self.fill(&mut frame);
            match self.wait(&mut commands, has_handles).await {
                // Every handle is gone; what was sent still goes out.
                Happening::Commands(0) => {
                    has_handles = false;
                    self.engine.close(now());
                }
                Happening::Commands(_) => {
                    let now = now();
                    commands.drain(..).for_each(|command| self.command(now, command));
                    self.answer_bell();
                }
                Happening::Bell => self.answer_bell(),
                Happening::Turn(Ok(())) => self.take_in().await,
                Happening::Turn(Err(error)) => {
                    self.connection = None;
                    self.engine.handle_disconnected(now(), Error::disconnected(error.to_string()));
                }
                Happening::Connected(Ok(connection)) => {
                    self.connection = Some(connection);
                    self.engine.handle_connected(now());
                }
                Happening::Connected(Err(error)) => self.engine.handle_disconnected(now(), error),
                Happening::Token(result) => self.engine.handle_token(now(), result),
                Happening::Timeout => {
                    self.engine.note_clock(now(), unix_ms());
                    self.engine.handle_timeout(now());
                }
            }
        }
        if let Some(leaving) = self.leaving.take() {
            // Only a panic in it is an error, and that has been reported.
            let _ = leaving.await;
        }
    }

    async fn wait(&mut self, commands: &mut Vec<Command>, has_handles: bool) -> Happening {
        let watch = now() + CLOCK_WATCH;
        let timeout = self.engine.next_timeout().map_or(watch, |at| at.min(watch));
        tokio::select! {
            count = self.commands.recv_many(commands, COMMANDS_PER_TURN), if has_handles => Happening::Commands(count),
            () = self.bell.rung() => Happening::Bell,
            result = turn(&mut self.connection) => Happening::Turn(result),
            result = finish(&mut self.connecting) => Happening::Connected(result),
            result = finish(&mut self.token) => Happening::Token(result),
            () = tokio::time::sleep_until(timeout.into()) => Happening::Timeout,
        }
    }

    /// Does what the engine asks.
    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::FetchToken => {
                    self.token = Some(Box::pin(limited(
                        self.setup.config.request_timeout,
                        Awaited::Token,
                        self.setup.tokens.fetch(),
                    )));
                }
                Action::Connect { place } => {
                    self.connecting = Some(Box::pin(limited(
                        self.setup.config.connect_timeout,
                        Awaited::Connection,
                        self.setup.dialer.clone().open(place),
                    )));
                }
                Action::Disconnect => {
                    self.connecting = None;
                    if let Some(connection) = self.connection.take() {
                        self.leaving = Some(tokio::spawn(connection.close()));
                    }
                }
                Action::Deliver { key, event } => {
                    if let Some(inbox) = self.inboxes.get(&key) {
                        inbox.push(event);
                    }
                }
                Action::Starved { key } => {
                    if let Some(inbox) = self.inboxes.get(&key) {
                        inbox.starve();
                    }
                }
                Action::Opened { ticket, key, result } => self.opened(ticket, key, result),
                // Whoever waited may have gone; nothing is lost with the answer.
                Action::Sent { ticket, result } => {
                    if let Some(Reply::Send { reply, .. }) = self.replies.try_remove(ticket) {
                        let _ = reply.send(result);
                    }
                }
                Action::Page { ticket, result } => {
                    self.reading.retain(|&reading| reading != ticket);
                    if let Some(Reply::History { reply, .. }) = self.replies.try_remove(ticket) {
                        let _ = reply.send(result);
                    }
                }
                Action::Unread { key, unread } => {
                    if let Some(watch) = self.unreads.get(&key) {
                        watch.send_replace(unread);
                    }
                }
                Action::State(state) => {
                    if let State::Connected { .. } = state {
                        self.payload_bytes_max.store(self.engine.payload_bytes_max(), Ordering::Relaxed);
                    }
                    self.is_over = matches!(state, State::Closed { .. });
                    if self.is_over {
                        self.inboxes.drain().for_each(|(_, inbox)| inbox.close());
                        self.unreads.clear();
                    }
                    self.state.send_replace(state);
                }
            }
        }
    }

    /// Writes ahead.
    fn fill(&mut self, frame: &mut Vec<u8>) {
        let now = now();
        let Some(connection) = &mut self.connection else { return };
        while connection.wants_output() {
            frame.clear();
            if !self.engine.poll_transmit(now, frame) {
                return;
            }
            connection.push_frame(frame);
        }
    }

    async fn take_in(&mut self) {
        let now = now();
        let Some(connection) = &mut self.connection else { return };
        let mut end = None;
        connection.take_in(|incoming| match incoming {
            Incoming::Frame(frame) => self.engine.handle_frame(now, frame),
            Incoming::End(error) => end = Some(error),
        });
        if let Some(error) = end {
            // The answer to a close frame is a close frame.
            self.leaving = self.connection.take().map(|connection| tokio::spawn(connection.close()));
            self.engine.handle_disconnected(now, error);
        }
        self.act();
        // Readers on the same thread get their turn before their queues are full.
        tokio::task::yield_now().await;
    }

    fn command(&mut self, now: Instant, command: Command) {
        if let Command::Open { .. } = command {
            self.answer_bell();
            self.abandon(now);
        }
        self.commands_done += 1;
        match command {
            Command::Open { name, start, reply } => {
                let handle = if start.is_some() { Handle::Reader } else { Handle::Sender };
                let ticket = self.replies.insert(Reply::Open { handle, reply });
                match self.engine.open(now, &name, start, ticket) {
                    Ok(key) => {
                        self.opening.push(ticket);
                        if handle == Handle::Reader {
                            let inbox = Inbox::new(key, self.setup.config.queue, self.bell.clone());
                            self.inboxes.insert(key, Arc::new(inbox));
                        }
                    }
                    Err(error) => {
                        if let Reply::Open { reply, .. } = self.replies.remove(ticket) {
                            let _ = reply.send(Err(error));
                        }
                    }
                }
            }
            Command::Send { key, body, admission, reply } => {
                let ticket = self.replies.insert(Reply::Send { reply, _admission: admission });
                self.engine.send(now, key, ticket, body);
            }
            Command::History { key, range, messages_max, reply } => {
                self.abandon_pages(now);
                let ticket = self.replies.insert(Reply::History { key, reply });
                self.reading.push(ticket);
                self.engine.history(now, key, ticket, range, messages_max);
            }
            Command::MarkRead { key, position } => self.engine.mark_read(now, key, position),
            Command::Close => self.engine.close(now),
        }
    }

    /// Takes back what nobody waits for any more, so that the same can be asked for again.
    fn abandon(&mut self, now: Instant) {
        let is_abandoned = |ticket: &mut usize| match self.replies.get(*ticket) {
            Some(Reply::Open { reply, .. }) => reply.is_closed(),
            _ => true,
        };
        for ticket in self.opening.extract_if(.., is_abandoned).collect::<Vec<_>>() {
            if let Some(Reply::Open { handle, .. }) = self.replies.try_remove(ticket)
                && let Some(key) = self.engine.abandon(now, ticket)
                && handle == Handle::Reader
            {
                self.inboxes.remove(&key);
            }
        }
    }

    /// Gives the places of pages that nobody waits for any more to others.
    fn abandon_pages(&mut self, now: Instant) {
        let is_abandoned = |ticket: &mut usize| match self.replies.get(*ticket) {
            Some(Reply::History { reply, .. }) => reply.is_closed(),
            _ => true,
        };
        for ticket in self.reading.extract_if(.., is_abandoned).collect::<Vec<_>>() {
            if let Some(Reply::History { key, .. }) = self.replies.try_remove(ticket) {
                self.engine.abandon_history(now, key, ticket);
            }
        }
    }

    fn opened(&mut self, ticket: usize, key: Key, result: Result<Opened, Error>) {
        self.opening.retain(|&opening| opening != ticket);
        let Some(Reply::Open { handle, reply }) = self.replies.try_remove(ticket) else { return };
        let opened = match result {
            Ok(opened) => opened,
            Err(error) => {
                if handle == Handle::Reader {
                    self.inboxes.remove(&key);
                }
                let _ = reply.send(Err(error));
                return;
            }
        };
        self.windows.retain(|_, window| window.strong_count() > 0);
        let window = self.windows.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let window = Arc::new(Window::new(self.setup.window));
            self.windows.insert(key, Arc::downgrade(&window));
            window
        });
        self.unreads.retain(|_, watch| watch.receiver_count() > 0);
        let unread = self.unreads.entry(key).or_insert_with(|| watch::Sender::new(opened.unread)).subscribe();
        let inbox = self.inboxes.get(&key).filter(|_| handle == Handle::Reader).cloned();
        if reply.send(Ok(OpenHandle { key, opened, window, unread, inbox })).is_err() {
            if handle == Handle::Reader {
                self.release(key, Handle::Reader);
            }
            self.release(key, Handle::Sender);
        }
    }

    fn answer_bell(&mut self) {
        while let Some(call) = self.bell.next(self.commands_done) {
            match call {
                Call::Taken(key) => {
                    if let Some(inbox) = self.inboxes.get(&key) {
                        let taken = inbox.collect();
                        self.engine.taken(now(), key, taken.events, taken.bytes);
                    }
                }
                Call::Released(key, handle) => self.release(key, handle),
            }
        }
    }

    fn release(&mut self, key: Key, handle: Handle) {
        if handle == Handle::Reader {
            self.inboxes.remove(&key);
        }
        self.engine.release(now(), key, handle);
    }
}

/// The runtime's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The clock on the wall.
fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

async fn turn(connection: &mut Option<Connection>) -> std::io::Result<()> {
    match connection {
        Some(connection) => connection.turn().await,
        None => pending().await,
    }
}

/// Waits for what is under way, and forgets it.
async fn finish<T>(under_way: &mut Pending<T>) -> T {
    match under_way {
        Some(future) => {
            let output = future.await;
            *under_way = None;
            output
        }
        None => pending().await,
    }
}

async fn limited<T>(
    limit: Duration,
    awaited: Awaited,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, future).await.unwrap_or(Err(Error::TimedOut(awaited)))
}
