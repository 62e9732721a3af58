//! Looks at a faulting thread: reads the signal, the registers, what is loaded, and as much of the stack as frames need.
//!
//! Runs in the host. Owns the bounds on frames, modules and time. Every address is the plugin's; what is there may be anything,
//! may be missing, and may change while it is read.

use std::cell::{Cell, LazyCell, OnceCell};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::image::Image;
use super::registers::{CONTEXT_BYTES, Registers, half, word};
use super::unwind::Tables;
use crate::host::broker::{Served, open_file, read_bytes, read_path};
use crate::host::end::report::{FaultReport, StackFrame};
use crate::host::events::escape;
use crate::host::library::BASE_MODULES;
use crate::host::procfs::HostPid;

const MOST_FRAMES: usize = 64;
const MOST_MODULES: usize = 256;
/// How many bytes of unwinding tables are read, of all files together.
const MOST_TABLE_BYTES: u64 = 128 << 20;
/// How much of the list of what is mapped is read.
const MOST_MAPS_BYTES: u64 = 8 << 20;
/// The thread stands still so long at most, but for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `siginfo_t`, as far as it is the same for all signals and has an address.
const INFO_BYTES: usize = 24;
const CODE_AT: usize = 8;
const ADDRESS_AT: usize = 16;

/// What a thread shows of itself.
pub(crate) struct Place {
    pub(crate) tid: i32,
    /// The addresses of its `siginfo_t`, its `ucontext_t` and the loader's `r_debug`.
    pub(crate) info: u64,
    pub(crate) context: u64,
    pub(crate) loaded: u64,
}

/// What is seen there. `None` if there is nothing that could be a signal.
pub(crate) fn look(pid: HostPid, memory: &File, served: &Served, place: &Place) -> Option<FaultReport> {
    let info = read_bytes(memory, place.info, INFO_BYTES).ok()?;
    let (signal, code) = (half(&info, 0)?, half(&info, CODE_AT)?);
    if !(1..=libc::SIGRTMAX()).contains(&signal) {
        return None;
    }
    let (why, has_address) = reason(signal, code);
    let name = std::fs::read(format!("/proc/{}/task/{}/comm", pid.0, place.tid)).unwrap_or_default();
    let context = read_bytes(memory, place.context, CONTEXT_BYTES).ok();
    let (stack, incomplete) = match context.as_deref().and_then(Registers::of) {
        Some(registers) => {
            let modules = modules(pid, memory, served, place.loaded);
            let walk = Walk { memory, modules, table_bytes_left: Cell::new(MOST_TABLE_BYTES) };
            walk.stack(registers, Instant::now() + PATIENCE)
        }
        None => (Vec::new(), Some("its registers cannot be read")),
    };
    Some(FaultReport {
        signal,
        why,
        address: word(&info, ADDRESS_AT).filter(|_| has_address),
        thread: escape(name.trim_ascii_end()),
        stack,
        incomplete,
    })
}

/// What a signal's code says, and whether there is an address with it: sigaction(2).
fn reason(signal: i32, code: i32) -> (&'static str, bool) {
    const RAISED: [i32; 3] = [libc::SI_USER, libc::SI_TKILL, libc::SI_QUEUE];
    const KERNEL: i32 = 128; // SI_KERNEL
    match (signal, code) {
        (_, code) if RAISED.contains(&code) => ("raised by itself", false),
        // x86 has no address for what is none, such as one with other high bits than any has.
        (libc::SIGSEGV, KERNEL) => {
            ("an address that cannot be one, or an instruction that it may not run", false)
        }
        (_, KERNEL) => ("raised by the kernel", false),
        (libc::SIGSEGV, 1) => ("nothing is mapped there", true),
        (libc::SIGSEGV, 2) => ("what is mapped there may not be used so", true),
        (libc::SIGSEGV, _) => ("a fault in memory", true),
        (libc::SIGBUS, 1) => ("an address that is not aligned", true),
        (libc::SIGBUS, 2) => ("the file that is mapped there has no such byte", true),
        (libc::SIGBUS, _) => ("a fault of the hardware, or of what is mapped", true),
        (libc::SIGILL, _) => ("an instruction that there is not", true),
        (libc::SIGFPE, 1) => ("an integer divided by zero", true),
        (libc::SIGFPE, _) => ("arithmetic that has no result", true),
        (libc::SIGTRAP, _) => ("a breakpoint", true),
        _ => ("a signal", false),
    }
}

/// Something that is loaded.
struct Module {
    /// What is added to its file's addresses.
    base: u64,
    name: String,
    kind: Kind,
    image: Option<Image>,
    /// Where its file came from, for names.
    origin: Option<PathBuf>,
    tables: OnceCell<Option<Tables>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The helper's own program.
    Helper,
    Plugins,
    Systems,
}

impl Module {
    fn has(&self, address: u64) -> bool {
        self.image.as_ref().is_some_and(|image| image.has(address.wrapping_sub(self.base)))
    }
}

