//! Opening a connection: which way to a node is taken, and which of its addresses.
//!
//! Where a node can be reached by QUIC and by WebSocket, both are tried, QUIC a moment ahead. Who blocks UDP usually says nothing, so
//! only time tells; [`HEAD_START`] is what that costs. What won is taken first the next time.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::tls::Tls;
use super::{Compression, Connection, Kind, quic, ws};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::places::Place;

/// How long an address of a host may be silent before the next is tried beside it (RFC 8305 §5).
const ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// How long QUIC has for its handshake, which takes one round trip, before WebSocket is tried beside it. A slower way costs a second
/// handshake that nobody uses; a blocked one costs this time and what WebSocket takes.
const HEAD_START: Duration = Duration::from_millis(100);
/// The same for WebSocket, once it has won.
const HEAD_START_OF_WINNER: Duration = Duration::from_secs(1);
/// How long UDP is left alone after it did not get through.
const UDP_REST: Duration = Duration::from_secs(5 * 60);
/// Places remembered.
const PLACES_MAX: usize = 64;

/// Opens connections for one client.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Arc<Tls>,
    compression: Compression,
    memory: Arc<Mutex<Memory>>,
}

/// Neither way to a node led there.
#[derive(Debug, thiserror::Error)]
#[error("by QUIC: {}; by WebSocket: {}", Chain(quic), Chain(web_socket))]
struct NoWay {
    quic: Error,
    web_socket: Error,
}

/// An error on one line, with what is behind it.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Which URL it was is known.
        match self.0 {
            Error::Connect { source, .. } => write!(f, "{source}"),
            error => write!(f, "{error}"),
        }
    }
}

impl Dialer {
    pub(crate) fn new(tls: Tls, compression: Compression) -> Self {
        Self { tls: Arc::new(tls), compression, memory: Arc::default() }
    }

    /// Opens a connection. No token is sent.
    pub(crate) async fn open(self, place: Arc<Place>) -> Result<Connection, Error> {
        let (quic, web_socket) = match (&place.quic, &place.web_socket) {
            (Some(quic), Some(web_socket)) => (quic, web_socket),
            (Some(quic), None) => return self.by_quic(quic).await.map(Connection::quic),
            (None, Some(web_socket)) => return self.by_web_socket(web_socket).await.map(Connection::web_socket),
            (None, None) => return Err(Error::Closed),
        };
        let now = tokio::time::Instant::now().into_std();
        let won = if self.memory().rests(&quic.url, now) {
            let won = race(self.by_web_socket(web_socket), self.by_quic(quic), HEAD_START_OF_WINNER).await;
            won.map(Won::swap).map_err(|(web_socket, quic)| (quic, web_socket))
        } else {
            race(self.by_quic(quic), self.by_web_socket(web_socket), HEAD_START).await
        };
        match won {
            // The node has not answered: the other way is kept ready.
            Ok(Won::First(connection)) if !connection.is_established() => {
                let (dialer, place) = (self.clone(), place.clone());
                let fallback = async move {
                    tokio::time::sleep(HEAD_START).await;
                    let Some(endpoint) = &place.web_socket else { return Err(Error::Closed) };
                    let opened = dialer.by_web_socket(endpoint).await?;
                    if let Some(quic) = &place.quic {
                        dialer.memory().blocked(&quic.url, tokio::time::Instant::now().into_std());
                    }
                    Ok(opened)
                };
                Ok(Connection(Kind::Quic { connection: Box::new(connection), fallback: Some(Box::pin(fallback)) }))
            }
            Ok(Won::First(connection)) => Ok(Connection::quic(connection)),
            Ok(Won::Second(connection)) => {
                self.memory().blocked(&quic.url, now);
                Ok(Connection::web_socket(connection))
            }
            Err((quic, web_socket)) => {
                let endpoint = place.to_string().into();
                Err(Error::Connect { endpoint, source: Arc::new(NoWay { quic, web_socket }) })
            }
        }
    }

