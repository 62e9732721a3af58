//! Asks the kernel what stands, as far as only the process itself can ask; the host sees the rest from outside.
//!
//! Runs in the helper, step 9, before the filter, which refuses some of these questions.

use crate::helper::confine::landlock::Applied;
use crate::shared::sys::mdwe;
use crate::shared::wire::WIRE_VERSION;
use crate::shared::wire::report::HelperReport;

/// A report with everything but the filter's part and the failures.
pub(crate) fn report(landlock: &Applied) -> HelperReport {
    HelperReport {
        wire_version: WIRE_VERSION,
        failures: Vec::new(),
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        mdwe: mdwe::stands().ok(),
        securebits: rustix::thread::capabilities_secure_bits().map_or(0, |bits| bits.bits()),
        landlock_abi: landlock.abi,
        landlock_probe: landlock.probe,
        killable_wait: false,
        listener: -1,
    }
}
