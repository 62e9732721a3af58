//! The file of an audit log: what is written to it, when it is put aside for a new one, and what becomes of lines that cannot
//! be written.
//!
//! Runs in the host, on the log's thread. Owns the bound on what the files take together. Never follows a link, never writes
//! to a file that others may write to, never writes half a line and leaves it, and never gives up: what is lost is counted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::record::{AuditEvent, AuditRecord};

/// A log file and those that it replaced: `name`, `name.1`, the newest of these, and so on.
#[derive(Debug)]
pub(super) struct LogFile {
    folder: OwnedFd,
    path: PathBuf,
    name: OsString,
    max_bytes: u64,
    keep: u32,
    /// `None` while it cannot be had.
    file: Option<File>,
    /// Whole lines that wait to be written, and how many.
    buffer: Vec<u8>,
    lines: u64,
    /// Lines that could not be written since the last that could, and why.
    lost: u64,
    why: String,
}

impl LogFile {
    /// Opens the file, or makes it, of mode 600.
    pub(super) fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let absolute = std::path::absolute(path)?;
        let name = absolute.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        let parent = absolute.parent().unwrap_or(Path::new("/")).canonicalize()?;
        // Held, so that whoever moves the folder's own path does not move the log.
        let folder =
            rustix::fs::open(&parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut log = Self {
            folder,
            path: parent.join(&name),
            name,
            max_bytes,
            keep,
            file: None,
            buffer: Vec::new(),
            lines: 0,
            lost: 0,
            why: String::new(),
        };
        log.file = Some(log.open_file()?);
        Ok(log)
    }

