//! What a plugin's process holds of files: its descriptors, and what it has mapped.
//!
//! Runs in the host, while the process is stopped. Believes the kernel only: proc_pid_fd(5), proc_pid_maps(5).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

use super::ledger::{Access, FileId, Lost};
use crate::host::procfs::HostPid;
use crate::host::stop::{self, Process};

/// How the kernel marks what has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// One descriptor or mapping of a file that was looked for.
#[derive(Debug)]
pub(crate) struct Held {
    /// `None` of a mapping of which it cannot be told which of the files that were looked for it is.
    pub(crate) file: Option<FileId>,
    /// As the kernel calls it now.
    pub(crate) path: PathBuf,
    pub(crate) access: Access,
}

/// What `process` holds of the files in `lost`.
pub(crate) fn of(process: &Process, lost: &Lost) -> std::io::Result<Vec<Held>> {
    let mut held = Vec::new();
    for (number, path) in stop::descriptors(process.pid)? {
        if !path.is_absolute() {
            continue; // a pipe, a socket
        }
        let Some(file) = identify(&format!("/proc/{}/fd/{number}", process.pid.0)) else { continue };
        if lost.files.contains(&file) || lost.overflown {
            held.push(Held { file: Some(file), path, access: opened_for(process.pid, number) });
        }
    }
    let maps = fs::read(format!("/proc/{}/smaps", process.pid.0))?;
    held.extend(mappings(&maps).filter_map(|mapping| {
        let file = mapping.which(process.pid, lost)?;
        let access = Access { reads: true, writes: mapping.writes_through };
        Some(Held { file, path: mapping.path, access })
    }));
    Ok(held)
}

/// The file behind `path`; asked of no file system that would have to ask somebody else.
fn identify(path: &str) -> Option<FileId> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some(FileId { dev: makedev(stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino })
}

fn opened_for(pid: HostPid, number: i32) -> Access {
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", pid.0)).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(libc::O_RDWR);
    let mode = flags & libc::O_ACCMODE;
    Access { reads: mode != libc::O_WRONLY, writes: mode != libc::O_RDONLY }
}

/// A mapping of a file.
#[derive(Debug)]
struct Mapping {
    range: String,
    ino: u64,
    path: PathBuf,
    /// Whether what is written there, now or after mprotect(2), is written to the file.
    writes_through: bool,
}

impl Mapping {
    /// Which of the files in `lost` it is: `None` for none of them, `Some(None)` if that cannot be told.
    ///
    /// The device that the kernel shows here is not that of stat(2) on every file system, so that the inode alone is what
    /// raises the question.
    fn which(&self, pid: HostPid, lost: &Lost) -> Option<Option<FileId>> {
        let bytes = self.path.as_os_str().as_bytes();
        let named = bytes.strip_suffix(DELETED);
        let name = Path::new(OsStr::from_bytes(named.unwrap_or(bytes)));
        let alike = lost.paths.contains(name) || lost.files.iter().any(|file| file.ino == self.ino);
        if !alike && !lost.overflown {
            return None;
        }
        let of_mapping = || identify(&format!("/proc/{}/map_files/{}", pid.0, self.range));
        let of_name = || if named.is_none() { identify(self.path.to_str()?) } else { None };
        match of_mapping().or_else(of_name) {
            Some(file) => (lost.files.contains(&file) || lost.overflown).then_some(Some(file)),
            None => Some(None),
        }
    }
}

/// The mappings of files in a `/proc/PID/smaps`.
fn mappings(smaps: &[u8]) -> impl Iterator<Item = Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut of_file = false;
    for line in smaps.split(|byte| *byte == b'\n') {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            // "sh": shared, and made from a descriptor with the right to write.
            let shared = flags.split(|byte| *byte == b' ').any(|flag| flag == b"sh");
            if let Some(last) = found.last_mut().filter(|_| of_file) {
                last.writes_through = shared;
            }
        } else if line.first().is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let mapping = head(line);
            of_file = mapping.is_some();
            found.extend(mapping);
        }
    }
    found.into_iter()
}

/// A mapping's first line: range, rights, offset, device, inode, path. `None` if it is of no file.
fn head(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let range = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let ino = std::str::from_utf8(fields.nth(3)?).ok()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    let path = PathBuf::from(OsStr::from_bytes(&unescaped(path)));
    // The worst until its flags are read.
    path.is_absolute().then_some(Mapping { range, ino, path, writes_through: true })
}

/// The kernel escapes a line's end in a path, and nothing else.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mappings_of_files_are_read_with_what_they_can_do() {
        let smaps = b"\
55d0c7a00000-55d0c7a21000 r-xp 00002000 fd:00 1234                       /usr/bin/some thing
Size:                132 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000001000 rw-s 00000000 00:2a 77                         /data/a\\012b (deleted)
Size:                  4 kB
VmFlags: rd wr sh mr mw me ms sd
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
VmFlags: rd wr sh
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr sh
";
        let found: Vec<_> = mappings(smaps).map(|of| (of.ino, of.path, of.writes_through)).collect();
        let expected = [
            (1234, PathBuf::from("/usr/bin/some thing"), false),
            (77, PathBuf::from("/data/a\nb (deleted)"), true),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn of_this_very_process_an_open_and_a_mapped_file_are_found() {
        let own = std::env::current_exe().unwrap();
        let id = identify(own.to_str().unwrap()).unwrap();
        let smaps = fs::read("/proc/self/smaps").unwrap();
        let pid = HostPid(i32::try_from(std::process::id()).unwrap());
        let lost = Lost { files: [id].into(), paths: [own].into(), overflown: false };
        assert!(mappings(&smaps).any(|mapping| mapping.which(pid, &lost) == Some(Some(id))));
        let none = Lost { files: [FileId { dev: 0, ino: u64::MAX }].into(), ..Lost::default() };
        assert!(mappings(&smaps).all(|mapping| mapping.which(pid, &none).is_none()));
    }
}
