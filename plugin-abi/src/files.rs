//! Files that a plugin reads and writes through its host, holding none: what a vendor calls, and the bytes that it becomes.
//!
//! Runs in the helper, compiled into the plugin; the host reads and writes the same bytes. Owns that encoding.
//! Never says what may be read or written: the host judges each call anew, so that nothing is left to be taken back.
//!
//! A host offers these services of its own, whatever else it offers. Numbers are little-endian, paths absolute:
//!
//! | service | payload | reply |
//! | --- | --- | --- |
//! | `file.read` | offset `u64`, how many bytes at most `u32`, the path: all that is left | the bytes; fewer at the file's end |
//! | `file.write` | offset `u64`, the path's length `u16`, the path, the bytes: all that is left | nothing: all were written |
//! | `file.len` | the path | the file's length, `u64` |

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Host, ServiceError};

/// The service that reads a part of a file.
pub const READ: &str = "file.read";

/// The service that writes a part of a file that is there.
pub const WRITE: &str = "file.write";

/// The service that tells how long a file is.
pub const LEN: &str = "file.len";

/// A part of a file to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPart<'a> {
    /// The file.
    pub path: &'a [u8],
    /// From where.
    pub offset: u64,
    /// How many bytes at most.
    pub len: u32,
}

/// A part of a file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritePart<'a> {
    /// The file.
    pub path: &'a [u8],
    /// To where.
    pub offset: u64,
    /// What.
    pub bytes: &'a [u8],
}

impl<'a> ReadPart<'a> {
    /// The payload of [`READ`] that asks for it.
    pub fn encode(&self) -> Vec<u8> {
        [&self.offset.to_le_bytes()[..], &self.len.to_le_bytes(), self.path].concat()
    }

    /// What such a payload asks for; `None` if it is none.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let (offset, rest) = payload.split_first_chunk()?;
        let (len, path) = rest.split_first_chunk()?;
        Some(Self { path, offset: u64::from_le_bytes(*offset), len: u32::from_le_bytes(*len) })
    }
}

impl<'a> WritePart<'a> {
    /// The payload of [`WRITE`] that asks for it; `None` if the path is too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let len = u16::try_from(self.path.len()).ok()?;
        Some([&self.offset.to_le_bytes()[..], &len.to_le_bytes(), self.path, self.bytes].concat())
    }

    /// What such a payload asks for; `None` if it is none.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let (offset, rest) = payload.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (path, bytes) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        Some(Self { path, offset: u64::from_le_bytes(*offset), bytes })
    }
}

impl Host {
    /// At most `len` bytes of the file at `path`, from `offset` on; fewer at the file's end. Needs `file-read`.
    ///
    /// # Errors
    /// [`ServiceError::PermissionDenied`] if the plugin may not at this moment, [`ServiceError::Failed`] if the file cannot be
    /// read, or if so many bytes are more than one message may have.
    pub fn read_file_at(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, ServiceError> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let path = path.as_ref().as_os_str().as_bytes();
        self.call(READ, &ReadPart { path, offset, len }.encode())
    }

    /// Writes all of `bytes` to the file at `path`, which is there, from `offset` on. Needs `file-write`.
    ///
    /// # Errors
    /// [`ServiceError::PermissionDenied`] if the plugin may not at this moment, [`ServiceError::Failed`] if the file cannot be
    /// written: a part of the bytes may have been.
    pub fn write_file_at(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), ServiceError> {
        let path = path.as_ref().as_os_str().as_bytes();
        let payload = WritePart { path, offset, bytes }.encode();
        let payload = payload.ok_or_else(|| ServiceError::failed("the path is too long"))?;
        self.call(WRITE, &payload).map(drop)
    }

    /// How long the file at `path` is. Needs `file-read`.
    ///
    /// # Errors
    /// As [`read_file_at`](Self::read_file_at).
    pub fn file_len(&self, path: impl AsRef<Path>) -> Result<u64, ServiceError> {
        let reply = self.call(LEN, path.as_ref().as_os_str().as_bytes())?;
        let len = reply.try_into().map_err(|_| ServiceError::failed("the host's reply is no length"))?;
        Ok(u64::from_le_bytes(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_reads_back_as_it_was_written() {
        let read = ReadPart { path: b"/a/b", offset: 1 << 40, len: 7 };
        assert_eq!(ReadPart::decode(&read.encode()), Some(read));
        let write = WritePart { path: b"/a/b", offset: 3, bytes: b"contents" };
        assert_eq!(WritePart::decode(&write.encode().unwrap()), Some(write));
        for len in 0..12 {
            assert_eq!(ReadPart::decode(&[0; 16][..len]), None);
        }
        for short in [&b""[..], &[0; 9], &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, b'/']] {
            assert_eq!(WritePart::decode(short), None);
        }
        let long = vec![b'/'; 1 << 16];
        assert_eq!(WritePart { path: &long, offset: 0, bytes: b"" }.encode(), None);
    }
}
