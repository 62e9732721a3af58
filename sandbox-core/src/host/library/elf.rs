//! Reads what matters before a load from an ELF file: what it is, what it needs, and the plugin's metadata.
//!
//! Runs in the application's process on hostile bytes. Everything is read through program headers, as the dynamic
//! loader will read it, so that what is checked here is what will be loaded; section headers serve the metadata only.
//! Owns the bounds: each table is measured before it is read. Never loads, never panics, never trusts an offset.

use std::fmt::Display;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};
use object::elf;
use object::{LittleEndian, ReadRef};

use super::error::LibraryError;

/// The section into which a plugin's export macro puts its metadata.
pub const METADATA_SECTION: &str = ".plugin_abi";

const MAX_METADATA_BYTES: u64 = 64 * 1024;
const MAX_SEGMENTS: usize = 128;
const MAX_DYNAMIC_BYTES: u64 = 64 * 1024;
const MAX_SECTION_NAMES_BYTES: u64 = 4 * 1024 * 1024;
/// Indices from here on have other meanings (`SHN_LORESERVE`), and larger counts another encoding.
const MAX_SECTIONS: u64 = 0xff00;
/// A bound on what a library spans in memory, far above any that exists; helpers have their own memory limit.
const MAX_IMAGE_BYTES: u64 = 16 << 30;
const MAX_NEEDED: usize = 256;
const MAX_NAME_BYTES: u64 = 255;
const MAX_SEARCH_PATH_BYTES: u64 = 4096;

const LE: LittleEndian = LittleEndian;
type FileHeader = elf::FileHeader64<LittleEndian>;
type ProgramHeader = elf::ProgramHeader64<LittleEndian>;
type SectionHeader = elf::SectionHeader64<LittleEndian>;
type Dyn = elf::Dyn64<LittleEndian>;

#[cfg(target_arch = "x86_64")]
const EXPECTED: (elf::Machine, &str) = (elf::EM_X86_64, "x86_64");
#[cfg(target_arch = "aarch64")]
const EXPECTED: (elf::Machine, &str) = (elf::EM_AARCH64, "aarch64");

/// What a library's file says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ElfFacts {
    /// The name under which others need it, if it has one. Plugins rarely do.
    pub soname: Option<String>,
    /// The sonames it needs, in its order. Plain names, never paths.
    pub needed: Vec<String>,
    /// `DT_RUNPATH`, split at colons, `$ORIGIN` not expanded.
    pub runpath: Vec<String>,
    /// `DT_RPATH`, likewise. The loader ignores it where there is a `DT_RUNPATH`.
    pub rpath: Vec<String>,
    /// The bytes of the section [`METADATA_SECTION`], if it was asked for and is there.
    pub metadata: Option<Vec<u8>>,
    /// What the library spans in memory once it is loaded.
    pub image_bytes: u64,
}

/// Whether the metadata section is wanted: only a plugin has one, and other files are spared the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metadata {
    Read,
    Skip,
}

/// Reads `data`; `path` is for messages only.
pub(super) fn read_facts<'d, R: ReadRef<'d>>(
    data: R,
    path: &Path,
    metadata: Metadata,
) -> Result<ElfFacts, LibraryError> {
    parse(data, metadata).map_err(|fault| fault.at(path))
}

/// Which bytes of a library a loader maps, or `read_facts` looks at: sorted, whole pages, none twice. The rest, symbols
/// for debuggers above all, is most of many files. `None` if that cannot be told; the whole file is wanted then.
pub(super) fn wanted_ranges<'d, R: ReadRef<'d>>(data: R) -> Option<Vec<(u64, u64)>> {
    let file_bytes = data.len().ok()?;
    let header: &FileHeader = data.read_at(0).ok()?;
    check_header(header).ok()?;
    let segments = program_headers(data, header, file_bytes).ok()?;
    let sections = section_headers(data, header, file_bytes).ok()?;
    let mut ranges = vec![
        (0, size_of::<FileHeader>() as u64),
        (header.e_phoff.get(LE), size_of_val(segments) as u64),
        (header.e_shoff.get(LE), size_of_val(sections) as u64),
    ];
    ranges.extend(segments.iter().map(|segment| (segment.p_offset.get(LE), segment.p_filesz.get(LE))));
    let names = usize::from(header.e_shstrndx.get(LE).0);
    for (index, section) in sections.iter().enumerate() {
        let bytes = section.sh_size.get(LE);
        let is_in_file = section.sh_type.get(LE) != elf::SHT_NOBITS;
        // A small one may be the metadata; its name is not worth the search.
        if is_in_file && (index == names || bytes <= MAX_METADATA_BYTES) {
            ranges.push((section.sh_offset.get(LE), bytes));
        }
    }
    let page = page_bytes();
    let mut pages: Vec<(u64, u64)> = Vec::new();
    for (from, bytes) in &mut ranges {
        let end = from.checked_add(*bytes)?.checked_next_multiple_of(page)?.min(file_bytes);
        let from = *from / page * page;
        if from < end {
            pages.push((from, end));
        }
    }
    pages.sort_unstable();
    pages.dedup_by(|next, last| {
        let meet = next.0 <= last.1;
        last.1 = if meet { last.1.max(next.1) } else { last.1 };
        meet
    });
    Some(pages)
}

