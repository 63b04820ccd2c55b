//! What handshakes of all shards ask for, each behind a lock that only a reload writes to.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::{CertificateStatus, Identity, Roots};

/// What is read far more often than replaced. What a thread that panicked left is whole: a change is one assignment.
#[derive(Debug)]
struct Swapped<T>(RwLock<T>);

impl<T> Swapped<T> {
    fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, value: T) -> T {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value)
    }
}

/// The certificate that is in force.
#[derive(Debug)]
pub(super) struct Certificates(Swapped<Identity>);

impl Certificates {
    pub(super) fn new(identity: Identity) -> Self {
        Self(Swapped::new(identity))
    }

    pub(super) fn replace(&self, identity: Identity) {
        self.0.replace(identity);
    }

    pub(super) fn status(&self) -> CertificateStatus {
        self.0.read().status
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().key))
    }
}

/// Which clients' certificates are taken: those that lead to the present roots.
#[derive(Debug)]
pub(super) struct ClientVerifier(Swapped<Roots>);

impl ClientVerifier {
    pub(super) fn new(roots: Roots) -> Self {
        Self(Swapped::new(roots))
    }

    /// Takes other roots; whether they are others.
    pub(super) fn replace(&self, roots: Roots) -> bool {
        let before = self.0.replace(roots);
        before.certificates != self.0.read().certificates
    }

    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.read().verifier)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Without a hint a client sends the certificate that it has. A list could not change.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.now().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().verify_tls12_signature(message, certificate, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().verify_tls13_signature(message, certificate, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().supported_verify_schemes()
    }
}

/// The keys of session tickets. They change by themselves every six hours, and a ticket is good for twelve at most.
#[derive(Debug)]
pub(super) struct Tickets(Swapped<Arc<dyn ProducesTickets>>);

impl Tickets {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self(Swapped::new(Ticketer::new()?)))
    }

    /// Makes every ticket that was given out useless.
    pub(super) fn replace(&self) -> Result<(), Error> {
        self.0.replace(Ticketer::new()?);
        Ok(())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.read().enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.read().lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.read().encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.read().decrypt(cipher)
    }
}

/// Sessions that are remembered, and can be forgotten together.
#[derive(Debug)]
pub(super) struct Sessions {
    cache: Swapped<Arc<ServerSessionMemoryCache>>,
    sessions_max: usize,
}

impl Sessions {
    pub(super) fn new(cache: Arc<ServerSessionMemoryCache>, sessions_max: usize) -> Self {
        Self { cache: Swapped::new(cache), sessions_max }
    }

    pub(super) fn clear(&self) {
        self.cache.replace(ServerSessionMemoryCache::new(self.sessions_max));
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.cache.read().put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.read().get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.read().take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}
