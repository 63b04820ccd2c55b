//! What can go wrong, and what the caller does next.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::code::{Advice, Code};
use millrace_protocol::id::NameError;

use crate::endpoint::UrlError;

/// A source whose type is not ours to show, shared because one fault can end many calls.
pub(crate) type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a call failed or a connection ended.
///
/// [`Error::advice`] says what to do about it; the SDK has already done what can be done without the application
/// (reconnect, resume, send again), so an error that reaches a caller is final for that call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node refused with a code of the protocol.
    #[error("{message} ({})", CodeName(*code))]
    Refused {
        /// Number of the code; [`Error::code`] names it if this version knows it.
        code: u16,
        /// What happened, for a person.
        message: Arc<str>,
        /// When to try again; zero if the node does not say.
        retry_after: Duration,
    },
    /// It is not known whether the message was stored: it had been sent, and then this happened. It may yet be stored
    /// within a minute, even behind messages that were sent after it. A message that fails with any other error was
    /// certainly not stored.
    #[error("it is not known whether the message was stored")]
    Unconfirmed {
        /// What ended the wait.
        #[source]
        cause: Box<Error>,
    },
    /// No connection could be made.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The URL that was tried.
        endpoint: Arc<str>,
        /// What failed.
        #[source]
        source: Source,
    },
    /// The connection ended without a code of the protocol.
    #[error("the connection was lost: {reason}")]
    Disconnected {
        /// What is known about it.
        reason: Arc<str>,
    },
    /// The other side sent bytes that are not this protocol.
    #[error("the node broke the protocol")]
    Protocol(#[source] Source),
    /// The URL cannot be used.
    #[error("the URL cannot be used")]
    Url(#[from] UrlError),
    /// A certificate or key that the application gave cannot be used.
    #[error("a certificate or key cannot be used")]
    Certificate(#[source] Source),
    /// The channel's name cannot be one.
    #[error("the channel's name cannot be used")]
    Name(#[from] NameError),
    /// The message is larger than the node takes.
    #[error("the message is {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// Size of the body.
        bytes: usize,
        /// Limit for a body.
        bytes_max: usize,
    },
    /// The application's token provider failed.
    #[error("no token could be had")]
    Token(#[source] Source),
    /// Nothing came within the time for it.
    #[error("timed out waiting for {0}")]
    TimedOut(Awaited),
    /// The client reads this channel already; a second reader would take messages from the first.
    #[error("this client has a subscription to {channel} already")]
    AlreadySubscribed {
        /// Name of the channel.
        channel: Arc<str>,
    },
    /// As many history requests wait as may.
    #[error("too many history requests wait for an answer")]
    TooManyRequests,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Awaited {
    /// A connection with a welcome.
    Connection,
    /// A token from the application's provider.
    Token,
    /// The answer to a request.
    Answer,
    /// The acknowledgement of a message.
    Acknowledgement,
    /// Any sign of life from the node.
    Heartbeat,
    /// All acknowledgements, while closing.
    Flush,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "the connection",
            Self::Token => "a token",
            Self::Answer => "an answer",
            Self::Acknowledgement => "an acknowledgement",
            Self::Heartbeat => "a heartbeat",
            Self::Flush => "the last acknowledgements",
        })
    }
}

impl Error {
    /// The code of the protocol behind this error, if there is one and this version knows it.
    pub fn code(&self) -> Option<Code> {
        self.code_number().and_then(Code::from_number)
    }

    /// The number of the code behind this error, if there is one.
    pub fn code_number(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unconfirmed { cause } => cause.code_number(),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Refused { code, .. } => Advice::of(*code),
            Self::Unconfirmed { cause } => cause.advice(),
            Self::Connect { .. } | Self::Disconnected { .. } | Self::Protocol(_) => Advice::Reconnect,
            Self::Token(_) => Advice::Authenticate,
            Self::TimedOut(_) | Self::TooManyRequests => Advice::Retry,
            Self::Url(_)
            | Self::Certificate(_)
            | Self::Name(_)
            | Self::TooLarge { .. }
            | Self::AlreadySubscribed { .. }
            | Self::Closed => Advice::DoNotRetry,
        }
    }

    /// Whether the same call can succeed later with nothing changed. A retry of a message that is
    /// [`Error::Unconfirmed`] may store it twice.
    pub fn is_retryable(&self) -> bool {
        matches!(self.advice(), Advice::Retry | Advice::Reconnect)
    }

    /// When to try again, if the node said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } if !retry_after.is_zero() => Some(*retry_after),
            Self::Unconfirmed { cause } => cause.retry_after(),
            _ => None,
        }
    }

    pub(crate) fn refused(code: u16, message: &str, retry_after_ms: u32) -> Self {
        let retry_after = Duration::from_millis(u64::from(retry_after_ms));
        Self::Refused { code, message: message.into(), retry_after }
    }

    pub(crate) fn unconfirmed(self) -> Self {
        match self {
            Self::Unconfirmed { .. } => self,
            cause => Self::Unconfirmed { cause: Box::new(cause) },
        }
    }

    pub(crate) fn disconnected(reason: impl Into<Arc<str>>) -> Self {
        Self::Disconnected { reason: reason.into() }
    }
}

/// A code's name if it is known, else its number.
struct CodeName(u16);

impl fmt::Display for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Code::from_number(self.0) {
            Some(code) => code.fmt(f),
            None => write!(f, "code {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let check = |error: Error, advice, retryable, text: &str| {
            assert_eq!((error.advice(), error.is_retryable()), (advice, retryable), "{error}");
            assert_eq!(error.to_string(), text);
        };
        let limited = Error::refused(4100, "slow down", 250);
        assert_eq!(limited.retry_after(), Some(Duration::from_millis(250)));
        assert_eq!(limited.code(), Some(Code::RateLimited));
        check(limited, Advice::Retry, true, "slow down (rate-limited)");
        check(Error::refused(4099, "new", 0), Advice::DoNotRetry, false, "new (code 4099)");
        check(Error::Closed, Advice::DoNotRetry, false, "the client is closed");
        let archived = Error::refused(4007, "archived", 0).unconfirmed();
        assert_eq!(archived.code(), Some(Code::Archived));
        check(archived, Advice::DoNotRetry, false, "it is not known whether the message was stored");
    }
}
