//! Opening a connection: which way to a node is taken, and which of its addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::tls::Tls;
use super::{Connection, Kind, fail, ws};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::places::Place;

/// How long an address of a host may be silent before the next is tried beside it (RFC 8305 §5).
const ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// Opens connections for one client.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Arc<Tls>,
}

impl Dialer {
    pub(crate) fn new(tls: Tls) -> Self {
        Self { tls: Arc::new(tls) }
    }

    /// Opens a connection. No token is sent.
    pub(crate) async fn open(self, place: Arc<Place>) -> Result<Connection, Error> {
        match &place.web_socket {
            Some(endpoint) => self.web_socket(endpoint).await,
            None => {
                let unsupported = io::Error::new(io::ErrorKind::Unsupported, "this version does not speak QUIC yet");
                let endpoint = place.ways().next().expect("a place has a way");
                Err(fail(endpoint, Arc::new(unsupported)))
            }
        }
    }

    async fn web_socket(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        let connection = ws::Connection::open(endpoint, &self.tls).await?;
        Ok(Connection(Kind::WebSocket(Box::new(connection))))
    }
}

/// Does what connects with each address of the host, one after another as the resolver has them: the next begins when one
/// failed or was silent for [`ADDRESS_DELAY`], and the first that succeeds wins. The error is that of the last to fail.
pub(super) async fn first_address<T, F>(endpoint: &Endpoint, mut connect: impl FnMut(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut addresses = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    let mut tries = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        tries.extend(next.map(&mut connect));
        if tries.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            result = tries.select_next_some() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(ADDRESS_DELAY), if !is_last => {}
        }
    }
}
