//! A folder for one test, which an ordinary user reaches too, and files in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary folder of mode 755, removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    path: PathBuf,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("plugin-tests.").tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        // The sandbox judges where a name really leads: a /tmp that is a link would confuse the tests' expectations.
        let path = dir.path().canonicalize().expect("it is there");
        Self { dir, path }
    }

    /// Where it is, with no symbolic link on the way.
    pub fn path(&self) -> &Path {
        debug_assert!(self.dir.path().exists());
        &self.path
    }

    /// The path of `name` in it, as text.
    pub fn at(&self, name: &str) -> String {
        self.path.join(name).into_os_string().into_string().expect("temporary folders have plain names")
    }

    /// Writes a file, with the folders above it, and gives its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.at(name);
        fs::create_dir_all(Path::new(&path).parent().expect("below the folder")).expect("it is ours");
        fs::write(&path, contents).expect("it is ours");
        path
    }

    /// Makes a folder and gives its path.
    pub fn folder(&self, name: &str) -> String {
        let path = self.at(name);
        fs::create_dir_all(&path).expect("it is ours");
        path
    }

    /// Makes a symbolic link called `name` to `target`, and gives its path.
    pub fn link(&self, name: &str, target: impl AsRef<Path>) -> String {
        let path = self.at(name);
        std::os::unix::fs::symlink(target, &path).expect("it is ours");
        path
    }

    /// Writes a script and gives its path.
    pub fn script(&self, name: &str, contents: &str) -> String {
        let path = self.file(name, contents);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
        path
    }

    /// Copies a program of the system's, and gives the copy's path.
    pub fn program(&self, name: &str, original: &str) -> String {
        let path = self.at(name);
        fs::copy(original, &path).expect("programs can be read");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
        path
    }

    /// Makes a FIFO and gives its path.
    pub fn fifo(&self, name: &str) -> String {
        let path = self.at(name);
        nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o644))
            .expect("it is ours");
        path
    }
}
