//! What must hold of the ELF reader whatever a file is. See `crate::fuzzing`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::elf::{self, Metadata};
use super::seal;

/// A library: what is read of it is plain and bounded, and its sealed copy, which has only what a loader maps, says the same.
pub(crate) fn library(data: &[u8]) {
    let path = Path::new("/library.so");
    let facts = elf::read_facts(data, path, Metadata::Read);
    if let Ok(facts) = &facts {
        for name in facts.needed.iter().chain(&facts.soname) {
            assert!(elf::is_plain_name(name), "{name:?}");
            assert!(!name.contains('/'));
        }
        assert!(facts.metadata.as_ref().is_none_or(|metadata| metadata.len() <= data.len()));
        assert!(elf::is_for_this_machine(data), "another machine's was read");
        agrees_with_object(data, &facts.needed);
    }
    if let Some(ranges) = elf::wanted_ranges(data) {
        for (from, end) in &ranges {
            assert!(from < end && *end <= data.len() as u64);
        }
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "sorted, and none twice: {ranges:?}");
    }
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file"));
    file.write_all(data).expect("memory");
    let Ok((sealed, size)) = seal::seal(&file, path) else { return };
    assert_eq!(size, data.len() as u64);
    let of_copy = seal::facts_of(&sealed, path, Metadata::Read);
    assert_eq!(of_copy.ok(), facts.ok(), "the sealed copy says something else than the file");
}

/// The same names as `object` finds, where that finds any: a loader must not need what was not checked.
fn agrees_with_object(data: &[u8], needed: &[String]) {
    use object::LittleEndian;
    use object::elf::FileHeader64;
    use object::read::elf::{Dyn, FileHeader, ProgramHeader};
    let Ok(header) = FileHeader64::<LittleEndian>::parse(data) else { return };
    let Ok(endian) = header.endian() else { return };
    let Ok(segments) = header.program_headers(endian, data) else { return };
    let found = segments.iter().find_map(|segment| segment.dynamic(endian, data).ok().flatten());
    // Ours ends at the first `DT_NULL`, as the loader does.
    let count = found.map_or(0, |entries| {
        let until_null = entries.iter().take_while(|entry| entry.tag(endian) != object::elf::DT_NULL);
        until_null.filter(|entry| entry.tag(endian) == object::elf::DT_NEEDED).count()
    });
    assert!(count <= needed.len(), "object finds {count} needed libraries, and we {needed:?}");
}
