//! The messages between host, launcher and zygote, over their SOCK_SEQPACKET socket; one packet each.

use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::Failure;
use crate::shared::plan::caps::IdRange;
use crate::shared::policy::Sabotage;

/// The largest packet either way.
pub(crate) const MAX_PACKET_BYTES: usize = 4096;

/// Names a helper for as long as its host lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct HelperId(pub(crate) u32);

/// What the host says to the launcher, then to the zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToZygote {
    /// The first packet: what a process that was started by accident could not know.
    Hello { wire_version: u32, sabotage: Sabotage },
    /// Clone a helper. Comes with three descriptors, its input, its output, and what it prints; then, if `hands_over`, its
    /// end of the socket over which it does; then, if `into_cgroup`, the cgroup to clone it into; and then `tasks` of each
    /// group of version 1 that it joins. `is_killed`: a test's, which ends before it is execed.
    Spawn { id: HelperId, hands_over: bool, into_cgroup: bool, is_killed: bool },
    /// Do what needs the zygote's rights.
    Do { id: TaskId, task: Task },
}

/// Names a task for as long as its zygote lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct TaskId(pub(crate) u32);

/// What only the zygote may do: file trees are its mount namespace's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Comes with a folder of the zygote's own tree; goes back with a detached, read-only copy of it alone, from which no
    /// path leads out.
    CopyFolder,
    /// Goes back with a new file system of this size, mounted nowhere, with a folder `tmp` in it that everybody may write.
    NewScratch { bytes: u64, inodes: u64 },
    /// Comes with such a file system, which has this size from now on.
    ResizeScratch { bytes: u64, inodes: u64 },
    /// Comes with a program of the zygote's own tree, which from now on is at this path of the helper's root too: read-only,
    /// and alone there with what was shown before.
    ShowProgram {
        helper: HelperId,
        #[serde(with = "serde_bytes")]
        at: Vec<u8>,
    },
    /// End every process of helpers that have ended. Done when none is left.
    Sweep,
    /// Goes back with a new, detached folder with nothing in it.
    NewFolder,
    /// Comes with one of those: puts these names into it, with nothing behind them.
    AddNames(Vec<Name>),
    /// Comes with one of those, in which nothing changes from then on.
    SealFolder,
    /// Goes back with a connection to the kernel for serving files: fuse(4).
    OpenFuse,
    /// Comes with such a connection; goes back with the root of its file system, mounted nowhere.
    MountFuse,
}

/// A name in a folder that is there to be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    /// One plain component.
    pub(crate) name: OsString,
    pub(crate) kind: NameKind,
}

/// What a name seems to be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NameKind {
    File,
    Folder,
    Link,
}

/// How a process has ended, and what it had used: wait4(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reaped {
    /// The wait status as the kernel has it.
    pub(crate) status: i32,
    /// The most memory it ever had resident, in KiB.
    pub(crate) max_rss_kib: u64,
    /// The CPU time of its threads, and of the children that it had waited for.
    pub(crate) cpu_time: Duration,
}

/// What launcher and zygote say to the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromZygote {
    /// The launcher has made the zygote. Comes with the zygote's pidfd.
    Launched(Launch),
    /// The zygote is ready. Comes with four descriptors if `trees`: the host's file tree to read from, the same to write
    /// to, the same to map code from, and the zygote's own root.
    Ready {
        failures: Vec<Failure>,
        shared_root: bool,
        trees: bool,
    },
    /// A task is done, or failed. Comes with what it made, if it made a descriptor.
    Done {
        id: TaskId,
        errno: Option<i32>,
    },
    /// A helper was cloned. Comes with its pidfd. `cgroup_errno`: why it is not in its cgroup.
    Spawned {
        id: HelperId,
        cgroup_errno: Option<i32>,
    },
    SpawnFailed {
        id: HelperId,
        errno: i32,
    },
    /// A helper has ended.
    Exited {
        id: HelperId,
        reaped: Reaped,
    },
    /// The launcher could make no zygote.
    LaunchFailed {
        errno: i32,
    },
}

/// The namespaces that the zygote got, and the errno of what it tried before it settled for less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) user_namespace: bool,
    /// Pid, network, IPC, UTS, cgroup and mount namespaces: all or none.
    pub(crate) namespaces: bool,
    /// The ids of a root host's helpers; `None` for an ordinary user's, and where there are none to be had.
    pub(crate) ids: Option<IdRange>,
    /// Why there is no user namespace, or no namespaces.
    pub(crate) errno: Option<i32>,
}