/// Whether a file that starts with these bytes is a library of the host's class and machine: what the dynamic loader
/// asks of a candidate before it goes on to the next folder.
pub(super) fn is_for_this_machine(start: &[u8]) -> bool {
    matches!(identify(start), Ok(()))
}

/// How many bytes of a file [`is_for_this_machine`] wants.
pub(super) const IDENTIFYING_BYTES: usize = 20;

/// Whether `name` can be a soname that one may look up in a folder and show in a message.
pub(super) fn is_plain_name(name: &str) -> bool {
    let printable = |c: char| c == '\'' || c == '"' || c.escape_debug().len() == 1;
    !name.is_empty()
        && name.len() as u64 <= MAX_NAME_BYTES
        && name != "."
        && name != ".."
        // `$` would be expanded by the loader, and `\` is escaped by `escape_debug`, hence refused too.
        && !name.contains(['/', '$'])
        && name.chars().all(printable)
}

/// An error without its path.
enum Fault {
    NotALibrary(&'static str),
    WrongArchitecture(String),
    Truncated(String),
    Malformed(String),
    UnsafeLayout(&'static str),
}

impl Fault {
    fn at(self, path: &Path) -> LibraryError {
        let path = path.to_owned();
        match self {
            Self::NotALibrary(why) => LibraryError::NotALibrary { path, why },
            Self::WrongArchitecture(found) => {
                LibraryError::WrongArchitecture { path, found, expected: EXPECTED.1 }
            }
            Self::Truncated(what) => LibraryError::Truncated { path, what },
            Self::Malformed(what) => LibraryError::Malformed { path, what },
            Self::UnsafeLayout(what) => LibraryError::UnsafeLayout { path, what },
        }
    }
}

fn malformed(what: impl Into<String>) -> Fault {
    Fault::Malformed(what.into())
}

fn parse<'d, R: ReadRef<'d>>(data: R, metadata: Metadata) -> Result<ElfFacts, Fault> {
    let file_bytes = data.len().map_err(|()| Fault::Truncated("the file".into()))?;
    if file_bytes == 0 {
        return Err(Fault::NotALibrary("the file is empty"));
    }
    let start = data.read_bytes_at(0, file_bytes.min(IDENTIFYING_BYTES as u64));
    identify(start.map_err(|()| Fault::Truncated("the ELF header".into()))?)?;
    let header: &FileHeader = data.read_at(0).map_err(|()| Fault::Truncated("the ELF header".into()))?;
    check_header(header)?;

    let headers = program_headers(data, header, file_bytes)?;
    let segments = Segments::check(headers, file_bytes)?;
    // Sections are measured in every file: the tail of a cut one is often nothing else.
    let sections = section_headers(data, header, file_bytes)?;
    let dynamic = read_dynamic(data, headers, &segments)?;

    let has_interpreter = headers.iter().any(|h| h.p_type.get(LE) == elf::PT_INTERP);
    // Some libraries (libcap's, for one) can also be run and name an interpreter; but only a program has the entry for
    // debuggers, and none has a soname. Linkers before 2018 do not mark programs in DT_FLAGS_1.
    if dynamic.is_program || (has_interpreter && dynamic.has_debug_entry && dynamic.soname.is_none()) {
        return Err(Fault::NotALibrary("it is a program (a position-independent executable)"));
    }
    if dynamic.has_text_relocations {
        return Err(Fault::UnsafeLayout("its code has to be changed while it is loaded (text relocations)"));
    }
    Ok(ElfFacts {
        soname: dynamic.soname,
        needed: dynamic.needed,
        runpath: dynamic.runpath,
        rpath: dynamic.rpath,
        metadata: match metadata {
            Metadata::Read => read_metadata(data, header, sections)?,
            Metadata::Skip => None,
        },
        image_bytes: segments.image_bytes,
    })
}

/// Magic, class, byte order and machine. Decodes by hand, since the header of another class has another shape.
fn identify(start: &[u8]) -> Result<(), Fault> {
    match start.get(..4) {
        Some(magic) if magic == elf::ELFMAG => {}
        _ if !start.is_empty() && elf::ELFMAG.starts_with(start) => {
            return Err(Fault::Truncated("the ELF header".into()));
        }
        _ => return Err(Fault::NotALibrary("it is not an ELF file")),
    }
    let (Some(&class), Some(&order), Some(&[m0, m1])) = (start.get(4), start.get(5), start.get(18..20))
    else {
        return Err(Fault::Truncated("the ELF header".into()));
    };
    let (is_64, big_endian) = match (class, order) {
        (1, 1) => (false, false),
        (1, 2) => (false, true),
        (2, 1) => (true, false),
        (2, 2) => (true, true),
        _ => return Err(malformed(format!("ELF class {class} with byte order {order}"))),
    };
    let machine =
        elf::Machine(if big_endian { u16::from_be_bytes([m0, m1]) } else { u16::from_le_bytes([m0, m1]) });
    if is_64 && !big_endian && machine == EXPECTED.0 {
        return Ok(());
    }
    Err(Fault::WrongArchitecture(machine_name(machine, is_64, big_endian)))
}

fn machine_name(machine: elf::Machine, is_64: bool, big_endian: bool) -> String {
    let name = match machine {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 => "aarch64",
        elf::EM_386 => "x86 (i386)",
        elf::EM_ARM => "arm",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC => "powerpc",
        elf::EM_PPC64 => "powerpc64",
        elf::EM_S390 => "s390",
        elf::EM_MIPS => "mips",
        elf::EM_LOONGARCH => "loongarch",
        elf::EM_SPARCV9 => "sparc64",
        elf::Machine(other) => {
            return format!("machine {other} ({}-bit)", if is_64 { 64 } else { 32 });
        }
    };
    let width = if is_64 { "" } else { "32-bit " };
    let order = if big_endian { "big-endian " } else { "" };
    format!("{order}{width}{name}")
}

fn check_header(header: &FileHeader) -> Result<(), Fault> {
    if header.e_ident.version.0 != 1 || header.e_version.get(LE) != 1 {
        return Err(malformed("unknown ELF version"));
    }
    if !matches!(header.e_ident.os_abi, elf::ELFOSABI_SYSV | elf::ELFOSABI_GNU) {
        return Err(Fault::NotALibrary("it was built for another operating system"));
    }
    match header.e_type.get(LE) {
        elf::ET_DYN => Ok(()),
        elf::ET_EXEC => Err(Fault::NotALibrary("it is a program")),
        elf::ET_REL => Err(Fault::NotALibrary("it is an object file that was not linked")),
        elf::ET_CORE => Err(Fault::NotALibrary("it is a core dump")),
        elf::FileType(other) => Err(malformed(format!("unknown ELF file type {other}"))),
    }
}

fn program_headers<'d, R: ReadRef<'d>>(
    data: R,
    header: &FileHeader,
    file_bytes: u64,
) -> Result<&'d [ProgramHeader], Fault> {
    let count = usize::from(header.e_phnum.get(LE));
    if count == 0 {
        return Err(Fault::NotALibrary("it has no program headers"));
    }
    if count > MAX_SEGMENTS {
        return Err(malformed(format!("{count} program headers, more than {MAX_SEGMENTS}")));
    }
    if usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader>() {
        return Err(malformed("program headers of an unknown size"));
    }
    let offset = header.e_phoff.get(LE);
    in_file(offset, (count * size_of::<ProgramHeader>()) as u64, file_bytes, || {
        "the program headers".into()
    })?;
    data.read_slice_at(offset, count).map_err(|()| Fault::Truncated("the program headers".into()))
}

/// What lies from `offset` on is inside the file; else `what` tells what is not.
fn in_file(offset: u64, bytes: u64, file_bytes: u64, what: impl FnOnce() -> String) -> Result<(), Fault> {
    match offset.checked_add(bytes) {
        None => Err(malformed(format!("{} at an impossible offset", what()))),
        Some(end) if end > file_bytes => Err(Fault::Truncated(what())),
        Some(_) => Ok(()),
    }
}

/// A loaded segment, as far as its bytes come from the file.
struct Segment {
    address: u64,
    offset: u64,
    file_bytes: u64,
}

/// The loaded segments: checked not to share a page, so that an address means one place in the file.
struct Segments {
    loaded: Vec<Segment>,
    image_bytes: u64,
}

impl Segments {
    fn check(headers: &[ProgramHeader], file_bytes: u64) -> Result<Self, Fault> {
        let page = page_bytes();
        let mut loaded = Vec::new();
        let mut first_page = None;
        let mut next_free_page = 0;
        let mut stack = None;
        for (index, header) in headers.iter().enumerate() {
            let kind = header.p_type.get(LE);
            let flags = header.p_flags.get(LE).0;
            let (offset, in_file_bytes) = (header.p_offset.get(LE), header.p_filesz.get(LE));
            let (address, in_memory_bytes) = (header.p_vaddr.get(LE), header.p_memsz.get(LE));
            if in_file_bytes > 0 {
                in_file(offset, in_file_bytes, file_bytes, || format!("segment {index}"))?;
            }
            if kind == elf::PT_GNU_STACK {
                stack = Some(flags);
            }
            if kind == elf::PT_TLS && in_memory_bytes > MAX_IMAGE_BYTES {
                return Err(malformed(format!("segment {index} claims {in_memory_bytes} bytes of memory")));
            }
            if kind != elf::PT_LOAD {
                continue;
            }
            if in_file_bytes > in_memory_bytes {
                return Err(malformed(format!("segment {index} has more bytes in the file than in memory")));
            }
            if in_memory_bytes == 0 {
                continue;
            }
            if flags & elf::PF_W.0 != 0 && flags & elf::PF_X.0 != 0 {
                return Err(Fault::UnsafeLayout("has a segment that is writable and executable"));
            }
            let align = header.p_align.get(LE);
            if !align.is_power_of_two() || align % page != 0 || address % page != offset % page {
                return Err(malformed(format!("segment {index} is not aligned to pages")));
            }
            let end = address
                .checked_add(in_memory_bytes)
                .and_then(|end| end.checked_next_multiple_of(page))
                .ok_or_else(|| malformed(format!("segment {index} ends beyond the address space")))?;
            let start = address - address % page;
            // The loader maps whole pages, each segment over the ones before: a page that two share would have
            // other bytes in memory than the file has at the first one's offset, and NEEDED could hide there.
            if first_page.is_some() && start < next_free_page {
                return Err(malformed(format!(
                    "segment {index} overlaps the one before, or is out of order"
                )));
            }
            let first = *first_page.get_or_insert(start);
            if end - first > MAX_IMAGE_BYTES {
                return Err(malformed(format!(
                    "segment {index} makes it span {} bytes of memory",
                    end - first
                )));
            }
            next_free_page = end;
            loaded.push(Segment { address, offset, file_bytes: in_file_bytes });
        }
        let Some(first) = first_page else {
            return Err(Fault::NotALibrary("nothing in it is to be loaded"));
        };
        match stack {
            Some(flags) if flags & elf::PF_X.0 == 0 => {}
            Some(_) => return Err(Fault::UnsafeLayout("wants an executable stack")),
            None => {
                // Without the header the loader assumes the worst.
                return Err(Fault::UnsafeLayout(
                    "does not say that its stack is not executable (no PT_GNU_STACK)",
                ));
            }
        }
        Ok(Self { loaded, image_bytes: next_free_page - first })
    }

