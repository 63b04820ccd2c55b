//! How links begin, live and end.

use super::*;

#[tokio::test]
async fn nobody_gets_in_without_the_secret() {
    let world = World::new();
    let mut stranger = FakeNode::over(world.server.connect_in_process());
    let refusal = stranger.greet("node", b"another secret of sixteen bytes").await.unwrap_err();
    assert_eq!(refusal.code, Code::BadToken);
    assert!(stranger.try_receive().await.is_none());

    let mut newer = FakeNode::over(world.server.connect_in_process());
    let NodeBody::Challenge { nonce, .. } = newer.receive().await.body else { panic!("no challenge") };
    let hello = LinkHello { version: 9, ..hello("node", SECRET, &nonce) };
    newer.send_frame(0, NodeBody::Hello(hello)).await;
    let NodeBody::Refused(refusal) = newer.receive().await.body else { panic!("not refused") };
    assert_eq!(refusal.code, Code::UnsupportedVersion);

    // The proof is of this challenge: one that was overheard is worth nothing.
    let mut replay = FakeNode::over(world.server.connect_in_process());
    replay.receive().await;
    replay.send_frame(0, NodeBody::Hello(self::hello("node", SECRET, &nonce))).await;
    let NodeBody::Refused(refusal) = replay.receive().await.body else { panic!("not refused") };
    assert_eq!(refusal.code, Code::BadToken);

    // A name that another node was made to sign for.
    let mut renamed = FakeNode::over(world.server.connect_in_process());
    let NodeBody::Challenge { nonce, .. } = renamed.receive().await.body else { panic!("no challenge") };
    let hello = LinkHello { node: "other".into(), ..self::hello("node", SECRET, &nonce) };
    renamed.send_frame(0, NodeBody::Hello(hello)).await;
    assert!(matches!(renamed.receive().await.body, NodeBody::Refused(_)));
    assert!(!world.server.is_linked());
}

#[tokio::test]
async fn a_handshake_is_bounded_in_time_bytes_and_number() {
    let config = LinkConfig { handshake_timeout: Duration::from_millis(50), handshakes_max: 1, ..test_config() };
    let world = World::over(open_memory(), config);
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let silent = tokio::spawn({
        let server = world.server.clone();
        async move { server.serve(ours).await }
    });
    let mut silent_node = FakeNode::over(theirs);
    silent_node.receive().await;
    let (ours, _theirs) = tokio::io::duplex(1 << 20);
    assert_eq!(world.server.serve(ours).await, LinkEnd::Refused, "one handshake at a time");
    assert_eq!(silent.await.unwrap(), LinkEnd::HandshakeTimeout);

    let check = async |bytes: &[u8], expect: LinkEnd| {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(bytes).await.unwrap();
        assert_eq!(world.server.serve(ours).await, expect, "{bytes:?}");
    };
    check(&[0xFF; 4], LinkEnd::BadFrame).await;
    check(&(17_u32 << 10).to_le_bytes(), LinkEnd::BadFrame).await;
    check(&[8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], LinkEnd::BadFrame).await;
    let mut ping = Vec::new();
    node::encode_delimited(&NodeFrame { id: 0, body: NodeBody::Ping }, &mut ping).unwrap();
    check(&ping, LinkEnd::BadFrame).await;
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    drop(theirs);
    assert_eq!(world.server.serve(ours).await, LinkEnd::Closed);
    assert_eq!(world.metric("millrace_control_link_ends_total", "bad_frame"), 4);
}

#[tokio::test]
async fn one_data_node_at_a_time_and_terms_rise() {
    let world = World::new();
    assert!(world.server.endpoints().is_empty());
    let mut first = world.node().await;
    assert!(world.server.is_linked());
    assert_eq!(world.server.endpoints(), ["ws://localhost"]);
    assert_eq!(world.server.certificate_hashes(), [[1; 32]]);
    let refusal = world.greeted("second").await.map(|node| node.term).unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.message.contains("\"node\"") && !refusal.retry_after.is_zero(), "{refusal:?}");

    let first_term = first.term;
    first.send(NodeBody::CertificateHashes(vec![[2; 32], [3; 32]])).await;
    // It is taken before what comes behind it is answered.
    assert_eq!(first.call(NodeBody::Ping).await, NodeBody::Pong);
    assert_eq!(world.server.certificate_hashes(), [[2; 32], [3; 32]]);
    drop(first);
    assert_eq!(world.server.endpoints(), ["ws://localhost"], "it comes back where it was");
    let second = world.node().await;
    assert!(second.term > first_term);

    // Terms rise over restarts of the control node too.
    let again = World::over(world.store.clone(), test_config());
    drop(second);
    assert!(again.node().await.term.0 > first_term.0 + 1);
}

