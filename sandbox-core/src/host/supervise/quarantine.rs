//! Which libraries have crashed, and which of them too often: kept in a file, so that the next run knows.
//!
//! Runs in the host, on the thread that loads or on one that supervises: it waits for the disk. Owns the file's format, and
//! that several hosts can share it. Never believes a file that others may write to, and never takes a broken one for an
//! empty one: what cannot be read refuses the load.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::host::audit::timestamp;
use crate::host::events::{escape, escape_path};
use crate::host::library::LibraryDigest;
use crate::host::lock::lock;
use crate::host::protected;
use crate::shared::policy::MOST_CRASHES;

/// The version of the format, which the file has as its `version`.
const VERSION: u32 = 1;

/// How many libraries are remembered; of more, those that are not quarantined and have not crashed for the longest go first.
const MOST_LIBRARIES: usize = 1024;

/// The largest file that is read: more than the bounds on what is written allow for.
const MOST_BYTES: u64 = 128 << 20;

/// How long another host may hold the file. It needs milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A quarantine file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuarantineError {
    /// The system refused something.
    #[error("{}: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is no file of ours, or broken, or one that others could change.
    #[error("{}: it cannot serve as a quarantine file: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl QuarantineError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unusable { path, .. } => Some(format!(
                "nothing is loaded under it until it can be read: see what is in {0}, or begin anew with `plugin-host \
                 quarantine clear --all --file {0}`",
                path.display()
            )),
            Self::Io { .. } => None,
        }
    }
}

/// One crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CrashRecord {
    /// When.
    #[serde(with = "timestamp")]
    pub time: SystemTime,
    /// The plugin, as that host called it.
    pub plugin: String,
    /// Why it had ended, in words.
    pub cause: String,
}

/// What is known of one library that has crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuarantineRecord {
    /// Which library.
    pub digest: LibraryDigest,
    /// Where it was when it crashed last, escaped.
    pub path: String,
    /// Since when it is quarantined; `None`: it is not.
    #[serde(with = "timestamp::optional")]
    pub since: Option<SystemTime>,
    /// Its last crashes, at most 100, the oldest first.
    pub crashes: Vec<CrashRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Book {
    version: u32,
    libraries: Vec<QuarantineRecord>,
}

/// Which libraries have crashed, and are quarantined for it. A clone is the same store.
///
/// The file is JSON of mode 600, replaced as a whole, so that no host ever reads half of one. Any number of hosts may use the
/// same; `FILE.lock` beside it keeps them apart. No permission reaches either for a plugin of this process. A file that is
/// broken, or that others may write to or take away, is an error, and nothing is loaded under it. A crash that cannot be written down, such
/// as on a full disk, counts in this process, and is written at the next load or crash at which it can be, or when the
/// store is dropped.
///
/// ```
/// use sandbox_core::{PluginPolicy, PluginSandboxManager, QuarantineStore, RestartPolicy};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("quarantine.json");
/// let store = QuarantineStore::open(&path)?;
/// let manager = PluginSandboxManager::new();
/// manager.quarantine_in(&store);
/// manager.register_plugin("thumbs", PluginPolicy::new().restart(RestartPolicy::on_crash()))?;
/// for library in store.list()?.iter().filter(|library| library.since.is_some()) {
///     println!("{} ({}): {} crashes", library.path, library.digest, library.crashes.len());
///     store.clear(&library.digest)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct QuarantineStore {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<StoreFile>,
    /// What there is without a file, and what could not be written to it yet.
    book: Mutex<Book>,
    /// Held by whoever changes either: what could not be written is then written once.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct StoreFile {
    folder: OwnedFd,
    path: PathBuf,
    name: OsString,
}

/// Which store a manager's plugins, or a plugin that stands alone, are counted in.
#[derive(Debug, Default)]
pub(crate) struct StoreCell(RwLock<Option<QuarantineStore>>, QuarantineStore);

