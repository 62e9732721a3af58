//! Attempts at the channel itself, behind the back of the code that owns it. Never returns to that code.

use std::io;

use crate::threads::sleep_forever;
use crate::{Attempt, check};

const IN: i32 = 3;
const OUT: i32 = 4;

pub(crate) fn close() -> Attempt {
    for fd in [IN, OUT] {
        // SAFETY: an integer. The owner of the descriptor is cheated, which is the point, and never runs again.
        check(unsafe { libc::close(fd) })?;
    }
    sleep_forever()
}

fn put(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: reads as many bytes as the slice has.
        let written = check(
            i64::try_from(unsafe { libc::write(OUT, bytes.as_ptr().cast(), bytes.len()) }).unwrap_or(-1),
        )?;
        bytes = bytes.get(usize::try_from(written).unwrap_or(0)..).unwrap_or_default();
    }
    Ok(())
}

/// Writes bytes of the caller's choice where frames are expected.
pub(crate) fn write(bytes: &[u8]) -> Attempt {
    put(bytes)?;
    sleep_forever()
}

/// The same, and then ends: the host reads the bytes of a process that is gone.
pub(crate) fn write_and_exit(bytes: &[u8]) -> Attempt {
    put(bytes)?;
    // SAFETY: ends this process without running anything of it.
    unsafe { libc::_exit(0) }
}
