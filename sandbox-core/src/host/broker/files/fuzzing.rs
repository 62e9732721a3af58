//! What must hold of how a file is asked for, whatever a plugin writes. See `crate::fuzzing`.

use std::fs::File;

use rustix::fs::ResolveFlags;

use super::named::How;

/// What openat2(2) is told at `at` of a memory that is `bytes`: what is there, and nothing that the broker does not do.
pub(crate) fn open_how(memory: &File, bytes: &[u8], at: u64) {
    let there = |index: usize| {
        let from = usize::try_from(at).ok()?.checked_add(8 * index)?;
        bytes.get(from..)?.first_chunk::<8>().map(|word| u64::from_ne_bytes(*word))
    };
    for size in [0, 23, 25, u64::MAX] {
        assert!(How::read(memory, at, size).is_err(), "a structure of {size} bytes");
    }
    let Ok(how) = How::read(memory, at, 24) else { return };
    let told = [u64::from(how.flags), u64::from(how.mode), how.resolve.bits()];
    assert_eq!([there(0), there(1), there(2)], told.map(Some), "what is there");
    let offered = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    assert!(offered.contains(how.resolve), "{:?}", how.resolve);
}
