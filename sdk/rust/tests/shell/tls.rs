//! Servers that are not who they should be, clients that are not who they should be, and coming back quickly.

use std::sync::Arc;

use millrace_client::{Advice, Client, Error};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificate::{Authority, Valid};
use crate::server::{Server, Transport};
use crate::{builder, in_time, text};

/// A TLS server that ends every connection after its handshake.
async fn stranger(config: Arc<ServerConfig>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(config);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 1_024]).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (port, task)
}

async fn refused(config: Arc<ServerConfig>, host: &str, ca: &Authority) -> String {
    let (port, task) = stranger(config).await;
    let url = format!("wss://{host}:{port}");
    let error = in_time(Client::builder(&url).ca(ca.pem()).connect()).await.unwrap_err();
    task.abort();
    let text = text(&error);
    text.strip_prefix(&format!("cannot connect to {url}: ")).map_or(text.clone(), ToOwned::to_owned)
}

#[tokio::test]
async fn a_refused_certificate_says_why_and_what_to_do() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    assert_eq!(
        refused(authority.server("localhost"), "localhost", &other).await,
        "no authority that is trusted here signed the certificate of localhost; if it was an authority of your own, give its \
        certificate as `ca`"
    );
    assert_eq!(
        refused(authority.server("localhost"), "localhost", &Authority::new("authority")).await,
        "the certificate of localhost is signed with another key than the authority that is trusted here has; if it is an \
        authority of your own, give its newest certificate as `ca`"
    );
    assert_eq!(
        refused(authority.server("chat.example"), "localhost", &authority).await,
        "the certificate of localhost is for chat.example; connect by such a name"
    );
    let past = refused(authority.config("localhost", Valid::Past, None), "localhost", &authority).await;
    assert!(past.starts_with("the certificate of localhost expired ") && past.contains(" days ago; "), "{past}");
    assert_eq!(
        refused(authority.config("localhost", Valid::Future, None), "localhost", &authority).await,
        "the certificate of localhost is not valid yet; the server needs another one, if the clock here is right"
    );
    // An address is a name like any other.
    let addressed = refused(authority.server("127.0.0.1"), "127.0.0.1", &authority).await;
    assert!(!addressed.contains("certificate"), "{addressed}");
}

#[tokio::test]
async fn a_server_without_tls_is_told() {
    let server = Server::start(1, Transport::Ws).await;
    let url = server.url().replace("ws://", "wss://");
    let error = in_time(Client::builder(&url).connect()).await.unwrap_err();
    let expect =
        format!("cannot connect to {url}: 127.0.0.1 does not speak TLS on this port; its URL may be a ws:// one");
    assert_eq!(text(&error), expect);
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_is_asked_for() {
    let (authority, clients) = (Authority::new("authority"), Authority::new("clients"));
    let config = || authority.config("localhost", Valid::Now, Some(&clients));
    let without = refused(config(), "localhost", &authority).await;
    assert_eq!(without, "localhost takes only clients with a certificate; give one as `client_certificate`");
    let identity = |of: &Authority| {
        let (certificate, key) = of.sign("backend", Valid::Now);
        (certificate.pem(), key.serialize_pem())
    };
    let connect = async |of: &Authority| {
        let server = Server::start_with(1, Transport::Wss, config()).await;
        let (chain, key) = identity(of);
        let builder = Client::builder(server.url()).ca(authority.pem()).client_certificate(chain, key);
        in_time(builder.connect()).await.map(drop)
    };
    connect(&clients).await.unwrap();
    let error = connect(&authority).await.unwrap_err();
    assert!(text(&error).ends_with("localhost refuses this client's certificate (UnknownCA)"), "{}", text(&error));
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_at_once() {
    let error = Client::builder("wss://host").ca("hello").connect().await.unwrap_err();
    assert_eq!(
        (text(&error).as_str(), error.advice()),
        ("a certificate or key cannot be used: what was given as ca has no certificate in it", Advice::DoNotRetry)
    );
    assert!(matches!(Client::builder("ws://host").ca("hello").connect_lazy(), Err(Error::Certificate(_))));
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_tls_session() {
    let server = Server::start(1, Transport::Wss).await;
    let client = builder(&server).connect().await.unwrap();
    let channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("a")).await.unwrap();
    server.hang_up();
    in_time(channel.send("b")).await.unwrap();
    assert_eq!(server.handshakes(), [HandshakeKind::Full, HandshakeKind::Resumed]);
}
