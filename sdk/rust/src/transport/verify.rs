//! Whether a server is who it should be, as the platform sees it, and if not, why, in words that help.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme,
};

/// What rustls puts around a verifier's words.
const AROUND_WORDS: (&str, &str) = ("invalid peer certificate: Other(OtherError(", "))");
/// QUIC's error codes of TLS alerts begin here (RFC 9001 §4.8).
const QUIC_CRYPTO_ERROR: u64 = 0x100;

/// Why TLS with a server came to nothing.
#[derive(Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "no authority that is trusted here signed the certificate of {host}; if it was an authority of your own, give its \
        certificate as `ca`"
    )]
    UnknownIssuer { host: String },
    #[error(
        "the certificate of {host} is signed with another key than the authority that is trusted here has; if it is an \
        authority of your own, give its newest certificate as `ca`"
    )]
    OtherKey { host: String },
    #[error("the certificate of {host} is for {}; connect by such a name", names(presented))]
    OtherName { host: String, presented: Vec<String> },
    #[error("the certificate of {host} expired {ago}; the server needs a new one, if the clock here is right")]
    Expired { host: String, ago: Ago },
    #[error("the certificate of {host} is not valid yet; the server needs another one, if the clock here is right")]
    NotYet { host: String },
    #[error("the certificate of {host} was revoked; the server needs a new one")]
    Revoked { host: String },
    #[error("the certificate of {host} cannot be used: {reason}")]
    Certificate { host: String, reason: CertificateError },
    /// As the verifier put it; QUIC keeps no more.
    #[error("{text}")]
    Told { text: String },
    #[error("{host} takes only clients with a certificate; give one as `client_certificate`")]
    WantsCertificate { host: String },
    #[error("{host} refuses this client's certificate ({alert:?})")]
    ClientRefused { host: String, alert: AlertDescription },
    #[error("{host} does not speak TLS on this port; its URL may be a ws:// one")]
    NotTls { host: String },
    #[error("{host} does not speak TLS 1.3")]
    Version { host: String },
    #[error("{host} speaks something else on this port")]
    Protocol { host: String },
}

/// How long ago something was, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ago {
    seconds: Option<u64>,
}

impl std::fmt::Display for Ago {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.seconds {
            None => f.write_str("some time ago"),
            Some(seconds @ 0..120) => write!(f, "{seconds} seconds ago"),
            Some(seconds @ 120..7_200) => write!(f, "{} minutes ago", seconds / 60),
            Some(seconds @ 7_200..172_800) => write!(f, "{} hours ago", seconds / 3_600),
            Some(seconds) => write!(f, "{} days ago", seconds / 86_400),
        }
    }
}

