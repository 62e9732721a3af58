//! What the file behind a piece of a plugin's memory says of it: which addresses it has, how to unwind there, what is there.
//!
//! Runs in the host on hostile bytes. Owns the bounds: every table is measured before it is read, and a name is cut. The file is
//! a sealed copy or one that only root may change; for names, which a loader maps no part of, the file that was copied is read
//! once more, if it still has the very bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf;
use object::read::elf::FileHeader as _;
use object::{NativeEndian, ReadRef};

use super::unwind::Tables;
use crate::host::events::escape;

type FileHeader = elf::FileHeader64<NativeEndian>;
type ProgramHeader = elf::ProgramHeader64<NativeEndian>;
type SectionHeader = elf::SectionHeader64<NativeEndian>;
type Symbol = elf::Sym64<NativeEndian>;

const NE: NativeEndian = NativeEndian;
const MOST_SEGMENTS: usize = 128;
const MOST_SECTIONS: usize = 0xff00;
const MOST_SYMBOL_BYTES: u64 = 64 << 20;
const MOST_COMPARED_BYTES: u64 = 256 << 20;
const MOST_NAME_BYTES: usize = 1 << 10;

/// A file, and which of its bytes are where in memory, from where it is loaded on.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    header: Header,
    segments: Vec<Segment>,
    /// The table of unwinding rules: where it is in memory and in the file.
    index: Option<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    sections: u64,
    section_count: usize,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    address: u64,
    memory_bytes: u64,
    offset: u64,
    file_bytes: u64,
}

impl Segment {
    fn of(header: &ProgramHeader) -> Self {
        Self {
            address: header.p_vaddr.get(NE),
            memory_bytes: header.p_memsz.get(NE),
            offset: header.p_offset.get(NE),
            file_bytes: header.p_filesz.get(NE),
        }
    }

    fn has(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|into| into < self.memory_bytes)
    }
}

impl Image {
    /// What `file` says, if it is of this machine's kind.
    pub(super) fn of(file: File) -> Option<Self> {
        let start = read(&file, 0, size_of::<FileHeader>() as u64, 4096)?;
        let header = FileHeader::parse(start.as_slice()).ok()?;
        let count = usize::from(header.e_phnum.get(NE)).min(MOST_SEGMENTS);
        let bytes = (count * size_of::<ProgramHeader>()) as u64;
        let headers = read(&file, header.e_phoff.get(NE), bytes, bytes)?;
        let headers: &[ProgramHeader] = headers.as_slice().read_slice_at(0, count).ok()?;
        let of_kind = |kind| headers.iter().filter(move |header| header.p_type.get(NE) == kind);
        let segments = of_kind(elf::PT_LOAD).map(Segment::of).collect();
        let index = of_kind(elf::PT_GNU_EH_FRAME).map(Segment::of).next();
        let section_count = usize::from(header.e_shnum.get(NE)).min(MOST_SECTIONS);
        let header = Header { sections: header.e_shoff.get(NE), section_count };
        Some(Self { file, header, segments, index })
    }

    /// Whether something of it is at `address`.
    pub(super) fn has(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| segment.has(address))
    }

    /// How to unwind in it, if that takes no more than so many bytes.
    pub(super) fn tables(&self, most: u64) -> Option<Tables> {
        let index = self.index.as_ref()?;
        let bytes = read(&self.file, index.offset, index.file_bytes, most)?;
        let rules_at = Tables::rules_address(&bytes, index.address)?;
        let segment = self.segments.iter().find(|segment| segment.has(rules_at))?;
        // How long they are nothing says: to the end of what is mapped with them.
        let into = rules_at.checked_sub(segment.address)?;
        let left = segment.file_bytes.checked_sub(into)?;
        let most = most.checked_sub(index.file_bytes)?;
        let rules = read(&self.file, segment.offset.checked_add(into)?, left, most)?;
        Some(Tables { index: bytes, index_at: index.address, rules, rules_at })
    }

    /// Whether all that a loader maps of `other` is what it maps of this one.
    pub(super) fn has_the_bytes_of(&self, other: &Self) -> bool {
        let bytes = self.segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.file_bytes));
        bytes <= MOST_COMPARED_BYTES
            && self.segments.iter().all(|segment| same(&self.file, &other.file, segment).unwrap_or(false))
    }

    /// The function at each of `addresses`, which are sorted, and how far into it each is.
    pub(super) fn functions(&self, addresses: &[u64]) -> Vec<Option<(String, u64)>> {
        let mut found: Vec<Option<(u32, u64)>> = vec![None; addresses.len()];
        let Some(table) = self.symbols() else { return vec![None; addresses.len()] };
        let count = table.symbols.len() / size_of::<Symbol>();
        let symbols: &[Symbol] = table.symbols.as_slice().read_slice_at(0, count).unwrap_or_default();
        for symbol in symbols {
            let (start, bytes) = (symbol.st_value.get(NE), symbol.st_size.get(NE));
            let is_function = matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC);
            if !is_function || symbol.st_shndx.get(NE) == elf::SHN_UNDEF {
                continue;
            }
            let from = addresses.partition_point(|address| *address < start);
            let to = addresses.partition_point(|address| *address < start.saturating_add(bytes));
            for (place, address) in found.iter_mut().zip(addresses).take(to).skip(from) {
                place.get_or_insert((symbol.st_name.get(NE), address.saturating_sub(start)));
            }
        }
        found
            .into_iter()
            .map(|found| found.and_then(|(name, into)| Some((table.name(name)?, into))))
            .collect()
    }

    /// The fullest table of symbols that there is.
    fn symbols(&self) -> Option<SymbolTable<'_>> {
        let count = self.header.section_count;
        let bytes = (count * size_of::<SectionHeader>()) as u64;
        let sections = read(&self.file, self.header.sections, bytes, bytes)?;
        let sections: &[SectionHeader] = sections.as_slice().read_slice_at(0, count).ok()?;
        [elf::SHT_SYMTAB, elf::SHT_DYNSYM].into_iter().find_map(|kind| {
            let section = sections.iter().find(|section| section.sh_type.get(NE) == kind)?;
            let names = sections.get(usize::try_from(section.sh_link.get(NE)).ok()?)?;
            let bytes = section.sh_size.get(NE);
            let symbols = read(&self.file, section.sh_offset.get(NE), bytes, MOST_SYMBOL_BYTES)?;
            // A sealed copy has zeros where nothing is mapped.
            let is_there = symbols.iter().any(|byte| *byte != 0);
            let names = (names.sh_offset.get(NE), names.sh_size.get(NE));
            is_there.then_some(SymbolTable { file: &self.file, symbols, names })
        })
    }
}

