//! The test program run again, to be a process that may be harmed: one that confines itself, or one that plays a host.
//!
//! The program's own test harness is its `main`. A child is told by its environment what to do, in the one test named
//! `child`, which does nothing when nobody has told it anything. It reports through a file, since it may close its streams.

use std::any::Any;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wait::{self, watch};
use crate::{Scratch, libraries, unconfined};

pub(crate) const PART: &str = "PLUGIN_TESTS_CHILD";
const REPORT: &str = "PLUGIN_TESTS_REPORT";
const REPORT_FILE: &str = "reports/report";
const ARGUMENT: &str = "PLUGIN_TESTS_ARGUMENT_";

/// What a child can be told to do: it gets its arguments, and returns its report.
pub type Part = fn(&[String]) -> Vec<u8>;

/// The body of the test named `child`. In a child it plays its part and ends the process; elsewhere it returns.
pub fn play(parts: &[(&str, Part)]) {
    if env::var_os(unconfined::ASKED).is_some() {
        panic!("{}", containment::control::play());
    }
    let Ok(name) = env::var(PART) else { return };
    let report = env::var(REPORT).expect("whoever set the one set the other");
    let arguments: Vec<String> = (0..).map_while(|n| env::var(format!("{ARGUMENT}{n}")).ok()).collect();
    let part = parts.iter().find(|(known, _)| *known == name).expect("a part that this program knows").1;
    let (text, code) = match catch_unwind(AssertUnwindSafe(|| part(&arguments))) {
        Ok(text) => (text, 0),
        Err(panic) => (said(panic.as_ref()).into_bytes(), 101),
    };
    write_report(Path::new(&report), &text);
    // The harness would print what it thinks of this, perhaps into a descriptor that is no stream any more.
    std::process::exit(code);
}

/// Reports before the part has ended, for a child that will be killed.
pub fn report_early(text: &[u8]) {
    write_report(Path::new(&env::var(REPORT).expect("this is a child")), text);
}

/// Whole or not at all: the parent looks whenever it likes.
fn write_report(path: &Path, text: &[u8]) {
    let half = path.with_extension("half");
    fs::write(&half, text).expect("the parent made the folder");
    fs::rename(&half, path).expect("as above");
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

/// A child that runs.
#[derive(Debug)]
pub struct Running {
    process: Option<Child>,
    scratch: Scratch,
}

/// What came of a child.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it reported, if it came to that.
    pub report: Option<Vec<u8>>,
    /// What it printed to standard error.
    pub errors: String,
}

/// Starts the part `name` in a child.
pub fn start(name: &str, arguments: &[&str]) -> Running {
    start_as(name, arguments, &env::current_exe().expect("a test program knows its name"), |_| {})
}

/// The same, by another copy of this program, with a last word on how it is started.
pub fn start_as(
    name: &str,
    arguments: &[&str],
    program: &Path,
    prepare: impl FnOnce(&mut Command),
) -> Running {
    let scratch = Scratch::new();
    let reports = scratch.folder("reports");
    // The child may be another user.
    fs::set_permissions(&reports, PermissionsExt::from_mode(0o777)).expect("it is ours");
    let mut command = Command::new(program);
    command
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(PART, name)
        .env(REPORT, scratch.at(REPORT_FILE))
        .env(libraries::FOLDER_VARIABLE, libraries::folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for (n, argument) in arguments.iter().enumerate() {
        command.env(format!("{ARGUMENT}{n}"), argument);
    }
    // A file, not a pipe: nobody has to read while the child writes, and a grandchild cannot hold it open.
    let errors = fs::File::create(scratch.at("errors")).expect("the folder is ours");
    command.stderr(errors);
    prepare(&mut command);
    let process =
        command.spawn().unwrap_or_else(|error| panic!("the test program does not run again: {error}"));
    Running { process: Some(process), scratch }
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// Waits for a report, while the child runs on.
    ///
    /// # Panics
    /// If there is none in time.
    #[track_caller]
    pub fn early_report(&self) -> Vec<u8> {
        let path = self.scratch.at(REPORT_FILE);
        wait::until("a child's report", || fs::read(&path).ok())
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().expect("it is our child");
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time; it is killed then.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let mut process = self.process.take().expect("taken only here and by drop");
        // A test's patience may be used up in the child before this one is.
        let watched = watch(process.id());
        let in_time = (0..4).any(|_| catch_unwind(AssertUnwindSafe(|| watched.ended())).is_ok());
        if !in_time {
            let _ = process.kill();
        }
        let status = process.wait().expect("it is our child");
        let errors = fs::read(self.scratch.at("errors")).unwrap_or_default();
        let errors = String::from_utf8_lossy(&errors).into_owned();
        assert!(in_time, "a child hung, and was killed:\n{errors}");
        Ended { status, report: fs::read(self.scratch.at(REPORT_FILE)).ok(), errors }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Ended {
    /// Its report.
    ///
    /// # Panics
    /// If the child panicked, or ended any other way than well.
    #[track_caller]
    pub fn well(self) -> Vec<u8> {
        let report = self.report.unwrap_or_default();
        assert!(
            self.status.success(),
            "the child ended with {}: {}\n{}",
            self.status,
            String::from_utf8_lossy(&report),
            self.errors
        );
        report
    }
}

/// Plays a part in a child to its good end, and gives its report.
///
/// # Panics
/// As [`Running::end`] and [`Ended::well`].
#[track_caller]
pub fn run(name: &str, arguments: &[&str]) -> Vec<u8> {
    start(name, arguments).end().well()
}
