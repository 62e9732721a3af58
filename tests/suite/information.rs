//! What one plugin could tell another, or learn of the host, without being given anything; and what the host learns of it.

use std::path::Path;

use rig::events::expect;
use rig::plugins::Attempts;
use rig::unconfined::{self, Outcome};
use rig::{Answer, Scratch, probe, probe_with};
use sandbox_core::{EventKind, PERMISSION_FILE_READ, PluginPolicy};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

#[test]
fn a_way_through_a_folder_does_not_tell_whether_it_exists() {
    const BASE: &str = "/usr/share/zoneinfo/UTC";
    let scratch = Scratch::new();
    scratch.folder("there/below");
    let granted = scratch.file("granted/file", "contents");
    let below_root = scratch.path().components().count();
    let read = PERMISSION_FILE_READ.scoped_to_path(&granted).expect("absolute");
    let policy = || PluginPolicy::new();
    let mut targets = vec![(policy().permission(read), granted.as_str())];
    if Path::new(BASE).exists() {
        targets.push((policy(), BASE));
    } else {
        println!("not proven for a plugin without any grant: this machine has no {BASE}");
    }
    for (policy, target) in targets {
        let plugin = probe_with(policy);
        // Out of the folder, out of the scratch folder, and to the target from the root.
        let by_way_of = |folder: &str, depth: usize| {
            format!("{}{}{target}", scratch.at(folder), "/..".repeat(below_root + depth))
        };
        let ways = [
            by_way_of("there", 0),
            by_way_of("not-there", 0),
            by_way_of("there/below", 1),
            by_way_of("there/not-there", 1),
        ];
        for method in ["open", "open_c", "stat", "lstat", "access"] {
            assert!(plugin.attempt(method, target).got_it(), "{method} {target}: by itself it is there");
            for way in &ways {
                assert_eq!(plugin.attempt(method, way), REFUSED, "{method} {way}");
            }
        }
        let outside = ways.map(|way| unconfined::attempt("stat", &way));
        let missing = Outcome::Answered(Answer::Errno(libc::ENOENT));
        assert!(outside[0].reached() && outside[2].reached(), "outside the way is found: {outside:?}");
        assert!(
            outside[1] == missing && outside[3] == missing,
            "and told from one that is none: {outside:?}"
        );
    }
}

#[test]
fn a_lock_that_others_wait_for_is_had_by_the_process_and_lent_to_nobody() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let lock = |command: i32| ("lock", format!("{command}\n{file}"));
    for (method, payload, allowed) in [
        (lock(libc::F_SETLK), true),
        (lock(libc::F_SETLKW), true),
        (lock(libc::F_GETLK), true),
        (lock(libc::F_OFD_SETLK), false),
        (lock(libc::F_OFD_GETLK), false),
        (("lock_whole", file.clone()), false),
    ]
    .map(|((method, payload), allowed)| (method, payload, allowed))
    {
        assert!(unconfined::attempt(method, &payload).reached(), "{method} {payload} works outside");
        let answer = plugin.attempt(method, &payload);
        let expected = if allowed { Answer::Got(Vec::new()) } else { Answer::Errno(libc::EPERM) };
        assert_eq!(answer, expected, "{method} {payload}");
    }
}

#[test]
fn what_one_plugin_does_to_its_standard_input_another_does_not_see() {
    let (one, other) = (probe(), probe());
    let flags = |plugin: &sandbox_core::PluginSandbox| {
        let flags = plugin.attempt("syscall", format!("{} 0 {}", libc::SYS_fcntl, libc::F_GETFL)).text();
        flags.parse::<i32>().expect("a number")
    };
    let before = flags(&other);
    let new = libc::O_APPEND | libc::O_NONBLOCK;
    assert_eq!(before & new, 0);
    let set = format!("{} 0 {} {}", libc::SYS_fcntl, libc::F_SETFL, new);
    assert!(one.attempt("syscall", set).got_it());
    assert_eq!(flags(&one) & new, new, "itself it does");
    assert_eq!(flags(&other), before);
    assert_eq!(flags(&probe()), before, "nor does one that comes later");
}

#[test]
fn the_event_of_a_refused_call_names_what_it_was_about() {
    let scratch = Scratch::new();
    let [file, other] = ["file", "other"].map(|name| scratch.file(name, "contents"));
    let link = scratch.link("link", &file);
    let new = |name: &str| scratch.at(name);
    let at = |nr: libc::c_long, arguments: String| ("syscall", format!("{nr} {arguments}"));
    let rows = [
        ("mkdir", ("mkdir", new("folder")), new("folder")),
        ("mkdir", at(libc::SYS_mkdirat, format!("-100 s:{} 448", new("folder2"))), new("folder2")),
        ("readlink", ("readlink", link.clone()), link.clone()),
        ("truncate", at(libc::SYS_truncate, format!("s:{file} 1")), file.clone()),
        ("chmod", at(libc::SYS_fchmodat, format!("-100 s:{file} 384")), file.clone()),
        ("symlink", at(libc::SYS_symlinkat, format!("s:file -100 s:{}", new("link2"))), new("link2")),
        ("link", at(libc::SYS_linkat, format!("-100 s:{file} -100 s:{} 0", new("hard"))), file.clone()),
        ("rename", at(libc::SYS_renameat2, format!("-100 s:{other} -100 s:{} 0", new("moved"))), other),
        ("unlink", ("unlink", file.clone()), file),
        ("execve", ("exec", "/bin/true".to_owned()), "/bin/true".to_owned()),
    ];
    let plugin = probe();
    let events = plugin.events();
    for (call, (method, payload), path) in &rows {
        assert_eq!(plugin.attempt(method, payload), REFUSED, "{call}");
        expect(&events, &format!("a refused {call} of {path}"), |kind| match kind {
            EventKind::Access { action, object, granted: false, .. } => {
                (action.starts_with(call) && object == path).then_some(())
            }
            _ => None,
        });
    }
    for (call, (method, payload), _) in &rows {
        let outside = unconfined::attempt(method, payload);
        assert!(outside.reached(), "{call} works outside: {outside:?}");
    }
}
