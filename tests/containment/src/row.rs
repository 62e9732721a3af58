//! A row of the table: what is tried, what must come of it in the sandbox, and what shows that it would work without.
//!
//! Runs in a host. Plain values and how they are put down; `run` carries them out.

use std::fmt;
use std::path::Path;

use sandbox_core::{App, Layer, ResourceLimits};
use serde::{Deserialize, Serialize};

use crate::place::Place;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Names, links, descriptors, devices.
    Files,
    /// Sockets and names of hosts.
    Network,
    /// Other processes, and programs.
    Processes,
    /// What else the kernel offers.
    Kernel,
    /// More than its share.
    Exhaustion,
    /// Bytes that the host reads.
    Protocol,
    /// What happens before the plugin is one, and code that comes later.
    Loader,
    /// What is not its to know.
    Information,
    /// Ends, and whatever wants to outlive them.
    Lifecycle,
}

impl Group {
    /// Every group, in the table's order.
    pub const ALL: [Self; 9] = [
        Self::Files,
        Self::Network,
        Self::Processes,
        Self::Kernel,
        Self::Exhaustion,
        Self::Protocol,
        Self::Loader,
        Self::Information,
        Self::Lifecycle,
    ];

    /// The group's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Network => "network",
            Self::Processes => "processes",
            Self::Kernel => "kernel",
            Self::Exhaustion => "exhaustion",
            Self::Protocol => "protocol",
            Self::Loader => "loader",
            Self::Information => "information",
            Self::Lifecycle => "lifecycle",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Group {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|group| group.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no group is called {text:?}; there are {}", names.join(", "))
        })
    }
}

/// What a plugin is had to do. The outcome of the last step is the row's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Step {
    /// A call.
    Call {
        /// The method.
        method: String,
        /// Its payload, with words in braces.
        payload: Vec<u8>,
    },
    /// It is deactivated.
    Deactivate,
    /// It is unloaded.
    Unload,
}

/// Which library a row loads.
#[derive(Debug, Clone, Copy)]
pub enum Library {
    /// That of a package.
    Of(&'static str),
    /// One that is made for it, out of those in a folder: its bytes.
    Made(fn(&Path) -> Result<Vec<u8>, String>),
}

/// What a plugin holds while it tries. Each text is a grant as on the command line, with words in braces.
pub type Grants = &'static [&'static str];

/// Nothing at all.
pub const NOTHING: Grants = &[];
/// Every permission there is, without a scope.
pub const EVERYTHING: Grants = &["file-read", "file-write", "network", "process", "system", "plugin", "ui"];
/// Every permission but that to start programs.
pub const ALL_BUT_PROCESS: Grants = &["file-read", "file-write", "network", "system", "plugin", "ui"];
/// Every permission but that for the network.
pub const ALL_BUT_NETWORK: Grants = &["file-read", "file-write", "process", "system", "plugin", "ui"];
/// Every permission but those for files.
pub const ALL_BUT_FILES: Grants = &["network", "process", "system", "plugin", "ui"];
/// One folder, to read, to write and to start programs from; and every other permission, as far as that goes.
pub const ONE_FOLDER: Grants =
    &["file-read:{dir}/granted", "file-write:{dir}/granted", "process:{dir}/granted", "system", "ui"];