struct SymbolTable<'f> {
    file: &'f File,
    symbols: Vec<u8>,
    /// Where the names are in the file, and how many bytes of them.
    names: (u64, u64),
}

impl SymbolTable<'_> {
    fn name(&self, at: u32) -> Option<String> {
        let (offset, bytes) = self.names;
        let left = bytes.checked_sub(u64::from(at))?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(MOST_NAME_BYTES);
        let mut name = vec![0; most];
        let got = self.file.read_at(&mut name, offset.checked_add(u64::from(at))?).ok()?;
        let name = name.get(..got)?.split(|byte| *byte == 0).next()?;
        (!name.is_empty()).then(|| demangled(name))
    }
}

/// A function's name for a person: demangled if it is Rust's, cut, and escaped.
fn demangled(name: &[u8]) -> String {
    use std::fmt::Write;
    /// Takes so much and then no more, whatever a name would unfold to.
    struct Bounded(String);
    impl Write for Bounded {
        fn write_str(&mut self, piece: &str) -> std::fmt::Result {
            self.0.push_str(piece);
            if self.0.len() > MOST_NAME_BYTES { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let text = String::from_utf8_lossy(name);
    let Ok(rust) = rustc_demangle::try_demangle(&text) else { return escape(name) };
    let mut whole = Bounded(String::new());
    // Without its hash. An error means that there was enough.
    let _ = write!(whole, "{rust:#}");
    escape(whole.0.as_bytes())
}

/// So many bytes of a file from `offset` on, if they are no more than `most`.
fn read(file: &File, offset: u64, bytes: u64, most: u64) -> Option<Vec<u8>> {
    let there = file.metadata().ok()?.len().checked_sub(offset)?;
    if bytes > most.min(there) {
        return None;
    }
    let mut into = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut into, offset).ok()?;
    Some(into)
}

fn same(one: &File, other: &File, segment: &Segment) -> Option<bool> {
    const PIECE: u64 = 256 << 10;
    let end = segment.offset.checked_add(segment.file_bytes)?;
    let mut at = segment.offset;
    while at < end {
        let bytes = PIECE.min(end - at);
        if read(one, at, bytes, PIECE)? != read(other, at, bytes, PIECE)? {
            return Some(false);
        }
        at = at.checked_add(bytes)?;
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn own() -> Image {
        Image::of(File::open("/proc/self/exe").unwrap()).expect("a test is a program")
    }

    #[test]
    fn a_program_knows_its_own_functions_and_their_rules() {
        let image = own();
        let here = demangled as fn(&[u8]) -> String as usize as u64;
        let load = image.segments.iter().map(|segment| segment.address).min().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        let base = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap() - load;
        let functions = image.functions(&[here - base]);
        let (name, into) = functions[0].clone().expect("it has symbols");
        assert!(name.ends_with("image::demangled") && into == 0, "{name}+{into}");
        assert!(image.has(here - base) && image.tables(u64::MAX).is_some() && image.tables(16).is_none());
    }

    #[test]
    fn names_are_demangled_cut_and_harmless() {
        assert_eq!(demangled(b"_ZN5probe6memory8segfault17h0123456789abcdefE"), "probe::memory::segfault");
        assert_eq!(demangled(b"abort\x1b[2J"), "abort\\u{1b}[2J");
        assert!(demangled(&[b'x'; 5000]).chars().count() <= 257);
    }

    #[test]
    fn a_file_that_lies_about_its_tables_is_no_image_or_has_none() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let header = program[..64].to_vec();
        // Every field of the header as large as can be, one after the other, and a file that is cut everywhere.
        for at in 16..64 {
            let mut bytes = header.clone();
            bytes.extend_from_slice(&program[64..program.len().min(1 << 16)]);
            bytes[at] = 0xff;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Some(image) = Image::of(file) {
                let _ = (image.tables(u64::MAX), image.functions(&[0, 1, u64::MAX]), image.has(u64::MAX));
            }
        }
        for len in [0, 1, 63, 64, 100, 4096] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&program[..len]).unwrap();
            if let Some(image) = Image::of(file) {
                assert!(image.tables(u64::MAX).is_none() && image.functions(&[0]) == [None]);
            }
        }
    }
}
