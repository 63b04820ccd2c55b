//! Commands as they are written.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_client::{Builder, Epoch, Position, Start};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Command {
    Connect(Box<Connect>),
    Subscribe {
        client: String,
        channel: String,
        #[serde(default)]
        start: From,
        #[serde(default)]
        paused: bool,
    },
    Unsubscribe {
        client: String,
        channel: String,
    },
    Pause {
        client: String,
        channel: String,
    },
    Unpause {
        client: String,
        channel: String,
    },
    Send {
        client: String,
        channel: String,
        text: Option<String>,
        base64: Option<String>,
    },
    History {
        client: String,
        channel: String,
        before: Option<u64>,
        after: Option<u64>,
        limit: Option<u32>,
    },
    MarkRead {
        client: String,
        channel: String,
        position: Place,
    },
    Token {
        client: String,
        ask: u64,
        token: Option<String>,
        error: Option<String>,
    },
    Close {
        client: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    pub(crate) client: String,
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    #[serde(default)]
    pub(crate) token_provider: bool,
    #[serde(default)]
    pub(crate) lazy: bool,
    #[serde(default)]
    urls: Vec<String>,
    queue_messages: Option<u32>,
    queue_bytes: Option<u32>,
    window_messages: Option<u32>,
    window_bytes: Option<u32>,
    backoff_first_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    request_timeout_ms: Option<u64>,
    send_timeout_ms: Option<u64>,
    close_timeout_ms: Option<u64>,
}

impl Connect {
    /// What is not given stays at the SDK's default.
    pub(crate) fn options(&self, mut builder: Builder) -> Builder {
        for url in &self.urls {
            builder = builder.url(url);
        }
        if self.queue_messages.is_some() || self.queue_bytes.is_some() {
            builder = builder.queue(self.queue_messages.unwrap_or(1024), self.queue_bytes.unwrap_or(1 << 20));
        }
        if self.window_messages.is_some() || self.window_bytes.is_some() {
            builder = builder.window(self.window_messages.unwrap_or(256), self.window_bytes.unwrap_or(4 << 20));
        }
        if self.backoff_first_ms.is_some() || self.backoff_max_ms.is_some() {
            let (first, max) = (self.backoff_first_ms.unwrap_or(250), self.backoff_max_ms.unwrap_or(30_000));
            builder = builder.backoff(Duration::from_millis(first), Duration::from_millis(max));
        }
        let set = |builder: Builder, ms: Option<u64>, set: fn(Builder, Duration) -> Builder| match ms {
            Some(ms) => set(builder, Duration::from_millis(ms)),
            None => builder,
        };
        builder = set(builder, self.connect_timeout_ms, Builder::connect_timeout);
        builder = set(builder, self.request_timeout_ms, Builder::request_timeout);
        builder = set(builder, self.send_timeout_ms, |builder, timeout| builder.send_timeout(timeout));
        set(builder, self.close_timeout_ms, Builder::close_timeout)
    }
}

/// Where a subscription starts.
#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub(crate) enum From {
    #[default]
    Live,
    After(Place),
    AfterOffset(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    epoch: u32,
    offset: u64,
}

impl Place {
    /// `None` if the epoch is 0, which is none.
    pub(crate) fn position(&self) -> Option<Position> {
        Some(Position { epoch: Epoch::new(self.epoch)?, offset: self.offset })
    }
}

impl From {
    /// `None` if the epoch is 0, which is none.
    pub(crate) fn start(&self) -> Option<Start> {
        Some(match self {
            Self::Live => Start::Live,
            Self::After(place) => Start::After(place.position()?),
            Self::AfterOffset(offset) => Start::AfterOffset(*offset),
        })
    }
}

/// A body as it is written.
pub(crate) fn body(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| error.to_string()),
        _ => Err("either text or base64".into()),
    }
}
