//! Error codes: one number each, the same in an `Error` frame, in `Unsubscribed`, in `GoAway` and as the WebSocket close
//! code. The range says what a client does next, so an old client handles codes it has never heard of.
//!
//! A code, once used, keeps its number and meaning for ever; a retired one stays retired.

use std::time::Duration;

/// What a client does about a code, by its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// 4000 to 4099: the same request will fail again; do not retry.
    DoNotRetry,
    /// 4100 to 4199: retry the request on this connection after the delay it names, else with back-off.
    Retry,
    /// 4200 to 4299: the connection ends; reconnect and resume.
    Reconnect,
    /// 4300 to 4399: the position cannot be resumed; read the history again.
    Reload,
    /// 4400 to 4499: get a new token, then reconnect or refresh.
    Authenticate,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal,)+) => {
        /// An error code. `Display` gives its name in kebab case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// `None` for a number that this version does not know; [`Advice::of`] still applies to it.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            const fn variant(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+),)+
                }
            }
        }
    };
}

codes! {
    /// The bytes are no frame of this protocol.
    BadFrame = 4000,
    /// No protocol version in common.
    UnsupportedVersion = 4001,
    /// The first frame was not `hello`, or a second one came.
    UnexpectedFrame = 4002,
    /// A frame, payload or name is over its limit.
    TooLarge = 4003,
    /// The data is not allowed where it stands, such as a name with a character that is not allowed.
    Invalid = 4004,
    /// The channel does not exist, or this user is no member of it.
    NoAccess = 4005,
    /// The user may read the channel but not publish to it.
    ReadOnly = 4006,
    /// The channel is archived.
    Archived = 4007,
    /// The session has as many subscriptions as it may have.
    TooManySubscriptions = 4008,
    /// The producer's sequence is not the one that is expected next.
    OutOfOrder = 4009,
    /// The channel keeps no history.
    NoHistory = 4010,
    /// The user was removed from the channel.
    Removed = 4011,
    /// There is no session subscription to this channel.
    NotSubscribed = 4012,
    /// The session was ended by an operator or an application server.
    Ended = 4013,
    /// Too many requests; slow down.
    RateLimited = 4100,
    /// The node has as much work as it can take.
    Busy = 4101,
    /// The control plane cannot be reached now.
    Unavailable = 4102,
    /// It is not known whether the message was stored; a retry with the same sequence finds out.
    UnknownOutcome = 4103,
    /// An earlier publish of this producer was refused, so this one waits its turn; send both again.
    Blocked = 4104,
    /// The node is stopping or draining.
    GoingAway = 4200,
    /// The session read too slowly and its queue is full.
    SlowConsumer = 4201,
    /// Nothing was heard from the client for two heartbeats.
    HeartbeatTimeout = 4202,
    /// No `hello` within the handshake limit.
    HandshakeTimeout = 4203,
    /// The node lost its lease of the channel.
    Fenced = 4204,
    /// A fault of the node; the details are in its log.
    Internal = 4205,
    /// The channel's history began anew; earlier positions mean nothing.
    EpochChanged = 4300,
    /// Too many messages were missed to send them again.
    PositionTooOld = 4301,
    /// The position is ahead of the channel.
    PositionAhead = 4302,
    /// The token cannot be read or its signature is wrong.
    BadToken = 4400,
    /// The token has expired.
    TokenExpired = 4401,
    /// The token was revoked.
    TokenRevoked = 4402,
    /// The new token is for another tenant or user.
    TokenMismatch = 4403,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// What a client does about it.
    pub fn advice(self) -> Advice {
        Advice::of(self.number())
    }
}

impl Advice {
    /// What a client does about a code that it may not know. Numbers outside the ranges are answered as
    /// [`Advice::Reconnect`], which suits every WebSocket close code that is not ours.
    pub const fn of(number: u16) -> Self {
        match number {
            4000..=4099 => Self::DoNotRetry,
            4100..=4199 => Self::Retry,
            4300..=4399 => Self::Reload,
            4400..=4499 => Self::Authenticate,
            _ => Self::Reconnect,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, c) in self.variant().char_indices() {
            if index > 0 && c.is_ascii_uppercase() {
                f.write_str("-")?;
            }
            write!(f, "{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// A refusal as it travels: a code, a sentence for a person, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// What kind, and so what to do next.
    pub code: Code,
    /// What happened to what, and what to do, for a person. Lower case, no full stop.
    pub message: String,
    /// When to try again; zero leaves it to the client's back-off.
    pub retry_after: Duration,
}

impl Refusal {
    /// A refusal with no advice on time.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: Duration::ZERO }
    }

    /// The same with a time to wait before the next try.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.retry_after = delay;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways_and_ascend() {
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        assert_eq!(Code::from_number(1000), None);
    }

    #[test]
    fn names_are_kebab_case() {
        assert_eq!(Code::SlowConsumer.to_string(), "slow-consumer");
        assert_eq!(Code::Busy.to_string(), "busy");
    }

    #[test]
    fn the_range_says_what_to_do() {
        assert_eq!(Code::BadFrame.advice(), Advice::DoNotRetry);
        assert_eq!(Code::Busy.advice(), Advice::Retry);
        assert_eq!(Code::SlowConsumer.advice(), Advice::Reconnect);
        assert_eq!(Code::EpochChanged.advice(), Advice::Reload);
        assert_eq!(Code::TokenExpired.advice(), Advice::Authenticate);
        assert_eq!(Advice::of(1006), Advice::Reconnect);
    }
}
