//! What happens before a plugin is one, and code that comes later.
//!
//! Runs in a host. Libraries are made from those of the probes, byte by byte.

use std::path::Path;
use std::time::Duration;

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use sandbox_core::Layer;

use crate::Control::{Exits, Got, Intact, RunsOn, Signal, Works};
use crate::Expected::{self, Deadline, Errno, Failed, Gone, NotLoaded, Protocol};
use crate::libraries::{bytes_of, constructor_that, replaced};
use crate::row::{EVERYTHING, NOTHING};
use crate::{Control, HeldBy, Row};

type Header = elf::FileHeader64<object::Endianness>;
type Make = fn(&Path) -> Result<Vec<u8>, String>;

const CHECK: &[HeldBy] = &[HeldBy::Library];

/// A library that is refused before anything of it runs.
fn refused(name: &'static str, make: Make, why: &'static str, control: Control) -> Row {
    Row::new(name, "", "", NotLoaded(why), control).only_loaded().made(make).held_by(CHECK)
}

/// A constructor that does this.
fn constructs(name: &'static str, make: Make, expected: Expected, control: Control) -> Row {
    Row::new(name, "", "", expected, control).only_loaded().made(make).held_by(&[HeldBy::Host])
}

fn plugin(folder: &Path) -> Result<Vec<u8>, String> {
    bytes_of(folder, "probe-life")
}

/// The plugin's bytes with `value` over those at `at`.
fn with(folder: &Path, at: usize, value: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = plugin(folder)?;
    let place = bytes.get_mut(at..at + value.len()).ok_or("it is too short")?;
    place.copy_from_slice(value);
    Ok(bytes)
}

/// Where the program headers are, each with its type.
fn segments(bytes: &[u8]) -> Result<Vec<(usize, elf::ProgramType)>, String> {
    let header = Header::parse(bytes).map_err(|error| error.to_string())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let first = usize::try_from(header.e_phoff(endian)).map_err(|error| error.to_string())?;
    let all = header.program_headers(endian, bytes).map_err(|error| error.to_string())?;
    let size = size_of::<elf::ProgramHeader64<object::Endianness>>();
    Ok(all.iter().enumerate().map(|(at, segment)| (first + at * size, segment.p_type(endian))).collect())
}

/// The plugin's bytes with `value` over those at `offset` of the `which`th segment of this type.
fn in_segment(
    folder: &Path,
    kind: elf::ProgramType,
    which: usize,
    offset: usize,
    value: &[u8],
) -> Result<Vec<u8>, String> {
    let found = segments(&plugin(folder)?)?;
    let at = found.iter().filter(|(_, of)| *of == kind).nth(which).ok_or("there is no such segment")?.0;
    with(folder, at + offset, value)
}

/// The second segment where the first one is, as far as pages go.
fn one_segment_over_another(folder: &Path) -> Result<Vec<u8>, String> {
    const PAGE: u64 = 4096;
    let bytes = plugin(folder)?;
    let header = Header::parse(&*bytes).map_err(|error| error.to_string())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let all = header.program_headers(endian, &*bytes).map_err(|error| error.to_string())?;
    let second =
        all.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).nth(1).ok_or("one segment")?;
    let at = second.p_offset(endian) % PAGE;
    in_segment(folder, elf::PT_LOAD, 1, P_VADDR, &at.to_le_bytes())
}

/// The plugin's bytes with an entry of its dynamic section made another, `new`. Where that names a library, it is one that the
/// plugin needs anyway: without the check it loads.
fn retagged(folder: &Path, new: elf::DynamicTag) -> Result<Vec<u8>, String> {
    use object::read::elf::Dyn;
    let bytes = plugin(folder)?;
    let header = Header::parse(&*bytes).map_err(|error| error.to_string())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let all = header.program_headers(endian, &*bytes).map_err(|error| error.to_string())?;
    let dynamic =
        all.iter().find(|segment| segment.p_type(endian) == elf::PT_DYNAMIC).ok_or("no dynamic section")?;
    let entries = dynamic.dynamic(endian, &*bytes).ok().flatten().ok_or("no dynamic section")?;
    let find = |tag| entries.iter().position(|entry| entry.d_tag(endian) == tag).ok_or("no such entry");
    let index = find(DISPENSABLE)?;
    let needed = entries[find(elf::DT_NEEDED)?].d_val(endian);
    let at = usize::try_from(dynamic.p_offset(endian)).map_err(|error| error.to_string())?;
    let size = size_of::<elf::Dyn64<object::Endianness>>();
    with(folder, at + index * size, &[new.0.to_le_bytes(), needed.to_le_bytes()].concat())
}