/// All that is left of an error of TLS by QUIC is a text in which this stands.
impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn names(presented: &[String]) -> String {
    // As rustls has them: `DnsName("a.example")`, `IpAddress(127.0.0.1)`.
    let name = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
        inner.trim_end_matches(')').trim_matches('"').to_owned()
    };
    match presented {
        [] => "another name".to_owned(),
        presented => presented.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

impl Refusal {
    /// As [`Self::of`], for an error of a TLS stream.
    pub(super) fn of_io(host: &str, error: &std::io::Error) -> Option<Self> {
        Self::of(host, error.get_ref()?.downcast_ref::<rustls::Error>()?)
    }

    /// As [`Self::of`], for a fault that QUIC found: its own sentence and the number of its kind.
    pub(super) fn of_quic(host: &str, reason: &str, code: u64) -> Option<Self> {
        match reason.strip_prefix(AROUND_WORDS.0).and_then(|words| words.strip_suffix(AROUND_WORDS.1)) {
            Some(text) => Some(Self::Told { text: text.to_owned() }),
            // Of what this side finds, certificates are the verifier's.
            None => Self::of_quic_code(host, code).filter(|refusal| !matches!(refusal, Self::ClientRefused { .. })),
        }
    }

    /// As [`Self::of`], for an end that the server told.
    pub(super) fn of_quic_code(host: &str, code: u64) -> Option<Self> {
        let alert = code.checked_sub(QUIC_CRYPTO_ERROR).and_then(|alert| u8::try_from(alert).ok())?;
        Self::of_alert(host.to_owned(), AlertDescription::from(alert))
    }

    /// What a fault of TLS means for a person; `None` for those that mean nothing more than they say.
    pub(crate) fn of(host: &str, error: &rustls::Error) -> Option<Self> {
        let host = host.to_owned();
        Some(match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
                other.downcast_ref::<Self>()?.clone()
            }
            rustls::Error::InvalidCertificate(reason) => Self::of_certificate(host, reason),
            rustls::Error::AlertReceived(alert) => return Self::of_alert(host, *alert),
            rustls::Error::InvalidMessage(_) => Self::NotTls { host },
            rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
            | rustls::Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig) => {
                Self::Version { host }
            }
            _ => return None,
        })
    }

    /// What the server's last word means.
    pub(crate) fn of_alert(host: String, alert: AlertDescription) -> Option<Self> {
        Some(match alert {
            AlertDescription::CertificateRequired => Self::WantsCertificate { host },
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => Self::ClientRefused { host, alert },
            AlertDescription::ProtocolVersion => Self::Version { host },
            AlertDescription::NoApplicationProtocol => Self::Protocol { host },
            _ => return None,
        })
    }

    fn of_certificate(host: String, error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer { host },
            CertificateError::BadSignature => Self::OtherKey { host },
            CertificateError::NotValidForName => Self::OtherName { host, presented: vec![] },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::OtherName { host, presented: presented.clone() }
            }
            CertificateError::Expired => Self::Expired { host, ago: Ago { seconds: None } },
            CertificateError::ExpiredContext { time, not_after } => {
                let seconds = time.as_secs().saturating_sub(not_after.as_secs());
                Self::Expired { host, ago: Ago { seconds: Some(seconds) } }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYet { host },
            CertificateError::Revoked => Self::Revoked { host },
            reason => Self::Certificate { host, reason: reason.clone() },
        }
    }
}

/// The platform's verifier, whose refusals say what to do.
#[derive(Debug)]
pub(super) struct Verifier(rustls_platform_verifier::Verifier);

impl Verifier {
    /// Trusts the platform's authorities and these.
    pub(super) fn new(
        authorities: &[CertificateDer<'static>],
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        rustls_platform_verifier::Verifier::new_with_extra_roots(authorities.iter().cloned(), provider).map(Self)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        result.map_err(|error| match error {
            rustls::Error::InvalidCertificate(reason) => {
                let refusal = Refusal::of_certificate(server_name.to_str().into_owned(), &reason);
                rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_in_words_that_help() {
        let check = |error: rustls::Error, expect: &str| {
            assert_eq!(Refusal::of("a.example", &error).map(|refusal| refusal.to_string()).as_deref(), Some(expect));
        };
        check(
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("a.example").unwrap(),
                presented: vec!["DnsName(\"b.example\")".into(), "IpAddress(127.0.0.1)".into()],
            }),
            "the certificate of a.example is for b.example, 127.0.0.1; connect by such a name",
        );
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let expired = |seconds: u64| {
            let context = CertificateError::ExpiredContext { time: at(1_000_000), not_after: at(1_000_000 - seconds) };
            rustls::Error::InvalidCertificate(context)
        };
        let text = |ago: &str| {
            format!(
                "the certificate of a.example expired {ago}; the server needs a new one, if the clock here is right"
            )
        };
        check(expired(1), &text("1 seconds ago"));
        check(expired(300), &text("5 minutes ago"));
        check(expired(10_000), &text("2 hours ago"));
        check(expired(200_000), &text("2 days ago"));
        check(
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
            "a.example takes only clients with a certificate; give one as `client_certificate`",
        );
        check(
            rustls::Error::AlertReceived(AlertDescription::UnknownCA),
            "a.example refuses this client's certificate (UnknownCA)",
        );
        assert_eq!(Refusal::of("a", &rustls::Error::DecryptError), None);
    }
}
