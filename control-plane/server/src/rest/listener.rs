//! Takes connections and serves HTTP/1.1 on them, within limits, until told to stop.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Peer, Rest};

/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Largest request line and headers together, in bytes.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// How long sent bytes may stay unacknowledged.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait after a failed accept, such as for want of file descriptors: trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopped` is true, then lets requests under way finish within the grace.
pub(crate) async fn run(listener: TcpListener, router: Router, rest: Arc<Rest>, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(rest.config.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // A false alarm is impossible: the value changes once, or its sender is gone.
            _ = stopped.changed() => break,
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, place)) => {
                let (router, rest, stopped) = (router.clone(), rest.clone(), stopped.clone());
                connections.spawn(async move {
                    connection(stream, router, &rest, stopped).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(rest.config.stop_grace, finish).await.is_err() {
        warn!("connections were still busy at the end of the grace");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, router: Router, rest: &Rest, mut stopped: watch::Receiver<bool>) {
    // Answers are small and whole: waiting for more to send with them only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot turn Nagle's algorithm off");
    }
    // Whoever reads nothing of an answer gives their place back.
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(WRITE_DEADLINE)) {
        debug!(%error, "cannot bound the time of a write");
    }
    let Ok(address) = stream.peer_addr() else { return };
    let peer = Peer(address.ip());
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    rest.metrics.connected(1);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(rest.config.read_deadline)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    rest.metrics.connected(-1);
    if let Err(error) = ended {
        debug!(%error, "connection ended badly");
    }
}
