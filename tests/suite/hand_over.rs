//! A host that may not take what the broker needs of a helper, as in a container or with `kernel.yama.ptrace_scope=3`: the helper
//! hands it over, and all that then cannot be held is refused.
//!
//! The host is a child, to which the kernel refuses the calls that those refuse.

use std::fs;

use rig::child::{self, Part};
use rig::inventory::{Inventory, descendants};
use rig::plugins::{Attempts, explained};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, active, library};
use sandbox_core::{
    EventKind, Layer, LayerPolicy, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK,
    PERMISSION_PROCESS, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState, ResourceLimits,
};

use crate::host_faults::{Refusal, refuse_here, refused, refused_if};

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[
    ("hands over", hands_over),
    ("hands over without threads", without_threads),
    ("cannot hand over", cannot_hand_over),
    ("many hand over", many_hand_over),
];

/// What a kernel refuses that lets nobody trace, and no filter do it either.
const TRACING: [Refusal; 3] = [
    refused(libc::SYS_pidfd_getfd, libc::EPERM),
    refused(libc::SYS_process_vm_writev, libc::EPERM),
    refused(libc::SYS_process_vm_readv, libc::EPERM),
];

fn policy() -> PluginPolicy {
    PluginPolicy::new().limits(ResourceLimits::default().call_timeout(PATIENCE))
}

/// The number of threads of a process.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").count()
}

#[test]
fn a_helper_hands_over_what_its_host_may_not_take_and_keeps_nothing_of_it() {
    println!("{}", String::from_utf8_lossy(&child::run("hands over", &[])));
}

#[test]
fn a_plugin_that_may_start_no_thread_is_handed_over_too() {
    child::run("hands over without threads", &[]);
}

#[test]
fn what_cannot_be_handed_over_is_a_layer_that_is_missing() {
    println!("{}", String::from_utf8_lossy(&child::run("cannot hand over", &[])));
}

#[test]
fn many_plugins_are_handed_over_at_once() {
    child::run("many hand over", &[]);
}

fn hands_over(_: &[String]) -> Vec<u8> {
    // As it is without a hand-over, to compare with.
    let usual = active("probe", policy(), library("probe"), ());
    let usual_report = usual.enforcement_report().expect("there was a load");
    let usual_descriptors = usual.attempt("descriptors", "").text();
    drop(usual);
    refuse_here(&TRACING);
    let before = Inventory::take();
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    // Twice: the first load finds out that helpers have to, the second knows.
    for load in ["first", "second"] {
        let plugin = active("probe", policy(), library("probe"), ());
        let report = plugin.enforcement_report().expect("there was a load");
        for (usual, layer) in usual_report.layers.iter().zip(&report.layers) {
            assert_eq!(
                (layer.layer, layer.enforced),
                (usual.layer, usual.enforced),
                "{load}: {:?}",
                layer.why_not
            );
        }
        let evidence = &report.layer(Layer::Seccomp).expect("every layer is there").evidence;
        assert!(evidence.contains("handed over"), "{evidence}");
        let helper = plugin.process_id().expect("it is active");
        assert_eq!(plugin.attempt("descriptors", "").text(), usual_descriptors);
        assert_eq!((threads(helper), descendants(helper).len()), (1, 0), "no courier");
        drop(plugin);
    }
    let plugin = active("probe", policy(), library("probe"), ());
    files(&plugin, &scratch, &file);
    what_cannot_be_held_is_refused(&plugin, &scratch);
    plugin.revoke_permission(&PERMISSION_FILE_READ);
    assert_eq!(plugin.state(), PluginState::Active, "it has closed what it had opened");
    assert_eq!(plugin.attempt("open", &file), Answer::Errno(libc::EACCES));
    let told = fault(&plugin);
    drop(plugin);
    before.assert_nothing_left();
    told.into_bytes()
}

/// What is granted works, and nothing else.
fn files(plugin: &PluginSandbox, scratch: &Scratch, file: &str) {
    let refused = Answer::Errno(libc::EACCES);
    assert_eq!(plugin.attempt("open", file), refused);
    plugin.grant_permission(PERMISSION_FILE_READ.scoped_to_path(file).expect("absolute"));
    assert_eq!(plugin.attempt("open", file), Answer::Got(b"contents".to_vec()));
    // An answer in its memory.
    assert_eq!(plugin.attempt("stat", file).text().split(' ').next(), Some("8"));
    assert_eq!(plugin.attempt("open", "/etc/passwd"), refused);
    let tree = scratch.folder("tree");
    for permission in [PERMISSION_FILE_READ, PERMISSION_FILE_WRITE] {
        plugin.grant_permission(permission.scoped_to_path(&tree).expect("absolute"));
    }
    let made = scratch.at("tree/made");
    assert!(plugin.attempt("fs", format!("create new\n{made}")).got_it());
    assert_eq!(plugin.attempt("fs", format!("read\n{made}")), Answer::Got(b"new".to_vec()));
    assert_eq!(plugin.attempt("fs", format!("names\n{tree}")).text(), "made");
}

