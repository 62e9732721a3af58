//! docs/syscalls.md: the table of system calls in words.
//!
//! For tests, which keep the file true and read it back. Pure. Owns its form: one row of a table for each call, with the words of
//! `seccomp_conditions`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::seccomp_conditions::Condition;
use super::seccomp_table::{Row, Surroundings, Verdict, table};

const HEAD: &str = "\
# What becomes of each system call

<!-- Made out of sandbox-core/src/shared/plan/seccomp_table.rs. Do not change it here: change the table, then run
     UPDATE=1 cargo test -p integration-tests --test suite the_document_of_system_calls_is_the_table -->

A helper's final filter, as it is for x86-64 (aarch64 has the same without the calls that only x86-64 knows). A call is

- **allowed**: it goes ahead;
- **asked**: it waits for the broker in the host, which does it or refuses it by the permissions of that moment, and tells;
- **asked if**: asked where the condition holds, allowed elsewhere. `arg0` to `arg5` are whole 64-bit registers, `int arg0` the
  lower half; `has` means that all of the bits are set, `lacks` that none is;
- **ends**: the call is never made, and the plugin is ended, since nobody tries this by accident; or, if it is a program that it
  was granted, that process alone.

Every call that is not here answers `ENOSYS`, known to this kernel or not, so that C libraries fall back. Calls of another
architecture, and those of x32, end the process whatever their number. `threads-of-glibc` and `threads-of-musl` are the flags with
which those make a thread; `own-pid` is the helper's process id, `own-clock-0` to `own-clock-2` its CPU clocks.

Two calls of x86-64 the kernel runs past every filter, from Linux 6.11 on `uretprobe` (335), later `uprobe` (336) too: they are its own, for
code that an administrator watches, and refuse whoever makes one elsewhere: by `SIGILL`, or `ENXIO`.

A test (`tests/suite/syscalls.rs`) holds this page, the compiled filter and the running kernel against each other.

";

const TABLE: &str = "| call | becomes | if | why |\n| --- | --- | --- | --- |\n";

/// The whole page.
pub fn document() -> String {
    let (empty, full) = (table(Surroundings { empty_root: true }), table(Surroundings { empty_root: false }));
    let mut page = HEAD.to_owned();
    page.push_str(TABLE);
    for row in &empty {
        page.push_str(&line(row));
    }
    page.push_str("\n## Where there is no empty root\n\n");
    page.push_str("Only after `.best_effort(Layer::EmptyRoot)`. ");
    page.push_str(
        "A stat by descriptor raises `SIGSYS`, whose handler makes an `fstat` of it; these differ:\n\n",
    );
    page.push_str(TABLE);
    for row in full.iter().filter(|row| !empty.contains(row)) {
        page.push_str(&line(row));
    }
    page
}

/// The number of each call of the page on this architecture.
pub fn numbers() -> BTreeMap<&'static str, i64> {
    table(Surroundings { empty_root: true }).iter().map(|row| (row.name(), row.nr)).collect()
}

fn line(row: &Row) -> String {
    let all = |list: &Vec<Condition>| list.iter().map(Condition::to_string).collect::<Vec<_>>().join(" and ");
    let (becomes, condition) = match &row.verdict {
        Verdict::Allow => ("allowed", String::new()),
        Verdict::Ask => ("asked", String::new()),
        Verdict::AskIf(lists) => ("asked if", lists.iter().map(all).collect::<Vec<_>>().join("; or ")),
        Verdict::Kill => ("ends", String::new()),
    };
    let mut line = String::new();
    // In a table a bar would end the cell.
    let condition = condition.replace('|', "+");
    let _ = writeln!(line, "| `{}` | {becomes} | {condition} | {} |", row.name(), row.why);
    line
}
