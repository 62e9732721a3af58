//! What a probe says its attempt came to.

use std::fmt;

/// The answer of one attempt.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// It went well, and this is what was got.
    Got(Vec<u8>),
    /// The kernel, or the sandbox in its place, refused with this errno.
    Errno(i32),
    /// It failed with no errno.
    Failed(String),
}

impl Answer {
    /// Reads what the plugin `probe` replied.
    ///
    /// # Panics
    /// If those bytes are no answer of a probe's.
    pub fn read(reply: &[u8]) -> Self {
        Self::of_probe(reply)
            .unwrap_or_else(|| panic!("no answer of a probe's: {:?}", String::from_utf8_lossy(reply)))
    }

    /// The same, where a plugin that answers in other words has got what it says.
    pub fn of_any(reply: &[u8]) -> Self {
        Self::of_probe(reply).unwrap_or_else(|| Self::Got(reply.to_vec()))
    }

    fn of_probe(reply: &[u8]) -> Option<Self> {
        if let Some(got) = reply.strip_prefix(b"ok ") {
            return Some(Self::Got(got.to_vec()));
        }
        let text = String::from_utf8_lossy(reply);
        match text.strip_prefix("errno ") {
            Some(errno) => errno.parse().ok().map(Self::Errno),
            None => text.strip_prefix("error ").map(|error| Self::Failed(error.to_owned())),
        }
    }

    /// What was got, as text.
    ///
    /// # Panics
    /// If nothing was got.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Self::Got(got) => String::from_utf8_lossy(got).into_owned(),
            other => panic!("refused: {other:?}"),
        }
    }

    /// Whether the attempt went well.
    pub fn got_it(&self) -> bool {
        matches!(self, Self::Got(_))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Got(got) => write!(f, "got {:?}", String::from_utf8_lossy(got)),
            Self::Errno(errno) => write!(f, "{:?}", nix::errno::Errno::from_raw(*errno)),
            Self::Failed(text) => write!(f, "failed: {text}"),
        }
    }
}
