//! A client: one connection to a deployment, for any number of channels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use crate::builder::Builder;
use crate::channel::{Channel, Sender};
use crate::engine::subscription::Start;
use crate::error::Error;
use crate::inbox::Bell;
use crate::state::{State, StateWatch};
use crate::task::{Command, OpenHandle};

/// A connection to Millrace that comes back by itself. Clones share it.
///
/// It ends with [`Client::close`], or when the last of its clones, channels and senders is dropped: then it still sends
/// what it was given, for as long as its close timeout.
#[derive(Debug, Clone)]
pub struct Client {
    task: Arc<TaskHandle>,
}

/// The way to the client's task.
#[derive(Debug)]
pub(crate) struct TaskHandle {
    commands: mpsc::Sender<Command>,
    pub(crate) bell: Arc<Bell>,
    state: watch::Receiver<State>,
    payload_bytes_max: Arc<AtomicUsize>,
}

impl Client {
    /// Settings of a client for the node at `url`, such as `ws://127.0.0.1:7400`. The path is `/v1/connect` unless the
    /// URL has one.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        bell: Arc<Bell>,
        state: watch::Receiver<State>,
        payload_bytes_max: Arc<AtomicUsize>,
    ) -> Self {
        Self { task: Arc::new(TaskHandle { commands, bell, state, payload_bytes_max }) }
    }

    /// Reads a channel from now on.
    ///
    /// # Errors
    /// - [`Error::Refused`] if the node refuses, such as [`Code::NoAccess`](crate::Code::NoAccess).
    /// - [`Error::AlreadySubscribed`] if this client reads the channel already.
    /// - [`Error::Name`] if `channel` cannot be a name.
    /// - [`Error::TimedOut`] if there is no answer within the request timeout, over reconnects.
    ///
    /// # Cancel safety
    /// If the future is dropped, the subscription ends.
    pub async fn subscribe(&self, channel: impl Into<String>) -> Result<Channel, Error> {
        self.subscribe_from(channel, Start::Live).await
    }

    /// Reads a channel from a place: behind the position of the last message that the application has, or behind an
    /// offset. What was missed comes first, in order and once, however much it is.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the subscription ends.
    pub async fn subscribe_from(&self, channel: impl Into<String>, start: impl Into<Start>) -> Result<Channel, Error> {
        let name = channel.into();
        let handle = self.open(name.clone(), Some(start.into())).await?;
        Channel::new(name, handle, self.task.clone()).ok_or(Error::Closed)
    }

    /// A handle to publish to a channel and to read its history, without a subscription.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn sender(&self, channel: impl Into<String>) -> Result<Sender, Error> {
        let name = channel.into();
        let handle = self.open(name.clone(), None).await?;
        Ok(Sender::new(name.into(), &handle, self.task.clone()))
    }

    /// Largest body of a message that the node takes, in bytes; `None` before the first connection.
    pub fn payload_bytes_max(&self) -> Option<usize> {
        Some(self.task.payload_bytes_max()).filter(|&bytes_max| bytes_max > 0)
    }

    /// What the connection does now.
    pub fn state(&self) -> State {
        self.task.state.borrow().clone()
    }

    /// Follows what the connection does.
    pub fn watch_state(&self) -> StateWatch {
        StateWatch(self.task.state.clone())
    }

    /// Closes the client: no more calls are taken, what was sent gets its end within the close timeout, and every
    /// channel ends. Closing a closed client does nothing.
    ///
    /// # Errors
    /// What ended the client, if it was not this call; [`Error::TimedOut`] if a message was not acknowledged in time.
    ///
    /// # Cancel safety
    /// If the future is dropped, the client closes all the same.
    pub async fn close(&self) -> Result<(), Error> {
        // If the task is gone, the state says why.
        let _ = self.task.tell(Command::Close).await;
        let mut watch = self.task.state.clone();
        let state = match watch.wait_for(|state| matches!(state, State::Closed { .. })).await {
            Ok(state) => state.clone(),
            Err(_) => self.state(),
        };
        match state {
            State::Closed { error: Some(error) } => Err(error),
            _ => {
                self.task.commands.closed().await;
                Ok(())
            }
        }
    }

    async fn open(&self, name: String, start: Option<Start>) -> Result<OpenHandle, Error> {
        self.task.ask(|reply| Command::Open { name, start, reply }).await
    }
}

impl TaskHandle {
    /// As the node last said; 0 before the first connection.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max.load(Ordering::Relaxed)
    }

    /// Gives the task a command; waits while too many are under way.
    pub(crate) async fn tell(&self, command: Command) -> Result<(), Error> {
        let place = self.commands.reserve().await.map_err(|_| self.why_closed())?;
        self.bell.command(|| place.send(command));
        Ok(())
    }

    /// Gives the task a command and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.why_closed()))
    }

    fn why_closed(&self) -> Error {
        match &*self.state.borrow() {
            State::Closed { error: Some(error) } => error.clone(),
            _ => Error::Closed,
        }
    }
}
