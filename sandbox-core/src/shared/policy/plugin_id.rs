//! The name of a plugin: short, printable, safe in a log line and in a file name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name under which a host knows a plugin: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit.
///
/// ```
/// use sandbox_core::PluginId;
/// assert_eq!(PluginId::new("image-thumbnail").unwrap().as_str(), "image-thumbnail");
/// assert!(PluginId::new("../etc").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginId(Arc<str>);

/// A text that cannot be a plugin's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin id {found:?}: want 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first")]
pub struct PluginIdError {
    /// The text that was given, shortened to 80 characters.
    pub found: String,
}

impl PluginId {
    /// Checks `text` and makes it an id.
    ///
    /// # Errors
    /// [`PluginIdError`] if it is empty, longer than 64 bytes, or has another character.
    pub fn new(text: &str) -> Result<Self, PluginIdError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(PluginIdError { found: text.chars().take(80).collect() })
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Borrow<str> for PluginId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for PluginId {
    type Err = PluginIdError;
    fn from_str(text: &str) -> Result<Self, PluginIdError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_safe_in_a_path_and_in_a_log_line() {
        for good in ["a", "Hello", "image-thumbnail", "a.b_c-9", &"x".repeat(64)] {
            assert!(PluginId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(PluginId::new(bad).is_err(), "{bad}");
        }
    }
}
