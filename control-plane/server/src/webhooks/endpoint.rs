//! Requests to an endpoint: a URL that a stranger chose, so that every address is judged after its name is resolved and connected to as it was
//! judged; time, bytes and connections have bounds, redirects are not followed, and nothing of an answer but its status counts.

use std::collections::HashMap;
use std::error::Error as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use millrace_domain::{Networks, RETRY_AFTER_MAX, WebhookHost, WebhookUrl};
use millrace_protocol::id::TenantId;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::metered::{Meter, Metered};
use super::WebhookError;
use super::metrics::Fault;

mod metered;

/// Bytes of an answer that are read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long they may take. What counts, the status, is here by then.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 3;
/// Connections of one endpoint that wait for the next request.
const IDLE_MAX: usize = 8;
/// A connection that waited longer is not used again: many servers end theirs after a minute.
const IDLE_LIFE: Duration = Duration::from_secs(30);
/// Requests to all endpoints at once.
const AT_ONCE_MAX: usize = 1_024;
/// Those of one tenant, so that none takes all.
const OF_TENANT_MAX: usize = 64;
/// Names that are looked up at once: of one endpoint, of a tenant, and of all. The system does it on threads that everything shares and that a silent
/// name server may hold for half a minute, also when nobody waits for them any more.
const LOOKUPS: (usize, usize, usize) = (2, 8, 128);
/// Of the words for what went wrong.
const ERROR_CHARS_MAX: usize = 300;

/// How a name becomes addresses; it may block.
type Resolve = dyn Fn(&str, u16) -> std::io::Result<Vec<IpAddr>> + Send + Sync;

/// What all endpoints share.
pub(super) struct Client {
    networks: Networks,
    limit: Duration,
    authorities: Vec<CertificateDer<'static>>,
    tls: OnceCell<Arc<ClientConfig>>,
    resolve: Arc<Resolve>,
    places: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    /// Those that have an endpoint or a look-up at this moment.
    tenants: Mutex<HashMap<TenantId, Weak<Tenant>>>,
}

/// What all endpoints of a tenant share.
struct Tenant {
    places: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

/// Leave to make one request.
pub(super) struct Place {
    _of_tenant: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    /// Status of the answer, if one came.
    pub(super) status: Option<u16>,
    /// Why it was not taken, in words for people, and what counts it.
    pub(super) fault: Option<(Fault, String)>,
    /// How long the endpoint wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    pub(super) elapsed: Duration,
}

/// What a request says.
pub(super) struct Parcel {
    /// `webhook-id`.
    pub(super) id: String,
    /// `webhook-timestamp`.
    pub(super) timestamp_s: i64,
    /// `webhook-signature`.
    pub(super) signature: String,
    pub(super) body: Bytes,
}

/// A connection on which one request at a time is made.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    meter: Meter,
}

/// One webhook's URL, with connections that wait to be used again.
pub(super) struct Endpoint {
    client: Arc<Client>,
    tenant: Arc<Tenant>,
    lookups: Arc<Semaphore>,
    url: WebhookUrl,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl Client {
    /// # Errors
    /// [`WebhookError::Authority`] for what is no certificate.
    pub(super) fn new(networks: Networks, limit: Duration, ca_pem: Option<&[u8]>) -> Result<Self, WebhookError> {
        let mut authorities = Vec::new();
        for certificate in ca_pem.into_iter().flat_map(CertificateDer::pem_slice_iter) {
            authorities.push(certificate.map_err(|error| WebhookError::Authority(error.to_string()))?);
        }
        if ca_pem.is_some() && authorities.is_empty() {
            return Err(WebhookError::Authority("it has no certificate in it".into()));
        }
        Ok(Self {
            networks,
            limit,
            authorities,
            tls: OnceCell::new(),
            resolve: Arc::new(|name, port| Ok((name, port).to_socket_addrs()?.map(|address| address.ip()).collect())),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            lookups: Arc::new(Semaphore::new(LOOKUPS.2)),
            tenants: Mutex::default(),
        })
    }

    fn tenant(&self, id: TenantId) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = tenants.get(&id).and_then(Weak::upgrade) {
            return tenant;
        }
        tenants.retain(|_, tenant| tenant.strong_count() > 0);
        let (places, lookups) = (Semaphore::new(OF_TENANT_MAX), Semaphore::new(LOOKUPS.1));
        let tenant = Arc::new(Tenant { places: Arc::new(places), lookups: Arc::new(lookups) });
        tenants.insert(id, Arc::downgrade(&tenant));
        tenant
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let make = async || {
            let authorities = self.authorities.clone();
            // The platform's authorities are read from files.
            let made = tokio::task::spawn_blocking(move || tls_config(authorities)).await;
            made.map_err(|error| error.to_string())?.map(Arc::new).map_err(|error| error.to_string())
        };
        self.tls.get_or_try_init(make).await.cloned()
    }
}

