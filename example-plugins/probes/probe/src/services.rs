//! Calls of the host's services, and what is printed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use plugin_abi::{Host, ServiceError};

use crate::{Attempt, number, split_line, split_space, text};

pub(crate) fn print(payload: &[u8]) -> Attempt {
    io::stdout().write_all(payload)?;
    io::stdout().flush()?;
    Ok(Vec::new())
}

/// Writes this many bytes to standard output.
pub(crate) fn flood(bytes: usize) -> Attempt {
    let line = [b'f'; 4096];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(line.len());
        io::stderr().write_all(&line[..now])?;
        left -= now;
    }
    Ok(Vec::new())
}

fn say(answer: Result<Vec<u8>, ServiceError>) -> Vec<u8> {
    match answer {
        Ok(reply) => [b"replied ", reply.as_slice()].concat(),
        Err(ServiceError::PermissionDenied { permission, service }) => {
            format!("denied {permission} {service}").into_bytes()
        }
        Err(ServiceError::UnknownService { service }) => format!("unknown {service}").into_bytes(),
        Err(ServiceError::Failed { message }) => format!("failed {message}").into_bytes(),
        Err(other) => other.to_string().into_bytes(),
    }
}

/// A service's name, a newline, a payload.
pub(crate) fn call(host: &Host, payload: &[u8]) -> Attempt {
    let (name, payload) = split_line(payload);
    Ok(say(host.call(text(name)?, payload)))
}

/// `OFFSET LEN`, a newline and a path.
pub(crate) fn read_file(host: &Host, payload: &[u8]) -> Attempt {
    let (part, path) = split_line(payload);
    let (offset, len) = split_space(part)?;
    Ok(say(host.read_file_at(OsStr::from_bytes(path), offset as u64, len)))
}

/// An offset, a newline, a path, a newline, and what to write.
pub(crate) fn write_file(host: &Host, payload: &[u8]) -> Attempt {
    let (offset, rest) = split_line(payload);
    let (path, bytes) = split_line(rest);
    let written = host.write_file_at(OsStr::from_bytes(path), number(offset)? as u64, bytes);
    Ok(say(written.map(|()| Vec::new())))
}

pub(crate) fn file_len(host: &Host, path: &[u8]) -> Attempt {
    Ok(say(host.file_len(OsStr::from_bytes(path)).map(|len| len.to_string().into_bytes())))
}

pub(crate) fn call_from_thread(host: &Host, payload: &[u8]) -> Attempt {
    let (host, payload) = (host.clone(), payload.to_vec());
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(move || call(&host, &payload))?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// `COUNT`, a newline, and a service's name: four threads call it that often each. Answers how often it replied.
pub(crate) fn flood_calls(host: &Host, payload: &[u8]) -> Attempt {
    let (count, name) = split_line(payload);
    let (count, name) = (number(count)?, text(name)?);
    let replied: usize = std::thread::scope(|scope| {
        let flood = |_| {
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, || (0..count).filter(|_| host.call(name, b"flood").is_ok()).count())
        };
        let running: Vec<_> = (0..4).map(flood).filter_map(Result::ok).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    Ok(replied.to_string().into_bytes())
}
