//! The error of a plugin's own code.
//!
//! Runs in the helper, on both sides of the boundary; host applications read it.
//! Owns the kinds of failure and their numbers on any wire.
//! Never holds the original error: only text crosses the boundary.

use std::{error::Error, fmt};

/// What a plugin's method answers.
pub type PluginResult = Result<Vec<u8>, PluginError>;

/// What sort of failure a [`PluginError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The plugin tried and could not.
    Failed,
    /// The plugin has no method of this name.
    UnknownMethod,
    /// The plugin could not make sense of the payload.
    InvalidPayload,
    /// The plugin's code panicked.
    Panicked,
}

impl ErrorKind {
    /// This kind's number wherever errors are sent as bytes. It never changes.
    pub const fn code(self) -> u32 {
        match self {
            Self::Failed => 0,
            Self::UnknownMethod => 1,
            Self::InvalidPayload => 2,
            Self::Panicked => 3,
        }
    }

    /// The kind with this number. One that a later version added reads as [`Failed`](Self::Failed).
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::UnknownMethod,
            2 => Self::InvalidPayload,
            3 => Self::Panicked,
            _ => Self::Failed,
        }
    }
}

/// A failure of a plugin's own code, as text.
///
/// Made from any error, `&str` or `String`, so that `?` works in a plugin's methods. It is therefore not itself a
/// [`std::error::Error`]. The text of an error's sources is included.
///
/// ```
/// # use plugin_abi::{ErrorKind, PluginResult};
/// fn double(payload: &[u8]) -> PluginResult {
///     if payload.is_empty() {
///         return Err("nothing to double".into());
///     }
///     let number: u32 = std::str::from_utf8(payload)?.parse()?;
///     Ok(number.saturating_mul(2).to_string().into_bytes())
/// }
/// assert_eq!(double(b"x").unwrap_err().message, "invalid digit found in string");
/// assert_eq!(double(b"").unwrap_err().kind, ErrorKind::Failed);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginError {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// What happened, for a person to read.
    pub message: String,
}

impl PluginError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The plugin has no method `name`.
    pub fn unknown_method(name: impl fmt::Display) -> Self {
        Self::new(ErrorKind::UnknownMethod, format!("no method {name}"))
    }

    /// The payload makes no sense; `message` says why.
    pub fn invalid_payload(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidPayload, message)
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ErrorKind::Panicked => write!(f, "the plugin panicked: {}", self.message),
            ErrorKind::Failed | ErrorKind::UnknownMethod | ErrorKind::InvalidPayload => {
                f.write_str(&self.message)
            }
        }
    }
}

// Going through the boxed error takes errors and strings alike, which two impls could not: coherence must assume
// that `String` becomes an error one day.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for PluginError {
    fn from(error: E) -> Self {
        /// A vendor's `source()` may lead in a circle.
        const MAX_SOURCES: usize = 16;
        let error = error.into();
        let mut message = error.to_string();
        let mut source = error.source();
        for _ in 0..MAX_SOURCES {
            let Some(inner) = source else { break };
            message.push_str(": ");
            message.push_str(&inner.to_string());
            source = inner.source();
        }
        Self::new(ErrorKind::Failed, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer {
        #[source]
        inner: fmt::Error,
    }

    #[test]
    fn an_error_keeps_the_text_of_its_sources() {
        let error = PluginError::from(Outer { inner: fmt::Error });
        assert_eq!(error.message, format!("outer: {}", fmt::Error));
        assert_eq!(error.kind, ErrorKind::Failed);
    }

    #[test]
    fn every_kind_survives_its_number() {
        for kind in
            [ErrorKind::Failed, ErrorKind::UnknownMethod, ErrorKind::InvalidPayload, ErrorKind::Panicked]
        {
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
        assert_eq!(ErrorKind::from_code(u32::MAX), ErrorKind::Failed);
    }

    #[test]
    fn strings_become_errors() {
        assert_eq!(PluginError::from("text"), PluginError::new(ErrorKind::Failed, "text"));
        assert_eq!(PluginError::from(String::from("text")), PluginError::new(ErrorKind::Failed, "text"));
        assert_eq!(PluginError::unknown_method("x").to_string(), "no method x");
    }
}
