//! Why a plugin's file, or a library that it needs, was refused before it was loaded.
//!
//! Runs in the application's process. Every variant is a different thing to do about it, which `help` says.
//! Names out of a file were bounded and stripped of control characters when they were read, so messages may show them.
//! Never drops an errno.

use std::path::PathBuf;

use nix::errno::Errno;

/// Why a library was refused. Each is found by reading the file: nothing of it was loaded or run.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// There is no file of this name.
    #[error("{}: {errno}", .path.display())]
    NotFound {
        /// The file as it was asked for.
        path: PathBuf,
        /// `ENOENT` or `ENOTDIR`.
        errno: Errno,
    },
    /// The file is there, but could not be opened or read.
    #[error("{}: cannot be read: {errno}", .path.display())]
    Unreadable {
        /// The file as it was asked for.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The name leads to something other than a regular file.
    #[error("{}: is {what}, not a regular file", .path.display())]
    NotARegularFile {
        /// The file as it was asked for.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// The file is larger than the host reads.
    #[error("{}: is larger than {limit_bytes} bytes", .path.display())]
    TooLarge {
        /// The file as it was asked for.
        path: PathBuf,
        /// The bound.
        limit_bytes: u64,
    },
    /// The bytes could not be put into a sealed memory file: the host lacks descriptors or memory.
    #[error("{}: {call}: {errno}", .path.display())]
    Seal {
        /// The file that was being copied.
        path: PathBuf,
        /// The system call that failed.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The file is no shared library.
    #[error("{}: is not a shared library: {why}", .path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// A library for another kind of machine.
    #[error("{}: is a library for {found}, this host needs {expected}", .path.display())]
    WrongArchitecture {
        /// The file.
        path: PathBuf,
        /// The machine it was built for.
        found: String,
        /// The machine that the host runs on.
        expected: &'static str,
    },
    /// The file ends before something that its headers promise.
    #[error("{}: is truncated: the file ends before the end of {what}", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What lies past the end.
        what: String,
    },
    /// The headers contradict themselves, or are beyond what any linker writes.
    #[error("{}: is malformed: {what}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A sound library, but one which cannot run confined: it wants memory that is writable and executable.
    #[error("{}: {what}", .path.display())]
    UnsafeLayout {
        /// The file.
        path: PathBuf,
        /// What it wants.
        what: &'static str,
    },
    /// The plugin needs a library that it was not allowed.
    #[error("module {module} is not allowed: {}", .chain.join(" -> "))]
    ModuleNotAllowed {
        /// The library's soname.
        module: String,
        /// How it came to be needed: the plugin first, the module last.
        chain: Vec<String>,
    },
    /// What is to be allowed is no library's name.
    #[error("module {module:?} is no soname such as libz.so.1, which has no folder before it")]
    ModuleName {
        /// The text that was given, shortened to 80 characters.
        module: String,
    },
    /// The plugin needs a library that this system does not have.
    #[error("module {module} was not found: {}", .chain.join(" -> "))]
    ModuleNotFound {
        /// The library's soname.
        module: String,
        /// How it came to be needed: the plugin first, the module last.
        chain: Vec<String>,
        /// The folders that were looked into, in this order.
        searched: Vec<PathBuf>,
    },
    /// The plugin needs more libraries, or a longer chain of them, than the host follows.
    #[error("needs more than {limit} {what}: {}", .chain.join(" -> "))]
    TooManyModules {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
        /// How the first one too many came to be needed.
        chain: Vec<String>,
    },
}

impl LibraryError {
    /// What to do about it, where there is something to do.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { path, .. } if path.is_relative() => {
                "the path is relative to the application's working directory; give an absolute one".to_owned()
            }
            Self::NotFound { .. } => "check the path of the library".to_owned(),
            Self::Unreadable { errno: Errno::EACCES | Errno::EPERM, .. } => {
                "let the application's user read the file and enter the folders above it".to_owned()
            }
            Self::NotARegularFile { .. } => "name the library's file itself".to_owned(),
            Self::TooLarge { .. } => "strip the library of its debug information".to_owned(),
            Self::Seal { errno: Errno::EMFILE | Errno::ENFILE, .. } => {
                "each loaded library needs a descriptor: raise the application's limit of open files"
                    .to_owned()
            }
            Self::NotALibrary { .. } => {
                "a plugin is a shared library: crate type `cdylib` in Rust, `-shared -fPIC` in C and C++"
                    .to_owned()
            }
            Self::WrongArchitecture { expected, .. } => {
                format!("ask the vendor for a build for {expected}")
            }
            Self::Truncated { .. } => "the file was cut short: copy or download it again".to_owned(),
            Self::Malformed { .. } => {
                "the file is damaged, or was made by an unusual tool: get it from the vendor again".to_owned()
            }
            Self::UnsafeLayout { .. } => {
                "rebuild it as position-independent code (`-fPIC`), linked with `-z noexecstack`".to_owned()
            }
            Self::ModuleNotAllowed { module, .. } => {
                format!("if the plugin may use `{module}`, add it to its allowed modules")
            }
            Self::ModuleNotFound { module, searched, .. } => {
                const SHOWN: usize = 8;
                let folders: Vec<_> = searched.iter().take(SHOWN).map(|f| f.display().to_string()).collect();
                let more = if searched.len() > SHOWN { ", .." } else { "" };
                format!(
                    "install the package that has `{module}`, or put it beside the plugin and link that with \
                     `-Wl,-rpath,$ORIGIN`; looked into {}{more}",
                    folders.join(", ")
                )
            }
            _ => return None,
        })
    }
}
