//! A host that may not make user namespaces: as an ordinary user it has to do without all of them, or say why it cannot.
//!
//! The host is a child in a user namespace in which the kernel makes no further ones, as where an administrator has
//! switched them off. It says so before it plays its part, or the test is not proven.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ::containment::{Rig, Stage, Verdict, table};
use nix::sched::CloneFlags;
use rig::child::{self, Part};
use rig::plugins::{Attempts, explained};
use rig::unconfined::{self, Outcome};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, active, libraries, library};
use sandbox_core::{
    Demand, EventKind, Layer, LayerPolicy, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK,
    PERMISSION_PROCESS, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState,
};

/// What children of this module's can be told to do.
pub const PARTS: &[(&str, Part)] = &[
    ("strict without namespaces", strict),
    ("best effort without namespaces", best_effort),
    ("rows without namespaces", rows),
];

/// Any that is not root's.
pub const ORDINARY: u32 = 1000;

/// The layers that there are not without namespaces.
const MISSING: [Layer; 7] = [
    Layer::UserNamespace,
    Layer::PidNamespace,
    Layer::NetworkNamespace,
    Layer::OtherNamespaces,
    Layer::EmptyRoot,
    // Threads cannot be counted for one helper alone.
    Layer::Rlimits,
    Layer::NoExecFiles,
];

fn put(file: &str, text: &[u8]) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all(text)
}

