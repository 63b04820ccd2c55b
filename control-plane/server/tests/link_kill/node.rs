//! The data node's end of a link, over TCP.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use millrace_protocol::node::{self, FrameReader, LinkHello, NodeBody, NodeFrame};
use millrace_protocol::{Code, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    stream: TcpStream,
    reader: FrameReader,
    pub(crate) term: Term,
    last_id: u64,
    /// Frames that came while a reply was awaited.
    aside: VecDeque<NodeFrame>,
}

impl Node {
    /// Links to a control node, as soon as the place of a link that is gone is free.
    pub(crate) async fn link(address: SocketAddr, secret: &[u8]) -> Self {
        loop {
            let mut node = Self::connect(address).await;
            let NodeBody::Challenge { nonce, .. } = node.receive().await.body else { panic!("no challenge") };
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let proof = aws_lc_rs::hmac::sign(&key, &[&nonce[..], b"node"].concat());
            let hello = LinkHello {
                version: node::VERSION,
                node: "node".into(),
                proof: proof.as_ref().try_into().expect("32 bytes"),
                endpoints: vec![],
                certificate_hashes: vec![],
            };
            node.send_frame(0, NodeBody::Hello(hello)).await;
            match node.receive().await.body {
                NodeBody::Welcome { term, .. } => return Self { term, ..node },
                NodeBody::Refused(refusal) if refusal.code == Code::Busy => tokio::task::yield_now().await,
                other => panic!("not welcome: {other:?}"),
            }
        }
    }

    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("set an option");
        Self { stream, reader: FrameReader::default(), term: Term(0), last_id: 0, aside: VecDeque::new() }
    }

    async fn send_frame(&mut self, id: u64, body: NodeBody) {
        let mut bytes = Vec::new();
        node::encode_delimited(&NodeFrame { id, body }, &mut bytes).expect("it fits");
        self.stream.write_all(&bytes).await.expect("write");
    }

    pub(crate) async fn send(&mut self, body: NodeBody) -> u64 {
        self.last_id += 1;
        self.send_frame(self.last_id, body).await;
        self.last_id
    }

    /// The next frame that is about something; heartbeats are answered, keys, revocations and operators' questions passed over.
    pub(crate) async fn receive(&mut self) -> NodeFrame {
        match self.aside.pop_front() {
            Some(frame) => frame,
            None => self.receive_new().await,
        }
    }

    async fn receive_new(&mut self) -> NodeFrame {
        loop {
            let Some(frame) = self.reader.next_frame().expect("a frame") else {
                let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(self.reader.buffer()));
                assert_ne!(read.await.expect("in time").expect("read"), 0, "the link lives");
                continue;
            };
            let frame = node::decode(frame).expect("a good frame");
            match frame.body {
                NodeBody::Ping => self.send_frame(0, NodeBody::Pong).await,
                NodeBody::Pong
                | NodeBody::Keys(_)
                | NodeBody::TokensRevoked(_)
                | NodeBody::Synced
                | NodeBody::Report => {}
                _ => return frame,
            }
        }
    }

    pub(crate) async fn call(&mut self, body: NodeBody) -> NodeBody {
        let id = self.send(body).await;
        loop {
            let frame = self.receive_new().await;
            if frame.id == id {
                return frame.body;
            }
            self.aside.push_back(frame);
        }
    }
}
