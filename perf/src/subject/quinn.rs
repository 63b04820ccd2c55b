//! The peer of QUIC: quinn on tokio, as its users write it. A task for each connection that reads the client's stream, and a stream of its
//! own for each room that a client has entered. It runs as a process of this program.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use ::quinn::crypto::rustls::QuicServerConfig;
use ::quinn::{Endpoint, Incoming, SendStream, ServerConfig, TransportConfig, VarInt};
use anyhow::{Context, Result};
use bytes::Bytes;
use millrace_protocol::client::SUBPROTOCOL;
use millrace_protocol::stream::FrameReader;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Mutex;
use tokio::task::LocalSet;

use super::launch::PATIENCE;
use super::{History, Missing, Needs, Running, Subject};
use crate::dialect;
use crate::dialect::quinn::{ENTER, SEND, head};
use crate::process::Owned;
use crate::transport::{Identity, Transport};

/// The largest message of a client: there are no strangers here, only this program.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Rooms over quinn.
pub(crate) struct Quinn;

impl Subject for Quinn {
    fn name(&self) -> &'static str {
        "quinn"
    }

    fn guarantee(&self, history: History) -> Option<&'static str> {
        (history != History::Durable).then_some("at most once")
    }

    fn transports(&self) -> &'static [Transport] {
        &[Transport::Quic]
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn start(&self, needs: &Needs) -> Result<Running> {
        let program = std::env::current_exe().context("find this program")?;
        let folder = tempfile::tempdir().context("make a folder for a certificate")?;
        let identity = Identity::new()?;
        let (certificate, key) = (folder.path().join("node.pem"), folder.path().join("node.key"));
        std::fs::write(&certificate, &identity.certificate).context("write a certificate")?;
        std::fs::write(&key, &identity.key).context("write a key")?;
        let mut command = Command::new(program);
        command.arg("quinn").arg("--certificate").arg(&certificate).arg("--key").arg(&key);
        let mut owned = needs.cores.while_pinned(|| Owned::start(command.stdout(Stdio::piped())))?;
        let line = owned.first_line(PATIENCE).context("wait for quinn")?;
        let address = line.trim().parse().with_context(|| format!("quinn said {line:?}"))?;
        let way = identity.trust()?.way(Transport::Quic);
        let running = Running::one(address, Arc::new(dialect::quinn::Quinn), "0.11".to_owned(), owned);
        Ok(Running { way, folder: Some(folder), ..running })
    }
}

type Rooms = Rc<RefCell<HashMap<u32, Vec<Member>>>>;
/// One message at a time on a stream.
type Member = Rc<Mutex<SendStream>>;

/// Serves until it is killed; says its address first.
///
/// # Errors
/// From the operating system, and when the certificate is none.
pub(crate) fn serve(certificate: &Path, key: &Path) -> Result<()> {
    let config = config(certificate, key)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
    LocalSet::new().block_on(&runtime, async move {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).context("a socket")?;
        // As Millrace's: acknowledgements of a broadcast come in one burst.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20).is_err() {
            socket.set_recv_buffer_size(16 << 20)?;
        }
        socket.set_send_buffer_size(4 << 20)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).context("bind")?;
        let runtime = Arc::new(::quinn::TokioRuntime);
        let endpoint = Endpoint::new(::quinn::EndpointConfig::default(), Some(config), socket.into(), runtime)
            .context("listen")?;
        println!("{}", endpoint.local_addr()?);
        std::io::stdout().flush()?;
        let rooms = Rooms::default();
        while let Some(incoming) = endpoint.accept().await {
            let rooms = Rc::clone(&rooms);
            tokio::task::spawn_local(async move {
                // A connection that fails says so to its client, which is this program's.
                let _ = converse(incoming, &rooms).await;
            });
        }
        Ok(())
    })
}

fn config(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate).context("read the certificate")?;
    let chain = chain.collect::<Result<Vec<_>, _>>().context("read the certificate")?;
    let key = PrivateKeyDer::from_pem_file(key).context("read the key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).context("TLS 1.3")?;
    let mut tls = builder.with_no_client_auth().with_single_cert(chain, key).context("use the certificate")?;
    tls.alpn_protocols = vec![SUBPROTOCOL.as_bytes().to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).context("TLS for QUIC")?));
    let mut transport = TransportConfig::default();
    // Lean, as its documentation advises for many connections: streams that may come cost memory.
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(None)
        .mtu_discovery_config(None);
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// One client, until it goes.
async fn converse(incoming: Incoming, rooms: &Rooms) -> Result<()> {
    let connection = incoming.await?;
    let (_answers, mut requests) = connection.accept_bi().await?;
    let mut reader = FrameReader::new();
    while let Some(chunk) = requests.read_chunk(usize::MAX, true).await? {
        reader.push(chunk.bytes);
        while let Some(message) = reader.front(MESSAGE_BYTES_MAX)?.map(Bytes::copy_from_slice) {
            reader.pop();
            match head(&message) {
                Some((ENTER, room)) => {
                    let mut stream = connection.open_uni().await?;
                    stream.write_chunk(message).await?;
                    rooms.borrow_mut().entry(room).or_default().push(Rc::new(Mutex::new(stream)));
                }
                Some((SEND, room)) => send(rooms, room, &message).await,
                _ => anyhow::bail!("a message of no kind"),
            }
        }
    }
    Ok(())
}

/// To all who are in the room; those who are gone leave it.
async fn send(rooms: &Rooms, room: u32, message: &Bytes) {
    let members = rooms.borrow().get(&room).cloned().unwrap_or_default();
    let mut gone = Vec::new();
    for member in members {
        if member.lock().await.write_chunk(message.clone()).await.is_err() {
            gone.push(member);
        }
    }
    if !gone.is_empty()
        && let Some(members) = rooms.borrow_mut().get_mut(&room)
    {
        members.retain(|member| !gone.iter().any(|gone| Rc::ptr_eq(member, gone)));
    }
}