impl StoreCell {
    pub(crate) fn set(&self, store: QuarantineStore) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    /// Whether an embedder has named one: then the crashes of every plugin count.
    pub(crate) fn is_named(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The one that was named, else one in memory.
    pub(crate) fn get(&self) -> QuarantineStore {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(|| self.1.clone())
    }
}

impl Default for Book {
    fn default() -> Self {
        Self { version: VERSION, libraries: Vec::new() }
    }
}

impl QuarantineStore {
    /// The store in the file at `path`, which need not be there yet; its folder has to be.
    ///
    /// # Errors
    /// [`QuarantineError`] if the file cannot be used; see there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, QuarantineError> {
        let file = StoreFile::open(path.as_ref())?;
        file.check_folder()?;
        file.protect();
        let store = Self { inner: Arc::new(Inner::of(Some(file))) };
        store.list()?;
        Ok(store)
    }

    /// A store that ends with this process: what every manager begins with.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// The libraries that have crashed, those that are quarantined among them, sorted by their digests.
    ///
    /// # Errors
    /// [`QuarantineError`] if the file cannot be read.
    pub fn list(&self) -> Result<Vec<QuarantineRecord>, QuarantineError> {
        let mut all = match &self.inner.file {
            Some(file) => file.read()?,
            None => Book::default(),
        };
        all.merge(&lock(&self.inner.book));
        all.libraries.sort_by_key(|library| library.digest);
        Ok(all.libraries)
    }

    /// Forgets a library's crashes, so that it is loaded again. Whether any were known.
    ///
    /// # Errors
    /// [`QuarantineError`] if the file cannot be changed.
    pub fn clear(&self, digest: &LibraryDigest) -> Result<bool, QuarantineError> {
        self.forget(|library| library.digest == *digest).map(|count| count > 0)
    }

    /// The same for libraries that were at `path` when they crashed last. How many there were.
    ///
    /// # Errors
    /// [`QuarantineError`] if the file cannot be changed.
    pub fn clear_path(&self, path: impl AsRef<Path>) -> Result<usize, QuarantineError> {
        let path = escape_path(&std::path::absolute(&path).unwrap_or_else(|_| path.as_ref().to_owned()));
        self.forget(|library| library.path == path)
    }

    /// Forgets every crash, also of a file that cannot be read any more. How many libraries there were, as far as that is known.
    ///
    /// # Errors
    /// [`QuarantineError`] if the file cannot be changed.
    pub fn clear_all(&self) -> Result<usize, QuarantineError> {
        let _changing = lock(&self.inner.changing);
        let held = std::mem::take(&mut *lock(&self.inner.book)).libraries.len();
        let Some(file) = &self.inner.file else { return Ok(held) };
        file.clear()
    }

    /// The same for the store in the file at `path`, which need not be one that [`open`](Self::open) takes.
    ///
    /// # Errors
    /// [`QuarantineError`] if the file cannot be changed.
    pub fn clear_file(path: impl AsRef<Path>) -> Result<usize, QuarantineError> {
        StoreFile::open(path.as_ref())?.clear()
    }

    fn forget(&self, which: impl Fn(&QuarantineRecord) -> bool) -> Result<usize, QuarantineError> {
        let forget = |book: &mut Book| {
            let before = book.libraries.len();
            book.libraries.retain(|library| !which(library));
            before.saturating_sub(book.libraries.len())
        };
        let _changing = lock(&self.inner.changing);
        match &self.inner.file {
            Some(file) => self.inner.change(file, forget),
            None => Ok(forget(&mut lock(&self.inner.book))),
        }
    }

    /// What is known of a library that is quarantined.
    pub(crate) fn find(&self, digest: &LibraryDigest) -> Result<Option<QuarantineRecord>, QuarantineError> {
        self.inner.settle();
        let is_it = |library: &&QuarantineRecord| library.digest == *digest && library.since.is_some();
        if let Some(held) = lock(&self.inner.book).libraries.iter().find(is_it) {
            return Ok(Some(held.clone()));
        }
        let Some(file) = &self.inner.file else { return Ok(None) };
        Ok(file.read()?.libraries.iter().find(is_it).cloned())
    }

