//! wait4(2): reaping with the resources that the process used. Runs in the zygote, which is the helpers' parent.

use std::time::Duration;

use nix::errno::Errno;

/// A child that has ended.
pub(crate) struct Ended {
    pub(crate) pid: i32,
    /// The wait status as the kernel has it.
    pub(crate) status: i32,
    /// The most memory it ever had resident, in KiB.
    pub(crate) max_rss_kib: u64,
    /// The CPU time of its threads, and of the children that it had waited for.
    pub(crate) cpu_time: Duration,
}

/// Reaps one child that has ended, if there is one. Only for a process all of whose children are ours.
pub(crate) fn reap_one() -> Option<Ended> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live, writable values of the types that wait4 fills.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    // SAFETY: a `rusage` is integers only, so zeroes are one, whether or not the kernel has filled it.
    let usage = unsafe { usage.assume_init() };
    match Errno::result(pid) {
        Ok(0) | Err(_) => None,
        Ok(pid) => {
            let max_rss_kib = u64::try_from(usage.ru_maxrss).unwrap_or(0);
            let cpu_time = time(usage.ru_utime).saturating_add(time(usage.ru_stime));
            Some(Ended { pid, status, max_rss_kib, cpu_time })
        }
    }
}

fn time(time: libc::timeval) -> Duration {
    let micros = Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0));
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)).saturating_add(micros)
}
