//! The seven standard permissions, a host's own ones, and how they are written down.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use super::grade::Grade;
use super::scope::{Scope, ScopeError};
use crate::shared::nearness::distance;

/// Something that a plugin may be allowed to do: a name, what it means in words, and how far it reaches.
///
/// Two permissions are the same if name and scope are; the description does not count. As text it is `name` or
/// `name:scope`.
///
/// ```
/// use sandbox_core::{PERMISSION_FILE_READ, PluginPermission};
/// let photos: PluginPermission = "file-read:/srv/photos".parse()?;
/// assert_eq!(photos, PERMISSION_FILE_READ.scoped_to_path("/srv/photos")?);
/// assert_ne!(photos, PERMISSION_FILE_READ);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PluginPermission {
    name: Cow<'static, str>,
    description: Cow<'static, str>,
    scope: Option<Scope>,
}

/// A permission that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PermissionError {
    /// The name is not 1 to 64 of `a-z 0-9 . _ -`.
    #[error("permission {name:?}: a name is 1 to 64 of a-z 0-9 . _ -")]
    Name {
        /// The name that was given, shortened to 80 characters.
        name: String,
    },
    /// There is a standard permission of all but this name. One of a host's own that is really called so is built with
    /// [`PluginPermission::new`].
    #[error("permission {name:?}: did you mean {nearest:?}?")]
    Misspelt {
        /// The name that was given.
        name: String,
        /// The standard permission's.
        nearest: &'static str,
    },
    /// This permission takes no scope.
    #[error("permission {name} takes no scope, and got {scope:?}")]
    NoScope {
        /// The permission's name.
        name: String,
        /// The scope that was given.
        scope: String,
    },
    /// This permission hands out nothing of this grade.
    #[error("permission {name} hands out nothing that could be {}", match grade {
        Grade::Descriptor => "held",
        Grade::Relay => "relayed",
        Grade::Mediated => "mediated",
    })]
    Grade {
        /// The permission's name.
        name: String,
        /// The grade that was asked for.
        grade: Grade,
    },
    /// The scope is not one.
    #[error("permission {name}")]
    Scope {
        /// The permission's name.
        name: String,
        /// What is wrong with the scope.
        #[source]
        source: ScopeError,
    },
}

const fn standard(name: &'static str, description: &'static str) -> PluginPermission {
    PluginPermission { name: Cow::Borrowed(name), description: Cow::Borrowed(description), scope: None }
}

/// Open ordinary files for reading, examine them, list folders; scope: a file or a tree.
pub const PERMISSION_FILE_READ: PluginPermission = standard("file-read", "read files");
/// Create, write, rename and remove files and folders, change their modes and times; scope: a file or a tree. Implies nothing
/// about reading, but that what may be written may be seen to be there.
pub const PERMISSION_FILE_WRITE: PluginPermission = standard("file-write", "write files");
/// Connect over TCP and UDP, look names up, and listen; scope: a [`NetworkScope`](crate::NetworkScope), as in `example.org:443`. Without
/// one it reaches everything but Unix sockets, each of which wants a scope of its own: `unix:/run/app.sock`.
pub const PERMISSION_NETWORK: PluginPermission = standard("network", "use the network");
/// Start programs, which run as confined as the plugin is; scope: an executable, or a folder of them. A script needs its
/// interpreter in scope too. Without a scope: programs that none but root can change. Only where the helper's root is empty.
pub const PERMISSION_PROCESS: PluginPermission = standard("process", "start programs");
/// Call the host's `ui.*` services.
pub const PERMISSION_UI: PluginPermission = standard("ui", "use the user interface");
/// Call the host's `system.*` services and learn about the machine.
pub const PERMISSION_SYSTEM: PluginPermission = standard("system", "see the system's state");
/// Call the host's `plugin.*` services and exchange messages with other plugins; scope: a plugin's id.
pub const PERMISSION_PLUGIN: PluginPermission = standard("plugin", "talk to other plugins");

