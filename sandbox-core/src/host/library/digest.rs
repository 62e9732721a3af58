//! Which library it is, whatever it is called: the SHA-256 of the bytes that are loaded.
//!
//! Runs in the application's process. Hashes the sealed copy, so that what is known is what is loaded; what no loader maps,
//! such as debugging information, reads as zeros there and does not count. Never hashes a copy twice.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::LibraryError;
use super::seal::{SealedLibrary, unreadable};

/// Which library it is: the SHA-256 of what of it is loaded. It stays the same when the file is renamed, copied or stripped of
/// what is never loaded, and so is not what `sha256sum` says of the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LibraryDigest([u8; 32]);

impl LibraryDigest {
    /// That of the library at `path`.
    ///
    /// # Errors
    /// [`LibraryError`] if the file cannot be read, or is no library.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self, LibraryError> {
        SealedLibrary::open(path.as_ref())?.digest()
    }
}

impl SealedLibrary {
    /// The digest of the sealed bytes.
    pub(crate) fn digest(&self) -> Result<LibraryDigest, LibraryError> {
        if let Some(known) = self.digest.get() {
            return Ok(*known);
        }
        let failed = |error| unreadable(&self.path, &error);
        // By position: the descriptor's own offset stays 0.
        let file = File::from(self.fd.try_clone().map_err(failed)?);
        let (mut hash, mut at, mut piece) = (Sha256::new(), 0, vec![0; 256 << 10]);
        loop {
            match file.read_at(&mut piece, at).map_err(failed)? {
                0 => break,
                len => {
                    hash.update(piece.get(..len).unwrap_or_default());
                    at = at.saturating_add(len as u64);
                }
            }
        }
        let digest = LibraryDigest(hash.finalize().into());
        Ok(*self.digest.get_or_init(|| digest))
    }
}

impl fmt::Display for LibraryDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LibraryDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<LibraryDigest> for String {
    fn from(digest: LibraryDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for LibraryDigest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for LibraryDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANT: &str = "a digest is 64 hexadecimal digits";
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(WANT);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2).ok_or(WANT)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WANT)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_as_it_was_written_and_nothing_else_does() {
        let digest = LibraryDigest(std::array::from_fn(|n| n as u8 * 8));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        for bad in ["", "12", &"g".repeat(64), &"a".repeat(65), &"é".repeat(32), &"+f".repeat(32)] {
            assert!(bad.parse::<LibraryDigest>().is_err(), "{bad:?}");
        }
    }
}
