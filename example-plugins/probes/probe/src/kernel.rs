//! Attempts at the rest of the kernel: sockets, processes, signals, memory files, whatever has a number.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;

use crate::{Attempt, check, text};

pub(crate) fn socket() -> Attempt {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(|_| Vec::new())
}

pub(crate) fn connect_loopback(port: usize) -> Attempt {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(|_| Vec::new())
}

/// A child that ends at once.
#[expect(clippy::disallowed_methods, reason = "whether a plugin can fork is the question")]
pub(crate) fn fork() -> Attempt {
    // SAFETY: the child calls nothing but `_exit`.
    match check(unsafe { libc::fork() })? {
        // SAFETY: ends this process without running anything of it.
        0 => unsafe { libc::_exit(0) },
        child => {
            let mut status = 0;
            let child = i32::try_from(child).map_err(io::Error::other)?;
            // SAFETY: fills the one integer that it is given. The child is ours, and nobody else waits for it.
            check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
            Ok(status.to_string().into_bytes())
        }
    }
}

/// Becomes another program. Returns only if it cannot.
pub(crate) fn exec(payload: &[u8]) -> Attempt {
    let program = CString::new(payload).map_err(io::Error::other)?;
    let arguments = [program.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: a terminated string and two arrays of such that end with a null pointer, all alive until the call returns.
    check(unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) })?;
    Ok(Vec::new())
}

/// Signal 0 does nothing, and needs the same rights as any other.
pub(crate) fn ask_about_process(pid: usize) -> Attempt {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: two integers.
    check(unsafe { libc::kill(pid, 0) })?;
    Ok(Vec::new())
}

pub(crate) fn memory_file() -> Attempt {
    // SAFETY: a terminated literal, and an integer.
    let fd = check(unsafe { libc::memfd_create(c"probe".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: made just now, and nothing else knows of it.
    drop(unsafe { File::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) });
    Ok(Vec::new())
}

pub(crate) fn trace_me() -> Attempt {
    // SAFETY: this request reads none of its other arguments.
    check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })?;
    Ok(Vec::new())
}

pub(crate) fn load_library(payload: &[u8]) -> Attempt {
    let name = CString::new(payload).map_err(io::Error::other)?;
    // SAFETY: a terminated string. The tests name libraries of the system's and of their own.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    if !library.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: reads this thread's last error, of which there is one.
    let error = unsafe { libc::dlerror() };
    if error.is_null() {
        return Err(io::Error::other("no reason given"));
    }
    // SAFETY: not null, terminated, and valid until the next call of the dl functions on this thread.
    let error = unsafe { CStr::from_ptr(error) };
    Err(io::Error::other(error.to_string_lossy().into_owned()))
}

/// A number and up to six arguments: integers; `s:` and a text without blanks; `q:` and words of memory, with commas between
/// them, where the kernel may write too; or `code`, the address of code of this library.
pub(crate) fn raw(payload: &[u8]) -> Attempt {
    let mut words = text(payload)?.split_ascii_whitespace();
    let nr: libc::c_long = words.next().unwrap_or_default().parse().map_err(io::Error::other)?;
    let (mut texts, mut blocks) = (Vec::new(), Vec::new());
    let mut arguments = [0_i64; 6];
    for (slot, word) in arguments.iter_mut().zip(words) {
        let at = if let Some(word) = word.strip_prefix("s:") {
            let word = CString::new(word).map_err(io::Error::other)?;
            let at = word.as_ptr().expose_provenance();
            texts.push(word);
            at
        } else if let Some(words) = word.strip_prefix("q:") {
            let mut block = words.split(',').map(integer).collect::<io::Result<Vec<i64>>>()?;
            let at = block.as_mut_ptr().expose_provenance();
            blocks.push(block);
            at
        } else if word == "code" {
            (&raw const CODE).expose_provenance()
        } else {
            *slot = integer(word)?;
            continue;
        };
        *slot = i64::try_from(at).map_err(io::Error::other)?;
    }
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: as far as this can be said of a call that a test chooses: texts and blocks live until it returns, code cannot
    // be written, and the tests give addresses of nothing else.
    let rc = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    check(rc).map(|rc| rc.to_string().into_bytes())
}

const CODE_BYTES: usize = 512;

// Code that nobody runs, longer than any answer that the host writes: what becomes of it can be looked at afterwards.
std::arch::global_asm!(
    ".pushsection .text",
    ".globl probe_code_that_nobody_runs",
    ".hidden probe_code_that_nobody_runs",
    "probe_code_that_nobody_runs: .fill 512, 1, 0xcc",
    ".popsection",
);

// SAFETY: defined just above, with this many bytes of data.
unsafe extern "C" {
    #[link_name = "probe_code_that_nobody_runs"]
    static CODE: [u8; CODE_BYTES];
}

fn read_code() -> [u8; CODE_BYTES] {
    // SAFETY: initialized, and this long. Volatile, since whether it has changed is the question.
    unsafe { (&raw const CODE).read_volatile() }
}

/// A raw call that is to write to `code`. `written` if it did, whatever it answered.
pub(crate) fn raw_into_code(payload: &[u8]) -> Attempt {
    let before = read_code();
    let attempt = raw(payload);
    if read_code() == before { attempt } else { Ok(b"written".to_vec()) }
}

fn integer(word: &str) -> io::Result<i64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(u64::cast_signed).map_err(io::Error::other),
        None => word.parse().map_err(io::Error::other),
    }
}

/// getpid(2) by the door that 32-bit programs use, where a call's number means another call.
#[cfg(target_arch = "x86_64")]
pub(crate) fn ask_as_32_bit_program() -> Attempt {
    const GETPID: i64 = 20;
    let mut answer = GETPID;
    // SAFETY: a call that reads and writes no memory. The interrupt changes no register but rax and what is named here.
    unsafe {
        std::arch::asm!(
            "int 0x80", inout("rax") answer, in("rcx") 0, in("rdx") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    Ok(answer.to_string().into_bytes())
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn ask_as_32_bit_program() -> Attempt {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
