//! The layers of confinement, and which of them a host insists on.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::sabotage::Sabotage;

/// One thing that the kernel holds against a plugin. Each stands alone: none relies on another one holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Layer {
    /// A user namespace of the helpers' own: user_namespaces(7).
    UserNamespace,
    /// A process-id namespace of the helpers' own, so that none outlives the zygote: pid_namespaces(7).
    PidNamespace,
    /// A network namespace with nothing in it: network_namespaces(7).
    NetworkNamespace,
    /// IPC, UTS and cgroup namespaces of the helpers' own: namespaces(7).
    OtherNamespaces,
    /// A file tree with nothing in it, read-only, `nosuid,nodev,noexec`: pivot_root(2).
    EmptyRoot,
    /// Memory, descriptors, threads, core dumps: getrlimit(2).
    Rlimits,
    /// A control group of its own with a limit on memory, what the kernel keeps for it included: cgroups(7), version 2.
    /// Without one the rlimits hold what the plugin allocates.
    MemoryCgroup,
    /// A user id that is not root's and, for a root host, no other plugin's: credentials(7).
    Ids,
    /// All five capability sets empty, securebits locked: capabilities(7).
    Capabilities,
    /// No program started from here gains a privilege: PR_SET_NO_NEW_PRIVS(2const).
    NoNewPrivs,
    /// No mapping becomes executable any more: PR_SET_MDWE(2const), Linux 6.3. The filter refuses the same below.
    MemoryDenyWriteExecute,
    /// Every file and network right the kernel's Landlock knows, handled and not granted: landlock(7).
    Landlock,
    /// No signal and no abstract socket reaches out: landlock(7), Linux 6.12. The filter refuses the same below.
    LandlockScopes,
    /// The final system-call filter: seccomp(2).
    Seccomp,
    /// Files reached through a permission cannot be mapped as code: mount_setattr(2).
    NoExecFiles,
}

/// Whether a load may go on without a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Demand {
    /// Without it nothing is loaded.
    Required,
    /// It stands wherever the kernel has it; another layer holds the same where it does not.
    WhereAvailable,
    /// The embedder gave it up by name; it still stands wherever it can be had.
    BestEffort,
}

/// Which layers a host insists on: all, but for those that newer kernels add on top of others.
///
/// ```
/// use sandbox_core::{Demand, Layer, LayerPolicy};
/// let layers = LayerPolicy::strict().best_effort(Layer::EmptyRoot);
/// assert_eq!(layers.demand(Layer::EmptyRoot), Demand::BestEffort);
/// assert_eq!(layers.demand(Layer::Seccomp), Demand::Required);
/// assert_eq!(layers.demand(Layer::MemoryDenyWriteExecute), Demand::WhereAvailable);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerPolicy {
    best_effort: BTreeSet<Layer>,
    pub(crate) sabotage: Sabotage,
}

impl Layer {
    /// Every layer, in the order in which a helper puts them up.
    pub const ALL: [Self; 15] = [
        Self::UserNamespace,
        Self::PidNamespace,
        Self::NetworkNamespace,
        Self::OtherNamespaces,
        Self::MemoryCgroup,
        Self::Rlimits,
        Self::EmptyRoot,
        Self::Ids,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::MemoryDenyWriteExecute,
        Self::Landlock,
        Self::LandlockScopes,
        Self::Seccomp,
        Self::NoExecFiles,
    ];

    /// The layer's name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user-namespace",
            Self::PidNamespace => "pid-namespace",
            Self::NetworkNamespace => "network-namespace",
            Self::OtherNamespaces => "other-namespaces",
            Self::EmptyRoot => "empty-root",
            Self::MemoryCgroup => "memory-cgroup",
            Self::Rlimits => "rlimits",
            Self::Ids => "ids",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no-new-privs",
            Self::MemoryDenyWriteExecute => "memory-deny-write-execute",
            Self::Landlock => "landlock",
            Self::LandlockScopes => "landlock-scopes",
            Self::Seccomp => "seccomp",
            Self::NoExecFiles => "noexec-files",
        }
    }

    /// What a plugin could do without it, in one sentence.
    pub fn matters_because(self) -> &'static str {
        match self {
            Self::UserNamespace => "without it an ordinary user's host has no namespaces at all",
            Self::PidNamespace => "without it a helper could outlive a host that was killed while it hung",
            Self::NetworkNamespace => "without it only the filter keeps sockets from the host's network",
            Self::OtherNamespaces => {
                "without it only the filter hides the host's name, IPC objects and cgroups"
            }
            Self::EmptyRoot => {
                "without it only the filter and Landlock stand between a plugin and the host's files"
            }
            Self::MemoryCgroup => {
                "without it only what a plugin allocates counts, not what the kernel keeps for it"
            }
            Self::Rlimits => {
                "without it a plugin may take the memory, descriptors and threads of the machine"
            }
            Self::Ids => "without it a plugin owns what the host's user owns",
            Self::Capabilities => {
                "without it a plugin that got past the filter could act as an administrator"
            }
            Self::NoNewPrivs => "without it a set-user-id program could give rights back",
            Self::MemoryDenyWriteExecute => {
                "without it only the filter keeps injected bytes from becoming code"
            }
            Self::Landlock => "without it a file that an empty root happens to show could be opened",
            Self::LandlockScopes => "without it only the filter keeps signals inside the helper",
            Self::Seccomp => "without it the kernel's whole surface is open, and nothing reaches the broker",
            Self::NoExecFiles => "without it a file that the plugin may read could also be loaded as code",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Layer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|layer| layer.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|layer| layer.name()).collect();
            format!("no layer is called {text:?}; there are {}", names.join(", "))
        })
    }
}

impl LayerPolicy {
    /// Every layer that can be required is.
    pub fn strict() -> Self {
        Self::default()
    }

    /// Goes on without `layer` where it cannot be had; the enforcement report says so.
    #[must_use]
    pub fn best_effort(mut self, layer: Layer) -> Self {
        self.best_effort.insert(layer);
        self
    }

    /// Makes helpers that lack `layer`, so that a test can show what it holds. The enforcement report says so.
    #[cfg(feature = "test-support")]
    #[must_use]
    pub fn without(mut self, layer: Layer) -> Self {
        self.sabotage = self.sabotage.taking(layer);
        self
    }

    /// Makes helpers that end by SIGKILL just before the step with this number, 1 to 11.
    #[cfg(feature = "test-support")]
    #[must_use]
    pub fn ending_before(mut self, step: u8) -> Self {
        self.sabotage = self.sabotage.ending_before(step);
        self
    }

    /// What is asked of `layer`.
    pub fn demand(&self, layer: Layer) -> Demand {
        match layer {
            // A user namespace is how an ordinary user comes by the others, each of which is asked for itself; root does not
            // need it.
            Layer::UserNamespace
            | Layer::MemoryCgroup
            | Layer::MemoryDenyWriteExecute
            | Layer::LandlockScopes => Demand::WhereAvailable,

            _ if self.best_effort.contains(&layer) || self.sabotage.takes(layer) => Demand::BestEffort,
            _ => Demand::Required,
        }
    }
}
