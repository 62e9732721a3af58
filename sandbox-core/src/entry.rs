//! How a fresh exec of the host's own image becomes the zygote or a helper, and any other process goes on unharmed.
//!
//! Runs in every process that links this library, before `main`. Owns the marks in `argv`. Never acts on a mark alone:
//! the descriptors that only our own processes pass on must be there too.
#![allow(unsafe_code, reason = "one link section attribute")]

use rustix::fs::FileType;

use crate::shared::sys::inherited;
use crate::shared::wire::role::Role;

/// Becomes the zygote or a helper if this process was started to be one, and does not return then.
///
/// With the feature `auto-entry`, which is on by default, this happens by itself before `main`. Without it, or where
/// entries of `.init_array` are not run, call it as the first line of `main`.
///
/// ```
/// sandbox_core::become_helper_if_asked();
/// println!("the application itself");
/// ```
pub fn become_helper_if_asked() {
    let Some(mark) = std::env::args_os().nth(1) else { return };
    let mark = mark.as_encoded_bytes();
    let roles = [Role::Launcher, Role::Zygote, Role::Helper];
    let Some(role) = roles.into_iter().find(|role| role.mark().to_bytes() == mark) else { return };
    // A set-user-id program must not be turned into something else by its caller's arguments.
    if inherited::is_privileged_exec() || !given(role) || !alone() {
        return;
    }
    match role {
        Role::Launcher => crate::zygote::launch::main(),
        Role::Zygote => crate::zygote::serve::main(),
        Role::Helper => crate::helper::run::main(),
    }
}

fn given(role: Role) -> bool {
    role.descriptors().iter().all(|(number, kind)| {
        let path = format!("/proc/self/fd/{number}");
        rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == *kind)
    })
}

/// Another thread could hold a lock that a clone would copy: there is none this early, unless a library started one.
fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// glibc runs this between the standard library's own entry, which keeps the arguments, and `main`.
#[cfg(feature = "auto-entry")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        become_helper_if_asked();
    }
    before_main
};
