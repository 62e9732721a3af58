//! The ids and securebits of a helper.

use rustix::thread::CapabilitiesSecureBits;
use serde::{Deserialize, Serialize};

/// The user and group that a helper of a root host becomes, as numbers inside the zygote's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The first user id outside that a root host's helpers get: above every system and login user.
pub(crate) const FIRST_OUTSIDE_ID: u32 = 100_000;

/// How many ids there are for them.
pub(crate) const ID_COUNT: u32 = 65_535;

/// The ids of the helper with this number. Helpers that live at the same time have different ones.
pub(crate) fn ids(number: u32, host_is_root: bool, user_namespace: bool) -> Option<Ids> {
    let id = number % ID_COUNT;
    // Inside the namespace 1 stands for FIRST_OUTSIDE_ID: the zygote keeps 0.
    let id = if user_namespace { 1 + id } else { FIRST_OUTSIDE_ID + id };
    host_is_root.then_some(Ids { uid: id, gid: id })
}

/// Root means nothing any more, ids can change without a say on capabilities, none can be raised again; and locked.
pub(crate) fn securebits() -> CapabilitiesSecureBits {
    CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_helper_is_root_inside_or_outside() {
        for number in [0, 1, ID_COUNT - 1, ID_COUNT, u32::MAX] {
            assert!((1..=65_535).contains(&ids(number, true, true).unwrap().uid));
            assert!(ids(number, true, false).unwrap().uid >= FIRST_OUTSIDE_ID);
            assert_eq!(ids(number, false, true), None, "an ordinary user's helper has no other id to take");
        }
    }
}
