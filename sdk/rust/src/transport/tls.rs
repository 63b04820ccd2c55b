//! TLS as a client: whom it trusts, who it is, and what a person is told when a connection is refused.

use std::sync::Arc;

use millrace_protocol::client::SUBPROTOCOL;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::sync::OnceCell;

use super::quic::transport_config;
use super::verify::Verifier;

/// What `wss` offers by ALPN: an upgrade is of HTTP/1.1.
const HTTP: &[u8] = b"http/1.1";
/// What `quic` offers.
const NATIVE: &[u8] = SUBPROTOCOL.as_bytes();
/// Sessions remembered for a quick return; a deployment has few nodes to return to.
const SESSIONS_MAX: usize = 32;

/// Certificates that an application gives, as PEM.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    /// Authorities that are trusted beside those of the platform.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Chain and key of the client itself.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why certificates of the application cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("what was given as {what} is no PEM")]
    Pem {
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    #[error("what was given as {what} has no {kind} in it")]
    Missing { what: &'static str, kind: &'static str },
    #[error("an authority's certificate cannot be read")]
    Authority(#[source] rustls::Error),
    #[error("the client's certificate and key do not belong together, or cannot be used")]
    Identity(#[source] rustls::Error),
}

/// The TLS side of a client. It is made when the first secure connection is, and keeps its tickets for the next ones.
pub(crate) struct Tls {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Arc<CertifiedKey>>,
    verifier: OnceCell<Arc<Verifier>>,
    web_socket: OnceCell<Arc<ClientConfig>>,
    quic: OnceCell<quinn::ClientConfig>,
}

impl Tls {
    /// Reads what the application gave.
    pub(crate) fn new(certificates: &Certificates) -> Result<Self, CertificateError> {
        let mut authorities = Vec::new();
        for pem in &certificates.authorities {
            authorities.extend(chain("ca", pem)?);
        }
        let mut store = rustls::RootCertStore::empty();
        for authority in &authorities {
            store.add(authority.clone()).map_err(CertificateError::Authority)?;
        }
        let identity = match &certificates.identity {
            None => None,
            Some((certificate, key)) => {
                let what = "client_certificate";
                let chain = chain(what, certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| match source {
                    pem::Error::NoItemsFound => CertificateError::Missing { what, kind: "key" },
                    source => CertificateError::Pem { what, source },
                })?;
                let key = CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Identity)?;
                Some(Arc::new(key))
            }
        };
        let (verifier, web_socket, quic) = Default::default();
        Ok(Self { authorities, identity, verifier, web_socket, quic })
    }

    /// For WebSocket.
    pub(super) async fn web_socket(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let make = async || Ok(Arc::new(self.config(self.verifier().await?, HTTP)?));
        self.web_socket.get_or_try_init(make).await.cloned()
    }

    /// For QUIC, whose tickets allow early data.
    pub(super) async fn quic(&self) -> Result<quinn::ClientConfig, rustls::Error> {
        let make = async || {
            let mut config = self.config(self.verifier().await?, NATIVE)?;
            config.enable_early_data = true;
            let crypto =
                QuicClientConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))?;
            let mut config = quinn::ClientConfig::new(Arc::new(crypto));
            config.transport_config(Arc::new(transport_config()));
            Ok(config)
        };
        self.quic.get_or_try_init(make).await.cloned()
    }

    async fn verifier(&self) -> Result<Arc<Verifier>, rustls::Error> {
        let authorities = self.authorities.clone();
        let make = async || {
            // The platform's authorities are read from files.
            let made = tokio::task::spawn_blocking(move || Verifier::new(&authorities, provider())).await;
            made.unwrap_or_else(|error| Err(rustls::Error::General(error.to_string()))).map(Arc::new)
        };
        self.verifier.get_or_try_init(make).await.cloned()
    }

    fn config(&self, verifier: Arc<Verifier>, protocol: &[u8]) -> Result<ClientConfig, rustls::Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous() // It asks the platform, as the default does not, and says the same in words for people.
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(key) => {
                let resolver = SingleCertAndKey::from(CertifiedKey::clone(key));
                config.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn chain(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(CertificateError::Missing { what, kind: "certificate" }),
        Ok(chain) => Ok(chain),
        Err(source) => Err(CertificateError::Pem { what, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(certificates: &Certificates) -> String {
        Tls::new(certificates).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn certificates_that_cannot_be_used_are_refused_before_anything_is_sent() {
        let own = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let (own_pem, own_key) = (own.cert.pem().into_bytes(), own.signing_key.serialize_pem().into_bytes());
        let other_key = other.signing_key.serialize_pem().into_bytes();
        let authority = |pem: &[u8]| Certificates { authorities: vec![pem.to_vec()], identity: None };
        let identity = |chain: &[u8], key: &[u8]| Certificates {
            authorities: vec![],
            identity: Some((chain.to_vec(), key.to_vec())),
        };
        assert_eq!(text(&authority(&own_pem)), "");
        assert_eq!(text(&authority(b"hello")), "what was given as ca has no certificate in it");
        assert_eq!(text(&authority(&own_key)), "what was given as ca has no certificate in it");
        let torn = [&own_pem[..60], b"*\n-----END CERTIFICATE-----\n"].concat();
        assert_eq!(text(&authority(&torn)), "what was given as ca is no PEM");
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(text(&authority(empty)), "an authority's certificate cannot be read");
        assert_eq!(text(&identity(&own_pem, &own_key)), "");
        assert_eq!(text(&identity(&own_pem, &own_pem)), "what was given as client_certificate has no key in it");
        assert_eq!(
            text(&identity(&own_pem, &other_key)),
            "the client's certificate and key do not belong together, or cannot be used"
        );
    }
}
