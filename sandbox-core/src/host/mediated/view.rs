//! One plugin's served files: made when it opens the first, taken back piece by piece, aborted with the plugin.
//!
//! Runs in the host. Owns the connection to the kernel: whoever waits for it comes free when it is aborted.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::bounded;
use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use nix::errno::Errno;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};

use super::nodes::{ROOT, Refusal, Table, Use};
use super::server::{Owners, Server};
use crate::error::PluginSandboxError;
use crate::host::broker::Access;
use crate::host::lock::lock;
use crate::host::zygote::Zygote;
use crate::shared::errno::from_rustix;
use crate::shared::fuse_mount::{self, Users};
use crate::shared::policy::{Grade, PluginPermission};
use crate::shared::sys::replace::replace;
use crate::shared::wire::zygote::Task;

/// How long the kernel may take to let go of the pages of what is taken back: it waits for reads that are under way.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);

/// The most files that a plugin may have open this way where its limits say nothing: each is one of the host's own.
const MOST_OPEN: usize = 1024;

/// The served files of one plugin.
#[derive(Debug)]
pub(crate) struct View {
    root: OwnedFd,
    table: Arc<Table>,
    line: Arc<Line>,
    /// One open at a time: the kernel is told of a file only while it is being opened.
    opening: Mutex<()>,
}

/// The host's side of the connection, for what it tells the kernel unasked.
#[derive(Debug)]
struct Line {
    /// Keeps `device` open, too.
    notifier: Notifier,
    device: RawFd,
    null: OwnedFd,
    state: Mutex<LineState>,
}

#[derive(Debug, Default)]
struct LineState {
    /// How many threads are telling it something at this moment.
    telling: usize,
    aborted: bool,
}

impl Line {
    /// Tells the kernel something, unless the connection is aborted.
    fn tell(&self, tell: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        {
            let mut state = lock(&self.state);
            if state.aborted {
                return;
            }
            state.telling += 1;
        }
        // ENOENT: the kernel has forgotten it already.
        let _ = tell(&self.notifier);
        let mut state = lock(&self.state);
        state.telling -= 1;
        if state.aborted && state.telling == 0 {
            self.cut();
        }
    }

    /// Not while somebody tells the kernel something: the kernel may be waiting for a read to be answered, the connection
    /// stays for as long as it does, and the answer would go nowhere.
    fn abort(&self) {
        let mut state = lock(&self.state);
        if !state.aborted && state.telling == 0 {
            self.cut();
        }
        state.aborted = true;
    }

    /// The kernel aborts a connection that nobody has open. `notifier` keeps the number taken.
    fn cut(&self) {
        let _ = replace(self.device, self.null.as_fd());
    }
}

/// Whether something can be granted as `grade` here, as far as can be told before a plugin is loaded.
pub(crate) fn can_be_had(grade: Grade) -> Result<(), PluginSandboxError> {
    match grade {
        Grade::Mediated => open_device().map(drop).map_err(|why| PluginSandboxError::NoMediation { why }),
        _ => Ok(()),
    }
}

fn open_device() -> Result<OwnedFd, String> {
    fuse_mount::open_device().map_err(|errno| format!("{}: {errno}", fuse_mount::DEVICE))
}

/// Mounts where the host itself may; else has the zygote do it. The connection, its root, and who files belong to there.
fn mount(zygote: &Zygote) -> Result<(OwnedFd, OwnedFd, Owners), String> {
    let device = open_device()?;
    match fuse_mount::mount(device.as_fd(), Users::All) {
        Ok(root) => return Ok((device, root, Owners::Real)),
        Err(Errno::EPERM) => {}
        Err(errno) => return Err(format!("mounting: {errno}")),
    }
    let failed = |what| move |errno| format!("{what} in the zygote: {errno}");
    let made = zygote.perform(Task::OpenFuse, &[]).map_err(failed("opening /dev/fuse"))?;
    let device = made.ok_or("the zygote made no connection")?;
    let made = zygote.perform(Task::MountFuse, &[device.as_fd()]).map_err(failed("mounting"))?;
    let root = made.ok_or("the zygote mounted nothing")?;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok((device, root, Owners::Mapped { user, group }))
}

impl View {
    /// One with no file in it yet; else why there is none to be had.
    pub(crate) fn new(zygote: &Zygote) -> Result<Self, String> {
        let (device, root, owners) = mount(zygote)?;
        Self::serve(device, root, owners)
    }

