//! Attempts at the channel itself, behind the back of the code that owns it. Returns to that code only where nothing but
//! replies that it never asked for are left for it to read.

use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

use crate::threads::{sleep_forever, spin};
use crate::{Attempt, check, number, split_line, split_space, text};

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

/// A number as postcard has it: seven bits a byte, the least ones first.
fn put_number(frame: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        frame.push(number as u8 | 0x80);
        number >>= 7;
    }
    frame.push(number as u8);
}

/// A call of a service, as the code that owns the channel would send it.
fn service_call(id: u64, during_operation: bool, service: &str, payload: &[u8]) -> Vec<u8> {
    /// The place of `Service` among what a helper can say.
    const SERVICE: u64 = 5;
    /// Far from the numbers of calls that are really made.
    const FIRST_ID: u64 = 1 << 40;
    let mut frame = vec![0; 4];
    put_number(&mut frame, SERVICE);
    put_number(&mut frame, FIRST_ID + id);
    frame.push(during_operation.into());
    for bytes in [service.as_bytes(), payload] {
        put_number(&mut frame, bytes.len() as u64);
        frame.extend_from_slice(bytes);
    }
    let len = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame
}

/// `COUNT BYTES`, a newline and a service's name: calls it that often, outside any operation, with so many bytes each, and
/// waits for no reply.
pub(crate) fn call_unread(payload: &[u8]) -> Attempt {
    let (head, service) = split_line(payload);
    let ((count, bytes), service) = (split_space(head)?, text(service)?);
    let bytes = vec![7; bytes];
    (0..count as u64).try_for_each(|id| put(&service_call(id, false, service, &bytes)))?;
    Ok(Vec::new())
}

/// The same, and reads nothing ever after, whatever becomes of the calls.
pub(crate) fn call_and_never_read(payload: &[u8]) -> Attempt {
    call_unread(payload)?;
    sleep_forever()
}

/// Milliseconds, a newline and a service's name: computes for so long, while another thread calls the service over and over
/// as if it were this one that does, and waits.
pub(crate) fn compute_as_if_in_service(payload: &[u8]) -> Attempt {
    let (ms, service) = split_line(payload);
    let (ms, service) = (number(ms)?, text(service)?.to_owned());
    std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        // SAFETY: the number is open, and its owner waits for orders elsewhere only after this process's end.
        let mut replies = ManuallyDrop::new(unsafe { File::from_raw_fd(IN) });
        (0..).try_for_each(|id| {
            put(&service_call(id, true, &service, &[]))?;
            let mut len = [0; 4];
            replies.read_exact(&mut len)?;
            let mut reply = vec![0; u32::from_le_bytes(len) as usize];
            replies.read_exact(&mut reply)
        })
    })?;
    Ok(spin(ms))
}