/// The seven permissions that every host knows.
pub const STANDARD_PERMISSIONS: [PluginPermission; 7] = [
    PERMISSION_FILE_READ,
    PERMISSION_FILE_WRITE,
    PERMISSION_NETWORK,
    PERMISSION_PROCESS,
    PERMISSION_UI,
    PERMISSION_SYSTEM,
    PERMISSION_PLUGIN,
];

const STANDARD_NAMES: [&str; 7] = ["file-read", "file-write", "network", "process", "ui", "system", "plugin"];

impl PluginPermission {
    /// A permission of the host's own, which gates services of that name: `payments` gates `payments.*`.
    ///
    /// # Errors
    /// [`PermissionError::Name`] if the name is not 1 to 64 of `a-z 0-9 . _ -`.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Result<Self, PermissionError> {
        let name = name.into();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(PermissionError::Name { name: name.chars().take(80).collect() });
        }
        Ok(Self { name: name.into(), description: description.into().into(), scope: None })
    }

    /// The same permission, reaching only the file or tree at `path`.
    ///
    /// # Errors
    /// [`PermissionError::Scope`] if the path cannot be a scope, [`PermissionError::NoScope`] if this permission is
    /// not about paths.
    pub fn scoped_to_path(&self, path: impl AsRef<std::path::Path>) -> Result<Self, PermissionError> {
        if !self.is_about_paths() {
            let scope = path.as_ref().display().to_string();
            return Err(PermissionError::NoScope { name: self.name.to_string(), scope });
        }
        let scope = Scope::path(path).map_err(|source| self.scope_error(source))?;
        Ok(Self { scope: Some(scope), ..self.clone() })
    }

    /// The same permission with the scope that `text` stands for: a path for file and process permissions, a
    /// [`NetworkScope`](crate::NetworkScope) for `network`, a name for others.
    ///
    /// # Errors
    /// [`PermissionError::Scope`] if it is no scope, [`PermissionError::NoScope`] for `ui` and `system`.
    pub fn scoped(&self, text: &str) -> Result<Self, PermissionError> {
        if self.is_about_paths() {
            return self.scoped_to_path(text);
        }
        if matches!(&*self.name, "ui" | "system") {
            return Err(PermissionError::NoScope { name: self.name.to_string(), scope: text.to_owned() });
        }
        let scope = if self.name == "network" { Scope::network(text) } else { Scope::name(text) };
        let scope = scope.map_err(|source| self.scope_error(source))?;
        Ok(Self { scope: Some(scope), ..self.clone() })
    }

    /// As it is written, and a name that is not standard as it is: one that the host has used already.
    pub(crate) fn of_text(text: &str) -> Result<Self, PermissionError> {
        let (name, scope) = match text.split_once(':') {
            Some((name, scope)) => (name, Some(scope)),
            None => (text, None),
        };
        let known = STANDARD_PERMISSIONS.into_iter().find(|permission| permission.name() == name);
        let permission = match known {
            Some(permission) => permission,
            None => Self::new(name, "a permission of this host's own")?,
        };
        scope.map_or_else(|| Ok(permission.clone()), |scope| permission.scoped(scope))
    }

    /// The permission's name, as in `file-read`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the permission means, in words for a person.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// How far it reaches; `None` is everything of its kind.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// The same permission without a scope.
    pub fn unscoped(&self) -> Self {
        Self { scope: None, ..self.clone() }
    }

    /// The same permission at `scope`.
    pub(crate) fn at(&self, scope: Scope) -> Self {
        Self { scope: Some(scope), ..self.clone() }
    }

    /// Whether holding `self` is holding `other` too. `network` without a scope leaves Unix sockets out.
    pub fn covers(&self, other: &Self) -> bool {
        self.name == other.name
            && match (&self.scope, &other.scope) {
                (None, other) => !other.as_ref().is_some_and(Scope::is_apart),
                (Some(_), None) => false,
                (Some(own), Some(other)) => own.covers(other),
            }
    }

    /// Whether revoking `self` takes `other` away: without a scope, every scope.
    pub(crate) fn takes_along(&self, other: &Self) -> bool {
        self.name == other.name && self.scope.is_none() || self.covers(other)
    }

    fn is_about_paths(&self) -> bool {
        matches!(&*self.name, "file-read" | "file-write" | "process")
    }

    fn scope_error(&self, source: ScopeError) -> PermissionError {
        PermissionError::Scope { name: self.name.to_string(), source }
    }
}

