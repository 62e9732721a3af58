//! What must hold of what the broker reads in a helper's memory, whatever is there. See `crate::fuzzing`.

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};

use super::files::fuzzing::open_how;
use super::memory;
use super::network::fuzzing::message;
pub(crate) use super::network::fuzzing::{dns_message, socket_address};

/// What stands at an address, both chosen by the plugin: the first two bytes are the address, the rest is what is in memory.
pub(crate) fn in_memory(data: &[u8]) {
    let Some((at, bytes)) = data.split_first_chunk::<2>() else { return };
    let at = u64::from(u16::from_le_bytes(*at)) % 5000;
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file"));
    file.write_all(bytes).expect("memory");
    path(&file, bytes, at);
    open_how(&file, bytes, at);
    message(&file, bytes, at);
}

fn path(file: &File, bytes: &[u8], at: u64) {
    let there = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    match memory::read_path(file, at) {
        Ok(path) => {
            assert!(path.len() < 4096, "longer than PATH_MAX");
            assert!(
                there.starts_with(&path) && there.get(path.len()) == Some(&0),
                "what is there, up to its NUL"
            );
            assert!(!path.contains(&0));
        }
        Err(_) => assert!(there.len() >= 4096 || !there.contains(&0), "a path with its NUL was not read"),
    }
    if let Ok(number) = memory::read_u64(file, at) {
        assert_eq!(there.first_chunk::<8>(), Some(&number.to_ne_bytes()));
    }
}

#[cfg(test)]
pub(crate) fn request_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = super::network::fuzzing::seeds();
    seeds.push(("path", b"\0\0/etc/passwd\0behind".to_vec()));
    seeds.push(("path-across-pages", [&[0xf0, 0x0f][..], &[b'x'; 4110], b"\0"].concat()));
    let memory = |words: &[u64], behind: &[u8]| {
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        [0, 0].into_iter().chain(words).chain(behind.iter().copied()).collect::<Vec<u8>>()
    };
    seeds.push(("open-how", memory(&[0o2_000_000, 0o644, 0x06], b"")));
    seeds.push(("open-how-beneath", memory(&[0, 0, 0x08], b"")));
    seeds.push(("open-how-wide", memory(&[1 << 32, 0, 0], b"")));
    // Name, its length, the pieces' address and number, control data and its length, flags; then the pieces.
    seeds.push(("message", memory(&[0, 0, 56, 2, 0, 0, 0, 88, 3, 91, 2], b"onetw")));
    seeds.push(("message-control", memory(&[0, 0, 56, 1, 72, 16, 0, 72, 4], b"four")));
    seeds.push(("message-itself", memory(&[0, 0, 0, 3, 0, 0, 0], b"")));
    seeds.push(("message-endless", memory(&[0, 0, 56, 2, 0, 0, 0, 0, u64::MAX >> 1, 0, u64::MAX], b"")));
    seeds.push(("message-of-many", memory(&[0, 0, 56, 1025, 0, 0, 0], b"")));
    seeds
}