    /// Where in the file the bytes stand that will be at `address`, if all of them come from one segment of it.
    fn file_offset(&self, address: u64, bytes: u64) -> Option<u64> {
        self.loaded.iter().find_map(|segment| {
            let into = address.checked_sub(segment.address)?;
            (into.checked_add(bytes)? <= segment.file_bytes).then(|| segment.offset.checked_add(into))?
        })
    }
}

fn page_bytes() -> u64 {
    match sysconf(SysconfVar::PAGE_SIZE) {
        Ok(Some(bytes)) if bytes > 0 => bytes.unsigned_abs(),
        _ => 4096,
    }
}

#[derive(Default)]
struct Dynamic {
    soname: Option<String>,
    needed: Vec<String>,
    runpath: Vec<String>,
    rpath: Vec<String>,
    is_program: bool,
    has_debug_entry: bool,
    has_text_relocations: bool,
}

fn read_dynamic<'d, R: ReadRef<'d>>(
    data: R,
    headers: &[ProgramHeader],
    segments: &Segments,
) -> Result<Dynamic, Fault> {
    let mut tables = headers.iter().filter(|h| h.p_type.get(LE) == elf::PT_DYNAMIC);
    let Some(table) = tables.next() else {
        return Err(Fault::NotALibrary("it has no dynamic section (a static program?)"));
    };
    if tables.next().is_some() {
        return Err(malformed("more than one dynamic section"));
    }
    let bytes = table.p_filesz.get(LE);
    if bytes > MAX_DYNAMIC_BYTES {
        return Err(malformed(format!("a dynamic section of {bytes} bytes, more than {MAX_DYNAMIC_BYTES}")));
    }
    // The loader reads it in memory, other tools read it in the file: they must see the same bytes.
    let offset = table.p_offset.get(LE);
    if segments.file_offset(table.p_vaddr.get(LE), bytes) != Some(offset) {
        return Err(malformed("the dynamic section is not loaded from where it stands in the file"));
    }
    let entries: &[Dyn] = data
        .read_slice_at(offset, (bytes / size_of::<Dyn>() as u64) as usize)
        .map_err(|()| Fault::Truncated("the dynamic section".into()))?;

    let mut single = Single::default();
    let mut needed = Vec::new();
    let mut ended = false;
    for entry in entries {
        let value = entry.d_val.get(LE);
        match entry.d_tag.get(LE) {
            // The loader stops here and nowhere else.
            elf::DT_NULL => {
                ended = true;
                break;
            }
            elf::DT_NEEDED if needed.len() >= MAX_NEEDED => {
                return Err(malformed(format!("more than {MAX_NEEDED} NEEDED entries")));
            }
            elf::DT_NEEDED => needed.push(value),
            elf::DT_STRTAB => once(&mut single.strings, value, "DT_STRTAB")?,
            elf::DT_STRSZ => once(&mut single.strings_bytes, value, "DT_STRSZ")?,
            elf::DT_SONAME => once(&mut single.soname, value, "DT_SONAME")?,
            elf::DT_RUNPATH => once(&mut single.runpath, value, "DT_RUNPATH")?,
            elf::DT_RPATH => once(&mut single.rpath, value, "DT_RPATH")?,
            elf::DT_FLAGS => once(&mut single.flags, value, "DT_FLAGS")?,
            elf::DT_FLAGS_1 => once(&mut single.flags_1, value, "DT_FLAGS_1")?,
            elf::DT_DEBUG => single.debug = true,
            elf::DT_TEXTREL => single.text_relocations = true,
            // These load libraries that no NEEDED entry names.
            elf::DT_AUXILIARY | elf::DT_FILTER => {
                return Err(Fault::UnsafeLayout(
                    "is a filter for another library (DT_FILTER or DT_AUXILIARY)",
                ));
            }
            _ => {}
        }
    }
    if !ended {
        return Err(malformed("the dynamic section has no end"));
    }

    let strings = Strings::find(&single, segments)?;
    let mut names = Vec::with_capacity(needed.len());
    for at in needed {
        let name = strings.read(data, at, MAX_NAME_BYTES, "a NEEDED entry")?;
        if !is_plain_name(&name) {
            return Err(malformed(format!("a NEEDED entry is not a plain name: {:?}", shortened(&name))));
        }
        // A linker may name a library twice; the loader takes the first.
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let soname = match single.soname {
        None => None,
        Some(at) => {
            let name = strings.read(data, at, MAX_NAME_BYTES, "the soname")?;
            if !is_plain_name(&name) {
                return Err(malformed(format!("the soname is not a plain name: {:?}", shortened(&name))));
            }
            Some(name)
        }
    };
    let folders = |at: Option<u64>, what| match at {
        None => Ok(Vec::new()),
        Some(at) => {
            let list = strings.read(data, at, MAX_SEARCH_PATH_BYTES, what)?;
            Ok(list.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned).collect())
        }
    };
    Ok(Dynamic {
        soname,
        needed: names,
        runpath: folders(single.runpath, "the RUNPATH")?,
        rpath: folders(single.rpath, "the RPATH")?,
        is_program: single.flags_1.unwrap_or(0) & elf::DF_1_PIE.0 != 0,
        has_debug_entry: single.debug,
        has_text_relocations: single.text_relocations || single.flags.unwrap_or(0) & elf::DF_TEXTREL.0 != 0,
    })
}

/// The dynamic entries of which one is enough. The loader would take the last of two, other tools the first.
#[derive(Default)]
struct Single {
    strings: Option<u64>,
    strings_bytes: Option<u64>,
    soname: Option<u64>,
    runpath: Option<u64>,
    rpath: Option<u64>,
    flags: Option<u64>,
    flags_1: Option<u64>,
    text_relocations: bool,
    debug: bool,
}

fn once(slot: &mut Option<u64>, value: u64, what: &'static str) -> Result<(), Fault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(format!("more than one {what}"))),
    }
}

