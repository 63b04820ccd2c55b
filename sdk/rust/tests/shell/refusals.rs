//! What cannot work says why, and what to do.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millrace_client::{Advice, Awaited, Client, Code, Error, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::{Server, Transport};
use crate::{builder, in_time, text};

on_every_transport! {
    a_node_that_asks_for_another_try_gets_it,
    a_wrong_token_is_not_tried_for_ever,
    a_token_provider_may_fail_and_is_asked_for_new_tokens,
    channels_are_refused_one_by_one,
    messages_are_refused_one_by_one,
    time_is_up_for_requests_without_an_answer,
}

/// A server that answers the first bytes of every connection with `answer`, or never.
async fn stranger(answer: Option<&'static [u8]>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut held = vec![];
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(answer) = answer {
                let mut input = [0; 4_096];
                let _ = stream.read(&mut input).await;
                let _ = stream.write_all(answer).await;
            }
            held.push(stream);
        }
    });
    (url, task)
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused_at_once() {
    let check = async |url: &str, expect: &str| {
        let error = Client::builder(url).connect().await.unwrap_err();
        assert_eq!((text(&error).as_str(), error.advice()), (expect, Advice::DoNotRetry));
        assert!(Client::builder(url).connect_lazy().is_err());
    };
    let schemes = "use wss://, quic:// or ws://";
    check("https://host", &format!("the URL cannot be used: \"https\" is no scheme for a connection; {schemes}")).await;
    check(
        "host:1",
        "the URL cannot be used: \"host:1\" has no scheme; write wss://host, quic://host or ws://host:port",
    )
    .await;
}

#[tokio::test]
async fn a_first_connection_that_fails_says_why() {
    let check = async |answer: Option<&'static [u8]>, expect: &str| {
        let (url, task) = stranger(answer).await;
        let builder = Client::builder(url).connect_timeout(Duration::from_millis(200));
        let error = in_time(builder.connect()).await.unwrap_err();
        assert!(text(&error).contains(expect), "{}", text(&error));
        assert!(error.is_retryable());
        task.abort();
    };
    check(None, "timed out waiting for the connection").await;
    check(Some(b"HTTP/1.1 404 Not Found\r\n\r\nno such page"), "the server answered 404: no such page").await;
    check(Some(b"SSH-2.0-OpenSSH\r\n"), "the answer is no HTTP/1.1 response").await;
    // Nobody listens on a port that was just given back.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = in_time(Client::builder(&url).connect()).await.unwrap_err();
    assert!(text(&error).starts_with(&format!("cannot connect to {url}: ")), "{}", text(&error));
}

async fn a_node_that_asks_for_another_try_gets_it(transport: Transport) {
    let server = Server::start(1, transport).await;
    server.node(|node| node.busy_hellos = 3);
    in_time(builder(&server).connect()).await.unwrap();
    assert_eq!(server.node(|node| node.hellos), 4);
    // Not for ever: somebody waits.
    server.node(|node| node.busy_hellos = u32::MAX);
    let error = in_time(builder(&server).request_timeout(Duration::from_millis(50)).connect()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Busy));
}

async fn a_wrong_token_is_not_tried_for_ever(transport: Transport) {
    let server = Server::start(1, transport).await;
    server.node(|node| node.token = Some("good".into()));
    let error = in_time(builder(&server).connect()).await.unwrap_err();
    assert_eq!((error.code(), error.advice()), (Some(Code::BadToken), Advice::Authenticate));

    // In the background, a provider is asked again a few times.
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let provider = move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, std::io::Error>("bad".to_owned()) }
    };
    let client = builder(&server).token_provider(provider).connect_lazy().unwrap();
    let mut watch = client.watch_state();
    while let Some(state) = in_time(watch.changed()).await {
        if let State::Closed { error } = state {
            assert_eq!(error.unwrap().code(), Some(Code::BadToken));
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(client.sender("general").await.unwrap_err().code(), Some(Code::BadToken));
}

async fn a_token_provider_may_fail_and_is_asked_for_new_tokens(transport: Transport) {
    let server = Server::start(1, transport).await;
    let failing = || async { Err::<String, _>("the backend is down") };
    let error = in_time(builder(&server).token_provider(failing).connect()).await.unwrap_err();
    assert_eq!(text(&error), "no token could be had: the backend is down");

    let now_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    server.node(|node| node.token_expires_ms = now_ms + 200);
    let count = AtomicU32::new(0);
    let provider = move || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, std::io::Error>(format!("token {number}")) }
    };
    let client = builder(&server).token_provider(provider).connect().await.unwrap();
    in_time(server.until(|node| node.refreshed == ["token 1"])).await;
    assert_eq!(server.connections(), 1, "on the same connection");
    client.close().await.unwrap();
}

async fn channels_are_refused_one_by_one(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let error = in_time(client.subscribe("secret")).await.unwrap_err();
    assert_eq!(text(&error), "no such channel (no-access)");
    assert!(matches!(client.subscribe("a b").await, Err(Error::Name(_))));
    let general = client.subscribe("general").await.unwrap();
    assert!(matches!(client.subscribe("general").await, Err(Error::AlreadySubscribed { .. })));
    drop(general);
    client.subscribe("general").await.unwrap();
    assert!(client.state().is_connected());
}

async fn messages_are_refused_one_by_one(transport: Transport) {
    let server = Server::start(1, transport).await;
    let client = builder(&server).connect().await.unwrap();
    let sender = client.sender("general").await.unwrap();
    let error = sender.send(vec![0; 20_000]).await.unwrap_err();
    assert_eq!(text(&error), "the message is 20000 bytes, the limit is 16384");
    // Whoever sends one after the other hears it before anything is sent behind it.
    assert_eq!((sender.payload_bytes_max(), client.payload_bytes_max()), (16_384, Some(16_384)));
    assert!(matches!(sender.submit(vec![0; 16_385]).await, Err(Error::TooLarge { bytes: 16_385, bytes_max: 16_384 })));
    sender.submit(vec![0; 16_384]).await.unwrap().await.unwrap();
    server.node(|node| node.faults.publish_refused = 1_000);
    // Every refusal that may pass is tried again; in the end comes one that does not, or time is up.
    let error = in_time(sender.send("x")).await.unwrap_err();
    assert!(matches!(error.code(), Some(Code::TooLarge | Code::Archived)), "{error:?}");
    server.node(|node| node.faults.publish_refused = 0);
    in_time(sender.send("y")).await.unwrap();
}

async fn time_is_up_for_requests_without_an_answer(transport: Transport) {
    let server = Server::start(1, transport).await;
    let short = Duration::from_millis(100);
    let client = builder(&server).request_timeout(short).send_timeout(short).connect().await.unwrap();
    let sender = client.sender("general").await.unwrap();
    server.stall(true);
    let (sent, page) = tokio::join!(in_time(sender.send("x")), in_time(sender.history().into_future()));
    match sent.unwrap_err() {
        Error::Unconfirmed { cause } => assert!(matches!(*cause, Error::TimedOut(Awaited::Acknowledgement))),
        other => panic!("{other:?}"),
    }
    assert!(matches!(page, Err(Error::TimedOut(Awaited::Answer))));
    assert!(matches!(in_time(client.sender("news")).await, Err(Error::TimedOut(Awaited::Answer))));
}
