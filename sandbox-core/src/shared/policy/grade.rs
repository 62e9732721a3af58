//! What a plugin gets for a grant, and with it what can be taken back.

use std::fmt;
use std::str::FromStr;

use super::permission::{PermissionError, PluginPermission};

/// What a plugin holds of what a grant opens, and so what a revoke can take back of it.
///
/// The later ones can be taken back more gently, and cost more to use. As text it is `descriptor`, `relay` or `mediated`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Grade {
    /// The kernel's own descriptor of the object, at native speed. One that is still held cannot be taken from a process
    /// that lives: a revoke shuts sockets down, and ends a plugin that still holds or maps a file.
    #[default]
    Descriptor,
    /// One end of a stream that the host pumps; a revoke closes the other. The first write after it may still return `Ok`, as
    /// on any stream whose other end has just gone; what it wrote goes nowhere. For `network`.
    Relay,
    /// A file that the host serves: after a revoke the next read, write or page fault fails, and the plugin stays. For
    /// `file-read` and `file-write`.
    Mediated,
}

impl Grade {
    /// Whether there is such a thing as this grade of `permission`.
    pub(crate) fn check(self, permission: &PluginPermission) -> Result<(), PermissionError> {
        let possible = match self {
            Self::Descriptor => true,
            Self::Relay => permission.name() == "network",
            Self::Mediated => matches!(permission.name(), "file-read" | "file-write"),
        };
        let name = || permission.name().to_owned();
        if possible { Ok(()) } else { Err(PermissionError::Grade { name: name(), grade: self }) }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Descriptor => "descriptor",
            Self::Relay => "relay",
            Self::Mediated => "mediated",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A text that is no grade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no grade: they are descriptor, relay and mediated")]
pub struct GradeError {
    /// The text that was given, shortened to 80 characters.
    pub text: String,
}

impl FromStr for Grade {
    type Err = GradeError;

    fn from_str(text: &str) -> Result<Self, GradeError> {
        let known =
            [Self::Descriptor, Self::Relay, Self::Mediated].into_iter().find(|grade| grade.text() == text);
        known.ok_or_else(|| GradeError { text: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::policy::STANDARD_PERMISSIONS;

    #[test]
    fn a_grade_is_of_a_permission_that_hands_out_such_a_thing() {
        for permission in STANDARD_PERMISSIONS {
            let name = permission.name();
            assert!(Grade::Descriptor.check(&permission).is_ok(), "{name}");
            assert_eq!(Grade::Relay.check(&permission).is_ok(), name == "network", "{name}");
            assert_eq!(Grade::Mediated.check(&permission).is_ok(), name.starts_with("file-"), "{name}");
        }
        let own = PluginPermission::new("payments", "pay").unwrap();
        let error = Grade::Mediated.check(&own).unwrap_err();
        assert_eq!(error.to_string(), "permission payments hands out nothing that could be mediated");
    }

    #[test]
    fn a_grade_reads_back_as_it_was_written() {
        for grade in [Grade::Descriptor, Grade::Relay, Grade::Mediated] {
            assert_eq!(grade.to_string().parse(), Ok(grade));
        }
        assert!("Mediated".parse::<Grade>().is_err());
    }
}