/// The dynamic string table's place in the file.
struct Strings {
    offset: u64,
    bytes: u64,
}

impl Strings {
    fn find(single: &Single, segments: &Segments) -> Result<Self, Fault> {
        let (Some(address), Some(bytes)) = (single.strings, single.strings_bytes) else {
            return Err(malformed("the dynamic section has no string table"));
        };
        match segments.file_offset(address, bytes) {
            Some(offset) => Ok(Self { offset, bytes }),
            None => Err(malformed("the dynamic string table is not in a loaded segment")),
        }
    }

    fn read<'d, R: ReadRef<'d>>(
        &self,
        data: R,
        at: u64,
        max_bytes: u64,
        what: &'static str,
    ) -> Result<String, Fault> {
        let left = self.bytes.checked_sub(at).ok_or_else(|| outside(what))?;
        let bytes = data
            .read_bytes_at(self.offset.saturating_add(at), left.min(max_bytes + 1))
            .map_err(|()| Fault::Truncated("the dynamic string table".into()))?;
        let Some(end) = bytes.iter().position(|&byte| byte == 0) else {
            return Err(if left > max_bytes {
                malformed(format!("{what} is longer than {max_bytes} bytes"))
            } else {
                outside(what)
            });
        };
        let text = bytes.get(..end).and_then(|text| str::from_utf8(text).ok());
        text.map(str::to_owned).ok_or_else(|| malformed(format!("{what} is not UTF-8")))
    }
}

