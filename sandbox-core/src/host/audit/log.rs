//! The audit log of a host: follows managers and sandboxes, and writes what they tell.
//!
//! Runs in the host, on a thread of its own, which alone waits for the disk. Owns that thread and the queues to it, which are
//! bounded. Never holds up a plugin, a worker or the reactor.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};

use super::file::LogFile;
use super::record::{AuditEvent, AuditRecord};
use crate::host::events::{EventHub, EventKind, Subscription};
use crate::host::protected;
use crate::shared::sys::signals;

/// How many events may wait for the disk, of each manager or sandbox.
const QUEUE: usize = 4096;

/// How many events of one are written before the others have their turn.
const TURN: usize = 256;

/// Writes what is decided about plugins to a file, one line of JSON for each event; [`AuditRecord`] is the format.
///
/// The file is made with mode 600 and only ever appended to. When it would grow over its bound it becomes `FILE.1`, what was
/// that becomes `FILE.2`, and so on, up to the number of old files that are kept. It is written by a thread of its own: where
/// the disk does not keep up, events are lost to the log, and the file says how many. A disk that is full is told of once
/// through `tracing`; the log goes on as soon as there is room, with a line that says how many are missing. What is written
/// is not synced to the disk.
///
/// When this is dropped, what was told by then is written, and the file is closed.
///
/// ```
/// use sandbox_core::{AuditLog, AuditReader, PERMISSION_FILE_READ, PluginPolicy, PluginSandboxManager};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("audit.jsonl");
/// let manager = PluginSandboxManager::new();
/// let log = AuditLog::open(&path)?;
/// manager.audit_to(&log);
/// manager.register_plugin("thumbs", PluginPolicy::new())?;
/// manager.grant_permission("thumbs", PERMISSION_FILE_READ.scoped_to_path("/srv/photos")?)?;
/// log.flush();
///
/// let file = std::io::BufReader::new(std::fs::File::open(&path)?);
/// let records: Vec<_> = AuditReader::new(file).collect::<Result<_, _>>()?;
/// assert!(records.iter().any(|record| record.plugin.as_deref() == Some("thumbs")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AuditLog {
    paths: Vec<PathBuf>,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// How much room an [`AuditLog`] may take.
///
/// ```no_run
/// use sandbox_core::AuditOptions;
/// let log = AuditOptions::new().max_file_bytes(1 << 20).keep_files(9).open("/var/log/plugins.jsonl")?;
/// # drop(log);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AuditOptions {
    max_file_bytes: u64,
    keep_files: u32,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { max_file_bytes: 16 << 20, keep_files: 4 }
    }
}

impl AuditOptions {
    /// Files of at most 16 MiB, and four old ones.
    pub fn new() -> Self {
        Self::default()
    }

    /// How large one file may become, in bytes; at least 64 KiB are taken.
    #[must_use]
    pub fn max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file_bytes = bytes;
        self
    }

    /// How many old files are kept; at most 99 are.
    #[must_use]
    pub fn keep_files(mut self, count: u32) -> Self {
        self.keep_files = count;
        self
    }

    /// Opens the log at `path`, or makes it, and goes on behind what it has. From then on no permission reaches its files for
    /// a plugin of this process.
    ///
    /// # Errors
    /// What the system says; and where `path` is a symbolic link, no ordinary file, another user's, writable for others, has
    /// a second name, or is the file of another log that is open.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<AuditLog> {
        const LEAST_BYTES: u64 = 64 << 10;
        const MOST_FILES: u32 = 99;
        let (bytes, files) = (self.max_file_bytes.max(LEAST_BYTES), self.keep_files.min(MOST_FILES));
        let mut file = LogFile::open(path.as_ref(), bytes, files)?;
        let paths = file.paths();
        // And those that are put aside beside it.
        protected::protect(path.as_ref());
        file.add(&AuditRecord::now(AuditEvent::Opened {
            process: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }));
        let (orders, from_log) = bounded(16);
        let writer = Writer { file, orders: from_log, sources: Vec::new() };
        let thread = std::thread::Builder::new().name("plugin-audit".to_owned()).spawn(|| writer.run())?;
        Ok(AuditLog { paths, orders: Some(orders), thread: Some(thread) })
    }
}

enum Order {
    Follow(Subscription),
    Flush(Sender<()>),
}