    /// The path of the file and of those that it replaced, whether they are there or not.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let old = (1..=self.keep).map(|number| self.path.with_file_name(self.numbered(number)));
        std::iter::once(self.path.clone()).chain(old).collect()
    }

    fn numbered(&self, number: u32) -> OsString {
        let mut name = self.name.clone();
        name.push(format!(".{number}"));
        name
    }

    fn open_file(&self) -> io::Result<File> {
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY
            | OFlags::NONBLOCK; // a FIFO of that name must not hold us up
        let file = rustix::fs::openat(&self.folder, &self.name, flags, Mode::RUSR | Mode::WUSR)?;
        let file = File::from(file);
        let about = file.metadata()?;
        let refuse = |why: &str| Err(io::Error::other(why));
        if !about.is_file() {
            return refuse("an audit log is an ordinary file, and this is none");
        }
        // Whoever put it there could read it, write to it, or have it be a file that is needed elsewhere.
        if about.uid() != rustix::process::geteuid().as_raw() {
            return refuse("it belongs to another user");
        }
        if about.mode() & 0o022 != 0 {
            return refuse("others may write to it: take that right from them (chmod go-w)");
        }
        if about.nlink() != 1 {
            return refuse("it has another name too (a hard link)");
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return refuse("another log is being written to it"),
            locked => locked?,
        }
        // A host that was killed, or a machine that went down, may have left half a line.
        let mut last = [b'\n'];
        if about.size() > 0 {
            file.read_exact_at(&mut last, about.size().saturating_sub(1))?;
        }
        if last != *b"\n" {
            (&file).write_all(b"\n")?;
        }
        Ok(file)
    }

    /// Adds a record. It is in the file after the next [`flush`](Self::flush).
    pub(super) fn add(&mut self, record: &AuditRecord) {
        match record.line() {
            Ok(line) => {
                self.buffer.extend(line.as_bytes());
                self.buffer.push(b'\n');
                self.lines = self.lines.saturating_add(1);
            }
            // Strings and numbers always are JSON.
            Err(error) => self.lose(1, &error.to_string()),
        }
        // In pieces that leave a new file room for one long line more.
        let enough = usize::try_from(self.max_bytes / 2).unwrap_or(usize::MAX).min(64 << 10);
        if self.buffer.len() >= enough {
            self.flush();
        }
    }

    /// Writes what waits. What cannot be written is lost, and counted.
    pub(super) fn flush(&mut self) {
        if self.buffer.is_empty() && self.lost == 0 {
            return;
        }
        let lost_before = self.lost;
        let mut text = std::mem::take(&mut self.buffer);
        let lines = std::mem::take(&mut self.lines);
        if self.lost > 0 {
            let (count, why) = (self.lost, self.why.clone());
            let mut first = AuditRecord::now(AuditEvent::Lost { count, why }).line().unwrap_or_default();
            first.push('\n');
            text.splice(0..0, first.into_bytes());
        }
        match self.write(&text) {
            Ok(()) if lost_before > 0 => {
                self.lost = 0;
                tracing::warn!(path = %self.path.display(), lost = lost_before, "the audit log is written again");
            }
            Ok(()) => {}
            Err(error) => self.lose(lines, &error.to_string()),
        }
        // What was taken out is given back, to be filled again.
        text.clear();
        self.buffer = text;
    }

    fn lose(&mut self, lines: u64, why: &str) {
        if self.lost == 0 && lines > 0 {
            tracing::warn!(path = %self.path.display(), why, "the audit log cannot be written: events are lost to it");
        }
        self.lost = self.lost.saturating_add(lines);
        why.clone_into(&mut self.why);
    }

    /// Writes whole lines, all or none, to this file or, where they have no room in it, to a new one.
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open_file()?,
        };
        let mut size = file.metadata()?.size();
        if size > 0 && size.saturating_add(text.len() as u64) > self.max_bytes {
            match self.rotate() {
                Ok(new) => (file, size) = (new, 0),
                Err(error) => {
                    self.file = Some(file);
                    return Err(error);
                }
            }
        }
        let written = file.write_all(text);
        if written.is_err() {
            // Half a line would run into the next. Where even this fails, that one line is broken for its readers.
            let _ = file.set_len(size);
        }
        self.file = Some(file);
        written
    }

    /// Puts the file aside, the oldest of those put aside before it away, and opens a new one.
    fn rotate(&self) -> io::Result<File> {
        for number in (1..self.keep).rev() {
            self.rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        if self.keep == 0 {
            rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())?;
        } else {
            self.rename(&self.name, &self.numbered(1))?;
        }
        self.open_file()
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat(&self.folder, from, &self.folder, to) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn record(cause: &str) -> AuditRecord {
        AuditRecord::now(AuditEvent::Ended {
            cause: cause.to_owned(),
            fault: None,
            refused: None,
            printed: None,
        })
    }

    /// The causes in a file, in their order; a line about lines that were lost as `lost N`.
    fn causes(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let records = text.lines().map(|line| line.parse::<AuditRecord>().unwrap().event);
        let cause = |event| match event {
            AuditEvent::Ended { cause, .. } => cause,
            AuditEvent::Lost { count, .. } => format!("lost {count}"),
            other => panic!("{other:?}"),
        };
        records.map(cause).collect()
    }

    #[test]
    fn the_files_take_no_more_than_they_may_and_the_newest_lines_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 1000, 2).unwrap();
        for number in 0..200 {
            log.add(&record(&number.to_string()));
            log.flush();
        }
        let mut files: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        let expected: Vec<_> = ["log", "log.1", "log.2"].map(|name| folder.path().join(name)).into();
        assert_eq!(files, expected);
        let paths = log.paths();
        assert_eq!(paths, expected);
        let mut kept = Vec::new();
        for path in paths.iter().rev() {
            let about = std::fs::metadata(path).unwrap();
            assert!(about.len() <= 1000, "{path:?}: {}", about.len());
            assert_eq!(about.permissions().mode() & 0o777, 0o600);
            kept.extend(causes(path));
        }
        let last: Vec<_> = (200 - kept.len()..200).map(|number| number.to_string()).collect();
        assert_eq!(kept, last, "without a gap, to the last");
        assert!(kept.len() > 20, "{}", kept.len());
    }

    #[test]
    fn with_no_old_file_kept_there_is_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&folder.path().join("log"), 500, 0).unwrap();
        for number in 0..100 {
            log.add(&record(&number.to_string()));
            log.flush();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(causes(&log.path).last().unwrap(), "99");
    }

    #[test]
    fn a_log_goes_on_behind_what_is_there_and_half_a_line_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        LogFile::open(&path, 1 << 20, 1).unwrap().add(&record("first"));
        let mut there = std::fs::read(&path).unwrap();
        there.extend(b"{\"v\":1,\"ti");
        std::fs::write(&path, &there).unwrap();
        let mut log = LogFile::open(&path, 1 << 20, 1).unwrap();
        log.add(&record("second"));
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.parse::<AuditRecord>().is_ok()).collect();
        assert_eq!(lines, [true, false, true]);
    }

    #[test]
    fn what_is_no_file_of_our_own_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let open =
            |name: &str| LogFile::open(&at(name), 1000, 1).map(drop).map_err(|error| error.to_string());
        std::fs::write(at("file"), "").unwrap();
        symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("open"), "").unwrap();
        std::fs::set_permissions(at("open"), PermissionsExt::from_mode(0o666)).unwrap();
        std::fs::write(at("named"), "").unwrap();
        std::fs::hard_link(at("named"), at("named-too")).unwrap();
        for (name, why) in [
            ("link", "symbolic links"),
            ("fifo", "ordinary file"),
            ("folder", "directory"),
            ("open", "chmod go-w"),
            ("named", "hard link"),
            ("none/log", "No such file"),
        ] {
            let error = open(name).expect_err(name);
            assert!(error.contains(why), "{name}: {error}");
        }
        let first = LogFile::open(&at("file"), 1000, 1).unwrap();
        assert!(open("file").unwrap_err().contains("another log"));
        drop(first);
        open("file").unwrap();
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 300, 1).unwrap();
        // Where the old file should go there is something that cannot be replaced: as good as a disk that is full.
        std::fs::create_dir_all(folder.path().join("log.1/full")).unwrap();
        for number in 0..10 {
            log.add(&record(&number.to_string()));
            log.flush();
        }
        let before = causes(&path);
        assert!(!before.is_empty() && before.len() < 10, "{before:?}");
        assert!(std::fs::metadata(&path).unwrap().len() <= 300);
        std::fs::remove_dir_all(folder.path().join("log.1")).unwrap();
        log.add(&record("10"));
        log.flush();
        assert_eq!(causes(&path), [format!("lost {}", 10 - before.len()), "10".to_owned()]);
        assert_eq!(causes(&folder.path().join("log.1")), before);
    }
}
