//! How clients reach a subject: which transport, and whose certificate they trust.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use millrace_protocol::client::SUBPROTOCOL;
use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};

/// What carries the messages of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// A WebSocket in clear.
    #[default]
    Ws,
    /// A WebSocket over TLS 1.3.
    Wss,
    /// QUIC.
    Quic,
}

impl Transport {
    /// As in a scenario's file.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }

    /// What a figure's point says of it; nothing of a WebSocket in clear.
    pub(crate) fn flag(self) -> Option<&'static str> {
        match self {
            Self::Ws => None,
            Self::Wss => Some(OVER_WSS),
            Self::Quic => Some(OVER_QUIC),
        }
    }
}

pub(crate) const OVER_WSS: &str = "over wss";
pub(crate) const OVER_QUIC: &str = "over quic";

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Transport {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Ws, Self::Wss, Self::Quic];
        all.into_iter().find(|one| one.word() == text).with_context(|| format!("there is no transport {text:?}"))
    }
}

/// The transport, with what it needs.
#[derive(Clone)]
pub(crate) enum Way {
    Clear,
    Tls(Trust),
    Quic(Trust),
}

/// Which certificates are taken, and for which name. Each handshake is a whole one: no tickets are used.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) name: ServerName<'static>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) quic: Arc<QuicClientConfig>,
}

impl Trust {
    /// Trusts those that one of these certificates, PEM, stands for.
    ///
    /// # Errors
    /// When they, or the name, cannot be read.
    pub(crate) fn new(name: &str, pem: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            // Some of a system's many may be of kinds that are not known here.
            let _ = roots.add(certificate.context("read a certificate")?);
        }
        anyhow::ensure!(!roots.is_empty(), "there is no certificate to trust");
        let roots = Arc::new(roots);
        let config = |protocol: &str| -> Result<ClientConfig> {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).context("TLS 1.3")?;
            let mut config = builder.with_root_certificates(Arc::clone(&roots)).with_no_client_auth();
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            config.resumption = rustls::client::Resumption::disabled();
            Ok(config)
        };
        Ok(Self {
            name: ServerName::try_from(name.to_owned()).with_context(|| format!("{name:?} is no name of a server"))?,
            tls: Arc::new(config("http/1.1")?),
            quic: Arc::new(QuicClientConfig::try_from(config(SUBPROTOCOL)?).context("TLS for QUIC")?),
        })
    }

    /// How a client gets there by this transport.
    pub(crate) fn way(self, transport: Transport) -> Way {
        match transport {
            Transport::Ws => Way::Clear,
            Transport::Wss => Way::Tls(self),
            Transport::Quic => Way::Quic(self),
        }
    }
}

/// A certificate of one run, for [`Identity::NAME`], that is its own root. ECDSA P-256.
pub(crate) struct Identity {
    /// PEM.
    pub(crate) certificate: String,
    /// PEM, PKCS#8.
    pub(crate) key: String,
}

impl Identity {
    pub(crate) const NAME: &str = "localhost";

    /// # Errors
    /// None that is known.
    pub(crate) fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([Self::NAME.to_owned()]).context("make a certificate")?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// Who trusts it.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn trust(&self) -> Result<Trust> {
        Trust::new(Self::NAME, self.certificate.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_files() {
        for transport in [Transport::Ws, Transport::Wss, Transport::Quic] {
            let file: std::collections::HashMap<String, Transport> =
                toml::from_str(&format!("of = \"{transport}\"")).expect("a file's word");
            assert_eq!((file["of"], transport.word().parse::<Transport>().expect("a word")), (transport, transport));
        }
        assert!("tcp".parse::<Transport>().is_err());
    }

    #[test]
    fn trust_needs_a_certificate_and_a_name() {
        let identity = Identity::new().expect("an identity");
        assert!(matches!(identity.trust().expect("trust").way(Transport::Ws), Way::Clear));
        assert!(Trust::new("localhost", b"no certificate").is_err());
        assert!(Trust::new("no name", identity.certificate.as_bytes()).is_err());
    }
}