    /// Writes down a crash. What is known of the library if it is quarantined now: with this one it has crashed `most` times
    /// within `window`.
    pub(crate) fn record(
        &self,
        digest: LibraryDigest,
        path: &Path,
        crash: CrashRecord,
        most: u32,
        window: Duration,
    ) -> Option<QuarantineRecord> {
        let _changing = lock(&self.inner.changing);
        let add = |book: &mut Book| book.add(digest, path, &crash, most, window);
        let Some(file) = &self.inner.file else { return add(&mut lock(&self.inner.book)) };
        match self.inner.change(file, add) {
            Ok(record) => return record,
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "a crash counts in this process only, until it can be written down");
            }
        }
        // It counts with those that the file has; one that cannot be read refuses the loads by itself.
        let mut all = file.read().unwrap_or_default();
        let mut held = lock(&self.inner.book);
        all.merge(&held);
        let quarantined = add(&mut all);
        add(&mut held);
        if let Some(own) = held.libraries.last_mut() {
            own.since = own.since.or(quarantined.as_ref().and_then(|record| record.since));
        }
        quarantined
    }
}

impl Inner {
    fn of(file: Option<StoreFile>) -> Self {
        Self { file, book: Mutex::default(), changing: Mutex::default() }
    }

    /// Changes the file, and writes down with it what could not be written before. For whoever holds `changing`.
    fn change<T>(&self, file: &StoreFile, change: impl FnOnce(&mut Book) -> T) -> Result<T, QuarantineError> {
        let held = lock(&self.book).clone();
        let changed = file.change(|book| {
            book.merge(&held);
            change(book)
        })?;
        *lock(&self.book) = Book::default();
        Ok(changed)
    }