impl AuditLog {
    /// Opens the log at `path` with the default [`AuditOptions`].
    ///
    /// # Errors
    /// As [`AuditOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        AuditOptions::new().open(path)
    }

    /// Where the log is, and where the old files are or will be: what no plugin should reach.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Waits until everything that was told before is written, or counted as lost.
    pub fn flush(&self) {
        let (done, wait) = bounded(1);
        self.order(Order::Flush(done));
        // An error is a thread that has ended, which has written what it had.
        let _ = wait.recv();
    }

    /// Writes everything that is told at `hub` from now on.
    pub(crate) fn follow(&self, hub: &EventHub) {
        self.order(Order::Follow(hub.subscribe_for(QUEUE)));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the log's thread has.
struct Writer {
    file: LogFile,
    orders: Receiver<Order>,
    sources: Vec<Subscription>,
}

impl Writer {
    fn run(mut self) {
        signals::block_all();
        self.file.flush();
        loop {
            let ready = {
                let mut select = Select::new();
                select.recv(&self.orders);
                for source in &self.sources {
                    select.recv(&source.events);
                }
                select.ready()
            };
            match ready.checked_sub(1) {
                None => match self.orders.try_recv() {
                    Ok(Order::Follow(source)) => self.sources.push(source),
                    Ok(Order::Flush(done)) => {
                        self.take_all();
                        let _ = done.send(());
                    }
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => break,
                },
                Some(index) => {
                    self.take(index);
                    self.file.flush();
                }
            }
        }
        self.take_all();
    }

    /// Writes some of what one source has told. One that is gone is forgotten.
    fn take(&mut self, index: usize) {
        let Some(source) = self.sources.get(index) else { return };
        for _ in 0..TURN {
            match source.events.try_recv() {
                Ok(event) => self.file.add(&AuditRecord::from(&event)),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    tell_lost(&mut self.file, source);
                    self.sources.swap_remove(index);
                    return;
                }
            }
        }
    }

    /// Writes what all sources have told by now, but not what they tell meanwhile.
    fn take_all(&mut self) {
        for source in &self.sources {
            for event in source.events.try_iter().take(source.events.len()) {
                self.file.add(&AuditRecord::from(&event));
            }
            tell_lost(&mut self.file, source);
        }
        self.file.flush();
    }
}

/// Says what was lost behind the last event that was not.
fn tell_lost(file: &mut LogFile, source: &Subscription) {
    let count = source.lost.swap(0, Ordering::AcqRel);
    if count > 0 {
        file.add(&AuditRecord::now(AuditEvent::from(&EventKind::Dropped { count })));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::host::events::SandboxEvent;
    use crate::host::lifecycle::PluginState;
    use crate::shared::policy::PluginId;

    fn tell(hub: &EventHub) {
        let kind = EventKind::StateChanged { from: PluginState::Loaded, to: PluginState::Active };
        let plugin = PluginId::new("p").unwrap();
        hub.publish(&SandboxEvent { time: SystemTime::now(), plugin, kind });
    }

    fn events(path: &Path) -> Vec<AuditEvent> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.parse::<AuditRecord>().unwrap().event).collect()
    }

    #[test]
    fn what_was_told_before_is_written_when_the_log_is_flushed_or_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (first, second) = (EventHub::default(), EventHub::default());
        let log = AuditLog::open(&path).unwrap();
        log.follow(&first);
        log.follow(&second);
        (0..10).for_each(|_| tell(&first));
        tell(&second);
        log.flush();
        assert_eq!(events(&path).len(), 12);
        assert!(matches!(events(&path).first(), Some(AuditEvent::Opened { .. })));
        drop(second);
        (0..10).for_each(|_| tell(&first));
        drop(log);
        assert_eq!(events(&path).len(), 22);
        tell(&first);
        assert!(!first.is_heard(), "nobody is left to be told");
    }

    #[test]
    fn what_is_lost_is_told_even_if_nothing_comes_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let hub = EventHub::default();
        let source = hub.subscribe_for(4);
        (0..10).for_each(|_| tell(&hub));
        let mut writer = Writer {
            file: LogFile::open(&path, 1 << 20, 1).unwrap(),
            orders: bounded(1).1,
            sources: vec![source],
        };
        writer.take_all();
        let events = events(&path);
        assert_eq!(events.len(), 5);
        assert_eq!(events.last(), Some(&AuditEvent::Dropped { count: 6 }));
    }
}
