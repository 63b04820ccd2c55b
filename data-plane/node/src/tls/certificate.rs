//! Certificates, keys and roots as they come from files.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::TlsError;
use super::validity::Validity;

/// What operators and browsers want to know of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// SHA-256 of the certificate in DER: a browser's `serverCertificateHashes`.
    pub sha256: [u8; 32],
    /// First second in which it is valid, Unix time.
    pub not_before: i64,
    /// Last second in which it is valid, Unix time.
    pub not_after: i64,
}

/// The longest time for which browsers take a certificate by its hash alone.
const BY_HASH_SECONDS_MAX: i64 = 14 * 86_400;

impl CertificateStatus {
    /// Whether browsers take it by its hash alone, as far as time goes: its key must be one of P-256 for that.
    ///
    /// Source: WebTransport, W3C working draft, "custom certificate requirements".
    pub fn is_short_lived(&self) -> bool {
        self.not_after - self.not_before <= BY_HASH_SECONDS_MAX
    }
}

/// A certificate chain with its key.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) status: CertificateStatus,
}

impl Identity {
    /// Reads both files.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, or says that the two do not belong together.
    pub(super) fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let chain = read_certificates("certificate", certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
            what: "key",
            path: key.to_owned(),
            source,
        })?;
        let unusable = |what, path: &Path, source| TlsError::Unusable { what, path: path.to_owned(), source };
        let bad =
            || unusable("certificate", certificate, Error::InvalidCertificate(rustls::CertificateError::BadEncoding));
        let first = chain.first().ok_or_else(bad)?;
        let validity = Validity::of(first).ok_or_else(bad)?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, first).as_ref());
        let signer = provider.key_provider.load_private_key(private).map_err(|source| unusable("key", key, source))?;
        let key_pair = CertifiedKey::new(chain, signer);
        match key_pair.keys_match() {
            // A key that does not tell its public half cannot be compared.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(TlsError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() });
            }
            Err(source) => return Err(unusable("certificate", certificate, source)),
        }
        let status = CertificateStatus { sha256, not_before: validity.not_before, not_after: validity.not_after };
        Ok(Self { key: Arc::new(key_pair), status })
    }

    /// # Errors
    /// If nobody would take the certificate any more.
    pub(super) fn check(&self, now: i64, path: &Path) -> Result<(), TlsError> {
        let over = now.saturating_sub(self.status.not_after);
        match u64::try_from(over) {
            Ok(over) if over > 0 => Err(TlsError::Expired { path: path.to_owned(), days_ago: over / 86_400 }),
            _ => Ok(()),
        }
    }
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::File { what, path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if certificates.is_empty() {
        return Err(wrong(PemError::NoItemsFound));
    }
    Ok(certificates)
}

/// What clients' certificates are verified with, and the roots in DER to notice when they change.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Reads the roots of clients' certificates.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(super) fn read_roots(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Roots, TlsError> {
    let certificates = read_certificates("client CA", path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|source| TlsError::Unusable {
            what: "client CA",
            path: path.to_owned(),
            source,
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|_no_roots| TlsError::NoRoots { path: path.to_owned() })?;
    Ok(Roots { verifier, certificates })
}

/// What tells two states of a file apart without reading it. `None` while there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, i64, i64)>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        // Of the file that a link leads to: that is how volumes of secrets change.
        let metadata = std::fs::metadata(path).ok();
        Self(metadata.map(|it| (it.ino(), it.size(), it.mtime(), it.mtime_nsec())))
    }
}
