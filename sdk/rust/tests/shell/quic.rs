//! What only QUIC has: racing with WebSocket, early data, and connections that outlive their addresses.

use millrace_client::{Client, Error, HistoryClass};

use crate::certificate::{Authority, Valid};
use crate::nat::Nat;
use crate::node::ModelChannel;
use crate::server::{Server, Transport};
use crate::{builder, in_time, next_message, text};

/// A client of a server that is reached by QUIC through a router, and by `wss`.
fn both(server: &Server, nat: &Nat) -> millrace_client::Builder {
    let quic = format!("quic://localhost:{}", nat.address().port());
    let builder = Client::builder(server.url_of(Transport::Wss)).url(quic).ca(server.ca()).token("token");
    builder.backoff(std::time::Duration::from_millis(1), std::time::Duration::from_millis(20))
}

/// A client that is reached by QUIC only, through a router.
fn through(server: &Server, nat: &Nat) -> millrace_client::Builder {
    let quic = format!("quic://localhost:{}", nat.address().port());
    Client::builder(quic).ca(server.ca()).token("token")
}

#[tokio::test]
async fn quic_wins_where_it_gets_through_and_the_other_way_sees_no_token() {
    let server = Server::start_both(1).await;
    let nat = Nat::start(server.udp_address()).await;
    let client = in_time(both(&server, &nat).connect()).await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("a")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "a");
    server.hang_up();
    in_time(channel.send("b")).await.unwrap();
    assert_eq!(server.sessions(), [Transport::Quic, Transport::Quic]);
}

#[tokio::test]
async fn where_udp_is_blocked_web_socket_takes_over_and_is_remembered() {
    let server = Server::start_both(1).await;
    let nat = Nat::start(server.udp_address()).await;
    nat.block();
    let client = in_time(both(&server, &nat).connect()).await.unwrap();
    let channel = client.subscribe("general").await.unwrap();
    assert_eq!(nat.seen(), 1, "it was tried");
    for _ in 0..3 {
        server.hang_up();
        in_time(channel.send("b")).await.unwrap();
    }
    assert_eq!(server.sessions(), [Transport::Wss; 4]);
    assert_eq!(nat.seen(), 1, "UDP has its rest");
}

#[tokio::test]
async fn where_neither_way_leads_both_are_told() {
    let server = Server::start_both(1).await;
    let quic = server.url_of(Transport::Quic);
    let web_socket = server.url_of(Transport::Wss);
    let error = in_time(Client::builder(&web_socket).url(&quic).connect()).await.unwrap_err();
    let why = "no authority that is trusted here signed the certificate of localhost; if it was an authority of your own, give its \
        certificate as `ca`";
    let expect = format!("cannot connect to {quic} or {web_socket}: by QUIC: {why}; by WebSocket: {why}");
    assert_eq!(text(&error), expect);
}

#[tokio::test]
async fn a_client_that_comes_back_says_hello_in_its_first_packet() {
    let server = Server::start(1, Transport::Quic).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("a")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "a");
    assert_eq!(server.early_sessions(), 0);
    server.hang_up();
    server.node(|node| node.publish("general", b"missed"));
    assert_eq!(next_message(&mut channel).await.body, "missed");
    in_time(channel.send("b")).await.unwrap();
    assert_eq!((server.sessions().len(), server.early_sessions()), (2, 1));
}

/// As after a restart, or on another node.
#[tokio::test]
async fn a_node_that_takes_no_early_data_costs_a_round_trip() {
    let server = Server::start(1, Transport::Quic).await;
    let client = builder(&server).connect().await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("a")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "a");
    server.forget_tickets();
    server.hang_up();
    in_time(channel.send("b")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "b");
    assert_eq!((server.sessions().len(), server.early_sessions()), (2, 0));
    assert_eq!(server.node(|node| node.hellos), 2);
}