impl PartialEq for PluginPermission {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.scope == other.scope
    }
}

impl Eq for PluginPermission {}

impl Hash for PluginPermission {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.scope.hash(state);
    }
}

impl fmt::Display for PluginPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Some(scope) => write!(f, "{}:{scope}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl FromStr for PluginPermission {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Self, PermissionError> {
        let name = text.split_once(':').map_or(text, |(name, _)| name);
        match misspelt(name) {
            Some(nearest) => Err(PermissionError::Misspelt { name: name.to_owned(), nearest }),
            None => Self::of_text(text),
        }
    }
}

/// The standard name that is meant by one that is none, if it is near enough: a permission that gates nothing would be
/// granted, and nobody would see why the plugin still may not.
fn misspelt(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let names = || STANDARD_NAMES.into_iter();
    if names().any(|standard| standard == name) {
        return None;
    }
    // A short name is two letters away from anything.
    let near = |standard: &&str| {
        let distance = distance(&plain(name), standard);
        distance <= 2 && distance * 3 <= standard.len()
    };
    names().filter(near).min_by_key(|standard| distance(&plain(name), standard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_does_not_count_in_a_comparison() {
        let mine = PluginPermission::new("file-read", "something else").unwrap();
        assert_eq!(mine, PERMISSION_FILE_READ);
    }

    #[test]
    fn a_permission_reads_back_as_it_was_written() {
        for text in [
            "file-read",
            "file-read:/etc/hosts",
            "network:example.org",
            "network:listen:80",
            "plugin:hello",
            "payments",
        ] {
            assert_eq!(text.parse::<PluginPermission>().unwrap().to_string(), text);
        }
        for bad in ["", "File Read", "ui:x", "file-read:", "file-read:etc", "plugin:", ":x"] {
            assert!(bad.parse::<PluginPermission>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_is_all_but_a_standard_one_is_an_error_that_names_it() {
        let standard = STANDARD_PERMISSIONS.map(|permission| permission.name().to_owned());
        assert_eq!(standard, STANDARD_NAMES);
        for (text, nearest) in [
            ("file-raed", "file-read"),
            ("file_read:/etc", "file-read"),
            ("fileread", "file-read"),
            ("File-Write", "file-write"),
            ("nework:example.org", "network"),
            ("proces", "process"),
            ("UI", "ui"),
            ("plugins", "plugin"),
        ] {
            let name = text.split(':').next().unwrap().to_owned();
            let error = text.parse::<PluginPermission>().unwrap_err();
            assert_eq!(error, PermissionError::Misspelt { name: name.clone(), nearest }, "{text}");
            assert_eq!(error.to_string(), format!("permission {name:?}: did you mean {nearest:?}?"));
        }
        for own in ["payments", "io", "camera", "file", "net"] {
            assert_eq!(own.parse::<PluginPermission>().unwrap().name(), own);
        }
        let meant = PluginPermission::new("plugins", "manage plugins").unwrap();
        assert_eq!(PluginPermission::of_text("plugins"), Ok(meant));
    }

    #[test]
    fn the_unscoped_permission_covers_every_scope_and_none_covers_it() {
        let scoped = PERMISSION_FILE_READ.scoped_to_path("/etc").unwrap();
        assert!(PERMISSION_FILE_READ.covers(&scoped));
        assert!(!scoped.covers(&PERMISSION_FILE_READ));
        assert!(!PERMISSION_FILE_WRITE.covers(&scoped));
    }
}
