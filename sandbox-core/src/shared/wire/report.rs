//! What a helper says of its own confinement, as numbers; read by the host, which believes none of it untested.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The eleven steps from a request to a served plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// 1: the zygote clones and execs the helper.
    Spawn,
    /// 2: own session, empty environment, only the channel's descriptors.
    Detach,
    /// 3: resource limits.
    Rlimits,
    /// 4: the empty root.
    EmptyRoot,
    /// 5: ids and capabilities.
    Privileges,
    /// 6: `no_new_privs` and memory-deny-write-execute.
    NoNewPrivs,
    /// 7: Landlock.
    Landlock,
    /// 8: the final filter.
    Seccomp,
    /// 9: the report, checked from outside.
    Report,
    /// 10: the library is loaded.
    Load,
    /// 11: the plugin is served.
    Serve,
}

impl Step {
    /// The step's number, 1 to 11.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Spawn => "spawn",
            Self::Detach => "detach",
            Self::Rlimits => "rlimits",
            Self::EmptyRoot => "empty root",
            Self::Privileges => "ids and capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Report => "report",
            Self::Load => "load",
            Self::Serve => "serve",
        };
        write!(f, "{} ({name})", self.number())
    }
}

macro_rules! calls {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A system call that a step makes, so that a failure travels as a number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) enum Call { $($variant),* }

        impl Call {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

calls! { Setsid = "setsid", Subreaper = "prctl(PR_SET_CHILD_SUBREAPER)", Chdir = "chdir", Unshare = "unshare",
    UidMap = "write uid_map", GidMap = "write gid_map", Setgroups = "setgroups", Setrlimit = "setrlimit",
    Setns = "setns", Fsopen = "fsopen", Fsconfig = "fsconfig", Fsmount = "fsmount", MoveMount = "move_mount", Umount = "umount2", Chroot = "chroot", BoundingSet = "prctl(PR_CAPBSET_DROP)",
    Securebits = "prctl(PR_SET_SECUREBITS)", Ambient = "prctl(PR_CAP_AMBIENT)", Setresgid = "setresgid",
    Setresuid = "setresuid", Capset = "capset", DeathSignal = "prctl(PR_SET_PDEATHSIG)",
    Dumpable = "prctl(PR_SET_DUMPABLE)", NoNewPrivs = "prctl(PR_SET_NO_NEW_PRIVS)", Mdwe = "prctl(PR_SET_MDWE)",
    LandlockCreate = "landlock_create_ruleset", LandlockAddRule = "landlock_add_rule", LandlockRestrict = "landlock_restrict_self", Seccomp = "seccomp",
    OpenTree = "open_tree", MountSetattr = "mount_setattr", Sethostname = "sethostname",
    MountPrivate = "mount(MS_PRIVATE)", Sigaction = "sigaction(SIGSYS)",
    OwnMemory = "open /proc/self/mem", Eventfd = "eventfd", Clone = "clone", Waitid = "waitid", Sendmsg = "sendmsg",
}

/// A call that failed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) call: Call,
    pub(crate) errno: i32,
}

/// The most failures that a report may list.
pub(crate) const MAX_FAILURES: usize = 64;

/// What a helper found when it asked the kernel what stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HelperReport {
    pub(crate) wire_version: u32,
    pub(crate) failures: Vec<Failure>,
    pub(crate) no_new_privs: bool,
    /// `None` where the kernel does not know it.
    pub(crate) mdwe: Option<bool>,
    pub(crate) securebits: u32,
    /// The Landlock ABI that the kernel has; 0 for none.
    pub(crate) landlock_abi: u32,
    /// The errno of opening `/` before and after the ruleset: only Landlock refuses it.
    pub(crate) landlock_probe: (i32, i32),
    /// Whether the filter's listener waits killable (Linux 5.19).
    pub(crate) killable_wait: bool,
    /// The listener's number in the helper; -1 for none.
    pub(crate) listener: i32,
}