// Offsets in an ELF header, and in a program header.
const E_CLASS: usize = 4;
const E_DATA: usize = 5;
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const P_FLAGS: usize = 4;
const P_OFFSET: usize = 8;
const P_VADDR: usize = 16;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;
const ALL_RIGHTS: [u8; 4] = [7, 0, 0, 0];
/// An entry that a loader does without: how many relocations are relative.
const DISPENSABLE: elf::DynamicTag = elf::DT_RELACOUNT;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = constructors();
    rows.extend(headers());
    rows.extend(needs());
    rows.extend(code());
    rows
}

fn constructors() -> Vec<Row> {
    vec![
        Row::new(
            "opens a file in a constructor",
            "constructor_errno",
            "",
            Expected::Got(libc::EACCES.to_string()),
            Got("0"),
        )
        .of("probe-constructor")
        .under(&[NOTHING])
        .held_by(&[HeldBy::Broker]),
        Row::new(
            "opens a file in a function's resolver, before any constructor",
            "resolver_errno",
            "",
            Expected::Got(libc::EACCES.to_string()),
            Got("0"),
        )
        .of("probe-constructor")
        .under(&[NOTHING])
        .held_by(&[HeldBy::Broker]),
        constructs(
            "faults in a constructor",
            |folder| constructor_that(folder, "segfault"),
            Expected::Signal(libc::SIGSEGV),
            Signal(libc::SIGSEGV),
        ),
        constructs(
            "aborts in a constructor",
            |folder| constructor_that(folder, "abort"),
            Expected::Signal(libc::SIGABRT),
            Signal(libc::SIGABRT),
        ),
        constructs(
            "panics in a constructor",
            |folder| constructor_that(folder, "panic"),
            Expected::Signal(libc::SIGABRT),
            Signal(libc::SIGABRT),
        ),
        constructs(
            "exits in a constructor",
            |folder| constructor_that(folder, "exit"),
            Expected::Exited(3),
            Exits(3),
        ),
        constructs("hangs in a constructor", |folder| constructor_that(folder, "hang"), Deadline, RunsOn)
            .limits(|limits| limits.load_timeout(Duration::from_millis(500))),
        constructs(
            "computes for ever in a constructor",
            |folder| constructor_that(folder, "spin"),
            Deadline,
            RunsOn,
        )
        .limits(|limits| limits.load_timeout(Duration::from_millis(500))),
        constructs(
            "says in a constructor that it is loaded",
            |folder| constructor_that(folder, "rubbish"),
            Protocol(""),
            Works,
        ),
        constructs(
            "closes its channel in a constructor",
            |folder| constructor_that(folder, "close"),
            Gone,
            Works,
        ),
    ]
}