fn what_cannot_be_held_is_refused(plugin: &PluginSandbox, scratch: &Scratch) {
    let events = plugin.events();
    let is_refused = |what: &'static str, why: &str| {
        rig::events::expect(&events, what, |kind| match kind {
            EventKind::Access { granted: false, rule, .. } if rule.contains(why) => Some(()),
            _ => None,
        });
    };
    plugin.grant_permission(PERMISSION_NETWORK);
    assert_eq!(plugin.attempt("socket", ""), Answer::Errno(libc::EACCES));
    is_refused("no socket", "no call on a socket could be judged");
    plugin.grant_permission(PERMISSION_PROCESS);
    for method in ["fork", "run"] {
        assert_eq!(plugin.attempt(method, "/bin/cat"), Answer::Errno(libc::EACCES), "{method}");
        is_refused("no program", "no call of a program's could be judged");
    }
    let (tree, made) = (scratch.at("tree"), scratch.at("tree/made"));
    let calls =
        [("of a file", format!("chmod held\n{made}")), ("from a folder", format!("remove all\n{tree}"))];
    for (what, payload) in calls {
        assert_eq!(plugin.attempt("fs", payload), Answer::Errno(libc::EACCES), "{what}");
        is_refused(what, "copies of a plugin's descriptors");
    }
}

/// A fault's stack is read by way of the same memory.
fn fault(plugin: &PluginSandbox) -> String {
    let error = plugin.refused("segfault", "");
    let end = plugin.last_end().expect("it has ended");
    let fault = end.fault.as_ref().unwrap_or_else(|| panic!("{}", explained(&error)));
    assert!(fault.stack.iter().any(|frame| frame.to_string().contains("segfault")), "{end}");
    end.to_string()
}

fn without_threads(_: &[String]) -> Vec<u8> {
    refuse_here(&TRACING);
    let limits = ResourceLimits::default().call_timeout(PATIENCE).max_threads(0).max_file_handles(0);
    let plugin = active("probe", PluginPolicy::new().limits(limits), library("probe"), ());
    assert_eq!(plugin.attempt("threads", "1").text(), "0 11", "the limit is as it was");
    Vec::new()
}

fn cannot_hand_over(_: &[String]) -> Vec<u8> {
    let no_courier =
        refused_if(libc::SYS_clone, libc::CLONE_FILES | libc::CLONE_VM, libc::CLONE_FILES, libc::EAGAIN);
    refuse_here(&[TRACING.as_slice(), &[no_courier]].concat());
    let before = Inventory::take();
    let plugin = PluginSandbox::new("probe", policy().layers(LayerPolicy::strict())).expect("a sandbox");
    let error = plugin.load_plugin(library("probe")).expect_err("the broker cannot be had");
    assert!(
        matches!(error, PluginSandboxError::LayerMissing { layer: Layer::Seccomp, .. }),
        "{}",
        explained(&error)
    );
    let text = explained(&error);
    for words in ["pidfd_getfd: EPERM", "clone: EAGAIN"] {
        assert!(text.contains(words), "{text}");
    }
    drop(plugin);
    before.assert_nothing_left();
    text.into_bytes()
}

/// Descriptors that are under way count against each of a user's processes, and helpers may hold few.
fn many_hand_over(_: &[String]) -> Vec<u8> {
    const AT_ONCE: usize = 24;
    refuse_here(&TRACING);
    let limits = ResourceLimits::default().call_timeout(PATIENCE).load_timeout(PATIENCE).max_file_handles(0);
    let together = std::sync::Barrier::new(AT_ONCE);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (together, policy) = (&together, PluginPolicy::new().limits(limits.clone()));
            scope.spawn(move || {
                together.wait();
                assert!(active("probe", policy, library("probe"), ()).attempt("echo", "").got_it());
            });
        }
    });
    Vec::new()
}