    fn serve(device: OwnedFd, root: OwnedFd, owners: Owners) -> Result<Self, String> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(|errno| format!("/dev/null: {errno}"))?;
        let table = Arc::new(Table::default());
        let server = Server { table: Arc::clone(&table), owners };
        // Who may use it the kernel judges; for whom it is, the broker.
        let session = Session::from_fd(server, device, SessionACL::All, Config::default());
        let session = session.map_err(|error| format!("greeting the kernel: {error}"))?;
        let (notifier, device) = (session.notifier(), session.as_fd().as_raw_fd());
        let line = Arc::new(Line { notifier, device, null, state: Mutex::default() });
        let view = Self { root, table, line, opening: Mutex::new(()) };
        // It ends when the kernel does: when nobody uses the file system any more, or when it is aborted.
        session.spawn().map(drop).map_err(|error| format!("starting its thread: {error}"))?;
        Ok(view)
    }

    /// A descriptor through which the host serves `file`, which was judged as `path`. `most`: the plugin's own limit.
    pub(crate) fn open(
        &self,
        file: OwnedFd,
        id: (u64, u64),
        path: &Path,
        (flags, access): (OFlags, Access),
        most: Option<u64>,
    ) -> Result<OwnedFd, Errno> {
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(MOST_OPEN).min(MOST_OPEN);
        let _one_at_a_time = lock(&self.opening);
        let number = self.table.expect((id, path.to_owned()), File::from(file), access, most)?;
        let kept = OFlags::ACCMODE | OFlags::APPEND | OFlags::SYNC | OFlags::DSYNC;
        let name = number.to_string();
        let opened = openat(&self.root, &name, (flags & kept) | OFlags::CLOEXEC, Mode::empty());
        // Without its name the kernel forgets it as soon as it is closed.
        self.line.tell(|kernel| kernel.inval_entry(INodeNo(ROOT), name.as_ref()));
        self.table.expect_no_more(number);
        opened.map_err(from_rustix)
    }

    /// Which of the served files `held` is open of, if it is one of them. Asks nobody but the kernel.
    pub(crate) fn number_of(&self, held: &OwnedFd) -> Option<u64> {
        let device = |file: BorrowedFd<'_>| {
            let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
            let stat = statx(file, "", how, StatxFlags::empty()).ok()?;
            Some((stat.stx_dev_major, stat.stx_dev_minor))
        };
        if device(held.as_fd())? != device(self.root.as_fd())? {
            return None;
        }
        // Its name is its number; the kernel marks it as removed, since it was told to forget the name.
        let path = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).ok()?;
        let name = path.file_name()?.to_str()?;
        name.strip_suffix(" (deleted)").unwrap_or(name).parse().ok()
    }

    /// The file behind a served one, while something of it is granted.
    pub(crate) fn behind(&self, number: u64) -> Result<OwnedFd, Errno> {
        let file = self.table.file(number, None, Use::Look)?;
        file.try_clone().map(OwnedFd::from).map_err(|_| Errno::EMFILE)
    }

    /// The file behind a served one was changed by another way: the kernel asks for its attributes anew.
    pub(crate) fn changed(&self, number: u64) {
        self.line.tell(|kernel| kernel.inval_inode(INodeNo(number), -1, 0));
    }

    /// From now on no read, write or page fault goes through that needed `permission` for a file for whose path `lost` says
    /// so; what was written into memory before arrives. False if the kernel does not let go in time.
    pub(crate) fn withdraw(&self, permission: &PluginPermission, lost: impl Fn(&Path) -> bool) -> bool {
        let numbers = self.table.withdraw(permission, lost);
        if numbers.is_empty() {
            return true;
        }
        let (line, table) = (Arc::clone(&self.line), Arc::clone(&self.table));
        let (done, is_done) = bounded(1);
        let work = move || {
            for number in &numbers {
                line.tell(|kernel| kernel.inval_inode(INodeNo(*number), 0, 0));
            }
            table.withdrawn(&numbers);
            let _ = done.send(());
        };
        // The kernel waits for pages that are being read: not on this thread, which must come back.
        let begun = std::thread::Builder::new().name("plugin-withdraw".to_owned()).spawn(work);
        begun.is_ok() && is_done.recv_timeout(WITHDRAW_TIMEOUT).is_ok()
    }

    /// Ends the connection: whoever waits for a file in it comes free, with an error.
    pub(crate) fn abort(&self) {
        self.line.abort();
    }

    /// The use that was refused last since a permission was revoked.
    pub(crate) fn refused(&self) -> Option<Refusal> {
        self.table.refused()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::shared::policy::{PERMISSION_FILE_READ, PERMISSION_FILE_WRITE};

    const READ: Access = Access { reads: true, writes: false };

    /// `None` where this user may not mount by itself.
    fn view() -> Option<View> {
        let device = fuse_mount::open_device().ok()?;
        let root = fuse_mount::mount(device.as_fd(), Users::All).ok()?;
        Some(View::serve(device, root, Owners::Real).unwrap())
    }

    fn open(view: &View, path: &Path, flags: OFlags) -> File {
        let file = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let id = (0, File::from(file.try_clone().unwrap()).metadata().unwrap().ino());
        let mode = flags & OFlags::ACCMODE;
        let access = Access { reads: mode != OFlags::WRONLY, writes: mode != OFlags::RDONLY };
        view.open(file, id, path, (flags, access), None).unwrap().into()
    }

    fn denied<T: std::fmt::Debug>(result: std::io::Result<T>) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_served_file_is_read_and_written_like_any_until_it_is_withdrawn() {
        let Some(view) = view() else { return };
        let real = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(real.path(), "contents").unwrap();
        let mut file = open(&view, real.path(), OFlags::RDWR);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "contents");
        file.write_all_at(b"CON", 0).unwrap();
        assert_eq!(std::fs::read(real.path()).unwrap(), b"CONtents");
        file.set_len(4).unwrap();
        file.sync_all().unwrap();
        assert_eq!(std::fs::read(real.path()).unwrap(), b"CONt");
        let (shown, is) = (file.metadata().unwrap(), real.path().metadata().unwrap());
        assert_eq!(
            (shown.len(), shown.ino(), shown.mode(), shown.uid(), shown.mtime_nsec(), shown.nlink()),
            (is.len(), is.ino(), is.mode(), is.uid(), is.mtime_nsec(), is.nlink())
        );
        let mut appended = open(&view, real.path(), OFlags::WRONLY | OFlags::APPEND);
        appended.write_all(b"+1").unwrap();
        appended.write_all(b"+2").unwrap();
        assert_eq!(std::fs::read(real.path()).unwrap(), b"CONt+1+2");

        assert!(view.withdraw(&PERMISSION_FILE_WRITE, |_| true));
        denied(file.write_all_at(b"x", 0));
        denied(appended.write_all(b"x"));
        denied(file.set_len(0));
        file.read_exact_at(&mut [0; 4], 0).unwrap();
        assert!(view.withdraw(&PERMISSION_FILE_READ, |_| true));
        denied(file.read_exact_at(&mut [0; 4], 0));
        denied(file.metadata());
        assert_eq!(view.refused().unwrap().path, real.path());
        assert_eq!(std::fs::read(real.path()).unwrap(), b"CONt+1+2");
    }

    #[test]
    fn every_open_of_a_file_sees_what_another_writes_and_only_its_own_is_forgotten() {
        let Some(view) = view() else { return };
        let real = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(real.path(), "one").unwrap();
        let (reader, writer) =
            (open(&view, real.path(), OFlags::RDONLY), open(&view, real.path(), OFlags::RDWR));
        let mut bytes = [0; 3];
        reader.read_exact_at(&mut bytes, 0).unwrap();
        writer.write_all_at(b"two", 0).unwrap();
        drop(writer);
        reader.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"two");
    }

    #[test]
    fn whoever_waits_for_a_served_file_comes_free_when_the_view_is_aborted() {
        let Some(view) = view() else { return };
        let real = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(real.path(), "contents").unwrap();
        let file = open(&view, real.path(), OFlags::RDONLY);
        view.abort();
        // The first may still be answered by a thread that was asleep in the kernel; its answer goes nowhere.
        let failed = (0..3).any(|_| file.read_exact_at(&mut [0; 8], 0).is_err());
        assert!(failed);
    }

    #[test]
    fn a_file_system_that_does_not_answer_holds_nobody_once_the_view_is_aborted() {
        let (Some(silent), Some(view)) = (view(), view()) else { return };
        let real = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(real.path(), "contents").unwrap();
        let behind = open(&silent, real.path(), OFlags::RDONLY);
        let file = view.open(behind.into(), (0, 1), real.path(), (OFlags::RDONLY, READ), None).unwrap();
        let file = File::from(file);
        std::thread::scope(|scope| {
            let held = silent.table.hold();
            let waiting = scope.spawn(|| file.read_exact_at(&mut [0; 8], 0));
            view.abort();
            assert!(waiting.join().unwrap().is_err());
            drop(held);
        });
    }
}