/// What the loader says is loaded: the list of `struct link_map` behind `struct r_debug`, link.h.
fn modules(pid: HostPid, memory: &File, served: &Served, loaded: u64) -> Vec<Module> {
    const MAP_AT: u64 = 8;
    const MAP_BYTES: usize = 32;
    let mut modules = Vec::new();
    let mut known = HashSet::new();
    let mapped = LazyCell::new(|| mapped(pid));
    let is_loaded = |name: &OsStr| {
        name.to_str().is_some_and(|name| BASE_MODULES.contains(&name)) || mapped.contains(name.as_bytes())
    };
    let first = loaded.checked_add(MAP_AT).filter(|_| loaded != 0);
    let mut next = first.and_then(|at| read_bytes(memory, at, 8).ok()).and_then(|bytes| word(&bytes, 0));
    for _ in 0..MOST_MODULES {
        let Some(at) = next.filter(|at| *at != 0) else { break };
        let Ok(map) = read_bytes(memory, at, MAP_BYTES) else { break };
        let (Some(base), Some(name)) = (word(&map, 0), word(&map, 8)) else { break };
        next = word(&map, 24);
        let path = read_path(memory, name).unwrap_or_default();
        // A loader has one of each. A list that names one again and again would have the host open it as often.
        if known.insert(last_part(&path).to_owned()) {
            modules.push(module(pid, (served, &is_loaded), base, &path, modules.is_empty()));
        }
    }
    modules
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The names of the files that are mapped; none where the host may not look into its helper.
fn mapped(pid: HostPid) -> HashSet<Vec<u8>> {
    let mut text = Vec::new();
    if let Ok(maps) = File::open(format!("/proc/{}/maps", pid.0)) {
        let _ = maps.take(MOST_MAPS_BYTES).read_to_end(&mut text);
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| line.contains(&b'/'));
    lines.map(|line| last_part(line).to_owned()).collect()
}

fn module(
    pid: HostPid,
    (served, is_loaded): (&Served, &dyn Fn(&OsStr) -> bool),
    base: u64,
    path: &[u8],
    is_first: bool,
) -> Module {
    let (kind, name, file, origin) = if is_first && path.is_empty() {
        // Not where the host may not look into its helper.
        let file = File::open(format!("/proc/{}/exe", pid.0)).ok();
        (Kind::Helper, "plugin-helper".to_owned(), file, None)
    } else {
        let found = served.behind(path, is_loaded);
        let name = found.as_ref().map(|found| found.name.clone());
        let kind = found.as_ref().filter(|found| !found.systems).map_or(Kind::Systems, |_| Kind::Plugins);
        let (file, origin) = found.map_or((None, None), |found| (found.file, found.origin));
        (kind, name.unwrap_or_else(|| escape(last_part(path))), file, origin)
    };
    let image = file.and_then(Image::of);
    Module { base, name, kind, image, origin, tables: OnceCell::new() }
}

struct Walk<'a> {
    memory: &'a File,
    modules: Vec<Module>,
    table_bytes_left: Cell<u64>,
}

