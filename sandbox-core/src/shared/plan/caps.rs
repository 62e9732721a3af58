//! The ids and securebits of a helper.

use rustix::thread::CapabilitiesSecureBits;
use serde::{Deserialize, Serialize};

/// The user and group that a helper of a root host becomes, as numbers inside the zygote's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A range of user and group ids, as the host sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Where a root host's helpers get their ids: above what service managers, containers and subordinate ids use; else, in
/// a container that has fewer ids, from ever more common places.
const CANDIDATES: [IdRange; 3] = [
    IdRange { first: 0x7e00_0000, count: 65_535 },
    IdRange { first: 100_000, count: 65_535 },
    IdRange { first: 61_184, count: 4_336 }, // a service manager's dynamic users, of whom a container has none
];

/// The first range that this host's own user namespace has, by its `/proc/self/uid_map`.
pub(crate) fn id_range(uid_map: &str) -> Option<IdRange> {
    let mapped = |range: &IdRange| {
        uid_map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
            let (inside, count) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
            inside <= u64::from(range.first)
                && u64::from(range.first) + u64::from(range.count) <= inside + count
        })
    };
    CANDIDATES.into_iter().find(mapped)
}

/// The ids of the helper with this number, if there are any. Helpers that live at the same time have different ones.
pub(crate) fn ids(number: u32, range: Option<IdRange>, user_namespace: bool) -> Option<Ids> {
    let range = range?;
    let id = number % range.count.max(1);
    // Inside the namespace 1 stands for the range's first: the zygote keeps 0.
    let id = if user_namespace { 1 + id } else { range.first + id };
    Some(Ids { uid: id, gid: id })
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
        let range = id_range("         0          0 4294967295\n");
        assert_eq!(range, Some(CANDIDATES[0]));
        for number in [0, 1, 65_534, 65_535, u32::MAX] {
            assert!((1..=65_535).contains(&ids(number, range, true).unwrap().uid));
            assert!(ids(number, range, false).unwrap().uid >= 0x7e00_0000);
            assert_eq!(ids(number, None, true), None, "an ordinary user's helper has no other id to take");
        }
    }

    #[test]
    fn a_container_gives_ids_that_it_has() {
        assert_eq!(id_range("0 100000 65536"), Some(CANDIDATES[2]));
        assert_eq!(id_range("0 1000 1\n1 100000 200000"), Some(CANDIDATES[1]));
        assert_eq!(id_range("0 1000 1"), None);
        assert_eq!(id_range("rubbish"), None);
    }
}
