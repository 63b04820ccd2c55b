//! The development server's secret. Nobody outside the process links, so nobody else has to know it; but it stays, for it makes the stateless resets
//! by which clients over QUIC learn after a restart that their connections are gone.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::authority::write;

/// A secret as long as a new one is.
const BYTES_MIN: usize = 32;

/// Reads the secret in this file, or makes one. What is no secret is replaced: clients then wait until their connections time out.
///
/// # Errors
/// If the file cannot be read or written.
pub(super) fn open(path: &Path) -> Result<Vec<u8>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            if let Some(secret) = STANDARD.decode(text.trim()).ok().filter(|secret| secret.len() >= BYTES_MIN) {
                return Ok(secret);
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    }
    let secret = millrace_control::random_secret();
    write(path, &STANDARD.encode(&secret), 0o600)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_stays_and_what_is_none_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = open(&path).unwrap();
        assert!(secret.len() >= BYTES_MIN);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&path).unwrap(), secret);
        for none in [&b"AAAA"[..], b"no base64", b"", b"\xff\xfe"] {
            fs::write(&path, none).unwrap();
            let made = open(&path).unwrap();
            assert!(made.len() >= BYTES_MIN && made != secret);
            assert_eq!(open(&path).unwrap(), made);
        }
    }
}
