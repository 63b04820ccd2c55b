//! NATS over WebSocket: core, and JetStream with files that are synced before a publish is acknowledged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::launch::{self, Launch, built, free_port, printed};
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect;
use crate::dialect::nats::{Acknowledgement, connect};

/// Which half of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nats {
    Core,
    JetStream,
}

impl Subject for Nats {
    fn name(&self) -> &'static str {
        match self {
            Self::Core => "nats",
            Self::JetStream => "jetstream",
        }
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        match (self, history) {
            (Self::Core, History::None | History::Windowed) => Some("at most once"),
            (Self::JetStream, History::Durable) => Some("on disk before it is acknowledged"),
            (Self::Core, History::Durable) | (Self::JetStream, History::None | History::Windowed) => None,
        }
    }

    fn missing(&self) -> Option<Missing> {
        launch::missing(built("nats-server").as_deref(), "build of nats-server", launch::INSTALL)
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let binary = built("nats-server").context("it is not installed")?;
        let launch = Launch::new()?;
        let (port, tcp_port) = (free_port()?, free_port()?);
        let folder = launch.folder().display().to_string();
        let places = [("@PORT@", &*port.to_string()), ("@TCP_PORT@", &*tcp_port.to_string()), ("@FOLDER@", &*folder)];
        let (settings, acknowledgement) = match self {
            Self::Core => (include_str!("../../peers/nats/core.conf"), Acknowledgement::Ping),
            Self::JetStream => (include_str!("../../peers/nats/jetstream.conf"), Acknowledgement::Stored),
        };
        let config = launch.write("nats.conf", settings, &places)?;
        let mut command = Command::new(&binary);
        command.arg("-c").arg(config).env("GOMAXPROCS", needs.cores.count().to_string());
        let version = printed(Command::new(&binary).arg("--version"))?;
        let version = version.trim_start_matches("nats-server: v").to_owned();
        let dialect = Arc::new(dialect::nats::Nats { acknowledgement });
        let running = needs.cores.while_pinned(|| launch.at(port, &mut command, dialect, version))?;
        if *self == Self::JetStream {
            make_stream(tcp_port).context("make a stream")?;
        }
        Ok(running)
    }
}

/// Makes the one stream that keeps every channel, over the native protocol.
fn make_stream(port: u16) -> Result<()> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connect")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let stream = r#"{"name":"rooms","subjects":["room.>"],"storage":"file","retention":"limits","num_replicas":1}"#;
    let request = format!(
        "{}SUB _INBOX.stream 1\r\nPUB $JS.API.STREAM.CREATE.rooms _INBOX.stream {}\r\n{stream}\r\n",
        connect(),
        stream.len()
    );
    socket.write_all(request.as_bytes()).context("ask")?;
    let mut input = BufReader::new(socket);
    loop {
        let mut line = String::new();
        ensure!(input.read_line(&mut line).context("wait for the answer")? > 0, "the server closed the connection");
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("MSG" | "HMSG") => {
                let size: usize = words.next_back().and_then(|size| size.parse().ok()).context("a size")?;
                let mut answer = vec![0; size.min(1 << 20)];
                input.read_exact(&mut answer).context("read the answer")?;
                let answer = String::from_utf8_lossy(&answer);
                ensure!(answer.contains("stream_create_response") && !answer.contains("\"error\""), "{answer}");
                return Ok(());
            }
            Some("-ERR") => bail!("the server says {}", line.trim()),
            _ => {}
        }
    }
}
