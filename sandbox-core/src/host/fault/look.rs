//! Looks at a faulting thread: reads the signal, the registers, what is loaded, and as much of the stack as frames need.
//!
//! Runs in the host. Owns the bounds on frames, modules and time. Every address is the plugin's; what is there may be anything,
//! may be missing, and may change while it is read.

use std::cell::OnceCell;
use std::fs::File;
use std::time::{Duration, Instant};

use super::image::Image;
use super::registers::{CONTEXT_BYTES, Registers, half, word};
use super::unwind::Tables;
use crate::host::broker::{Served, read_bytes, read_path};
use crate::host::end::{FaultReport, StackFrame};
use crate::host::events::escape;
use crate::host::procfs::HostPid;

const MOST_FRAMES: usize = 64;
const MOST_MODULES: usize = 256;
/// How many files are read for their unwinding tables.
const MOST_TABLES: usize = 16;
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
            let walk = Walk { memory, modules: modules(pid, memory, served, place.loaded) };
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
    origin: Option<Image>,
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
    let first = loaded.checked_add(MAP_AT).filter(|_| loaded != 0);
    let mut next = first.and_then(|at| read_bytes(memory, at, 8).ok()).and_then(|bytes| word(&bytes, 0));
    while let Some(at) = next.filter(|at| *at != 0 && modules.len() < MOST_MODULES) {
        let Ok(map) = read_bytes(memory, at, MAP_BYTES) else { break };
        let (Some(base), Some(name)) = (word(&map, 0), word(&map, 8)) else { break };
        next = word(&map, 24);
        let path = read_path(memory, name).unwrap_or_default();
        modules.push(module(pid, served, base, &path, modules.is_empty()));
    }
    modules
}

fn module(pid: HostPid, served: &Served, base: u64, path: &[u8], is_first: bool) -> Module {
    let (kind, name, file, origin) = if is_first && path.is_empty() {
        // Not where the host may not look into its helper.
        let file = File::open(format!("/proc/{}/exe", pid.0)).ok();
        (Kind::Helper, "plugin-helper".to_owned(), file, None)
    } else {
        let found = served.behind(path);
        let name = found.as_ref().map(|found| found.name.clone());
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let kind = found.as_ref().filter(|found| !found.systems).map_or(Kind::Systems, |_| Kind::Plugins);
        let (file, origin) = found.map_or((None, None), |found| (found.file, found.origin));
        (kind, name.unwrap_or_else(|| escape(last)), file, origin)
    };
    let image = file.and_then(Image::of);
    let origin = origin.and_then(Image::of);
    Module { base, name, kind, image, origin, tables: OnceCell::new() }
}

struct Walk<'a> {
    memory: &'a File,
    modules: Vec<Module>,
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
            let read = self.modules.iter().filter(|module| module.tables.get().is_some()).count();
            module.image.as_ref().filter(|_| read < MOST_TABLES)?.tables()
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
            let original = module.origin.as_ref().filter(|origin| image.has_the_bytes_of(origin));
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