    async fn by_web_socket(&self, endpoint: &Endpoint) -> Result<ws::Connection, Error> {
        ws::Connection::open(endpoint, &self.tls, self.compression).await
    }

    async fn by_quic(&self, endpoint: &Endpoint) -> Result<quic::Connection, Error> {
        let known = self.memory().address(&endpoint.url);
        let connection = quic::Connection::open(endpoint, &self.tls, known).await?;
        if connection.is_established() {
            self.memory().worked(&endpoint.url, connection.remote_address());
        }
        Ok(connection)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What earlier tries by QUIC showed, for each URL.
#[derive(Debug, Default)]
struct Memory(HashMap<Arc<str>, Known>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It got through to this address.
    Worked(SocketAddr),
    /// WebSocket was faster, which on most networks means that nothing comes through at all.
    Blocked(Instant),
}

impl Memory {
    fn worked(&mut self, url: &Arc<str>, address: SocketAddr) {
        self.note(url, Known::Worked(address));
    }

    fn blocked(&mut self, url: &Arc<str>, now: Instant) {
        self.note(url, Known::Blocked(now));
    }

    fn note(&mut self, url: &Arc<str>, known: Known) {
        if self.0.len() >= PLACES_MAX && !self.0.contains_key(url) {
            // Deployments are small; whoever sends a client around for ever costs it a race.
            self.0.clear();
        }
        self.0.insert(url.clone(), known);
    }

    fn address(&self, url: &Arc<str>) -> Option<SocketAddr> {
        match self.0.get(url) {
            Some(&Known::Worked(address)) => Some(address),
            _ => None,
        }
    }

    /// Whether QUIC is not to be tried first.
    fn rests(&self, url: &Arc<str>, now: Instant) -> bool {
        matches!(self.0.get(url), Some(&Known::Blocked(at)) if now.saturating_duration_since(at) < UDP_REST)
    }
}

/// Who was there first.
#[derive(Debug, PartialEq, Eq)]
enum Won<A, B> {
    First(A),
    Second(B),
}

impl<A, B> Won<A, B> {
    fn swap(self) -> Won<B, A> {
        match self {
            Self::First(first) => Won::Second(first),
            Self::Second(second) => Won::First(second),
        }
    }
}

/// Tries two ways, the second when the first failed or took `head_start`; the first that succeeds wins, the other is dropped.
async fn race<A, B, E>(
    first: impl Future<Output = Result<A, E>>,
    second: impl Future<Output = Result<B, E>>,
    head_start: Duration,
) -> Result<Won<A, B>, (E, E)> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut first_error = match tokio::time::timeout(head_start, &mut first).await {
        Ok(Ok(won)) => return Ok(Won::First(won)),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let mut second_error = None;
    loop {
        match (first_error, second_error) {
            (Some(first), Some(second)) => return Err((first, second)),
            errors => (first_error, second_error) = errors,
        }
        tokio::select! {
            result = &mut first, if first_error.is_none() => match result {
                Ok(won) => return Ok(Won::First(won)),
                Err(error) => first_error = Some(error),
            },
            result = &mut second, if second_error.is_none() => match result {
                Ok(won) => return Ok(Won::Second(won)),
                Err(error) => second_error = Some(error),
            },
        }
    }
}

/// A way that is kept ready.
pub(super) type Fallback = BoxFuture<'static, Result<ws::Connection, Error>>;

/// Connects with a host: with each of its addresses, `known` first, then as the resolver has them.
pub(super) async fn first_address<T, E, F>(
    endpoint: &Endpoint,
    known: Option<SocketAddr>,
    connect: impl FnMut(SocketAddr) -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: From<io::Error>,
{
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(|&address| Some(address) != known);
    let unnamed = || io::Error::new(io::ErrorKind::NotFound, "the host has no address").into();
    one_after_another(addresses, connect).await.map_err(|error| error.unwrap_or_else(unnamed))
}

/// Tries what there is: the next begins when one failed or was silent for [`ADDRESS_DELAY`], and the first that succeeds wins. The
/// error is that of the last to fail.
async fn one_after_another<A, T, E, F>(of: Vec<A>, mut connect: impl FnMut(A) -> F) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut left = of.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failure = None;
    loop {
        let next = left.next();
        let is_last = next.is_none();
        tries.extend(next.map(&mut connect));
        if tries.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            result = tries.select_next_some() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(error),
            },
            () = tokio::time::sleep(ADDRESS_DELAY), if !is_last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    type Outcome = Result<u8, &'static str>;

    async fn after(ms: u64, outcome: Outcome) -> Outcome {
        sleep(Duration::from_millis(ms)).await;
        outcome
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_succeed_wins_and_the_second_starts_late() {
        let check = async |first: (u64, Outcome), second: (u64, Outcome), expect, expect_ms: u128| {
            let begun = Instant::now();
            let won = race(after(first.0, first.1), after(second.0, second.1), HEAD_START).await;
            assert_eq!((won, begun.elapsed().as_millis()), (expect, expect_ms), "{first:?} {second:?}");
        };
        check((30, Ok(1)), (0, Ok(2)), Ok(Won::First(1)), 30).await;
        check((250, Ok(1)), (300, Ok(2)), Ok(Won::First(1)), 250).await;
        check((250, Ok(1)), (90, Ok(2)), Ok(Won::Second(2)), 190).await;
        // A refusal needs no patience.
        check((10, Err("a")), (90, Ok(2)), Ok(Won::Second(2)), 100).await;
        check((150, Err("a")), (200, Ok(2)), Ok(Won::Second(2)), 300).await;
        check((400, Ok(1)), (50, Err("b")), Ok(Won::First(1)), 400).await;
        check((10, Err("a")), (50, Err("b")), Err(("a", "b")), 60).await;
        check((400, Err("a")), (50, Err("b")), Err(("a", "b")), 400).await;
    }

    /// UDP that leads nowhere, a WebSocket that takes three round trips of 60 ms.
    #[tokio::test(start_paused = true)]
    async fn where_udp_is_blocked_a_connection_takes_less_than_300_milliseconds() {
        let begun = Instant::now();
        let won = race(pending::<Outcome>(), after(3 * 60, Ok(2)), HEAD_START).await;
        assert_eq!(won, Ok(Won::Second(2)));
        assert!(begun.elapsed() < Duration::from_millis(300));
    }

    #[test]
    fn what_won_is_remembered_for_a_time() {
        let (url, now): (Arc<str>, _) = ("quic://a".into(), std::time::Instant::now());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let mut memory = Memory::default();
        assert!(!memory.rests(&url, now));
        memory.blocked(&url, now);
        assert!(memory.rests(&url, now + UDP_REST - Duration::from_millis(1)));
        assert!(!memory.rests(&url, now + UDP_REST), "it is tried again later");
        memory.worked(&url, address);
        assert_eq!((memory.rests(&url, now), memory.address(&url)), (false, Some(address)));
        for other in 0..1_000 {
            memory.blocked(&format!("quic://{other}").into(), now);
        }
        assert!(memory.0.len() <= PLACES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let check = async |tries: Vec<(u64, Outcome)>, expect, expect_ms: u128| {
            let begun = Instant::now();
            let outcome = one_after_another(tries, |(ms, outcome)| after(ms, outcome)).await;
            assert_eq!((outcome, begun.elapsed().as_millis()), (expect, expect_ms));
        };
        check(vec![], Err(None), 0).await;
        check(vec![(40, Ok(1)), (0, Ok(2))], Ok(1), 40).await;
        check(vec![(10_000, Ok(1)), (10, Ok(2))], Ok(2), 260).await;
        check(vec![(300, Ok(1)), (100, Ok(2))], Ok(1), 300).await;
        check(vec![(20, Err("a")), (30, Err("b")), (40, Ok(3))], Ok(3), 90).await;
        check(vec![(20, Err("a")), (30, Err("b"))], Err(Some("b")), 50).await;
    }
}
