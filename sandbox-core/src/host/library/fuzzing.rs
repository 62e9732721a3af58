//! What must hold of the ELF reader whatever a file is, and of a closure whatever its files are. See `crate::fuzzing`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};

use super::closure::{self, BASE_MODULES, Limits};
use super::elf::{self, Metadata};
use super::seal::{self, SealedLibrary};
use super::search::SystemFolders;

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

/// The names of the files of a closure, the plugin's first.
const NAMES: [&str; 4] = ["plugin.so", "liba.so", "libb.so", "libc.so.6"];

/// A folder that goes with whoever has made it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("closure-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a new folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Several libraries, each behind its length in two bytes, of which the first is the plugin's: what is found may be loaded, is
/// there once, and lacks nothing that it needs; and it is what is explained.
pub(crate) fn libraries(data: &[u8]) {
    let folder = Folder::new();
    let mut rest = data;
    for name in NAMES {
        let Some((len, behind)) = rest.split_first_chunk::<2>() else { break };
        let len = usize::from(u16::from_le_bytes(*len)).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        fs::write(folder.0.join(name), bytes).expect("it is ours");
        rest = behind;
    }
    let Ok(root) = SealedLibrary::open(&folder.0.join(NAMES[0])) else { return };
    let system = SystemFolders::new([folder.0.clone()]);
    let allowed = |name: &str| name.starts_with("lib") && !name.starts_with("libforbidden");
    let may_load = |name: &str| BASE_MODULES.contains(&name) || allowed(name);
    let limits = Limits { max_modules: 8, max_depth: 4 };

    let lines = closure::explain(&root, &allowed, &system, limits);
    assert!(lines.len() <= limits.max_modules, "{} lines", lines.len());
    let mut explained = HashSet::new();
    for line in &lines {
        assert!(explained.insert(line.soname.as_str()), "{} is explained twice", line.soname);
        assert_eq!(line.allowed, may_load(&line.soname), "{}", line.soname);
        assert_eq!(line.depth, line.needed_by.len(), "{}", line.soname);
        assert!(line.allowed || line.problem.is_some(), "{} would be loaded", line.soname);
    }

    let Ok(modules) = closure::closure(&root, &allowed, &system, limits) else { return };
    assert!(modules.len() <= limits.max_modules);
    let mut there: HashSet<&str> = HashSet::from(["linux-vdso.so.1"]);
    there.extend(closure::ALREADY_LOADED);
    there.extend(root.facts.soname.as_deref());
    for module in &modules {
        for name in std::iter::once(&module.soname).chain(&module.aliases) {
            assert!(there.insert(name), "{name} is there twice");
            assert!(may_load(name) && elf::is_plain_name(name), "{name:?}");
        }
        assert!(module.needed_by.len() <= limits.max_depth + 1, "{:?}", module.needed_by);
    }
    let whole = lines.len() < limits.max_modules;
    for module in &modules {
        let file = File::from(module.fd.try_clone().expect("a descriptor"));
        let facts = seal::facts_of(&file, &module.path, Metadata::Skip).expect("it was read before");
        for needed in facts.needed.iter() {
            assert!(there.contains(needed.as_str()), "{} lacks {needed}", module.soname);
        }
        let line = lines.iter().find(|line| line.soname == module.soname);
        assert!(line.is_some() || !whole, "{} is not explained", module.soname);
        assert!(
            line.is_none_or(|line| line.problem.is_none() || !whole),
            "{} is explained as a problem",
            module.soname
        );
    }
}