fn tls_config(authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(authorities, provider.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous() // It asks the platform, as the default does not.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl Endpoint {
    pub(super) fn new(client: Arc<Client>, tenant: TenantId, url: WebhookUrl) -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS.0));
        Self { tenant: client.tenant(tenant), client, lookups, url, idle: Mutex::default() }
    }

    /// Waits until a request may be made.
    pub(super) async fn place(&self) -> Place {
        // Nobody closes them. The tenant's first: who waits for it holds nothing of the others'.
        let of_tenant = self.tenant.places.clone().acquire_owned().await.ok();
        Place { _of_tenant: of_tenant, _of_all: self.client.places.clone().acquire_owned().await.ok() }
    }

    /// How many of the tenant wait for a place while others have all of them.
    #[cfg(test)]
    pub(super) fn waits_for_place(&self) -> usize {
        Arc::strong_count(&self.tenant.places) - 1 - OF_TENANT_MAX
    }

    /// Sends a request and waits for its answer, within the time limit.
    ///
    /// # Cancel safety
    /// A dropped future may have sent it.
    pub(super) async fn post(&self, _place: Place, parcel: &Parcel) -> Tried {
        let began = Instant::now();
        let answer = timeout(self.client.limit, self.exchange(parcel)).await;
        let elapsed = began.elapsed();
        let failed = |fault, text: String| {
            let text = text.chars().take(ERROR_CHARS_MAX).collect();
            Tried { status: None, fault: Some((fault, text)), retry_after: None, elapsed }
        };
        match answer {
            Err(_elapsed) => failed(Fault::Timeout, format!("no answer within {:?}", self.client.limit)),
            Ok(Err((fault, text))) => failed(fault, text),
            Ok(Ok((connection, response))) => {
                // With the status it has its answer; what follows has a bound of its own, and changes nothing.
                let answer = self.finish(connection, response).await;
                let status = answer.0.as_u16();
                let text = match status {
                    200..=299 => return Tried { status: Some(status), fault: None, retry_after: None, elapsed },
                    300..=399 => format!("the endpoint answered {status}; redirects are not followed"),
                    _ => format!("the endpoint answered {status}"),
                };
                Tried {
                    status: Some(status),
                    fault: Some((Fault::Status, text)),
                    retry_after: retry_after(&answer.1),
                    elapsed,
                }
            }
        }
    }

    /// Until the head of an answer is here.
    async fn exchange(&self, parcel: &Parcel) -> Result<(Connection, Response<Incoming>), (Fault, String)> {
        let broken = |error: &hyper::Error| (Fault::Broken, format!("the connection broke: {}", sources(error)));
        if let Some(mut connection) = self.waiting().await
            && let Ok(response) = connection.sender.send_request(self.request(parcel)).await
        {
            return Ok((connection, response));
        }
        // It had ended while it waited, or just now: a request may come twice, and is the same both times.
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(self.request(parcel)).await.map_err(|error| broken(&error))?;
        Ok((connection, response))
    }

    fn request(&self, parcel: &Parcel) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(parcel.body.clone()));
        *request.method_mut() = Method::POST;
        // The target was checked for blanks and controls; what is no path even so goes to the root and is answered there.
        *request.uri_mut() = self.url.target().parse().unwrap_or_default();
        let headers = request.headers_mut();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(header::HOST, &self.url.authority());
        set(header::USER_AGENT, concat!("millrace-webhooks/", env!("CARGO_PKG_VERSION")));
        set(header::CONTENT_TYPE, "application/json");
        set(HeaderName::from_static("webhook-id"), &parcel.id);
        set(HeaderName::from_static("webhook-timestamp"), &parcel.timestamp_s.to_string());
        set(HeaderName::from_static("webhook-signature"), &parcel.signature);
        request
    }

    /// Reads the rest of an answer, so that its connection can be used again; one with a longer rest ends.
    async fn finish(&self, connection: Connection, response: Response<Incoming>) -> (hyper::StatusCode, HeaderMap) {
        let (head, mut body) = response.into_parts();
        let drain = async {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.ok()?.data_ref().map_or(0, Bytes::len);
                if bytes > ANSWER_BYTES_MAX {
                    return None;
                }
            }
            Some(())
        };
        if let Ok(Some(())) = timeout(ANSWER_PATIENCE, drain).await {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push((connection, Instant::now()));
            }
        }
        (head.status, head.headers)
    }

    /// A connection that waits and lives.
    async fn waiting(&self) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let sender = &mut connection.sender;
            if since.elapsed() < IDLE_LIFE && !sender.is_closed() && sender.ready().await.is_ok() {
                connection.meter.begin();
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, (Fault, String)> {
        let stream = self.dial(&self.addresses().await?).await?;
        // A request is written whole; waiting for more would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let meter = Meter::new();
        let stream = Metered::new(stream, meter.clone());
        if !self.url.is_secure() {
            return handshake(stream, meter).await;
        }
        // One word: what another certificate says is the business of whoever owns it.
        let tls = |word: &str| (Fault::Tls, format!("TLS failed: {word}"));
        let name = match self.url.host() {
            WebhookHost::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()),
            WebhookHost::Address(address) => Ok(ServerName::from(*address)),
        };
        let name = name.map_err(|_invalid| tls("name"))?;
        let config = self.client.tls().await.map_err(|error| {
            tracing::warn!(error, "TLS of webhooks cannot be set up");
            tls("setup")
        })?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            tls(if matches!(cause, Some(rustls::Error::InvalidCertificate(_))) { "certificate" } else { "handshake" })
        })?;
        handshake(stream, meter).await
    }

    /// Where the host is, as far as requests may go there.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, (Fault, String)> {
        let port = self.url.port();
        let found: Vec<IpAddr> = match self.url.host() {
            WebhookHost::Address(address) => vec![*address],
            WebhookHost::Name(name) => self.resolve(name).await.map_err(|error| {
                tracing::debug!(%error, "name of an endpoint");
                (Fault::Resolve, format!("{name} has no address"))
            })?,
        };
        let allowed = found.iter().filter(|address| self.client.networks.allow(**address));
        let allowed: Vec<_> = allowed.take(ADDRESSES_MAX).map(|address| SocketAddr::new(*address, port)).collect();
        // What a name resolves to is not told: it may be a name of the inner network.
        let host = self.url.host();
        match (allowed.is_empty(), found.is_empty()) {
            (false, _) => Ok(allowed),
            (true, true) => Err((Fault::Resolve, format!("{host} has no address"))),
            (true, false) => Err((
                Fault::Address,
                format!("{host} has no public address, or none that the operator lets webhooks go to"),
            )),
        }
    }

    /// Looks a name up, once there is room for it.
    async fn resolve(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        // Nobody closes them. One silent name holds up itself, then its tenant, and last all.
        let of_endpoint = self.lookups.clone().acquire_owned().await.ok();
        let of_tenant = self.tenant.lookups.clone().acquire_owned().await.ok();
        let of_all = self.client.lookups.clone().acquire_owned().await.ok();
        let (tenant, resolve) = (self.tenant.clone(), self.client.resolve.clone());
        let (name, port) = (name.to_owned(), self.url.port());
        let found = tokio::task::spawn_blocking(move || {
            // Held until the thread is free again, which may be long after the attempt is over.
            let _held = (tenant, of_endpoint, of_tenant, of_all);
            resolve(&name, port)
        });
        found.await.map_err(std::io::Error::other)?
    }

    async fn dial(&self, addresses: &[SocketAddr]) -> Result<TcpStream, (Fault, String)> {
        let share = self.client.limit / u32::try_from(addresses.len()).unwrap_or(1).max(1);
        let authority = self.url.authority();
        let mut last = String::new();
        for address in addresses {
            // Exactly the address that was judged: a name that resolves to another one a moment later changes nothing.
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = format!("cannot connect to {authority}: {}", error.kind()),
                Err(_elapsed) => last = format!("cannot connect to {authority}: no answer"),
            }
        }
        Err((Fault::Connect, last))
    }
}