fn headers() -> Vec<Row> {
    vec![
        refused(
            "is cut short",
            |folder| plugin(folder).map(|bytes| bytes[..bytes.len() / 2].to_vec()),
            "truncated",
            Intact,
        ),
        refused(
            "is a header and nothing else",
            |folder| plugin(folder).map(|bytes| bytes[..64].to_vec()),
            "truncated",
            Intact,
        ),
        refused("is empty", |_| Ok(Vec::new()), "the file is empty", Intact),
        refused(
            "is no library",
            |_| {
                Ok(b"#!/bin/sh\n: a script, long enough to hold the header of a library, and of no use\n"
                    .to_vec())
            },
            "not a shared library",
            Intact,
        ),
        refused(
            "is a library for another machine",
            |folder| with(folder, E_MACHINE, &[22, 0]),
            "is a library for",
            Intact,
        ),
        refused(
            "is a library of 32 bits",
            |folder| with(folder, E_CLASS, &[1]),
            "is a library for 32-bit",
            Intact,
        ),
        refused(
            "has its numbers the other way round",
            |folder| with(folder, E_DATA, &[2]),
            "is a library for machine",
            Intact,
        ),
        refused(
            "says that it is a program",
            |folder| with(folder, E_TYPE, &[2, 0]),
            "not a shared library",
            Intact,
        ),
        refused(
            "has more segments than its file",
            |folder| with(folder, E_PHNUM, &[0xfe, 0xff]),
            "65534 program headers",
            Intact,
        ),
        refused(
            "has segments of no size",
            |folder| with(folder, E_PHENTSIZE, &[0, 0]),
            "program headers of an unknown size",
            Intact,
        ),
        refused(
            "has its segments behind its end",
            |folder| with(folder, E_PHOFF, &[0xff; 7]),
            "the end of the program headers",
            Intact,
        ),
        refused(
            "wants more memory than there is",
            |folder| in_segment(folder, elf::PT_LOAD, 1, P_MEMSZ, &(1_u64 << 60).to_le_bytes()),
            "bytes of memory",
            Intact,
        ),
        refused(
            "has a segment behind its end",
            |folder| in_segment(folder, elf::PT_LOAD, 1, P_OFFSET, &(1_u64 << 40).to_le_bytes()),
            "before the end of segment",
            Intact,
        ),
        refused(
            "has a segment that is longer in the file than in memory",
            |folder| in_segment(folder, elf::PT_LOAD, 1, P_FILESZ, &(1_u64 << 40).to_le_bytes()),
            "before the end of segment",
            Intact,
        ),
        refused("has segments over each other", one_segment_over_another, "overlap", Intact),
        refused(
            "has its needs behind its end",
            |folder| in_segment(folder, elf::PT_DYNAMIC, 0, P_OFFSET, &(1_u64 << 40).to_le_bytes()),
            "before the end of segment",
            Intact,
        ),
        refused(
            "wants memory that is writable code",
            |folder| in_segment(folder, elf::PT_LOAD, 1, P_FLAGS, &ALL_RIGHTS),
            "writable and executable",
            Works,
        ),
        refused(
            "wants a stack that is code",
            |folder| in_segment(folder, elf::PT_GNU_STACK, 0, P_FLAGS, &ALL_RIGHTS),
            "stack",
            Intact,
        ),
        refused(
            "says of itself what cannot be read",
            |folder| replaced(plugin(folder)?, b"PLGABI\0\x01", b"PLGABI\0\x63"),
            "cannot be read",
            Intact,
        ),
        refused(
            "was built against another interface",
            |folder| replaced(plugin(folder)?, b"abi_stable 0.11", b"abi_stable 0.99"),
            "another plugin interface",
            Works,
        ),
    ]
}

fn needs() -> Vec<Row> {
    vec![
        refused(
            "has a library of its own beside it, and a path to it",
            |folder| bytes_of(folder, "probe-modules"),
            "module libprobe_near.so is not allowed",
            Intact,
        ),
        refused(
            "needs a library that it was not allowed",
            |folder| replaced(plugin(folder)?, b"libgcc_s.so.1\0", b"libgcc_x.so.1\0"),
            "is not allowed",
            Intact,
        ),
        refused(
            "needs a library by its path",
            |folder| replaced(plugin(folder)?, b"libgcc_s.so.1\0", b"/tmp/evil.so\0\0"),
            "a NEEDED entry is not a plain name",
            Intact,
        ),
        refused(
            "writes into its own code",
            |folder| retagged(folder, elf::DT_TEXTREL),
            "text relocations",
            Works,
        ),
        refused(
            "stands in for another library",
            |folder| retagged(folder, elf::DT_FILTER),
            "is a filter for another library",
            Works,
        ),
        refused(
            "brings another library along",
            |folder| retagged(folder, elf::DT_AUXILIARY),
            "is a filter for another library",
            Works,
        ),
    ]
}

fn code() -> Vec<Row> {
    let filter = [HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::MemoryDenyWriteExecute)];
    vec![
        Row::new("turns a page into code", "mprotect_exec", "", Errno(libc::EACCES), Works)
            .told("system")
            .held_by(&filter),
        Row::new("maps memory that is writable code", "mmap_exec", "", Errno(libc::EPERM), Works)
            .told("system")
            .held_by(&filter),
        Row::new(
            "loads another plugin's library",
            "dlopen",
            "{probes}/libprobe_life.so",
            Failed("libprobe_life.so"),
            Works,
        )
        .under(&[NOTHING, EVERYTHING])
        .held_by(&[
            HeldBy::Broker,
            HeldBy::Layer(Layer::EmptyRoot),
            HeldBy::Layer(Layer::NoExecFiles),
        ]),
    ]
}
