//! How far a permission reaches: a part of the file system, of the network, or a name.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::network::NetworkScope;

/// How far a [`PluginPermission`](crate::PluginPermission) reaches; a permission without a scope reaches everything
/// of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// A file, or a folder with everything below it. Absolute, without `.` and `..`; symbolic links in it are followed
    /// when it is granted or revoked, and not again.
    Path(PathBuf),
    /// A name that is compared as it stands: another plugin's id, a service of the host's own.
    Name(String),
    /// Hosts and ports, or Unix sockets.
    Network(NetworkScope),
}

/// A text that cannot be a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scope {scope:?}: {why}")]
pub struct ScopeError {
    /// The text that was given, shortened to 200 characters.
    pub scope: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Scope {
    /// A scope that is a file or a tree.
    ///
    /// ```
    /// use sandbox_core::Scope;
    /// assert!(Scope::path("/var/lib/photos/").is_ok());
    /// assert!(Scope::path("photos").is_err());
    /// ```
    ///
    /// # Errors
    /// [`ScopeError`] if the path is not absolute, has a `..` (which a symbolic link could turn anywhere), a NUL byte,
    /// or more than 4095 bytes.
    pub fn path(path: impl AsRef<Path>) -> Result<Self, ScopeError> {
        let path = path.as_ref();
        let refuse = |why| ScopeError { scope: short(&path.to_string_lossy()), why };
        if !path.is_absolute() {
            return Err(refuse("a path scope must be absolute"));
        }
        if path.as_os_str().len() > 4095 {
            return Err(refuse("longer than the kernel's PATH_MAX"));
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(refuse("has a NUL byte"));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(refuse("has a `..`: name the folder itself"));
        }
        // Rebuilt from its components, so that `/a//b/.` and `/a/b/` are the same scope as `/a/b`.
        Ok(Self::Path(path.components().collect()))
    }

    /// The scope of one object, by the path that the kernel says it has.
    pub(crate) fn of_object(resolved: &Path) -> Result<Self, ScopeError> {
        // Whatever comes out of the kernel is like that: absolute, and no component of it is `.`, `..` or empty.
        let bytes = resolved.as_os_str().as_encoded_bytes();
        let odd = |two: &[u8]| matches!(two, b"//" | b"/." | [0, _] | [_, 0]);
        let plain = bytes.starts_with(b"/") && (bytes.len() == 1 || !bytes.ends_with(b"/"));
        if !plain || bytes.len() > 4095 || bytes.windows(2).any(odd) {
            return Self::path(resolved);
        }
        Ok(Self::Path(resolved.to_owned()))
    }

    /// A scope that is a name.
    ///
    /// # Errors
    /// [`ScopeError`] if it is empty, longer than 255 bytes, or has a control character.
    pub fn name(name: impl Into<String>) -> Result<Self, ScopeError> {
        let name = name.into();
        let why = match name.as_str() {
            "" => "is empty",
            long if long.len() > 255 => "is longer than 255 bytes",
            odd if odd.chars().any(char::is_control) => "has a control character",
            _ => return Ok(Self::Name(name)),
        };
        Err(ScopeError { scope: short(&name), why })
    }

    /// A scope that is a part of the network: `example.org:443`, `10.0.0.0/8`, `listen:8080`, `unix:/run/app.sock`, and what
    /// else [`NetworkScope`] shows.
    ///
    /// # Errors
    /// [`ScopeError`] if it is none of these.
    pub fn network(text: &str) -> Result<Self, ScopeError> {
        text.parse().map(Self::Network)
    }

    /// Whether a permission without a scope leaves this out: Unix sockets are granted one by one.
    pub(crate) fn is_apart(&self) -> bool {
        matches!(self, Self::Network(scope) if !scope.is_internet())
    }

    /// How narrow this is among the scopes that cover one object.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Path(path) => path.components().count(),
            Self::Name(_) => usize::MAX,
            Self::Network(scope) => scope.width(),
        }
    }

    /// Where in the file system this is, if it is anywhere.
    pub(crate) fn place(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Network(scope) => scope.unix_path(),
            Self::Name(_) => None,
        }
    }

    /// Whether everything that `other` reaches is reached by `self` too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            // By whole components: `/data/app` covers `/data/app/x`, never `/data/app2`.
            (Self::Path(tree), Self::Path(path)) => starts_with(path, tree),
            (Self::Name(name), Self::Name(other)) => name == other,
            (Self::Network(own), Self::Network(other)) => own.covers(other),
            _ => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Name(name) => f.write_str(name),
            Self::Network(scope) => scope.fmt(f),
        }
    }
}

/// Whether `path` is in `tree`.
fn starts_with(path: &Path, tree: &Path) -> bool {
    // Alike to the byte, up to where a component ends: the most frequent case, and the cheapest to see.
    let (bytes, own) = (path.as_os_str().as_encoded_bytes(), tree.as_os_str().as_encoded_bytes());
    let alike = || matches!(bytes.strip_prefix(own), Some([] | [b'/', ..]));
    alike() || path.starts_with(tree)
}

/// The first 200 characters of a text.
pub(super) fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_covers_what_is_below_it_and_not_what_merely_starts_alike() {
        let tree = Scope::path("/data/app").unwrap();
        for (path, covered) in [
            ("/data/app", true),
            ("/data/app/", true),
            ("/data/app/x/y", true),
            ("/data/app2", false),
            ("/data/ap", false),
            ("/data", false),
            ("/", false),
        ] {
            assert_eq!(tree.covers(&Scope::path(path).unwrap()), covered, "{path}");
        }
    }

    #[test]
    fn the_scope_of_an_object_is_that_of_its_path() {
        for path in ["/", "/a", "/a/b.c", "/.a/b", "/a/..b", "/a//b/", "/a/./b", "/a/"] {
            let path = Path::new(path);
            assert_eq!(Scope::of_object(path), Scope::path(path), "{}", path.display());
        }
        for bad in ["", "a", "/a/../b", "/..", "/a\0b"] {
            assert_eq!(Scope::of_object(Path::new(bad)), Scope::path(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_scope_that_could_mean_something_else_is_refused() {
        for bad in ["", "a/b", "./a", "/a/../b", "/a/..", "/a\0b"] {
            assert!(Scope::path(bad).is_err(), "{bad:?}");
        }
        assert!(Scope::path(format!("/{}", "x".repeat(5000))).is_err());
        assert!(Scope::name("").is_err());
        assert!(Scope::name("a\nb").is_err());
    }
}