/// What must come of the attempt in the sandbox.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// Exactly this error, and the plugin goes on.
    Errno(i32),
    /// Exactly this answer, which tells nothing, and the plugin goes on.
    Got(String),
    /// An answer that ends like this, and the plugin goes on.
    GotEnding(&'static str),
    /// Anything but this, and something else than outside; and the plugin goes on.
    GotNot(&'static str),
    /// Something else than outside, and the plugin goes on.
    GotOther,
    /// An error without a number, with this text in it, and the plugin goes on.
    Failed(&'static str),
    /// It goes well, and nothing comes of it.
    Harmless,
    /// Not loaded, for a reason with this text in it: none of its code has run.
    NotLoaded(&'static str),
    /// Ended for a forbidden system call.
    Forbidden,
    /// Ended by this signal of its own doing.
    Signal(i32),
    /// It ends itself with this code.
    Exited(i32),
    /// Ended at a deadline.
    Deadline,
    /// Ended for what it sent, for a reason with this text in it.
    Protocol(&'static str),
    /// Ended for closing its channel.
    ChannelClosed,
    /// Ended for want of memory.
    OutOfMemory,
    /// Ended for the CPU time that it used.
    CpuTime,
    /// It is gone, whatever is told of how.
    Gone,
}

/// What shows that the attempt is real: what becomes of the same code where nothing confines it, or of what is granted.
#[derive(Debug, Clone)]
pub enum Control {
    /// It works.
    Works,
    /// It needs more rights than an ordinary user has: only root's control says something.
    WorksForRoot,
    /// It works, and answers this.
    Got(&'static str),
    /// The call reaches the kernel, and fails there for its arguments, which would change the machine if they were others:
    /// with one of these errors.
    Reaches(&'static [i32]),
    /// It ends the process by this signal, and nothing else.
    Signal(i32),
    /// It ends the process with this code.
    Exits(i32),
    /// Nobody ends it.
    RunsOn,
    /// What is granted works by the same code: with these grants it gets this.
    Granted(Grants, Expected),
    /// There is nothing of this kind without the sandbox: another step of the same kind, sent as it should be, works.
    Proper(Vec<Step>),
    /// The library that it was made from loads in the sandbox.
    Intact,
    /// The same in a small or another form, which does this outside.
    Like(Vec<Step>, Box<Control>),
}

/// What holds a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// A layer of the helper's confinement.
    Layer(Layer),
    /// The broker's judgement of what the filter asks it.
    Broker,
    /// The reading of the library's file before it is loaded.
    Library,
    /// The host: bounds on what it reads, clocks, its hold of the helper.
    Host,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(layer) => layer.fmt(f),
            Self::Broker => f.write_str("broker"),
            Self::Library => f.write_str("library check"),
            Self::Host => f.write_str("host"),
        }
    }
}

/// One attempt.
#[derive(Clone)]
pub struct Row {
    /// What the plugin does, as a sentence without its subject.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// What is loaded.
    pub library: Library,
    /// What is done.
    pub steps: Vec<Step>,
    /// What must come of it.
    pub expected: Expected,
    /// What must come of it instead where this layer does not stand.
    pub instead: Option<(Layer, Expected)>,
    /// What shows that it is real.
    pub control: Control,
    /// What holds it; any one of several is enough.
    pub held_by: Vec<HeldBy>,
    /// The sets of grants under which it is tried: nothing, and the most that must not open it.
    pub under: Vec<Grants>,
    /// The permission whose refusal must be told as an event.
    pub told: Option<&'static str>,
    /// The limits that it is tried under.
    pub limits: fn(ResourceLimits) -> ResourceLimits,
    /// The services that the host offers it.
    pub app: fn() -> App,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("name", &self.name).field("group", &self.group).finish_non_exhaustive()
    }
}

/// A call of the plugin.
pub fn call(method: &str, payload: impl AsRef<[u8]>) -> Step {
    Step::Call { method: method.to_owned(), payload: payload.as_ref().to_vec() }
}

impl Row {
    /// The attempt `method` of the plugin `probe`, with nothing granted and with everything granted.
    pub fn new(
        name: &'static str,
        method: &str,
        payload: impl AsRef<[u8]>,
        expected: Expected,
        control: Control,
    ) -> Self {
        Self {
            name,
            group: Group::Files,
            library: Library::Of("probe"),
            steps: vec![call(method, payload)],
            expected,
            instead: None,
            control,
            held_by: vec![HeldBy::Layer(Layer::Seccomp)],
            under: vec![NOTHING, EVERYTHING],
            told: None,
            limits: |limits| limits,
            app: App::new,
        }
    }

    /// A raw call by its number.
    pub fn raw(
        name: &'static str,
        nr: libc::c_long,
        arguments: &str,
        expected: Expected,
        control: Control,
    ) -> Self {
        Self::new(name, "syscall", format!("{nr} {arguments}"), expected, control)
    }

    /// Done before it, and not what the row is about: it must go well.
    #[must_use]
    pub fn after(mut self, method: &str, payload: impl AsRef<[u8]>) -> Self {
        self.steps.insert(self.steps.len() - 1, call(method, payload));
        self
    }

    /// One more step, which the row is about.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// In the plugin of another package.
    #[must_use]
    pub fn of(mut self, library: &'static str) -> Self {
        self.library = Library::Of(library);
        self
    }

    /// In a library that is made for it.
    #[must_use]
    pub fn made(mut self, make: fn(&Path) -> Result<Vec<u8>, String>) -> Self {
        self.library = Library::Made(make);
        self
    }

    /// Nothing is called: loading it is the attempt.
    #[must_use]
    pub fn only_loaded(mut self) -> Self {
        self.steps.clear();
        self
    }

    /// What holds it.
    #[must_use]
    pub fn held_by(mut self, held_by: &[HeldBy]) -> Self {
        self.held_by = held_by.to_vec();
        self
    }

    /// What must come of it instead where this layer does not stand: it is refused in another way. Not for what goes through
    /// then, which is not held.
    #[must_use]
    pub fn without(mut self, layer: Layer, expected: Expected) -> Self {
        self.instead = Some((layer, expected));
        self
    }

    /// What must come of it where these layers do not stand.
    pub fn expected_without(&self, missing: &[Layer]) -> &Expected {
        match &self.instead {
            Some((layer, expected)) if missing.contains(layer) => expected,
            _ => &self.expected,
        }
    }

    /// Of the missing layers those that hold it.
    pub fn lost_with(&self, missing: &[Layer]) -> Vec<Layer> {
        let holds = |layer: &Layer| self.held_by.contains(&HeldBy::Layer(*layer));
        missing.iter().copied().filter(holds).collect()
    }

    /// The grants under which it is tried.
    #[must_use]
    pub fn under(mut self, under: &[Grants]) -> Self {
        self.under = under.to_vec();
        self
    }

    /// Its refusal is an event about this permission.
    #[must_use]
    pub fn told(mut self, permission: &'static str) -> Self {
        self.told = Some(permission);
        self
    }

    /// Under other limits.
    #[must_use]
    pub fn limits(mut self, limits: fn(ResourceLimits) -> ResourceLimits) -> Self {
        self.limits = limits;
        self
    }

    /// With these services.
    #[must_use]
    pub fn app(mut self, app: fn() -> App) -> Self {
        self.app = app;
        self
    }

    /// The steps with their words filled in.
    pub fn filled(steps: &[Step], place: &Place) -> Vec<Step> {
        steps
            .iter()
            .map(|step| match step {
                Step::Call { method, payload } => {
                    Step::Call { method: method.clone(), payload: place.filled(payload) }
                }
                other => other.clone(),
            })
            .collect()
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{:?}", nix::errno::Errno::from_raw(*errno)),
            Self::Got(text) => write!(f, "got {text:?}"),
            Self::GotEnding(text) => write!(f, "got something, and then {text:?}"),
            Self::GotNot(text) => write!(f, "got anything but {text:?}"),
            Self::GotOther => f.write_str("told something else"),
            Self::Failed(text) => write!(f, "an error: {text}"),
            Self::Harmless => f.write_str("harmless"),
            Self::NotLoaded(why) => write!(f, "not loaded: {why}"),
            Self::Forbidden => f.write_str("ended: forbidden call"),
            Self::Signal(signal) => write!(f, "ended: signal {signal}"),
            Self::Exited(code) => write!(f, "ended: exit code {code}"),
            Self::Deadline => f.write_str("ended: deadline"),
            Self::Protocol(what) => write!(f, "ended: protocol ({what})"),
            Self::ChannelClosed => f.write_str("ended: channel closed"),
            Self::OutOfMemory => f.write_str("ended: memory"),
            Self::CpuTime => f.write_str("ended: CPU time"),
            Self::Gone => f.write_str("gone"),
        }
    }
}
