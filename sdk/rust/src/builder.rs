//! How a client is made: where to, who as, and within which limits.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use millrace_protocol::client::AGENT_BYTES_MAX;
use tokio::sync::{mpsc, watch};

use crate::client::Client;
use crate::endpoint::{Endpoint, UrlError};
use crate::engine::{BackoffLimits, Config, QueueLimits};
use crate::error::Error;
use crate::inbox::Bell;
use crate::state::State;
use crate::task::{Setup, Task};
use crate::token::TokenSource;
use crate::transport::{Certificates, Compression, Dialer, Tls};
use crate::window::WindowLimits;

/// Commands that wait for the client's task before callers do.
const COMMANDS_MAX: usize = 256;

/// Makes a [`Client`]. Every setting but the token has a default that suits an interactive application.
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    urls: Vec<String>,
    certificates: Certificates,
    compression: Compression,
    tokens: TokenSource,
    agent: String,
    queue: QueueLimits,
    window: WindowLimits,
    backoff: BackoffLimits,
    connect_timeout: Duration,
    request_timeout: Duration,
    send_timeout: Option<Duration>,
    close_timeout: Duration,
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            urls: vec![url],
            certificates: Certificates::default(),
            compression: Compression::default(),
            tokens: TokenSource::Fixed("".into()),
            agent: concat!("millrace-rust/", env!("CARGO_PKG_VERSION")).into(),
            queue: QueueLimits { messages_max: 1024, bytes_max: 1 << 20 },
            window: WindowLimits { messages_max: 256, bytes_max: 4 << 20 },
            backoff: BackoffLimits { first: Duration::from_millis(250), max: Duration::from_secs(30) },
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            send_timeout: Some(Duration::from_secs(120)),
            close_timeout: Duration::from_secs(5),
        }
    }

    /// Another URL of the same deployment. A `quic` and a `wss` URL of one host are two ways to one node: they race, with QUIC a
    /// moment ahead, so that a network without UDP costs a fraction of a second. Other nodes are tried when the ones before them
    /// do not answer. A `ws` URL is not used where its host has a secure one.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// All that a deployment offers, as `GET /v1/endpoints` names it. URLs of a kind that this version does not know are left
    /// out.
    pub fn urls(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let is_known = |url: &String| !matches!(url.parse::<Endpoint>(), Err(UrlError::UnknownScheme { .. }));
        self.urls.extend(urls.into_iter().map(Into::into).filter(is_known));
        self
    }

    /// Trusts the authorities whose certificates are in `pem` as well, for `wss` and `quic`. Default: those of the platform.
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.authorities.push(pem.into());
        self
    }

    /// Shows a node that asks for it this certificate, with the chain that leads to its authority, and proves it with its key; both as PEM.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.certificates.identity = Some((chain.into(), key.into()));
        self
    }

    /// Whether messages are compressed, over `ws` and `wss`; over `quic` none are. Default: [`Compression::Off`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// An access token, used as long as it is good. When it has expired the client closes with its error; a
    /// [`token_provider`](Self::token_provider) has no such end.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.tokens = TokenSource::Fixed(token.into().into());
        self
    }

    /// A function that gets an access token. It is asked before the first connection, when three quarters of a token's
    /// time are over, and when a node refuses the last one; a token that is still good is used again.
    pub fn token_provider<F, R, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.tokens = TokenSource::provider(provider);
        self
    }

    /// Name and version of the application, for the operator's eyes; cut at 128 bytes. Default: those of the SDK.
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = agent.into();
        self.agent.truncate(self.agent.floor_char_boundary(AGENT_BYTES_MAX));
        self
    }

    /// What may wait for the application in each subscription before the client stops taking messages for it.
    /// Default: 1,024 messages and 1 MiB of bodies. The bytes are exceeded by at most one page of history (512 KiB).
    pub fn queue(mut self, messages_max: u32, bytes_max: u32) -> Self {
        self.queue = QueueLimits { messages_max: messages_max.max(1), bytes_max: bytes_max.max(1) };
        self
    }

    /// What may be on its way in each channel before [`Sender::send`](crate::Sender::send) waits. Default: 256 messages
    /// and 4 MiB of bodies.
    pub fn window(mut self, messages_max: u32, bytes_max: u32) -> Self {
        self.window = WindowLimits { messages_max: messages_max.max(1), bytes_max: bytes_max.max(1) };
        self
    }

    /// Waits between tries to connect: each is drawn evenly from zero to a ceiling, which begins at `first` and doubles
    /// up to `max`. Default: 250 ms and 30 s.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.backoff = BackoffLimits { first, max };
        self
    }

    /// How long a try to connect may take, from the first packet to the node's welcome. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take, over reconnects, and [`connect`](Self::connect) as long as nodes ask to be tried again; a connection on which one is unanswered for so long is given up.
    /// Default: 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a message may wait for its acknowledgement, over reconnects. `None` waits for ever. Default: 120 s.
    pub fn send_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.send_timeout = timeout.into();
        self
    }

    /// How long [`Client::close`] waits for acknowledgements. Default: 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Connects. Somebody waits for it, so it fails as soon as each URL was tried once, or at the first refusal of the token. Only
    /// while a node itself asks to try again, because it is busy, has just started or is about to stop, does it try on, for as long
    /// as a request may take. Once it is connected, the client reconnects by itself.
    ///
    /// Must be called within a tokio runtime, which the client's task runs on.
    ///
    /// # Errors
    /// - [`Error::Url`] if a URL cannot be used, [`Error::Certificate`] if a certificate or key cannot.
    /// - [`Error::Connect`] if no node answers there, [`Error::TimedOut`] if none does in time.
    /// - [`Error::Refused`] if the node refuses the token, or for the whole request timeout has no place.
    /// - [`Error::Token`] if the token provider fails.
    ///
    /// # Cancel safety
    /// If the future is dropped, the connection is given up.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.spawn(true)?;
        let mut watch = client.watch_state();
        let mut state = watch.current();
        loop {
            match state {
                State::Connected { .. } => return Ok(client),
                State::Closed { error } => return Err(error.unwrap_or(Error::Closed)),
                State::Connecting | State::Reconnecting { .. } => {}
            }
            state = watch.changed().await.ok_or(Error::Closed)?;
        }
    }

    /// A client that connects in the background and tries until it succeeds or is refused for good. What is asked of it
    /// meanwhile waits, within its time.
    ///
    /// Must be called within a tokio runtime, which the client's task runs on.
    ///
    /// # Errors
    /// [`Error::Url`] if a URL cannot be used, [`Error::Certificate`] if a certificate or key cannot.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        self.spawn(false)
    }

    fn spawn(self, fail_fast: bool) -> Result<Client, Error> {
        for url in &self.urls {
            url.parse::<Endpoint>()?;
        }
        let tls = Tls::new(&self.certificates).map_err(|error| Error::Certificate(Arc::new(error)))?;
        let config = Config {
            agent: self.agent.into(),
            endpoints: self.urls.into_iter().map(Arc::from).collect(),
            tokens_renew: self.tokens.renews(),
            fail_fast,
            queue: self.queue,
            backoff: self.backoff,
            connect_timeout: self.connect_timeout,
            request_timeout: self.request_timeout,
            send_timeout: self.send_timeout,
            close_timeout: self.close_timeout,
        };
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).expect("the system has random bytes");
        let seed = u64::from_ne_bytes(seed);
        let dialer = Dialer::new(tls, self.compression);
        let setup = Setup { config, window: self.window, tokens: self.tokens, dialer, seed };
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let bell = Arc::<Bell>::default();
        let (state, watch) = watch::channel(State::Connecting);
        let payload_bytes_max = Arc::<AtomicUsize>::default();
        tokio::spawn(Task::new(setup, receiver, bell.clone(), state, payload_bytes_max.clone()).run());
        Ok(Client::new(commands, bell, watch, payload_bytes_max))
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        f.debug_struct("Builder").field("urls", &self.urls).field("agent", &self.agent).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the specification has it, in section 4.7.
    #[test]
    fn waits_begin_250_milliseconds_and_end_30_seconds_long() {
        let builder = Builder::new("ws://a".to_owned());
        assert_eq!((builder.backoff.first, builder.backoff.max), (Duration::from_millis(250), Duration::from_secs(30)));
    }
}