/// Between fork and exec, so with system calls alone; what is written was made before.
fn without_more_namespaces(maps: &[(&'static str, Vec<u8>)]) -> io::Result<()> {
    // Whoever has just changed its user is undumpable, and its own files under /proc are root's.
    nix::sys::prctl::set_dumpable(true)?;
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    maps.iter().try_for_each(|(file, text)| put(file, text))
}

/// Plays `part` as an ordinary user's host without user namespaces.
#[track_caller]
pub fn play(part: &str) -> String {
    play_in_user_namespace(part, &[], ORDINARY, false)
}

/// Plays `part` as the user `inside` of a user namespace of its own, who outside is an ordinary one, and who may make further ones or
/// not.
#[track_caller]
pub fn play_in_user_namespace(part: &str, arguments: &[&str], inside: u32, may_nest: bool) -> String {
    let scratch = Scratch::new();
    let program = scratch.at("suite");
    std::fs::copy(std::env::current_exe().expect("a test program knows its name"), &program)
        .expect("it can be read");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let folder = scratch.folder("libraries");
    for package in libraries::PACKAGES {
        std::fs::copy(library(package), format!("{folder}/{}", libraries::file_name(package)))
            .expect("it was built");
    }
    let root = nix::unistd::geteuid().is_root();
    let outside = if root { ORDINARY } else { nix::unistd::geteuid().as_raw() };
    let group = if root { ORDINARY } else { nix::unistd::getegid().as_raw() };
    let mut maps = vec![
        ("/proc/self/setgroups", b"deny".to_vec()),
        ("/proc/self/uid_map", format!("{inside} {outside} 1").into_bytes()),
        ("/proc/self/gid_map", format!("{inside} {group} 1").into_bytes()),
    ];
    if !may_nest {
        maps.push(("/proc/sys/user/max_user_namespaces", b"0".to_vec()));
    }
    let running = child::start_as(part, arguments, program.as_ref(), |command: &mut Command| {
        command.env(libraries::FOLDER_VARIABLE, &folder);
        if root {
            command.uid(outside).gid(group);
        }
        // SAFETY: runs in the child between fork and exec, and makes system calls alone: it allocates nothing.
        unsafe { command.pre_exec(move || without_more_namespaces(&maps)) };
    });
    String::from_utf8(running.end().well()).expect("the parts report text")
}

#[test]
fn without_user_namespaces_a_strict_load_fails_with_the_layer_that_is_missing() {
    println!("{}", play("strict without namespaces"));
}

#[test]
fn without_user_namespaces_best_effort_runs_with_what_is_left() {
    println!("{}", play("best effort without namespaces"));
}

#[test]
fn without_user_namespaces_rows_are_refused_in_another_way_or_name_the_layer_that_would_hold_them() {
    println!("{}", play("rows without namespaces"));
}

/// What is not held there, and for want of what. A host that is no root's tells a plugin its own user besides.
const NOT_HELD: [(&str, &str); 3] = [
    ("maps what it may read as code", "does not stand here: noexec-files"),
    ("loads another plugin's library", "does not stand here: empty-root, noexec-files"),
    ("asks who it is", "told the same as outside"),
];

fn rows(_: &[String]) -> Vec<u8> {
    let rig = Rig {
        probes: libraries::folder().to_owned(),
        starter: Box::new(unconfined::starter),
        policy: Box::new(|policy| policy.layers(without_namespaces())),
        patience: PATIENCE,
    };
    let stage = Stage::new(&rig).unwrap_or_else(|error| panic!("{error}"));
    let (mut told, mut tried) = (String::new(), 0);
    for row in table() {
        let lost = NOT_HELD.iter().find(|(name, _)| *name == row.name);
        if lost.is_none() && row.instead.is_none() {
            continue;
        }
        tried += 1;
        let judged = stage.judge(&row);
        match (&judged.verdict, lost) {
            (Verdict::Held, None) => {}
            (Verdict::NotHeld(why), Some((_, want))) => {
                assert!(why.iter().any(|why| why.contains(want)), "{}: {why:?}", row.name);
            }
            (verdict, _) => panic!("{}: {verdict:?}", row.name),
        }
        told.push_str(&format!("{}: {}\n", row.name, judged.expected));
    }
    assert!(tried > 2 * NOT_HELD.len(), "{tried} rows");
    told.into_bytes()
}

pub fn without_namespaces() -> LayerPolicy {
    MISSING.into_iter().fold(LayerPolicy::strict(), LayerPolicy::best_effort)
}

fn strict(_: &[String]) -> Vec<u8> {
    let plugin = PluginSandbox::new("hello", PluginPolicy::new()).expect("a sandbox");
    let error = plugin.load_plugin(library("hello")).expect_err("layers are missing");
    let PluginSandboxError::LayerMissing { layer, why, .. } = &error else { panic!("{}", explained(&error)) };
    assert!(MISSING.contains(layer), "{layer}: {why}");
    assert!(
        !why.is_empty() && error.help().is_some_and(|help| help.contains("best_effort")),
        "{}",
        explained(&error)
    );
    assert!(matches!(plugin.state(), PluginState::Registered | PluginState::Unloaded), "nothing of it ran");
    assert_eq!(plugin.process_id(), None);
    let report = plugin.enforcement_report().expect("kept even so");
    assert!(!report.is_complete());
    explained(&error).into_bytes()
}

fn best_effort(_: &[String]) -> Vec<u8> {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let policy = PluginPolicy::new().layers(without_namespaces());
    let plugin = active("probe", policy, library("probe"), ());
    let report = plugin.enforcement_report().expect("there was a load");
    for layer in &report.layers {
        match (MISSING.contains(&layer.layer), layer.demand) {
            (true, _) => assert!(!layer.enforced && layer.why_not.is_some(), "{}", layer.layer),
            (false, Demand::Required) => assert!(layer.enforced, "{}: {:?}", layer.layer, layer.why_not),
            // What a kernel or a machine may lack without any fault of the namespaces'.
            (false, _) => {}
        }
    }
    let refused = Answer::Errno(libc::EACCES);
    for method in ["open", "open_c", "stat", "lstat", "access"] {
        assert_eq!(plugin.attempt(method, &file), refused, "{method}");
        assert_eq!(plugin.attempt(method, "/etc/passwd"), refused, "{method}");
    }
    // A stat by descriptor could name a path, where the root shows one: it goes to the broker here.
    plugin.grant_permission(PERMISSION_FILE_READ.scoped_to_path(&file).expect("absolute"));
    assert_eq!(plugin.attempt("open", &file), Answer::Got(b"contents".to_vec()));
    assert_eq!(plugin.attempt("stat", &file).text().split(' ').next(), Some("8"));
    assert_eq!(plugin.attempt("open", "/etc/passwd"), refused);
    // No call on a socket could be judged here, so there is none, and it is said why.
    let events = plugin.events();
    plugin.grant_permission(PERMISSION_NETWORK);
    assert_eq!(plugin.attempt("socket", ""), refused);
    rig::events::expect(&events, "a refused socket", |kind| match kind {
        EventKind::Access { action: "socket", granted: false, rule, .. } if rule.contains("pidfd_getfd") => {
            Some(())
        }
        _ => None,
    });
    let tree = scratch.folder("tree");
    for permission in [PERMISSION_FILE_READ, PERMISSION_FILE_WRITE] {
        plugin.grant_permission(permission.scoped_to_path(&tree).expect("absolute"));
    }
    let made = scratch.at("tree/made");
    assert!(plugin.attempt("fs", format!("create new\n{made}")).got_it());
    assert_eq!(plugin.attempt("fs", format!("read\n{made}")), Answer::Got(b"new".to_vec()));
    assert_eq!(plugin.attempt("fs", format!("go\n{tree}\nmade")), Answer::Got(format!("{tree} new").into()));
    assert_eq!(plugin.attempt("fs", format!("write\n{}", scratch.at("other"))), refused);
    // Nobody makes a copy of a folder here, and the descriptor of any other would lead out of it.
    assert_eq!(plugin.attempt("fs", format!("names\n{tree}")), refused);
    plugin.revoke_permission_leaving_open(&PERMISSION_FILE_READ);
    assert_eq!(plugin.attempt("open", &file), refused);
    for (method, payload) in
        [("socket", ""), ("fork", ""), ("exec", "/bin/true"), ("memfd", ""), ("mprotect_exec", "")]
    {
        assert!(matches!(plugin.attempt(method, payload), Answer::Errno(_)), "{method}");
        assert!(matches!(
            unconfined::attempt(method, payload),
            Outcome::Answered(Answer::Got(_)) | Outcome::Exited(0)
        ));
    }
    // Where the kernel would find every program of the host's, none is started.
    plugin.grant_permission(PERMISSION_PROCESS);
    let events = plugin.events();
    for method in ["fork", "run"] {
        assert_eq!(plugin.attempt(method, "/bin/cat"), Answer::Errno(libc::EPERM), "{method}");
        rig::events::expect(&events, "a refusal that says why", |kind| match kind {
            EventKind::Access { granted: false, rule, .. } if rule.contains("root is empty") => Some(()),
            _ => None,
        });
    }
    assert_eq!(plugin.attempt("descriptors", "").text(), "0:device 1:pipe 2:pipe 3:pipe 4:pipe");
    // Nobody may look here whether it has closed the file that was opened above.
    plugin.revoke_permission(&PERMISSION_FILE_READ);
    assert_eq!(plugin.state(), PluginState::Crashed);
    report.to_string().into_bytes()
}
