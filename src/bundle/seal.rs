//! The seal of a manifest: its last field, a BLAKE3 of all the rest, by which damage to the manifest itself shows.
//!
//! The hash is of the whole text with the 64 digits of the seal as zeros. A manifest without a seal is taken as
//! it is: who edits one by hand removes that line.

use super::Manifest;
use crate::error::{Error, Result};

const BEFORE: &str = ",\n  \"seal\": \"";
const AFTER: &str = "\"\n}\n";
const DIGITS: usize = 64;

impl Manifest {
    /// The text of the manifest, sealed.
    ///
    /// # Errors
    /// [`Error::Internal`] where it cannot be put into JSON.
    pub fn to_sealed_json(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Internal(format!("manifest: {e}")))?;
        let open = json.strip_suffix("\n}").ok_or_else(|| Error::Internal("a manifest is no JSON object".into()))?;
        Ok(format!("{open}{BEFORE}{}{AFTER}", hash(open.as_bytes())).into_bytes())
    }

    /// Reads a manifest's text and, where it is sealed, its seal.
    ///
    /// # Errors
    /// The fault, to which the caller adds the file's path.
    pub(super) fn from_json(text: &[u8]) -> std::result::Result<Self, String> {
        let parse = |text: &[u8]| serde_json::from_slice(text).map_err(|e| e.to_string());
        match split(text) {
            None => parse(text),
            Some((manifest, seal)) if hash(manifest).as_bytes() == seal => parse(&[manifest, b"\n}"].concat()),
            Some(_) => Err("is damaged, or was edited and still has its last line, the seal".into()),
        }
    }
}

/// The text before the seal, and the seal's digits, where `text` has one.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_suffix(AFTER.as_bytes())?;
    let (text, seal) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    Some((text.strip_suffix(BEFORE.as_bytes())?, seal))
}

/// The seal of a manifest whose text before the seal is `manifest`.
fn hash(manifest: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [manifest, BEFORE.as_bytes(), &[b'0'; DIGITS], AFTER.as_bytes()] {
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}
