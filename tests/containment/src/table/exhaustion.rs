//! More than its share, of whatever there is.
//!
//! Runs in a host. Controls take as much as the attempt wants, which is little for a machine, under limits of their own; a
//! bomb's control is a small one.

use std::time::Duration;

use sandbox_core::{App, Layer, ResourceLimits};

use crate::Control::{Got, Like, Proper, RunsOn, Works, WorksForRoot};
use crate::Expected::{CpuTime, Deadline, Errno, Failed, Harmless, Protocol, Signal};
use crate::row::{EVERYTHING, NOTHING, ONE_FOLDER, call};
use crate::{Control, Expected, HeldBy, Row};

const LIMITS: &[HeldBy] = &[HeldBy::Layer(Layer::Rlimits), HeldBy::Layer(Layer::MemoryCgroup)];
const FILTER: &[HeldBy] = &[HeldBy::Layer(Layer::Seccomp)];
const HOST: &[HeldBy] = &[HeldBy::Host];
const LARGE: usize = 2 << 20;

fn takes(name: &'static str, kind: &str, most: usize, errno: i32) -> Row {
    Row::new(name, "take", format!("{kind}\n{most}"), Errno(errno), Works).held_by(LIMITS)
}

fn shares(name: &'static str, method: &str, errno: i32) -> Row {
    Row::new(name, method, "", Errno(errno), Works).told("system").held_by(FILTER)
}

fn never_ends(name: &'static str, method: &str, payload: &str, expected: Expected) -> Row {
    Row::new(name, method, payload, expected, RunsOn).held_by(HOST).limits(hurried)
}

fn hurried(limits: ResourceLimits) -> ResourceLimits {
    limits.call_timeout(Duration::from_millis(300))
}

fn one_second(limits: ResourceLimits) -> ResourceLimits {
    limits.max_cpu_time_sec(1)
}

fn large_answers() -> App {
    App::new().service("large", |_| Ok(vec![b'x'; LARGE]))
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = memory();
    rows.extend(descriptors_and_threads());
    rows.extend(time());
    rows.extend(disk_and_words());
    rows
}

fn memory() -> Vec<Row> {
    vec![
        Row::new("allocates more than it may", "alloc", "200", Errno(libc::ENOMEM), Works).held_by(LIMITS),
        takes("maps page after page", "pages", 200, libc::ENOMEM),
        takes("maps pages that are there at once", "populated pages", 200, libc::ENOMEM),
        takes("moves the end of its data", "break", 200, libc::ENOMEM),
        Row::new("stretches a page", "stretch", "512", Errno(libc::ENOMEM), Works).held_by(LIMITS),
        Row::new(
            "calls itself without end",
            "recurse",
            "",
            Signal(libc::SIGSEGV),
            Control::Signal(libc::SIGABRT),
        )
        .held_by(LIMITS),
        shares("maps memory that grows as a stack does", "mmap_growing", libc::EPERM),
        shares("maps shared memory", "mmap_shared", libc::EPERM),
        Row::new("shares a device's memory", "mmap_shared_device", "", Errno(libc::EACCES), Works),
        Row::raw("locks memory", libc::SYS_mlockall, "3", Errno(libc::ENOSYS), WorksForRoot),
    ]
}

fn descriptors_and_threads() -> Vec<Row> {
    vec![
        takes("copies a descriptor", "copies", 100, libc::EMFILE),
        takes("makes pipes", "pipes", 100, libc::EMFILE),
        takes("makes pairs of sockets", "sockets", 100, libc::EMFILE),
        takes("makes counters", "counters", 100, libc::EMFILE),
        takes("makes pollers", "pollers", 100, libc::EMFILE),
        takes("makes clocks", "clocks", 100, libc::EMFILE),
        Row::raw(
            "unshares its table of descriptors",
            libc::SYS_close_range,
            "100000 4294967295 2",
            Errno(libc::EPERM),
            Works,
        )
        .told("system"),
        Row::new("makes threads", "threads", "200", Expected::Got("16 11".to_owned()), Got("200 0"))
            .held_by(&[HeldBy::Layer(Layer::Rlimits)]),
        Row::new("makes timers", "timers", "100000", Harmless, Works)
            .held_by(&[HeldBy::Layer(Layer::Rlimits)]),
        Row::new("makes children", "sleepers", "50", Expected::Got("8".to_owned()), Got("50"))
            .without(Layer::EmptyRoot, Errno(libc::EPERM))
            .under(&[EVERYTHING])
            .held_by(HOST),
        Row::new(
            "has children that have children",
            "fork_bomb",
            "",
            Harmless,
            Like(vec![call("sleepers", "50")], Box::new(Got("50"))),
        )
        .without(Layer::EmptyRoot, Errno(libc::EPERM))
        .under(&[EVERYTHING])
        .held_by(HOST),
    ]
}

fn time() -> Vec<Row> {
    vec![
        never_ends("computes for ever", "spin_forever", "", Deadline),
        never_ends("sleeps for ever", "sleep_forever", "", Deadline),
        never_ends("uses up its CPU time", "spin_forever", "", CpuTime).limits(one_second).under(&[NOTHING]),
        never_ends("uses up its CPU time on eight threads", "spin_on", "8", CpuTime)
            .limits(one_second)
            .under(&[NOTHING]),
        Row::new(
            "asks for what it may not have, again and again",
            "open_storm",
            "8 500\n{dir}/outside/secret",
            Expected::Got("0".to_owned()),
            Got("4000"),
        )
        .under(&[NOTHING, ONE_FOLDER])
        .told("file-read")
        .held_by(&[HeldBy::Broker]),
    ]
}

fn disk_and_words() -> Vec<Row> {
    const MIB: usize = 1 << 20;
    let one_mib = |limits: ResourceLimits| limits.max_file_size_mb(1);
    vec![
        Row::new(
            "writes more into a file than it may",
            "big_file",
            format!("{}\n{{dir}}/granted/big", 3 * MIB),
            Errno(libc::EFBIG),
            Works,
        )
        .under(&[EVERYTHING])
        .limits(one_mib)
        .held_by(&[HeldBy::Layer(Layer::Rlimits)]),
        Row::new(
            "makes a file longer than it may",
            "sparse_file",
            format!("{}\n{{dir}}/granted/big", 3 * MIB),
            Errno(libc::EFBIG),
            Works,
        )
        .under(&[EVERYTHING])
        .limits(one_mib)
        .held_by(&[HeldBy::Layer(Layer::Rlimits)]),
        Row::new("prints without end", "flood", (20 * MIB).to_string(), Harmless, Works).held_by(HOST),
        Row::new(
            "answers with more than it may",
            "big",
            (17 * MIB).to_string(),
            Failed("bytes, where at most"),
            Works,
        )
        .held_by(HOST),
        Row::new(
            "calls services and does not read the replies",
            "call_and_never_read",
            "60 0\nlarge",
            Protocol("does not read"),
            Proper(vec![call("call_unread", "3 0\nlarge")]),
        )
        .app(large_answers)
        .limits(|limits| limits.max_message_bytes(LARGE as u64))
        .held_by(HOST),
    ]
}
