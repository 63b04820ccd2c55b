//! TLS of one client: what comes from the socket made clear, what goes to it sealed.

use std::io::{BufRead, ErrorKind, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::ClientConnection;

use crate::transport::Trust;

pub(super) struct Tls(ClientConnection);

impl Tls {
    pub(super) fn new(trust: &Trust) -> Result<Self> {
        let mut connection =
            ClientConnection::new(Arc::clone(&trust.tls), trust.name.clone()).context("begin a TLS handshake")?;
        // What is said before the handshake is over waits in it: a request and a hello, whatever their size.
        connection.set_buffer_limit(None);
        Ok(Self(connection))
    }

    /// It has something to say by itself.
    pub(super) fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Appends what the bytes hold in clear.
    ///
    /// # Errors
    /// When they are not what TLS allows, or the certificate is not trusted.
    pub(super) fn open(&mut self, mut sealed: &[u8], clear: &mut Vec<u8>) -> Result<()> {
        while !sealed.is_empty() {
            self.0.read_tls(&mut sealed).context("read a TLS record")?;
            self.0.process_new_packets().context("read a TLS record")?;
            let mut reader = self.0.reader();
            loop {
                match reader.fill_buf() {
                    // The end of the connection: the socket tells it, too.
                    Ok([]) => break,
                    Ok(bytes) => {
                        clear.extend_from_slice(bytes);
                        let count = bytes.len();
                        reader.consume(count);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("read a TLS record"),
                }
            }
        }
        Ok(())
    }

    /// Appends what is to be sent: its own messages, and these clear bytes once the handshake allows it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn seal(&mut self, clear: &[u8], sealed: &mut Vec<u8>) -> Result<()> {
        self.0.writer().write_all(clear).context("write a TLS record")?;
        while self.0.wants_write() {
            self.0.write_tls(sealed).context("write a TLS record")?;
        }
        Ok(())
    }
}
