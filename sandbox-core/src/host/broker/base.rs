//! What a C library expects of any system, for every plugin: harmless devices, time zones, the C locale, the number of CPUs,
//! and neutral answers about the machine.
//!
//! Runs in the host, on a worker. Never tells the host's name, its kernel's build or its memory, unless `system` is granted.

use std::ffi::CStr;

/// Devices that give and take nothing: null(4), random(4).
const DEVICES: [&[u8]; 4] = [b"/dev/null", b"/dev/zero", b"/dev/urandom", b"/dev/random"];

/// Trees of the system's that say nothing of this machine.
const TREES: [&[u8]; 3] = [b"/usr/share/zoneinfo/", b"/usr/lib/locale/C.utf8/", b"/usr/lib/locale/C.UTF-8/"];

/// Where a C library looks for the number of CPUs.
const CPUS: [&[u8]; 2] = [b"/sys/devices/system/cpu/online", b"/sys/devices/system/cpu/possible"];

/// What the base profile has at a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The device of this name.
    Device,
    /// An ordinary file of the host's that anybody may read; the object is still judged.
    File,
    /// These bytes.
    Text(String),
}

/// What is at `path`, which is absolute and has no `.` or `..` in it.
pub(crate) fn find(path: &[u8]) -> Option<Found> {
    if DEVICES.contains(&path) {
        return Some(Found::Device);
    }
    if CPUS.contains(&path) {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return Some(Found::Text(if cpus == 1 { "0\n".to_owned() } else { format!("0-{}\n", cpus - 1) }));
    }
    let known = path == b"/etc/localtime" || TREES.iter().any(|tree| path.starts_with(tree));
    known.then_some(Found::File)
}

/// Whether an object, once links were followed, still is in the base profile.
pub(crate) fn covers(resolved: &[u8]) -> bool {
    TREES.iter().any(|tree| resolved.starts_with(tree)) || resolved == b"/etc/localtime"
}

/// A `struct utsname`, neutral or the host's own: uname(2).
pub(crate) fn utsname(own: bool) -> Vec<u8> {
    const FIELD: usize = 65;
    let host = rustix::system::uname();
    let release = host.release().to_string_lossy();
    // Major and minor: libraries compare them. The rest would tell which holes are open.
    let numbers: Vec<&str> = release.split(['.', '-', '+']).take(2).collect();
    let neutral = format!("{}.0", numbers.join("."));
    let machine = host.machine().to_string_lossy().into_owned();
    let text = |c: &CStr| c.to_string_lossy().into_owned();
    let fields = if own {
        [
            text(host.sysname()),
            text(host.nodename()),
            text(host.release()),
            text(host.version()),
            machine,
            text(host.domainname()),
        ]
    } else {
        ["Linux".into(), "localhost".into(), neutral, "#1 SMP".into(), machine, "(none)".into()]
    };
    let mut bytes = Vec::with_capacity(FIELD * fields.len());
    for field in fields {
        let mut place = field.into_bytes();
        place.truncate(FIELD - 1);
        place.resize(FIELD, 0);
        bytes.extend(place);
    }
    bytes
}

/// A `struct sysinfo` with the plugin's own limit as the machine's memory: sysinfo(2).
pub(crate) fn sysinfo(memory_limit_mb: Option<u64>) -> Vec<u8> {
    let total = memory_limit_mb.unwrap_or(1024) << 20;
    // Uptime, 3 loads, total, free, shared, buffers, 2 of swap.
    sysinfo_bytes([0, 0, 0, 0, total, total / 2, 0, 0, 0, 0], 1, [0, 0], 1)
}

/// The host's own.
pub(crate) fn own_sysinfo() -> Vec<u8> {
    let own = rustix::system::sysinfo();
    let [one, five, fifteen] = own.loads;
    let longs = [
        u64::try_from(own.uptime).unwrap_or_default(),
        one,
        five,
        fifteen,
        own.totalram,
        own.freeram,
        own.sharedram,
        own.bufferram,
        own.totalswap,
        own.freeswap,
    ];
    sysinfo_bytes(longs, own.procs, [own.totalhigh, own.freehigh], own.mem_unit)
}

fn sysinfo_bytes(longs: [u64; 10], procs: u16, high: [u64; 2], unit: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(112);
    longs.iter().for_each(|long| bytes.extend(long.to_ne_bytes()));
    bytes.extend(procs.to_ne_bytes());
    bytes.extend([0; 6]); // padding
    high.iter().for_each(|long| bytes.extend(long.to_ne_bytes()));
    bytes.extend(unit.to_ne_bytes());
    bytes.resize(112, 0);
    bytes
}

/// How long a `struct stat` is: stat(2).
pub(crate) const STAT_BYTES: usize = if cfg!(target_arch = "x86_64") { 144 } else { 128 };

/// A `struct stat` that says what sort of thing it is of, and nothing else: one link, and zeros.
pub(crate) fn neutral_stat(mode: libc::mode_t) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    #[cfg(target_arch = "x86_64")]
    bytes.extend(1u64.to_ne_bytes());
    bytes.extend(mode.to_ne_bytes());
    #[cfg(target_arch = "aarch64")]
    bytes.extend(1u32.to_ne_bytes());
    bytes.resize(STAT_BYTES, 0);
    bytes
}

/// The same of a file that anybody may read, with its length.
pub(crate) fn neutral_file(len: usize) -> Vec<u8> {
    /// Of `st_size`, on either machine.
    const LENGTH_AT: usize = 48;
    let mut bytes = neutral_stat(libc::S_IFREG | 0o444);
    let place = bytes.iter_mut().skip(LENGTH_AT);
    place.zip((len as u64).to_ne_bytes()).for_each(|(place, byte)| *place = byte);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_profile_ends_where_a_name_merely_starts_alike() {
        assert_eq!(find(b"/dev/null"), Some(Found::Device));
        assert_eq!(find(b"/usr/share/zoneinfo/Europe/Berlin"), Some(Found::File));
        for none in [
            &b"/dev/mem"[..],
            b"/dev/nullx",
            b"/usr/share/zoneinfo2/x",
            b"/etc/passwd",
            b"/proc/cpuinfo",
            b"/",
        ] {
            assert_eq!(find(none), None);
        }
    }

    #[test]
    fn a_length_stands_where_stat_has_it() {
        let at = std::mem::offset_of!(libc::stat, st_size);
        assert_eq!(neutral_file(0x1234)[at..at + 8], 0x1234u64.to_ne_bytes());
        assert_eq!(neutral_file(0), neutral_stat(libc::S_IFREG | 0o444));
    }

    #[test]
    fn the_neutral_name_is_nobodys() {
        let neutral = utsname(false);
        assert_eq!(neutral.len(), 390);
        assert!(neutral.windows(9).any(|part| part == b"localhost"));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        if release.split('.').count() > 2 && !release.ends_with(".0") {
            assert!(!String::from_utf8_lossy(&neutral).contains(&release));
        }
    }
}
