//! The table of tiers: the kinds of host that the README promises something to, and how each is set up.
//!
//! Owns the names. What comes of each is not here but in `expected.json`.

/// One kind of host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tier {
    pub(crate) name: &'static str,
    /// What it stands for, as the table of the README says it.
    pub(crate) what: &'static str,
    /// What the kernel is booted with beside the usual.
    pub(crate) kernel_arguments: &'static str,
    pub(crate) uid: u32,
    /// Whether a part of cgroup v2, with the memory controller, is the host's own.
    pub(crate) cgroup: bool,
    /// `user.max_user_namespaces=0`.
    pub(crate) no_user_namespaces: bool,
    /// `kernel.yama.ptrace_scope`; 0 is how Debian has it.
    pub(crate) yama: u8,
    pub(crate) around: Around,
    /// Whether the short form tries it.
    pub(crate) short: bool,
}

/// What is put around the host before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    Nothing,
    /// The capabilities and the system-call filter that Docker gives a container by default.
    Container,
    /// A filter with a listener of somebody else's, as Incus and Syd have one.
    Listener,
    /// User namespaces can be made and give no capability in them, as Ubuntu 24.04's AppArmor has it. Played by a filter.
    EmptyUserNamespaces,
}

/// Any that is not root's. It need not be in a list of users.
pub(crate) const ORDINARY: u32 = 1000;

const ROOT: Tier = Tier {
    name: "root",
    what: "root",
    kernel_arguments: "",
    uid: 0,
    cgroup: true,
    no_user_namespaces: false,
    yama: 0,
    around: Around::Nothing,
    short: false,
};

const USER: Tier = Tier { name: "user", what: "an ordinary user", uid: ORDINARY, ..ROOT };

/// Every tier, as the tables list them.
pub(crate) const TIERS: [Tier; 12] = [
    Tier { short: true, ..ROOT },
    Tier {
        name: "root-no-userns",
        what: "root, `user.max_user_namespaces=0`, no cgroup",
        cgroup: false,
        no_user_namespaces: true,
        ..ROOT
    },
    Tier { short: true, ..USER },
    Tier { name: "user-no-cgroup", what: "an ordinary user, no cgroup delegated", cgroup: false, ..USER },
    Tier {
        name: "user-no-userns",
        what: "an ordinary user, `user.max_user_namespaces=0`",
        no_user_namespaces: true,
        short: true,
        ..USER
    },
    Tier {
        name: "userns-no-caps",
        what: "an ordinary user whose user namespaces give no capabilities (Ubuntu 24.04's restriction, played by a filter)",
        around: Around::EmptyUserNamespaces,
        ..USER
    },
    Tier {
        name: "container",
        what: "root in a container: Docker's default capabilities and filter (no `SYS_ADMIN`, no `SYS_PTRACE`)",
        cgroup: false,
        around: Around::Container,
        ..ROOT
    },
    Tier {
        name: "listener",
        what: "under another seccomp listener (Incus, Syd)",
        around: Around::Listener,
        ..USER
    },
    Tier {
        name: "no-landlock",
        what: "root, a kernel booted without Landlock (`lsm=`)",
        kernel_arguments: "lsm=yama,apparmor",
        ..ROOT
    },
    Tier { name: "yama-2", what: "an ordinary user, `kernel.yama.ptrace_scope=2`", yama: 2, ..USER },
    Tier {
        name: "yama-1-no-userns",
        what: "an ordinary user, `kernel.yama.ptrace_scope=1`, `user.max_user_namespaces=0`",
        yama: 1,
        no_user_namespaces: true,
        ..USER
    },
    Tier { name: "yama-3", what: "root, `kernel.yama.ptrace_scope=3`: nobody may trace", yama: 3, ..ROOT },
];

impl Tier {
    pub(crate) fn named(name: &str) -> Option<Self> {
        TIERS.into_iter().find(|tier| tier.name == name)
    }

    /// Whether it can be tried where nothing of the machine may be changed. There is then no cgroup of one's own, whatever
    /// the tier says.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.kernel_arguments.is_empty() && !self.no_user_namespaces && self.yama == 0
    }
}