impl Walk<'_> {
    /// The frames from `registers` on, and why there are no more, if they do not end there.
    fn stack(&self, mut registers: Registers, until: Instant) -> (Vec<StackFrame>, Option<&'static str>) {
        let mut frames: Vec<(u64, Option<&Module>)> = Vec::new();
        let mut of_plugin = false;
        let incomplete = loop {
            let is_first = frames.is_empty();
            if registers.pc == 0 && !is_first {
                break None;
            }
            // Of a caller what counts is the call, which stands before where it returns to.
            let at = if is_first { registers.pc } else { registers.pc.wrapping_sub(1) };
            let module = self.modules.iter().find(|module| module.has(at));
            if of_plugin && module.is_some_and(|module| module.kind == Kind::Helper) {
                break None; // from here on down it is the helper that calls the plugin
            }
            of_plugin |= module.is_some_and(|module| module.kind == Kind::Plugins);
            frames.push((registers.pc, module));
            if frames.len() >= MOST_FRAMES {
                break Some("it goes on, deeper than is looked at");
            }
            if Instant::now() >= until {
                break Some("it took too long");
            }
            let caller = match module {
                Some(module) => self.caller(module, at, &registers),
                None if is_first => self.called_nothing(&registers),
                None => Err("it leads to where no file is"),
            };
            match caller {
                Ok(caller) if is_first || is_above(&caller, &registers) => registers = caller,
                Ok(_) => break Some("it leads in a circle"),
                Err(why) => break Some(why),
            }
        };
        (self.named(&frames), incomplete)
    }

    fn caller(&self, module: &Module, at: u64, registers: &Registers) -> Result<Registers, &'static str> {
        let read = |module: &Module| {
            let left = self.table_bytes_left.get();
            let tables = module.image.as_ref()?.tables(left)?;
            self.table_bytes_left.set(left.saturating_sub(tables.bytes()));
            Some(tables)
        };
        let tables = module.tables.get_or_init(|| read(module)).as_ref();
        let tables = tables.ok_or("its file does not say how to go on")?;
        tables.step(at.wrapping_sub(module.base), registers, |address| self.word(address))
    }

    /// Who has called what is no code, by a pointer that led nowhere: nothing was done since the call.
    fn called_nothing(&self, registers: &Registers) -> Result<Registers, &'static str> {
        const LOST: &str = "it runs where no file is";
        let mut caller = registers.clone();
        if cfg!(target_arch = "x86_64") {
            let stack = registers.stack().ok_or(LOST)?;
            caller.pc = self.word(stack).ok_or(LOST)?;
            caller.set(Registers::STACK, Some(stack.wrapping_add(8)));
        } else {
            caller.pc = registers.get(Registers::RETURN).ok_or(LOST)?;
        }
        self.modules.iter().any(|module| module.has(caller.pc.wrapping_sub(1))).then_some(caller).ok_or(LOST)
    }

    fn word(&self, address: u64) -> Option<u64> {
        read_bytes(self.memory, address, 8).ok().and_then(|bytes| word(&bytes, 0))
    }

    fn named(&self, frames: &[(u64, Option<&Module>)]) -> Vec<StackFrame> {
        let mut named: Vec<StackFrame> = frames
            .iter()
            .map(|(address, module)| StackFrame {
                address: *address,
                module: module.map(|module| module.name.clone()),
                offset: module.map_or(0, |module| address.wrapping_sub(module.base)),
                function: None,
                into_function: 0,
            })
            .collect();
        for module in &self.modules {
            let is_here = |frame: &(usize, &(u64, Option<&Module>))| {
                frame.1.1.is_some_and(|other| std::ptr::eq(other, module))
            };
            // Of a caller, the byte before where it returns to: a call may be the last of its function.
            let place = |(number, (address, _)): (usize, &(u64, Option<&Module>))| {
                let back = u64::from(number > 0);
                (address.wrapping_sub(module.base).wrapping_sub(back), number)
            };
            let mut places: Vec<(u64, usize)> =
                frames.iter().enumerate().filter(is_here).map(place).collect();
            places.sort_unstable();
            let (Some(image), false) = (&module.image, places.is_empty()) else { continue };
            let origin = module.origin.as_deref().and_then(open_file).and_then(Image::of);
            let original = origin.as_ref().filter(|origin| image.has_the_bytes_of(origin));
            let addresses: Vec<u64> = places.iter().map(|(address, _)| *address).collect();
            let functions = original.unwrap_or(image).functions(&addresses);
            for ((_, number), function) in places.iter().zip(functions) {
                if let (Some(frame), Some((name, into))) = (named.get_mut(*number), function) {
                    frame.into_function = into.wrapping_add(u64::from(*number > 0));
                    frame.function = Some(name);
                }
            }
        }
        named
    }
}

/// Stacks grow down: a caller's frame is above.
fn is_above(caller: &Registers, callee: &Registers) -> bool {
    caller.stack().zip(callee.stack()).is_some_and(|(caller, callee)| caller > callee)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::host::load::system_folders;

    /// A memory in which the loader's list is what `paths` says, and where its `r_debug` is.
    fn memory_that_lists(paths: &[String]) -> (File, u64) {
        const MAPS_AT: u64 = 0x100;
        const NAMES_AT: u64 = 0x10000;
        let mut bytes = vec![0; 0x100];
        bytes[0x18..0x20].copy_from_slice(&MAPS_AT.to_ne_bytes());
        let map_at = |number: usize| MAPS_AT + 0x20 * number as u64;
        let mut names = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            let base = 0x1000_0000 * (number as u64 + 1);
            for word in [base, NAMES_AT + names.len() as u64, 0, map_at((number + 1) % paths.len())] {
                bytes.extend(word.to_ne_bytes());
            }
            names.extend(path.bytes().chain([0]));
        }
        bytes.resize(NAMES_AT as usize, 0);
        bytes.extend(names);
        bytes.extend([0; 8192]);
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(&bytes).unwrap();
        (memory, 0x10)
    }

    fn listed(paths: &[String]) -> Vec<Module> {
        let (memory, at) = memory_that_lists(paths);
        let own = HostPid(std::process::id().cast_signed());
        modules(own, &memory, &Served::default(), at)
    }

    #[test]
    fn a_list_that_names_a_file_again_and_again_has_it_opened_once() {
        let paths: Vec<String> = (0..300).map(|number| format!("/{number}/libc.so.6")).collect();
        let opened = listed(&paths).iter().filter(|module| module.image.is_some()).count();
        assert_eq!(opened, 1);
    }

    #[test]
    fn what_is_not_loaded_is_not_opened_for_being_named() {
        let mapped = mapped(HostPid(std::process::id().cast_signed()));
        assert!(mapped.contains(b"libc.so.6".as_slice()));
        let files = system_folders().folders().iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let is_image = |path: &PathBuf| open_file(path).and_then(Image::of).is_some();
        let other = files
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| !mapped.contains(name.as_bytes())))
            .filter(|path| !BASE_MODULES.iter().any(|base| path.ends_with(base)))
            .find(is_image)
            .expect("a system has a library that this test does not need");
        let modules = listed(&["/libc.so.6".to_owned(), other.to_str().unwrap().to_owned()]);
        let opened: Vec<_> = modules.iter().map(|module| module.image.is_some()).collect();
        assert_eq!(opened, [true, false], "{}", other.display());
    }
}
