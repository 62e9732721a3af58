//! PR_SET_MDWE(2const): memory-deny-write-execute, Linux 6.3.

use nix::errno::Errno;

const UNUSED: libc::c_ulong = 0; // must be zero, or the kernel answers EINVAL

/// From now on no mapping gains execute permission, and none is writable and executable at once.
pub(crate) fn refuse_exec_gain() -> Result<(), Errno> {
    let flags = libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    // SAFETY: integers only, so nothing can dangle, each a full `c_ulong` as the variadic callee reads it.
    // Existing mappings keep their rights: no running code loses the page it runs on.
    let rc = unsafe { libc::prctl(libc::PR_SET_MDWE, flags, UNUSED, UNUSED, UNUSED) };
    Errno::result(rc).map(drop)
}

/// Whether [`refuse_exec_gain`] stands. EINVAL from a kernel that does not know it.
pub(crate) fn stands() -> Result<bool, Errno> {
    // SAFETY: integers only, and the call only reads the process's flags.
    let rc = unsafe { libc::prctl(libc::PR_GET_MDWE, UNUSED, UNUSED, UNUSED, UNUSED) };
    Errno::result(rc).map(|flags| flags & 1 == 1)
}