/// The client has gone to a network without UDP; its ticket is good for nothing there.
#[tokio::test]
async fn early_data_that_is_not_answered_goes_the_other_way() {
    let server = Server::start_both(1).await;
    let nat = Nat::start(server.udp_address()).await;
    let client = in_time(both(&server, &nat).connect()).await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("a")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "a");
    nat.block_new();
    server.hang_up();
    in_time(channel.send("b")).await.unwrap();
    assert_eq!(next_message(&mut channel).await.body, "b");
    assert_eq!(server.sessions().last(), Some(&Transport::Wss));
}

#[tokio::test]
async fn a_connection_outlives_the_address_that_its_node_sees() {
    let server = Server::start(1, Transport::Quic).await;
    let nat = Nat::start(server.udp_address()).await;
    let client = in_time(through(&server, &nat).connect()).await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    for offset in 1..=100 {
        nat.rebind();
        in_time(channel.send("a")).await.unwrap();
        assert_eq!(next_message(&mut channel).await.position.offset, offset);
    }
    assert_eq!(server.sessions().len(), 1);
    assert_eq!(nat.seen(), 1, "the client noticed nothing");
}

/// A router that restarted, or a network that was changed: what the client sends from its old socket leads nowhere.
#[tokio::test]
async fn a_connection_moves_to_another_socket_when_nothing_comes_back() {
    let server = Server::start(1, Transport::Quic).await;
    let nat = Nat::start(server.udp_address()).await;
    let client = in_time(through(&server, &nat).connect()).await.unwrap();
    let mut channel = client.subscribe("general").await.unwrap();
    in_time(channel.send("a")).await.unwrap();
    nat.forget();
    server.node(|node| node.publish("general", b"meanwhile"));
    in_time(channel.send("b")).await.unwrap();
    let bodies = [next_message(&mut channel).await, next_message(&mut channel).await, next_message(&mut channel).await];
    assert_eq!(bodies.map(|message| message.body), ["a", "meanwhile", "b"]);
    assert_eq!(server.sessions().len(), 1, "no reconnect");
    assert!(nat.seen() >= 2);
}

#[tokio::test]
async fn more_channels_than_streams_at_first_are_no_limit() {
    const CHANNELS: usize = 700;
    let server = Server::start(1, Transport::Quic).await;
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("channel-{number}")).collect();
    let channel = || ModelChannel::new(HistoryClass::Durable);
    server.node(|node| node.channels.extend(names.iter().map(|name| (&*name.clone().leak(), channel()))));
    let client = builder(&server).connect().await.unwrap();
    let mut channels = vec![];
    for name in &names {
        channels.push(in_time(client.subscribe(name)).await.unwrap());
    }
    let publish = |body: &'static [u8]| {
        server.node(|node| {
            let names: Vec<&'static str> = node.channels.keys().copied().collect();
            names.into_iter().for_each(|name| node.publish(name, body));
        })
    };
    publish(b"all");
    for channel in &mut channels {
        assert_eq!(next_message(channel).await.body, "all");
    }
    // All at once, with the hello.
    server.hang_up();
    publish(b"again");
    for channel in &mut channels {
        assert_eq!(next_message(channel).await.body, "again");
    }
    assert_eq!(server.sessions().len(), 2);
}

#[tokio::test]
async fn a_refused_certificate_says_why_and_what_to_do() {
    let check = async |tls, ca: &Authority, expect: &str| {
        let server = Server::start_with(1, Transport::Quic, tls).await;
        let error = in_time(Client::builder(server.url()).ca(ca.pem()).connect()).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_eq!(text(&error), format!("cannot connect to {}: {expect}", server.url()));
    };
    let (authority, clients) = (Authority::new("authority"), Authority::new("clients"));
    let expect = "the certificate of localhost is for chat.example; connect by such a name";
    check(authority.server("chat.example"), &authority, expect).await;
    let wants = authority.config("localhost", Valid::Now, Some(&clients));
    check(wants, &authority, "localhost takes only clients with a certificate; give one as `client_certificate`").await;
}