    /// Writes down what could not be written before, if there is any, and if it can be by now.
    fn settle(&self) {
        let Some(file) = self.file.as_ref().filter(|_| !lock(&self.book).libraries.is_empty()) else {
            return;
        };
        let _changing = lock(&self.changing);
        if let Err(error) = self.change(file, |_| ()) {
            tracing::debug!(%error, "crashes still count in this process only");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Book {
    fn add(
        &mut self,
        digest: LibraryDigest,
        path: &Path,
        crash: &CrashRecord,
        most: u32,
        window: Duration,
    ) -> Option<QuarantineRecord> {
        let mut record = match self.libraries.iter().position(|library| library.digest == digest) {
            Some(at) => self.libraries.remove(at),
            None => QuarantineRecord { digest, path: String::new(), since: None, crashes: Vec::new() },
        };
        record.path = escape_path(path);
        record.crashes.push(CrashRecord { cause: escape(crash.cause.as_bytes()), ..crash.clone() });
        cut_crashes(&mut record);
        // A clock that was set back makes a crash of the future, which counts.
        let counts =
            |other: &&CrashRecord| crash.time.duration_since(other.time).is_ok_and(|age| age > window);
        let old = record.crashes.iter().filter(counts).count();
        let many = u32::try_from(record.crashes.len().saturating_sub(old)).unwrap_or(u32::MAX);
        if many >= most {
            record.since.get_or_insert(crash.time);
        }
        let quarantined = record.since.is_some().then(|| record.clone());
        // The last that crashed is the last in the book.
        self.libraries.push(record);
        self.cut();
        quarantined
    }

    /// Takes in what another one knows, of crashes that this one has not.
    fn merge(&mut self, other: &Self) {
        for library in &other.libraries {
            let Some(own) = self.libraries.iter_mut().find(|own| own.digest == library.digest) else {
                self.libraries.push(library.clone());
                continue;
            };
            own.crashes.extend_from_slice(&library.crashes);
            own.crashes.sort_by_key(|crash| crash.time);
            cut_crashes(own);
            own.since = own.since.into_iter().chain(library.since).min();
        }
        self.cut();
    }

    fn cut(&mut self) {
        while self.libraries.len() > MOST_LIBRARIES {
            let oldest = self.libraries.iter().position(|library| library.since.is_none()).unwrap_or(0);
            self.libraries.remove(oldest);
        }
    }
}

fn cut_crashes(of: &mut QuarantineRecord) {
    let over = of.crashes.len().saturating_sub(usize::try_from(MOST_CRASHES).unwrap_or(usize::MAX));
    of.crashes.drain(..over);
}

impl StoreFile {
    fn open(path: &Path) -> Result<Self, QuarantineError> {
        let failed =
            |source| QuarantineError::Io { path: path.to_owned(), what: "opening its folder", source };
        let absolute = std::path::absolute(path).map_err(failed)?;
        let name = absolute.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?.to_owned();
        let parent = absolute.parent().unwrap_or(Path::new("/")).canonicalize().map_err(failed)?;
        // Held, so that whoever moves the folder's own path does not move the file.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&parent, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        Ok(Self { folder, path: parent.join(&name), name })
    }

    /// Whoever may write there could take the file away, and with it what is known, or make the lock one that is never free.
    fn check_folder(&self) -> Result<(), QuarantineError> {
        let about = rustix::fs::fstat(&self.folder).map_err(io::Error::from);
        let about = about.map_err(self.failed("looking at its folder"))?;
        let user = rustix::process::geteuid().as_raw();
        // A user's own group, where each has one, has nobody else in it: there even a home is open to it.
        let by_group = about.st_mode & 0o020 != 0 && about.st_gid != rustix::process::getegid().as_raw();
        let why = if about.st_uid != user && about.st_uid != 0 {
            "its folder belongs to another user"
        } else if by_group || about.st_mode & 0o002 != 0 {
            "others may write to its folder, and could take it away: have it in one of your own"
        } else {
            return Ok(());
        };
        Err(self.unusable(why))
    }

    /// No grant reaches it, under whichever name: each that is put in its place is another file.
    fn protect(&self) {
        protected::protect(&self.path);
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> QuarantineError {
        let path = self.path.clone();
        move |source| QuarantineError::Io { path, what, source }
    }

    fn unusable(&self, why: impl Into<String>) -> QuarantineError {
        QuarantineError::Unusable { path: self.path.clone(), why: why.into() }
    }

    fn beside(&self, ending: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(ending);
        name
    }

    /// Opens one of the files, never another one by way of a link, and never waits for who writes to a FIFO.
    fn open_file(&self, name: &OsString, flags: OFlags) -> rustix::io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    fn read(&self) -> Result<Book, QuarantineError> {
        let mut file = match self.open_file(&self.name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Book::default()),
            Err(Errno::LOOP) => return Err(self.unusable("it is a symbolic link")),
            Err(errno) => return Err(self.failed("opening it")(errno.into())),
        };
        let about = file.metadata().map_err(self.failed("looking at it"))?;
        let user = rustix::process::geteuid().as_raw();
        let why = if !about.is_file() {
            "it is no ordinary file"
        } else if about.uid() != user && about.uid() != 0 {
            "it belongs to another user"
        } else if about.mode() & 0o022 != 0 {
            "others may write to it: take that right from them (chmod go-w)"
        } else if about.len() > MOST_BYTES {
            "it is larger than any that is written"
        } else {
            ""
        };
        if !why.is_empty() {
            return Err(self.unusable(why));
        }
        let mut text = Vec::new();
        (&mut file).take(MOST_BYTES).read_to_end(&mut text).map_err(self.failed("reading it"))?;
        // First its version: another one may mean anything by the rest.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version = serde_json::from_slice(&text).map(|Version { version }| version);
        match version.map_err(|error| self.unusable(error.to_string()))? {
            VERSION => serde_json::from_slice(&text).map_err(|error| self.unusable(error.to_string())),
            other => Err(self.unusable(format!("it is of version {other}, of which {VERSION} is known"))),
        }
    }

    /// Keeps other hosts from changing the file, for as long as what is returned is held.
    fn lock(&self) -> Result<File, QuarantineError> {
        let what = "locking FILE.lock beside it";
        let opened = self.open_file(&self.beside(".lock"), OFlags::RDWR | OFlags::CREATE);
        let file = opened.map_err(|errno| self.failed(what)(errno.into()))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::INTR) => {}
                // Nothing announces that it is free without waiting for it, for however long.
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(errno) => return Err(self.failed(what)(errno.into())),
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T, QuarantineError> {
        let _locked = self.lock()?;
        let mut book = self.read()?;
        let changed = change(&mut book);
        self.write(&book)?;
        Ok(changed)
    }

    /// Forgets all, also what cannot be read.
    fn clear(&self) -> Result<usize, QuarantineError> {
        let _locked = self.lock()?;
        let count = self.read().map_or(0, |book| book.libraries.len());
        self.write(&Book::default())?;
        Ok(count)
    }

    /// Puts another file in its place. Whoever reads meanwhile reads the one or the other.
    fn write(&self, book: &Book) -> Result<(), QuarantineError> {
        let text = serde_json::to_vec_pretty(book).map_err(|error| self.unusable(error.to_string()))?;
        let next = self.beside(".tmp");
        // One that a host left which was killed. The lock is held: nobody else is at it.
        let _ = rustix::fs::unlinkat(&self.folder, &next, rustix::fs::AtFlags::empty());
        let written = (|| {
            let mut file = self.open_file(&next, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            rustix::fs::renameat(&self.folder, &next, &self.folder, &self.name)?;
            io::Result::Ok(())
        })();
        if written.is_err() {
            // On a full disk it would take what room there is.
            let _ = rustix::fs::unlinkat(&self.folder, &next, rustix::fs::AtFlags::empty());
        }
        if written.is_ok()
            && let Err(errno) = rustix::fs::fsync(&self.folder)
        {
            // It stands in its place all the same: whoever reads it reads this.
            tracing::warn!(%errno, path = %self.path.display(), "a change of the quarantine file may not outlive the machine");
        }
        self.protect();
        written.map_err(self.failed("replacing it"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn digest(n: u32) -> LibraryDigest {
        format!("{n:064x}").parse().unwrap()
    }

    fn crash(second: u64) -> CrashRecord {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
        CrashRecord { time, plugin: "p".to_owned(), cause: "it was ended by SIGABRT".to_owned() }
    }

    fn record(store: &QuarantineStore, n: u32, second: u64) -> Option<QuarantineRecord> {
        store.record(digest(n), Path::new("/p.so"), crash(second), 3, Duration::from_secs(60))
    }

    #[test]
    fn a_folder_that_others_may_write_to_holds_no_store() {
        let set = |folder: &Path, mode| {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for mode in [0o777, 0o1777, 0o702] {
            let folder = tempfile::tempdir().unwrap();
            set(folder.path(), mode);
            let error = QuarantineStore::open(folder.path().join("q")).unwrap_err().to_string();
            assert!(error.contains("others may write to its folder"), "{mode:o}: {error}");
        }
        for mode in [0o700, 0o755, 0o775] {
            let folder = tempfile::tempdir().unwrap();
            let own = rustix::process::getegid();
            rustix::fs::chown(folder.path(), None, Some(own)).unwrap();
            set(folder.path(), mode);
            QuarantineStore::open(folder.path().join("q"))
                .unwrap_or_else(|error| panic!("{mode:o}: {error}"));
        }
    }

    #[test]
    fn the_file_is_closed_to_plugins_under_another_name_too_also_once_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, alias) = (folder.path().join("q"), folder.path().join("alias"));
        let store = QuarantineStore::open(&path).unwrap();
        for second in 1..3 {
            record(&store, 1, second);
            let _ = std::fs::remove_file(&alias);
            std::fs::hard_link(&path, &alias).unwrap();
            let stat = rustix::fs::stat(&alias).unwrap();
            assert!(protected::closes(&alias, Some(&stat), false), "{second}");
        }
    }

    #[test]
    fn a_crash_that_could_not_be_written_is_by_the_next_load_or_when_the_store_goes() {
        for by_a_load in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("q.json");
            let store = QuarantineStore::open(&path).unwrap();
            // No file can be made under this name.
            let in_the_way = folder.path().join("q.json.tmp");
            std::fs::create_dir(&in_the_way).unwrap();
            let known: Vec<bool> = (0..3).map(|at| record(&store, 1, at).is_some()).collect();
            assert_eq!(known, [false, false, true]);
            std::fs::remove_dir(&in_the_way).unwrap();
            if by_a_load {
                assert!(store.find(&digest(2)).unwrap().is_none());
                assert!(QuarantineStore::open(&path).unwrap().find(&digest(1)).unwrap().is_some());
            }
            drop(store);
            assert!(QuarantineStore::open(&path).unwrap().find(&digest(1)).unwrap().is_some());
        }
    }

    #[test]
    fn only_so_many_crashes_within_the_window_of_one_library_quarantine_it() {
        let folder = tempfile::tempdir().unwrap();
        for store in
            [QuarantineStore::in_memory(), QuarantineStore::open(folder.path().join("q.json")).unwrap()]
        {
            assert_eq!(record(&store, 1, 0), None);
            assert_eq!(record(&store, 1, 1), None);
            assert_eq!(record(&store, 2, 1), None, "another library");
            assert_eq!(record(&store, 1, 61), None, "the first is too long ago");
            assert_eq!(record(&store, 1, 62), None);
            assert_eq!(store.find(&digest(1)).unwrap(), None);
            let since = record(&store, 1, 63).expect("three within a minute").since;
            assert_eq!(since, Some(crash(63).time));
            assert_eq!(store.find(&digest(1)).unwrap().map(|record| record.since), Some(since));
            assert_eq!(record(&store, 1, 1000).unwrap().since, since, "it stays so");
            assert_eq!(store.find(&digest(2)).unwrap(), None);
            assert!(store.clear(&digest(1)).unwrap());
            assert!(!store.clear(&digest(1)).unwrap());
            assert_eq!(record(&store, 1, 1001), None, "its crashes are forgotten too");
            assert_eq!(store.clear_path("/p.so").unwrap(), 2);
            assert_eq!(store.list().unwrap(), []);
        }
    }

    #[test]
    fn a_file_is_read_by_the_next_run_and_by_another_host_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.json");
        let (one, other) = (QuarantineStore::open(&path).unwrap(), QuarantineStore::open(&path).unwrap());
        std::thread::scope(|scope| {
            for store in [&one, &other] {
                scope.spawn(|| (0..20).for_each(|n| drop(record(store, 100 + n, 0))));
            }
        });
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let next = QuarantineStore::open(&path).unwrap().list().unwrap();
        assert_eq!((next.len(), one.list().unwrap()), (20, next.clone()));
        assert!(next.iter().all(|library| library.crashes.len() == 2), "none of both hosts' is lost");
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"version\": 1"));
    }

    #[test]
    fn a_file_that_is_not_ours_or_broken_is_an_error_until_all_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, text) in [
            ("empty", ""),
            ("half", "{\"version\":1,\"libraries\":["),
            ("later", "{\"version\":2,\"libraries\":[]}"),
            ("lists", "{\"version\":1,\"libraries\":[{\"digest\":\"12\"}]}"),
        ] {
            std::fs::write(at(name), text).unwrap();
            let error = QuarantineStore::open(at(name)).unwrap_err();
            assert!(matches!(error, QuarantineError::Unusable { .. }), "{name}: {error}");
            assert!(error.help().unwrap().contains("--all"));
            let store = QuarantineStore { inner: Arc::new(Inner::of(StoreFile::open(&at(name)).ok())) };
            store.find(&digest(1)).expect_err("fails closed");
            store.clear_all().unwrap();
            QuarantineStore::open(at(name)).unwrap();
        }
        std::fs::write(at("shared"), "{\"version\":1,\"libraries\":[]}").unwrap();
        std::fs::set_permissions(at("shared"), PermissionsExt::from_mode(0o666)).unwrap();
        QuarantineStore::open(at("shared")).expect_err("others may write to it");
        std::os::unix::fs::symlink("half", at("link")).unwrap();
        QuarantineStore::open(at("link")).expect_err("it is a link");
        QuarantineStore::open(folder.path()).expect_err("it is a folder");
        QuarantineStore::open(at("nowhere/q.json")).expect_err("its folder is not there");
    }

    #[test]
    fn the_book_is_bounded_and_what_is_quarantined_stays_the_longest() {
        let mut book = Book::default();
        let mut add = |n: u32, second, most| {
            book.add(digest(n), Path::new("/p.so"), &crash(second), most, Duration::from_secs(60))
        };
        add(0, 0, 1).expect("the first crash is enough");
        (1..3000).for_each(|n| drop(add(n, 1, 5)));
        (0..500).for_each(|second| drop(add(7, second, 5)));
        assert_eq!(book.libraries.len(), MOST_LIBRARIES);
        assert!(book.libraries.iter().any(|library| library.digest == digest(0)));
        assert!(book.libraries.iter().all(|library| library.crashes.len() <= 100));
    }
}
