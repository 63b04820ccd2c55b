//! The development server's own certificate authority, and the certificates that it signs for this machine.
//!
//! Its folder holds `ca.pem` (to be trusted by whoever connects), `ca.key` (nobody else reads it), `machine` (the name that the
//! authority was made for) and `node.pem` (certificate and key of the data node). Certificates are such that a browser also takes
//! them by their hash alone: ECDSA on P-256, and valid for less than 14 days.

use std::convert::Infallible;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use millrace_data::DataNode;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Browsers take a certificate by its hash only if it is valid for at most 14 days, the hour before now included.
const VALID: Duration = Duration::from_secs(13 * 24 * 3600);
/// Clocks of others may be behind.
const BACKDATED: Duration = HOUR;
const CA_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const RENEW_AFTER: Duration = DAY;
/// By the clock on the wall: a machine that slept renews soon after it wakes.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// An authority for this machine alone: what it signs for any other name is worth nothing.
pub(super) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    machine: Option<String>,
}

impl Authority {
    /// Opens the authority in `folder`, or makes a new one.
    ///
    /// # Errors
    /// If files cannot be read or written, or a key is none.
    pub(super) fn open(folder: PathBuf, machine: &str) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))
            .with_context(|| format!("close the folder {} to others", folder.display()))?;
        let key_path = folder.join("ca.key");
        let kept = match fs::read_to_string(&key_path) {
            Ok(key) if folder.join("ca.pem").exists() => Some(key),
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", key_path.display())),
        };
        if let Some(key) = kept {
            let how = "delete its folder to make a new authority";
            let key = KeyPair::from_pem(&key).with_context(|| format!("{} holds no key: {how}", key_path.display()))?;
            // Others trust the name that it was made for, whatever the machine is called now.
            let made_for = fs::read_to_string(folder.join("machine")).unwrap_or_default();
            let machine = host_name(made_for.trim());
            let issuer = Issuer::new(authority(machine.as_deref()), key);
            return Ok(Self { folder, issuer, machine });
        }
        let machine = host_name(machine);
        let key = KeyPair::generate().context("make a key")?;
        let params = authority(machine.as_deref());
        let certificate = params.self_signed(&key).context("make a certificate authority")?;
        write(&folder.join("machine"), machine.as_deref().unwrap_or_default(), 0o644)?;
        write(&key_path, &key.serialize_pem(), 0o600)?;
        // The last, so that without it everything is made anew.
        write(&folder.join("ca.pem"), &certificate.pem(), 0o644)?;
        Ok(Self { folder, issuer: Issuer::new(params, key), machine })
    }

    /// The certificate of the authority.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Certificate and key of the node, in one file: they change together.
    pub(super) fn node(&self) -> PathBuf {
        self.folder.join("node.pem")
    }

    /// Signs a new certificate for a new key.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn renew(&self) -> Result<()> {
        let names: Vec<String> = std::iter::once("localhost".to_owned()).chain(self.machine.clone()).collect();
        let mut params = CertificateParams::new(names).context("names of this machine")?;
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params.subject_alt_names.push(SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
        params.distinguished_name.push(DnType::CommonName, "Millrace development node");
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + whole(now().saturating_sub(BACKDATED));
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + whole(now() + VALID - BACKDATED);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a certificate")?;
        write(&self.node(), &format!("{}{}", certificate.pem(), key.serialize_pem()), 0o600)
    }

    /// Renews the node's certificate every day, for as long as anybody waits.
    pub(super) async fn keep_fresh(&self, node: &DataNode) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(certificate) = node.certificate() else { continue };
            let made = u64::try_from(certificate.not_before).map(Duration::from_secs).unwrap_or_default() + BACKDATED;
            if now() < made + RENEW_AFTER {
                continue;
            }
            if let Err(error) =
                self.renew().and_then(|()| node.reload_certificates().context("use the new certificate"))
            {
                tracing::warn!(error = format!("{error:#}"), "the development certificate is not renewed");
            }
        }
    }
}

/// What the authority is, the same each time: only its key is kept beside its certificate.
fn authority(machine: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Millrace");
    params.distinguished_name.push(DnType::CommonName, "Millrace development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = std::iter::once("localhost").chain(machine).map(|name| GeneralSubtree::DnsName(name.to_owned()));
    let addresses = [
        CidrSubnet::V4(Ipv4Addr::LOCALHOST.octets(), [255; 4]),
        CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [255; 16]),
    ];
    let permitted_subtrees = names.chain(addresses.map(GeneralSubtree::IpAddress)).collect();
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + whole(now().saturating_sub(BACKDATED));
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + whole(now() + CA_VALID);
    params
}

/// The name as one that certificates may carry, if it is such a name.
fn host_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    (name != "localhost" && name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Certificates know no fractions of a second.
fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

/// Whole or not at all, and never readable by more than `mode` says.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    let written = fs::remove_file(&new)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(mode).open(&new))
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_certificates_may_carry() {
        let check = |name: &str, expect: Option<&str>| assert_eq!(host_name(name).as_deref(), expect, "{name:?}");
        check("box", Some("box"));
        check("Box-1.Example.net", Some("box-1.example.net"));
        check("localhost", None);
        check("", None);
        check("my_box", None);
        check("-box", None);
        check("a..b", None);
        check("büro", None);
    }

    #[test]
    fn an_authority_stays_and_certificates_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls");
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        let authority = Authority::open(path.clone(), "box").unwrap();
        authority.renew().unwrap();
        let (ca, key, node) = (read("ca.pem"), read("ca.key"), read("node.pem"));
        for private in ["ca.key", "node.pem"] {
            assert_eq!(fs::metadata(path.join(private)).unwrap().permissions().mode() & 0o777, 0o600, "{private}");
        }
        let again = Authority::open(path.clone(), "renamed").unwrap();
        again.renew().unwrap();
        assert_eq!((read("ca.pem"), read("ca.key")), (ca.clone(), key));
        assert_eq!(again.machine.as_deref(), Some("box"));
        assert_ne!(read("node.pem"), node);
        // Without its certificate it is worth nothing: a new one.
        fs::remove_file(path.join("ca.pem")).unwrap();
        let other = Authority::open(path.clone(), "renamed").unwrap();
        assert_eq!(other.machine.as_deref(), Some("renamed"));
        assert_ne!(read("ca.pem"), ca);
        // Nobody's key.
        fs::write(path.join("ca.key"), "nothing").unwrap();
        let error = format!("{:#}", Authority::open(path.clone(), "box").map(drop).unwrap_err());
        assert!(error.contains("ca.key holds no key"), "{error}");
    }
}
