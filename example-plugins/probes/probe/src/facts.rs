//! What a plugin can find out about the place that it runs in.

use std::fmt::Write;
use std::mem::MaybeUninit;

use crate::{Attempt, check};

/// One `name=value` a line.
pub(crate) fn all() -> Attempt {
    let mut facts = String::new();
    // SAFETY: neither this nor the next two reads or writes memory, and none can fail.
    let uid = unsafe { libc::getuid() };
    // SAFETY: as above.
    let euid = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let gid = unsafe { libc::getgid() };
    let _ = writeln!(facts, "uid={uid}\neuid={euid}\ngid={gid}");
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: fills the one structure that it is given.
    check(unsafe { libc::uname(name.as_mut_ptr()) })?;
    // SAFETY: arrays of characters, for which zeroes are valid too.
    let name = unsafe { name.assume_init() };
    let line = |chars: &[libc::c_char]| -> String {
        chars.iter().take_while(|c| **c != 0).map(|c| char::from(c.cast_unsigned())).collect()
    };
    let _ = writeln!(facts, "sysname={}\nnodename={}", line(&name.sysname), line(&name.nodename));
    let _ = writeln!(facts, "release={}\nversion={}", line(&name.release), line(&name.version));
    let _ = writeln!(facts, "variables={}", std::env::vars_os().count());
    let _ = writeln!(facts, "cpus={}", std::thread::available_parallelism().map_or(0, usize::from));
    // SAFETY: integers only.
    let no_new_privs = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) };
    let _ = writeln!(facts, "no_new_privs={no_new_privs}");
    let _ = writeln!(facts, "capabilities={}", capabilities()?);
    let _ = writeln!(facts, "pid={}", std::process::id());
    Ok(facts.into_bytes())
}

/// One of them, by its name.
pub(crate) fn one(payload: &[u8]) -> Attempt {
    let (facts, name) = (all()?, crate::text(payload)?);
    let facts = String::from_utf8_lossy(&facts);
    let found = facts.lines().filter_map(|line| line.split_once('=')).find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_bytes().to_vec()).ok_or_else(|| std::io::Error::other("no such fact"))
}

/// What this process was started with.
pub(crate) fn arguments() -> Attempt {
    let all: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    Ok(all.join("\n").into_bytes())
}

/// Every variable of the environment.
pub(crate) fn environment() -> Attempt {
    let all = std::env::vars_os().map(|(name, value)| format!("{}={}", name.display(), value.display()));
    Ok(all.collect::<Vec<_>>().join("\n").into_bytes())
}

/// Whether any capability is left in any of the three sets of this thread.
fn capabilities() -> std::io::Result<&'static str> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [0_u32; 6];
    // SAFETY: capget(2) of this version reads the header and fills two structures of three 32-bit words each.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(if sets == [0; 6] { "none" } else { "some" })
}

/// The open descriptors below 64, each with what it is.
pub(crate) fn descriptors() -> Attempt {
    let mut found = String::new();
    for fd in 0..64 {
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: fills the one structure that it is given; whether the descriptor is open is for the kernel to say.
        if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
            continue;
        }
        // SAFETY: integers only, for which zeroes are valid too.
        let stat = unsafe { stat.assume_init() };
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFIFO => "pipe",
            libc::S_IFCHR => "device",
            libc::S_IFREG => "file",
            libc::S_IFDIR => "folder",
            libc::S_IFSOCK => "socket",
            _ => "other",
        };
        let _ = write!(found, "{fd}:{kind} ");
    }
    Ok(found.trim_end().as_bytes().to_vec())
}
