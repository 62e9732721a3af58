//! Which namespaces a helper lives in, by who the host is and what the zygote could get.

use serde::{Deserialize, Serialize};

use crate::shared::wire::zygote::Launch;

/// The user id that a helper of an ordinary user's host sees: nobody's.
pub(crate) const SHOWN_ID: u32 = 65534;

/// Whether the helper makes a user namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UserPlan {
    /// It stays in the zygote's (or the host's, where there is none).
    Zygotes,
    /// One of its own inside the zygote's, so that `RLIMIT_NPROC` counts this helper alone: all helpers of an ordinary
    /// user's host are the same user outside.
    Own,
}

/// How the helper comes to its empty root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RootPlan {
    /// It enters the one empty mount namespace that the zygote has made; its descriptor is number 5.
    Shared,
    /// It makes one in a mount namespace of its own.
    Own,
    /// There are no namespaces: the host's tree stays in sight of everything but Landlock and the filter.
    None,
}

/// Where the helper stands.
pub(crate) fn plan(launch: &Launch, shared_root: bool, host_is_root: bool) -> (UserPlan, RootPlan) {
    match (launch.namespaces, launch.user_namespace, host_is_root) {
        (false, ..) => (UserPlan::Zygotes, RootPlan::None),
        // A user namespace of one's own has no say over the zygote's mount namespaces: it needs its own.
        (true, true, false) => (UserPlan::Own, RootPlan::Own),
        (true, ..) if shared_root => (UserPlan::Zygotes, RootPlan::Shared),
        (true, ..) => (UserPlan::Zygotes, RootPlan::None),
    }
}