fn outside(what: impl Display) -> Fault {
    malformed(format!("{what} lies outside the dynamic string table"))
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

fn section_headers<'d, R: ReadRef<'d>>(
    data: R,
    header: &FileHeader,
    file_bytes: u64,
) -> Result<&'d [SectionHeader], Fault> {
    let offset = header.e_shoff.get(LE);
    let count = u64::from(header.e_shnum.get(LE));
    if offset == 0 {
        return Ok(&[]);
    }
    if count == 0 || count > MAX_SECTIONS {
        return Err(malformed("an impossible number of sections"));
    }
    if usize::from(header.e_shentsize.get(LE)) != size_of::<SectionHeader>() {
        return Err(malformed("section headers of an unknown size"));
    }
    in_file(offset, count * size_of::<SectionHeader>() as u64, file_bytes, || "the section headers".into())?;
    let sections: &[SectionHeader] = data
        .read_slice_at(offset, count as usize)
        .map_err(|()| Fault::Truncated("the section headers".into()))?;
    for (index, section) in sections.iter().enumerate() {
        if !matches!(section.sh_type.get(LE), elf::SHT_NULL | elf::SHT_NOBITS) {
            let (offset, bytes) = (section.sh_offset.get(LE), section.sh_size.get(LE));
            in_file(offset, bytes, file_bytes, || format!("section {index}"))?;
        }
    }
    Ok(sections)
}