#[tokio::test]
async fn both_sides_are_heard_or_the_link_ends() {
    let config = LinkConfig { heartbeat: Duration::from_millis(150), ..test_config() };
    let world = World::over(open_memory(), config);
    let serve = || {
        let (ours, theirs) = tokio::io::duplex(4 << 10);
        let server = world.server.clone();
        (tokio::spawn(async move { server.serve(ours).await }), FakeNode::over(theirs))
    };

    let (end, mut talks) = serve();
    talks.greet("node", SECRET).await.unwrap();
    let began = Instant::now();
    // Longer than three heartbeats: pings are answered, pongs count as being heard.
    let mut pings = 0;
    while began.elapsed() < Duration::from_millis(500) {
        let ping = talks.call(NodeBody::Ping).await;
        assert_eq!(ping, NodeBody::Pong);
        pings += 1;
    }
    assert!(pings > 1 && !end.is_finished());
    // Then it is silent, though it reads.
    let mut frames = 0;
    while talks.try_receive().await.is_some() {
        frames += 1;
    }
    assert_eq!((end.await.unwrap(), frames), (LinkEnd::Silent, 0));

    // A node that talks and never reads: the pipe fills, and the link ends without more memory than that.
    let (end, mut deaf) = serve();
    deaf.greet("node", SECRET).await.unwrap();
    let mut ask = Vec::new();
    node::encode_delimited(&NodeFrame { id: 1, body: NodeBody::Ping }, &mut ask).unwrap();
    while deaf.stream.write_all(&ask).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let end = end.await.unwrap();
    assert!(matches!(end, LinkEnd::Stuck | LinkEnd::QueueFull), "{end:?}");
}

#[tokio::test]
async fn what_no_node_sends_ends_the_link_and_what_is_new_is_refused() {
    let world = World::new();
    let mut node = world.node().await;
    node.send(NodeBody::Welcome { term: Term(1), heartbeat_ms: 1 }).await;
    assert!(node.try_receive().await.is_none());

    let mut node = world.node().await;
    node.stream.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    assert!(node.try_receive().await.is_none());
}

#[tokio::test]
async fn a_stop_ends_the_link_and_refuses_others() {
    let world = World::new();
    let mut node = world.node().await;
    world.server.stop();
    assert!(node.try_receive().await.is_none());
    let refusal = world.greeted("node").await.map(|node| node.term).unwrap_err();
    assert_eq!(refusal.code, Code::GoingAway);
    assert!(!world.server.is_linked());
}

#[tokio::test]
async fn the_link_works_over_tcp() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn({
        let server = world.server.clone();
        async move { server.serve_tcp(listener).await }
    });
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut reader = FrameReader::default();
    let challenge = loop {
        if let Some(frame) = reader.next_frame().unwrap() {
            break node::decode(frame).unwrap();
        }
        assert_ne!(stream.read_buf(reader.buffer()).await.unwrap(), 0);
    };
    let NodeBody::Challenge { nonce, .. } = challenge.body else { panic!("no challenge") };
    let mut bytes = Vec::new();
    let hello = NodeBody::Hello(hello("node", SECRET, &nonce));
    node::encode_delimited(&NodeFrame { id: 0, body: hello }, &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let welcome = loop {
        if let Some(frame) = reader.next_frame().unwrap() {
            break node::decode(frame).unwrap();
        }
        assert_ne!(stream.read_buf(reader.buffer()).await.unwrap(), 0);
    };
    assert!(matches!(welcome.body, NodeBody::Welcome { .. }));
    serving.abort();
}

#[test]
fn a_configuration_is_checked() {
    let check = |change: fn(&mut LinkConfig), expect: bool| {
        let mut config = test_config();
        change(&mut config);
        let server = LinkServer::new(open_memory(), config, &prometheus::Registry::new());
        assert_eq!(server.is_ok(), expect);
    };
    check(|_| {}, true);
    check(|config| config.cluster_secret = Bytes::from_static(&[1; 15]), false);
    check(|config| config.heartbeat = Duration::from_millis(19), false);
    check(|config| config.heartbeat = Duration::from_secs(61), false);
    assert!(!format!("{:?}", test_config()).contains("secret"));
}
