//! TLS at one end of a proxy that reads what goes by: towards the client it is taken off, towards the server put on again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Upstream, runtime};
use crate::transport::Transport;
use crate::trust::{NAME, Trust};

/// Its connections end with it.
pub(super) struct Seal {
    pub(super) address: SocketAddr,
    task: AbortHandle,
}

impl Seal {
    /// Takes TLS from clients, and passes on what is in it.
    pub(super) fn front(trust: &Trust, to: SocketAddr) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(trust.server(Transport::Wss)?));
        Self::start(move |client| {
            let acceptor = acceptor.clone();
            async move {
                // Either end may break off; then the other one is ended, too.
                let (Ok(mut client), Ok(mut inner)) = (acceptor.accept(client).await, dial(to).await) else { return };
                let _ = copy_bidirectional(&mut client, &mut inner).await;
            }
        })
    }

    /// Puts TLS around what it is given, and passes it to the server.
    pub(super) fn back(trust: &Trust, upstream: Upstream) -> Result<Self> {
        let connector = TlsConnector::from(Arc::new(trust.client(Transport::Wss)?));
        Self::start(move |mut inner| {
            let (connector, upstream) = (connector.clone(), upstream.clone());
            async move {
                let Some(to) = upstream() else { return };
                let (Ok(server), Ok(name)) = (dial(to).await, ServerName::try_from(NAME)) else { return };
                let Ok(mut server) = connector.connect(name, server).await else { return };
                // As above.
                let _ = copy_bidirectional(&mut inner, &mut server).await;
            }
        })
    }

    fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen as an end of TLS")?;
        listener.set_nonblocking(true).context("a socket that does not block")?;
        let address = listener.local_addr().context("its address")?;
        let runtime = runtime()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).context("listen as an end of TLS")?
        };
        let task = runtime.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                // One that is gone before it is taken costs nobody else.
                if let Ok((stream, _)) = listener.accept().await
                    && stream.set_nodelay(true).is_ok()
                {
                    connections.spawn(serve(stream));
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }
}

impl Drop for Seal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
