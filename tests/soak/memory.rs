//! How much memory this process holds: what it has allocated, exactly, and what of it is resident.
//!
//! What is allocated and not freed is counted by the allocator itself. Resident memory says less, since allocators and
//! thread libraries keep what was freed, but it also sees what does not come from this allocator: stacks, mappings, and
//! what the C library allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Allocated bytes may differ by this: a few maps and queues of the process's own, whose capacity goes with the largest number
/// of plugins that there happened to be at once. A leak of eight bytes in each of ten thousand steps is more.
const HEAP_TOLERANCE: usize = 64 << 10;

/// Resident memory may grow by this: what is free in the arenas of threads below what is still in use, stacks of threads that
/// have ended, of which the C library keeps 40 MiB of addresses, a few pages of each touched.
const RESIDENT_TOLERANCE: usize = 8 << 20;

/// The system's allocator, and a count of the bytes that it has given out.
pub(crate) struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all of it is the system's allocator; what is added touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on as it is.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's block, which `alloc` got from this same allocator with this layout.
        unsafe { System.dealloc(block, layout) };
    }
}

/// Has what is freed given back to the kernel. By itself glibc raises what it keeps to twice the largest block that was ever
/// freed, for each of its arenas: mallopt(3).
pub(crate) fn keep_little() {
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: two integers.
        unsafe { libc::mallopt(option, 128 << 10) };
    }
}

/// What this process holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    allocated: usize,
    resident: usize,
    descriptors: usize,
    threads: usize,
}

impl Memory {
    pub(crate) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self {
            allocated: ALLOCATED.load(Ordering::Relaxed),
            // Without the pages of files: how many of its own program's a process has in sight is the kernel's to choose.
            resident: (field("RssAnon:") + field("RssShmem:")) << 10,
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1)),
            threads: field("Threads:"),
        }
    }

    /// The same, once free memory was given back to the kernel as far as that can be done.
    pub(crate) fn settled() -> Self {
        // SAFETY: an integer; locks what it changes.
        unsafe { libc::malloc_trim(0) };
        Self::now()
    }

    /// What is too much at `end`, in words.
    pub(crate) fn grown_to(&self, end: &Self) -> Vec<String> {
        [
            ("bytes allocated", self.allocated, end.allocated, HEAP_TOLERANCE),
            ("bytes resident", self.resident, end.resident, RESIDENT_TOLERANCE),
        ]
        .into_iter()
        .filter(|(_, before, after, tolerance)| *after > *before + *tolerance)
        .map(|(what, before, after, tolerance)| {
            format!("{after} {what}, where there were {before}, and {tolerance} more are tolerated")
        })
        .collect()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allocated, resident, descriptors, threads } = self;
        write!(
            f,
            "{} KiB allocated, {} KiB resident, {descriptors} descriptors, {threads} threads",
            allocated >> 10,
            resident >> 10
        )
    }
}