fn read_metadata<'d, R: ReadRef<'d>>(
    data: R,
    header: &FileHeader,
    sections: &[SectionHeader],
) -> Result<Option<Vec<u8>>, Fault> {
    let Some(names) = sections.get(usize::from(header.e_shstrndx.get(LE).0)) else {
        return Ok(None);
    };
    let names_bytes = names.sh_size.get(LE);
    if names_bytes > MAX_SECTION_NAMES_BYTES {
        return Err(malformed(format!("section names of more than {MAX_SECTION_NAMES_BYTES} bytes")));
    }
    let names = data
        .read_bytes_at(names.sh_offset.get(LE), names_bytes)
        .map_err(|()| Fault::Truncated("the section names".into()))?;
    let mut wanted = sections.iter().filter(|section| {
        let name = names.get(section.sh_name.get(LE) as usize..);
        let after = name.and_then(|name| name.strip_prefix(METADATA_SECTION.as_bytes()));
        after.is_some_and(|after| after.first() == Some(&0))
    });
    let Some(section) = wanted.next() else {
        return Ok(None);
    };
    if wanted.next().is_some() {
        return Err(malformed(format!("more than one section {METADATA_SECTION}")));
    }
    if section.sh_type.get(LE) == elf::SHT_NOBITS {
        return Err(malformed(format!("section {METADATA_SECTION} has no bytes in the file")));
    }
    let bytes = section.sh_size.get(LE);
    if bytes > MAX_METADATA_BYTES {
        return Err(malformed(format!(
            "section {METADATA_SECTION} has {bytes} bytes, more than {MAX_METADATA_BYTES}"
        )));
    }
    let bytes = data.read_bytes_at(section.sh_offset.get(LE), bytes);
    let bytes = bytes.map_err(|()| Fault::Truncated(format!("section {METADATA_SECTION}")))?;
    Ok(Some(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::search::{self, SystemFolders};
    use super::*;

    fn system_library(soname: &str) -> Vec<u8> {
        let found =
            search::find(soname, SystemFolders::of_this_system().folders()).expect("readable folders");
        std::fs::read(found.expect("part of every glibc system").path).expect("readable")
    }

    /// A small library of our own making, with a metadata section.
    fn small_library(extra: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("small.c");
        let output = folder.path().join("small.so");
        let metadata = "__attribute__((section(\".plugin_abi\"), used)) const char facts[] = \"some facts\";\n\
                        int answer(void) { return 42; }\nint main(void) { return 0; }\n";
        std::fs::write(&source, metadata).unwrap();
        let status = Command::new("cc")
            .args(["-nostartfiles", "-fPIC", "-o"])
            .arg(&output)
            .arg(&source)
            .args(if extra.contains(&"-pie") || extra.contains(&"-c") { &[][..] } else { &["-shared"] })
            .args(extra)
            .status()
            .expect("a C compiler, which linking Rust needs too");
        assert!(status.success());
        std::fs::read(&output).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<ElfFacts, LibraryError> {
        read_facts(bytes, Path::new("test.so"), Metadata::Read)
    }

    fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    }

    /// Offset in the file of the first program header of this kind.
    fn header_of(bytes: &[u8], kind: u32) -> usize {
        let count = u16::from_le_bytes(bytes[56..58].try_into().unwrap());
        let at = |index: u16| 64 + usize::from(index) * 56;
        (0..count).map(at).find(|&at| bytes[at..at + 4] == kind.to_le_bytes()).expect("has such a header")
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_library_tells_its_name_needs_search_path_and_metadata() {
        let bytes = small_library(&[
            "-Wl,-soname,libsmall.so.1",
            "-Wl,-rpath,$ORIGIN:/opt/lib",
            "-Wl,--no-as-needed",
            "-lm",
        ]);
        let facts = read(&bytes).unwrap();
        assert_eq!(facts.soname.as_deref(), Some("libsmall.so.1"));
        assert_eq!(facts.needed.first().map(String::as_str), Some("libm.so.6"));
        let folders = if facts.runpath.is_empty() { &facts.rpath } else { &facts.runpath };
        assert_eq!(folders, &["$ORIGIN", "/opt/lib"]);
        assert_eq!(facts.metadata.as_deref(), Some(&b"some facts\0"[..]));
        assert!(facts.image_bytes > 0);
        let skipped = read_facts(&bytes[..], Path::new("x"), Metadata::Skip).unwrap();
        assert_eq!(skipped.metadata, None);
    }

    #[test]
    fn every_library_of_the_c_library_is_readable() {
        for soname in ["libc.so.6", "libm.so.6", "libgcc_s.so.1"] {
            let facts = read(&system_library(soname)).unwrap();
            assert_eq!(facts.soname.as_deref(), Some(soname));
        }
    }

    #[test]
    fn what_is_no_elf_file_is_no_library() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"MZ\x90\0", b"!<arch>\nlibx.a", &[0; 4096]] {
            assert!(matches!(read(bytes), Err(LibraryError::NotALibrary { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn programs_and_object_files_are_no_libraries() {
        let library = small_library(&[]);
        let marked = small_library(&["-pie", "-e", "main"]);
        let flags_1 = dynamic_entry(&marked, 0x6fff_fffb);
        let unmarked = patched(&marked, flags_1 + 8, &[0; 8]);
        let cases = [
            (patched(&library, 16, &[2, 0]), "it is a program"),
            (patched(&library, 16, &[1, 0]), "it is an object file that was not linked"),
            (patched(&library, 16, &[4, 0]), "it is a core dump"),
            (patched(&library, 7, &[9]), "it was built for another operating system"),
            (marked, "it is a program (a position-independent executable)"),
            (unmarked, "it is a program (a position-independent executable)"),
            (small_library(&["-c"]), "it is an object file that was not linked"),
        ];
        for (bytes, expected) in cases {
            match read(&bytes) {
                Err(LibraryError::NotALibrary { why, .. }) => assert_eq!(why, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn another_architecture_is_named_beside_the_expected_one() {
        let library = small_library(&[]);
        let foreign = if cfg!(target_arch = "x86_64") { (183_u16, "aarch64") } else { (62, "x86_64") };
        let cases = [
            (patched(&library, 18, &foreign.0.to_le_bytes()), foreign.1),
            (patched(&library, 18, &[243, 0]), "riscv"),
            (patched(&library, 18, &[0x34, 0x12]), "machine 4660 (64-bit)"),
            (patched(&patched(&library, 4, &[1]), 18, &[3, 0]), "32-bit x86 (i386)"),
            (patched(&patched(&library, 5, &[2]), 18, &[0, 22]), "big-endian s390"),
        ];
        for (bytes, expected) in cases {
            match read(&bytes) {
                Err(LibraryError::WrongArchitecture { found, expected: own, .. }) => {
                    assert_eq!(found, expected);
                    assert_eq!(own, EXPECTED.1);
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_library_cut_anywhere_is_truncated() {
        let library = small_library(&[]);
        assert!(read(&library).is_ok());
        for length in (1..library.len()).step_by(64).chain(1..80).chain([library.len() - 1]) {
            let error = read(&library[..length]).expect_err("cut");
            assert!(matches!(error, LibraryError::Truncated { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn impossible_segments_are_malformed() {
        let library = small_library(&[]);
        let load = header_of(&library, 1);
        let second = (load + 56..).step_by(56).find(|&at| library[at..at + 4] == [1, 0, 0, 0]).unwrap();
        let huge = (1_u64 << 60).to_le_bytes();
        let cases = [
            ("spans 2^60 bytes", patched(&library, load + 40, &huge)),
            ("more in the file than in memory", patched(&library, load + 40, &1_u64.to_le_bytes())),
            ("ends beyond the address space", patched(&library, load + 40, &u64::MAX.to_le_bytes())),
            ("offset that wraps", patched(&library, load + 8, &u64::MAX.to_le_bytes())),
            ("overlaps the first", patched(&library, second + 16, &library[load + 16..load + 24])),
            ("alignment 3", patched(&library, load + 48, &3_u64.to_le_bytes())),
            ("alignment 0", patched(&library, load + 48, &[0; 8])),
            ("60000 program headers", patched(&library, 56, &60000_u16.to_le_bytes())),
            ("the escape for more program headers", patched(&library, 56, &[0xff, 0xff])),
            ("small program headers", patched(&library, 54, &[32, 0])),
            ("no sections at an offset", patched(&library, 60, &[0, 0])),
            (
                "no end of the dynamic section",
                patched(&library, header_of(&library, 2) + 32, &16_u64.to_le_bytes()),
            ),
            (
                "a dynamic section elsewhere in memory",
                patched(&library, header_of(&library, 2) + 16, &[0; 8]),
            ),
        ];
        for (what, bytes) in cases {
            let error = read(&bytes).expect_err(what);
            assert!(matches!(error, LibraryError::Malformed { .. }), "{what}: {error}");
        }
        let beyond = patched(&library, load + 8, &(1_u64 << 40).to_le_bytes());
        assert!(matches!(read(&beyond), Err(LibraryError::Truncated { .. })));
    }

    #[test]
    fn memory_that_is_writable_and_executable_is_refused() {
        let library = small_library(&[]);
        let cases = [
            patched(&library, header_of(&library, 1) + 4, &[7]),
            patched(&library, header_of(&library, 0x6474_e551) + 4, &[7]),
            patched(&library, header_of(&library, 0x6474_e551), &[0; 4]),
            small_library(&["-Wl,-z,execstack"]),
            with_dynamic(&library, 22, 0),
            with_dynamic(&library, 30, 4),
            with_dynamic(&library, 0x7fff_ffff, 0),
        ];
        for (index, bytes) in cases.into_iter().enumerate() {
            let error = read(&bytes).expect_err("unsafe");
            assert!(matches!(error, LibraryError::UnsafeLayout { .. }), "{index}: {error}");
        }
    }

    /// Offset in the file of the dynamic entry with this tag.
    fn dynamic_entry(library: &[u8], tag: u64) -> usize {
        let table = u64_at(library, header_of(library, 2) + 8) as usize;
        (table..).step_by(16).find(|&at| u64_at(library, at) == tag).unwrap()
    }

    /// Makes an entry that the reader has no use for into this one.
    fn with_dynamic(library: &[u8], tag: u64, value: u64) -> Vec<u8> {
        const DT_GNU_HASH: u64 = 0x6fff_fef5;
        let entry = dynamic_entry(library, DT_GNU_HASH);
        patched(&patched(library, entry, &tag.to_le_bytes()), entry + 8, &value.to_le_bytes())
    }

    #[test]
    fn names_that_are_no_plain_names_are_malformed() {
        for soname in ["lib/x.so", "..", "$ORIGIN", "a\x1b[31mb", "a\u{202e}b", "a\\b"] {
            assert!(!is_plain_name(soname), "{soname:?}");
            if soname != ".." {
                let error = read(&small_library(&[&format!("-Wl,-soname,{soname}")])).expect_err(soname);
                assert!(matches!(error, LibraryError::Malformed { .. }), "{error}");
                assert!(!error.to_string().contains('\x1b'));
            }
        }
        for soname in ["libstdc++.so.6", "libé.so", "lib it's.so", &"x".repeat(255)] {
            assert!(is_plain_name(soname), "{soname:?}");
        }
        assert!(!is_plain_name(&"x".repeat(256)));
        let long = format!("-Wl,-soname,{}", "x".repeat(300));
        let error = read(&small_library(&[&long])).unwrap_err();
        assert!(error.to_string().contains("the soname is longer than 255 bytes"), "{error}");
    }

    #[test]
    fn two_of_what_must_be_single_are_malformed() {
        let library = small_library(&["-Wl,-soname,libsmall.so.1"]);
        for tag in [5, 10, 14] {
            let error = read(&with_dynamic(&library, tag, 1)).unwrap_err();
            assert!(error.to_string().contains("more than one DT_"), "{error}");
        }
    }

    #[test]
    fn a_metadata_section_beyond_its_bound_is_malformed() {
        let library = small_library(&[]);
        let table = u64_at(&library, 40) as usize;
        let count = usize::from(u16::from_le_bytes(library[60..62].try_into().unwrap()));
        let section = (0..count)
            .map(|index| table + index * 64)
            .find(|&at| {
                let (offset, size) = (u64_at(&library, at + 24) as usize, u64_at(&library, at + 32) as usize);
                library.get(offset..offset + size) == Some(&b"some facts\0"[..])
            })
            .unwrap();
        // Enough bytes behind it, so that its size is the only fault.
        let mut longer = patched(&library, section + 32, &(MAX_METADATA_BYTES + 1).to_le_bytes());
        longer.resize(longer.len() + 2 * MAX_METADATA_BYTES as usize, 0);
        let error = read(&longer).unwrap_err();
        assert!(error.to_string().contains("65537 bytes, more than 65536"), "{error}");
        let at_bound = patched(&longer, section + 32, &MAX_METADATA_BYTES.to_le_bytes());
        assert_eq!(read(&at_bound).unwrap().metadata.map(|m| m.len() as u64), Some(MAX_METADATA_BYTES));
    }

    #[test]
    fn no_mutation_of_a_library_makes_the_reader_panic() {
        let library = small_library(&["-Wl,-soname,libsmall.so.1", "-Wl,-rpath,$ORIGIN"]);
        let table = u64_at(&library, 40) as usize;
        let dynamic = u64_at(&library, header_of(&library, 2) + 8) as usize;
        // The places that are looked at, so that mutations do not all land in code.
        let windows =
            [0..64, 64..64 + 56 * 12, dynamic..dynamic + 512, table..library.len(), 0..library.len()];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (mut accepted, mut refused) = (0, 0);
        for round in 0..20_000 {
            let mut bytes = library.clone();
            for _ in 0..=random() % 6 {
                let window = &windows[(random() % windows.len() as u64) as usize];
                let at = window.start + (random() % window.len() as u64) as usize;
                let value = match random() % 4 {
                    0 => u64::MAX,
                    1 => 0,
                    2 => 1 << (random() % 64),
                    _ => random(),
                };
                let width = [1, 2, 4, 8][(random() % 4) as usize].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            if round % 5 == 0 {
                bytes.truncate((random() % bytes.len() as u64) as usize);
            }
            match read(&bytes) {
                Ok(_) => accepted += 1,
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().len() < 1000);
                }
            }
        }
        assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused: too one-sided");
    }
}