async fn handshake<S>(stream: S, meter: Meter) -> Result<Connection, (Fault, String)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let begun =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).max_headers(64).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = begun.map_err(|error| (Fault::Broken, sources(&error)))?;
    // It ends with its sender.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(Connection { sender, meter })
}

/// `Retry-After` in seconds, bounded; its other form, a date, is left aside.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// An error with what caused it.
fn sources(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    // Outside of a runtime, whose tasks give way after so many places.
    #[test]
    fn a_tenant_has_a_share_of_the_places() {
        let client = Client::new(Networks::default(), Duration::from_secs(1), None).unwrap();
        let client = Arc::new(client);
        let endpoint = |tenant| {
            let tenant = TenantId::new(tenant).unwrap();
            Endpoint::new(client.clone(), tenant, "https://example.com/".parse().unwrap())
        };
        let (one, same, other) = (endpoint(1), endpoint(1), endpoint(2));
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..OF_TENANT_MAX {
            places.push(one.place().now_or_never().unwrap());
        }
        assert!(same.place().now_or_never().is_none(), "another endpoint of the same tenant");
        assert!(other.place().now_or_never().is_some(), "another tenant");
        places.pop();
        assert!(same.place().now_or_never().is_some());
    }

    /// A name server that does not answer holds threads that everything shares: of one tenant few, and others' names are found meanwhile.
    #[tokio::test]
    async fn silent_names_hold_few_threads_and_no_other_tenant_up() {
        use std::sync::Condvar;
        use std::sync::atomic::{AtomicUsize, Ordering};

        #[derive(Default)]
        struct Server {
            asked: AtomicUsize,
            is_back: (Mutex<bool>, Condvar),
        }

        /// Lets the threads go, however the test ends.
        struct Return(Arc<Server>);

        impl Drop for Return {
            fn drop(&mut self) {
                *self.0.is_back.0.lock().unwrap() = true;
                self.0.is_back.1.notify_all();
            }
        }

        let server = Arc::new(Server::default());
        let answering = server.clone();
        let _return = Return(server.clone());
        let mut client = Client::new(Networks::with_loopback(), Duration::from_millis(20), None).unwrap();
        client.resolve = Arc::new(move |name, _| {
            if name == "silent.example" {
                answering.asked.fetch_add(1, Ordering::SeqCst);
                let is_back = answering.is_back.0.lock().unwrap();
                drop(answering.is_back.1.wait_while(is_back, |is_back| !*is_back).unwrap());
            }
            Ok(vec![IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)])
        });
        let client = Arc::new(client);
        let endpoint = |tenant, host: &str| {
            let url = format!("http://{host}:1/").parse().unwrap();
            Endpoint::new(client.clone(), TenantId::new(tenant).unwrap(), url)
        };
        let parcel = || Parcel { id: "x".into(), timestamp_s: 0, signature: String::new(), body: Bytes::new() };
        let silent: Vec<_> = (0..16).map(|_| endpoint(1, "silent.example")).collect();
        for round in 0..4 {
            for endpoint in &silent {
                let tried = endpoint.post(endpoint.place().await, &parcel()).await;
                assert_eq!(tried.fault.unwrap().0, Fault::Timeout, "{round}");
            }
        }
        assert_eq!(server.asked.load(Ordering::SeqCst), LOOKUPS.1, "attempts end, and look-ups do not");
        let other = endpoint(2, "localhost");
        let tried = other.post(other.place().await, &parcel()).await;
        assert_eq!(tried.fault.unwrap().0, Fault::Connect, "it was found, and nobody listens there");
    }
}
