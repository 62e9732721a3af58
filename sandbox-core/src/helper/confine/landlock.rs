//! A Landlock ruleset that handles every right the kernel knows and grants one: to start what is in the helper's own root,
//! which is empty until the host shows it a program. landlock(7).
//!
//! Runs in the helper, step 7, after `no_new_privs`, which it demands. Its evidence is a probe: opening `/` works before
//! and fails after, for no other reason.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use crate::shared::notes::Notes;
use crate::shared::policy::{Layer, Sabotage};
use crate::shared::wire::report::{Call, Step};

/// What came of it.
pub(crate) struct Applied {
    /// The kernel's ABI, 0 for none.
    pub(crate) abi: u32,
    /// The errno of opening `/`, before and after.
    pub(crate) probe: (i32, i32),
}

/// Applies it, and probes. `empty_root`: whether the root is the helper's own; nothing may be started in any other.
pub(crate) fn restrict(empty_root: bool, sabotage: &Sabotage, notes: &mut Notes) -> Applied {
    let mut abi = 0;
    let before = open_root();
    if sabotage.takes(Layer::Landlock) {
        return Applied { abi: 0, probe: (before, open_root()) };
    }
    let scopes =
        if sabotage.takes(Layer::LandlockScopes) { Default::default() } else { Scope::from_all(ABI::V10) };
    // The newest that the crate knows; what this kernel does not know of it is left out, and `abi` says how much it knows.
    let newest = ABI::V10;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(newest)))
        .and_then(|ruleset| if scopes.is_empty() { Ok(ruleset) } else { ruleset.scope(scopes) })
        .and_then(Ruleset::create)
        .map_err(|_| Errno::last());
    if let Some(mut ruleset) = notes.tried(Step::Landlock, Call::LandlockCreate, ruleset) {
        if empty_root {
            // The kernel reads what it starts. Files that the plugin opens by itself are asked of the host.
            let rule = PathFd::new("/").map_err(|_| Errno::last()).and_then(|root| {
                let start = PathBeneath::new(root, AccessFs::Execute | AccessFs::ReadFile);
                (&mut ruleset).add_rule(start).map(drop).map_err(|_| Errno::last())
            });
            notes.tried(Step::Landlock, Call::LandlockAddRule, rule);
        }
        // The crate would set it by itself.
        let ruleset = ruleset.no_new_privs(!sabotage.takes(Layer::NoNewPrivs));
        let restricted = ruleset.restrict_self().map_err(|_| Errno::last());
        let status = notes.tried(Step::Landlock, Call::LandlockRestrict, restricted);
        if let Some(LandlockStatus::Available { effective_abi, kernel_abi }) =
            status.map(|status| status.landlock)
        {
            abi = kernel_abi.unwrap_or(effective_abi as i32);
        }
    }
    Applied { abi: abi.try_into().unwrap_or(0), probe: (before, open_root()) }
}

fn open_root() -> i32 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).map_or_else(|errno| errno.raw_os_error(), |_| 0)
}
