//! What must hold of what the broker reads in a helper's memory, whatever is there. See `crate::fuzzing`.

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};

use super::memory;
pub(crate) use super::network::fuzzing::{dns_message, socket_address};

/// A path at an address, both chosen by the plugin: the first two bytes are the address, the rest is what is in memory.
pub(crate) fn path_in_memory(data: &[u8]) {
    let Some((at, bytes)) = data.split_first_chunk::<2>() else { return };
    let at = u64::from(u16::from_le_bytes(*at)) % 5000;
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file"));
    file.write_all(bytes).expect("memory");
    let there = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    match memory::read_path(&file, at) {
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
    if let Ok(number) = memory::read_u64(&file, at) {
        assert_eq!(there.first_chunk::<8>(), Some(&number.to_ne_bytes()));
    }
}

#[cfg(test)]
pub(crate) fn request_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = super::network::fuzzing::seeds();
    seeds.push(("path", b"\0\0/etc/passwd\0behind".to_vec()));
    seeds.push(("path-across-pages", [&[0xf0, 0x0f][..], &[b'x'; 4110], b"\0"].concat()));
    seeds
}
