//! Who is trusted in a run: an authority of its own, and one certificate for every server and everybody in the middle.
//!
//! The certificate is such that browsers take it by its hash alone: ECDSA on P-256, and valid for less than 14 days.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use crate::transport::Transport;

/// The name in the certificate that the middle asks for, beside the address of this machine.
pub(crate) const NAME: &str = "localhost";
const HOUR: Duration = Duration::from_secs(3600);
const VALID: Duration = Duration::from_secs(24 * 3600);

/// See the module. Its files end with it.
pub struct Trust {
    folder: tempfile::TempDir,
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    /// SHA-256 of the certificate's public key with its algorithm, Base64: how Chromium is told to trust it.
    pub spki: String,
}

impl Trust {
    /// Makes the authority and the certificate.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for certificates")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let dated = |mut params: CertificateParams| {
            let at = |time: Duration| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_secs());
            (params.not_before, params.not_after) = (at(now.saturating_sub(HOUR)), at(now + VALID));
            params
        };
        let mut params = dated(CertificateParams::default());
        params.distinguished_name.push(DnType::CommonName, "Millrace conformance authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make a key")?;
        let authority = params.self_signed(&key).context("make an authority")?;
        let issuer = Issuer::new(params, key);

        let mut params = dated(CertificateParams::new([NAME.to_owned()]).context("a name")?);
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params.distinguished_name.push(DnType::CommonName, "Millrace conformance node");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &issuer).context("sign a certificate")?;

        let trust = Self {
            authority: authority.der().clone(),
            certificate: certificate.der().clone(),
            spki: STANDARD.encode(Sha256::digest(key.subject_public_key_info())),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            folder,
        };
        let write = |path: PathBuf, text: String| {
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write(trust.ca(), authority.pem())?;
        write(trust.node(), format!("{}{}", certificate.pem(), key.serialize_pem()))?;
        Ok(trust)
    }

    /// File with the authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// File with certificate and key of every server.
    pub fn node(&self) -> PathBuf {
        self.folder.path().join("node.pem")
    }

    /// SHA-256 of the certificate, Base64: how WebTransport takes it.
    pub fn hash(&self) -> String {
        STANDARD.encode(Sha256::digest(&self.certificate))
    }

    /// Of a server of this transport.
    pub(crate) fn server(&self, transport: Transport) -> Result<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)?;
        config.alpn_protocols = vec![transport.protocol().into()];
        Ok(config)
    }

    /// Of a client of this transport.
    pub(crate) fn client(&self, transport: Transport) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![transport.protocol().into()];
        Ok(config)
    }

    /// The same on QUIC. It takes early data, as a node does.
    pub(crate) fn quic_server(&self, transport: Transport) -> Result<quinn::ServerConfig> {
        let mut config = self.server(transport)?;
        config.max_early_data_size = u32::MAX;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config)?)))
    }

    /// The same on QUIC.
    pub(crate) fn quic_client(&self, transport: Transport) -> Result<quinn::ClientConfig> {
        Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(self.client(transport)?)?)))
    }
}
