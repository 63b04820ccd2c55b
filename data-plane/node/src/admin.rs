//! The admin port: metrics, health and what this node is, for operators and their machines. Not for clients, and not for
//! the open internet.
//!
//! Four fixed answers to GET need no web framework: one request for each connection, a bounded head, a deadline, and a
//! bounded number of connections. When there are as many, the longest one ends: who asks for something has it in milliseconds.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::report::NodeReport;

const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// From accepting to the last byte of the answer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 64;
/// After running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Asks the router for a report; it always answers, with what it has got from the shards.
pub(crate) type ReportRequests = mpsc::Sender<oneshot::Sender<NodeReport>>;

/// Serves until dropped.
pub(crate) async fn serve(listener: TcpListener, reports: ReportRequests) {
    let mut exchanges = Exchanges::default();
    let mut refused = false;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                refused = false;
                let reports = reports.clone();
                let exchange = tokio::spawn(async move {
                    // Its outcome matters to nobody but the peer, who sees it.
                    let _ = timeout(EXCHANGE_LIMIT, exchange(stream, &reports)).await;
                });
                exchanges.begin(exchange.abort_handle());
            }
            Err(error) => {
                // Once for each time, not ten times a second while it lasts.
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "admin connections cannot be accepted, trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Those under way, the longest first.
#[derive(Default)]
struct Exchanges(VecDeque<AbortHandle>);

impl Exchanges {
    fn begin(&mut self, exchange: AbortHandle) {
        self.0.retain(|one| !one.is_finished());
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(longest) = self.0.pop_front()
        {
            longest.abort();
        }
        self.0.push_back(exchange);
    }
}

async fn exchange(mut stream: TcpStream, reports: &ReportRequests) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let answer = loop {
        if head.len() >= HEAD_BYTES_MAX {
            break Answer::text(431, "the request head is too large\n");
        }
        let room = HEAD_BYTES_MAX - head.len();
        if (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
                break answer(method, path, reports).await;
            }
            Err(_) => break Answer::text(400, "this is no HTTP/1 request\n"),
        }
    };
    stream.write_all(&answer.encode()).await?;
    stream.shutdown().await
}

struct Answer {
    status: u16,
    content_type: &'static str,
    allow: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", allow: "", body: body.into().into_bytes() }
    }

    fn encode(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
            self.allow,
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

async fn answer(method: &str, path: &str, reports: &ReportRequests) -> Answer {
    if method != "GET" {
        return Answer { allow: "Allow: GET\r\n", ..Answer::text(405, "only GET is served here\n") };
    }
    let path = path.split('?').next().unwrap_or_default();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz" | "/v1/node") {
        return Answer::text(404, "try /metrics, /healthz, /readyz or /v1/node\n");
    }
    let (reply, report) = oneshot::channel();
    // A router that is gone means a node that is gone.
    let report = match reports.send(reply).await {
        Ok(()) => report.await.ok(),
        Err(_) => None,
    };
    let Some(report) = report else { return Answer::text(503, "the node has stopped\n") };
    match path {
        "/metrics" => match report.metrics() {
            Ok(text) => Answer { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Answer::text(200, text) },
            Err(error) => Answer::text(503, format!("the metrics could not be encoded: {error}\n")),
        },
        "/healthz" => verdict(report.unhealthy()),
        "/readyz" => verdict(report.unready()),
        _ => Answer { content_type: "application/json", ..Answer::text(200, report.json()) },
    }
}

/// `None` is good; anything else says what is not.
fn verdict(trouble: Option<String>) -> Answer {
    match trouble {
        None => Answer::text(200, "ok\n"),
        Some(trouble) => Answer::text(503, trouble + "\n"),
    }
}
