//! `file-read`: what a grant opens, what it never opens, and that each decision is taken anew at each open.

use std::os::unix::net::UnixListener;

use rig::events::expect_denial;
use rig::plugins::Attempts;
use rig::unconfined;
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, probe, probe_with};
use sandbox_core::{
    EventKind, PERMISSION_FILE_READ, PluginPermission, PluginPolicy, PluginSandbox, ResourceLimits,
};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

fn read(path: &str) -> PluginPermission {
    PERMISSION_FILE_READ.scoped_to_path(path).expect("absolute")
}

fn got(contents: &str) -> Answer {
    Answer::Got(contents.into())
}

#[test]
fn a_plugin_with_no_permission_opens_no_file_and_each_try_is_reported() {
    let scratch = Scratch::new();
    let secret = scratch.file("secret", "secret");
    let plugin = probe();
    let events = plugin.events();
    for method in ["open", "open_c", "stat", "lstat", "access"] {
        assert!(unconfined::attempt(method, &secret).reached(), "{method} works outside");
        assert_eq!(plugin.attempt(method, &secret), REFUSED, "{method}");
        expect_denial(&events, &secret);
    }
    assert_eq!(plugin.attempt("open", "/etc/passwd"), REFUSED);
}

#[test]
fn a_grant_without_a_scope_opens_ordinary_files() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let events = plugin.events();
    for method in ["open", "open_c"] {
        assert_eq!(plugin.attempt(method, &file), got("contents"), "{method}");
    }
    for method in ["stat", "lstat"] {
        assert_eq!(plugin.attempt(method, &file), got("8 100644"), "{method}");
    }
    assert!(plugin.attempt("access", &file).got_it());
    assert!(plugin.attempt("open", "/etc/passwd").got_it());
    rig::events::expect(&events, "an access that was granted", |kind| match kind {
        EventKind::Access { granted: true, object, .. } if *object == file => Some(()),
        _ => None,
    });
}

#[test]
fn a_grant_of_one_file_opens_that_file_alone() {
    let scratch = Scratch::new();
    let (file, beside) = (scratch.file("dir/file", "contents"), scratch.file("dir/file2", "other"));
    let plugin = probe_with(PluginPolicy::new().permission(read(&file)));
    assert_eq!(plugin.attempt("open", &file), got("contents"));
    assert_eq!(plugin.attempt("open", &beside), REFUSED);
    assert_eq!(plugin.attempt("open", "/etc/passwd"), REFUSED);
}

#[test]
fn a_grant_of_a_tree_opens_what_is_really_in_it() {
    let scratch = Scratch::new();
    scratch.file("app/file", "inside");
    scratch.file("app/sub/deep/file", "deep");
    scratch.file("app2/file", "beside");
    scratch.file("ap", "shorter");
    scratch.file("secret", "secret");
    scratch.link("app/out", scratch.at("secret"));
    scratch.link("app/out-relative", "../secret");
    scratch.link("app/out-folder", "..");
    scratch.link("app/in", "sub/deep/file");
    scratch.link("app/loop", "loop");
    scratch.link("into", scratch.at("app"));
    let plugin = probe_with(PluginPolicy::new().permission(read(&scratch.at("app"))));
    for (path, expected) in [
        ("app/file", got("inside")),
        ("app/sub/deep/file", got("deep")),
        ("app/./sub//deep/../deep/file", got("deep")),
        ("app/sub/../file", got("inside")),
        ("app/in", got("deep")),
        ("app2/file", REFUSED),
        ("ap", REFUSED),
        ("secret", REFUSED),
        ("app/../secret", REFUSED),
        ("app/sub/../../secret", REFUSED),
        ("app/out", REFUSED),
        ("app/out-relative", REFUSED),
        ("app/out-folder/secret", REFUSED),
        ("app/nothing", Answer::Errno(libc::ENOENT)),
        ("app/file/x", Answer::Errno(libc::ENOTDIR)),
        ("app/loop", Answer::Errno(libc::ELOOP)),
        // A name outside that leads inside is judged by where it leads.
        ("into/file", got("inside")),
    ] {
        assert_eq!(plugin.attempt("open", scratch.at(path)), expected, "{path}");
    }
}

#[test]
fn a_path_outside_every_grant_does_not_tell_whether_it_exists() {
    let scratch = Scratch::new();
    scratch.file("there", "x");
    scratch.folder("granted");
    let plugin = probe_with(PluginPolicy::new().permission(read(&scratch.at("granted"))));
    for method in ["open", "stat", "access"] {
        for path in ["there", "not-there", "not-there/either"] {
            assert_eq!(plugin.attempt(method, scratch.at(path)), REFUSED, "{method} {path}");
        }
    }
}

#[test]
fn the_whole_base_profile_works_with_no_permission_at_all() {
    let plugin = probe();
    assert_eq!(plugin.attempt("open", "/dev/null"), got(""));
    for device in ["/dev/zero", "/dev/urandom"] {
        assert!(plugin.attempt("open_c", device).got_it(), "{device}");
    }
}

#[test]
fn no_grant_reaches_what_is_not_an_ordinary_file() {
    let scratch = Scratch::new();
    let fifo = scratch.fifo("fifo");
    let socket = scratch.at("socket");
    let _listener = UnixListener::bind(&socket).expect("a new name");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let events = plugin.events();
    let host = std::process::id();
    for path in [
        "/proc/self/mem".to_owned(),
        "/proc/self/environ".to_owned(),
        "/proc/thread-self/maps".to_owned(),
        format!("/proc/{host}/environ"),
        format!("/proc/{host}/root/etc/passwd"),
        format!("/proc/{host}/fd/0"),
        "/sys/kernel/uevent_seqnum".to_owned(),
        "/dev/full".to_owned(),
        "/dev/mem".to_owned(),
        fifo,
        socket,
    ] {
        let answer = plugin.attempt("open", &path);
        let hidden = matches!(answer, Answer::Errno(libc::EACCES | libc::ENOENT | libc::ELOOP));
        assert!(hidden, "{path}: {answer:?}");
        if answer == REFUSED {
            expect_denial(&events, &path);
        }
    }
    // Not by way of a link or of the magic links of /proc either.
    let link = scratch.link("link", "/proc/self/environ");
    assert_eq!(plugin.attempt("open", link), REFUSED);
}

#[test]
fn unconfined_the_same_objects_open() {
    for path in ["/proc/self/environ", "/proc/thread-self/maps", "/dev/null"] {
        assert!(unconfined::attempt("open", path).reached(), "{path}");
    }
}

#[test]
fn a_grant_or_a_revoke_on_an_active_plugin_decides_its_very_next_open() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe();
    for turn in 0..200 {
        plugin.grant_permission(read(&file));
        assert_eq!(plugin.attempt("open", &file), got("contents"), "turn {turn}");
        assert!(plugin.revoke_permission(&read(&file)));
        assert_eq!(plugin.attempt("open", &file), REFUSED, "turn {turn}");
    }
}

#[test]
fn a_revoked_part_of_a_wider_grant_is_refused_and_the_rest_stays() {
    let scratch = Scratch::new();
    let (kept, cut) = (scratch.file("tree/kept", "kept"), scratch.file("tree/cut", "cut"));
    let plugin = probe_with(PluginPolicy::new().permission(read(&scratch.at("tree"))));
    assert_eq!(plugin.attempt("open", &cut), got("cut"));
    assert!(plugin.revoke_permission(&read(&cut)));
    assert_eq!(plugin.attempt("open", &cut), REFUSED);
    assert_eq!(plugin.attempt("open", &kept), got("kept"));
}

#[test]
fn a_file_is_opened_as_it_is_now_and_each_time_anew() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "one");
    let plugin = probe_with(PluginPolicy::new().permission(read(&file)));
    assert_eq!(plugin.attempt("open", &file), got("one"));
    scratch.file("file", "two!");
    assert_eq!(plugin.attempt("open", &file), got("two!"));
    std::fs::remove_file(&file).expect("it is ours");
    assert_eq!(plugin.attempt("open", &file), Answer::Errno(libc::ENOENT));
    // What now stands under the granted name is not what may be read.
    scratch.link("file", "/etc/passwd");
    assert_eq!(plugin.attempt("open", &file), REFUSED);
}

#[test]
fn what_later_stands_under_a_granted_name_is_not_granted() {
    let scratch = Scratch::new();
    let secret = scratch.file("secret/file", "secret");
    let elsewhere = scratch.at("secret");
    let (file, folder) = (scratch.file("file", "contents"), scratch.folder("folder"));
    let link = scratch.link("link", scratch.file("first", "first"));
    let granted = [&file, &folder, &link].map(|path| read(path));
    let (before, running) = (probe_with(PluginPolicy::new().permissions(granted.clone())), probe());
    granted.into_iter().for_each(|permission| running.grant_permission(permission));
    std::fs::remove_file(&file).expect("it is ours");
    std::fs::remove_dir(&folder).expect("it is ours");
    std::fs::remove_file(&link).expect("it is ours");
    scratch.link("file", &secret);
    scratch.link("folder", &elsewhere);
    scratch.link("link", &secret);
    for path in [&file, &format!("{folder}/file"), &link] {
        assert!(unconfined::attempt("open", path).reached(), "{path} is there");
        for plugin in [&before, &running] {
            assert_eq!(plugin.attempt("open", path), REFUSED, "{path}");
            assert_eq!(plugin.attempt("stat", path), REFUSED, "{path}");
        }
    }
    assert_eq!(before.attempt("open", scratch.at("first")), got("first"), "what the link led to then");
}

#[test]
fn a_path_that_changes_while_it_is_judged_opens_nothing_but_what_was_judged() {
    let scratch = Scratch::new();
    let (granted, secret) = (scratch.file("a", "1"), scratch.file("b", "2"));
    let race = |count: u32| format!("{count}\n{granted}\n{secret}");
    let control = unconfined::attempt("race", &race(50_000));
    let unconfined::Outcome::Answered(Answer::Got(counts)) = control else { panic!("{control:?}") };
    let counts = String::from_utf8_lossy(&counts).into_owned();
    assert!(!counts.ends_with(" 0"), "outside the sandbox both are read: {counts}");

    // Thousands of opens take as long as a busy machine makes them take.
    let limits = ResourceLimits::default().call_timeout(PATIENCE);
    let plugin = probe_with(PluginPolicy::new().permission(read(&granted)).limits(limits));
    let counts = plugin.attempt("race", race(3000)).text();
    let (first, second) = counts.split_once(' ').expect("two counts");
    assert_ne!(first, "0", "the granted one is read");
    assert_eq!(second, "0", "the other never");
}

#[test]
fn a_link_that_changes_while_it_is_judged_opens_nothing_but_what_was_judged() {
    let scratch = Scratch::new();
    let (inside, outside) = (scratch.file("tree/inside", "1"), scratch.file("outside", "2"));
    let link = scratch.link("tree/link", &inside);
    let plugin = probe_with(PluginPolicy::new().permission(read(&scratch.at("tree"))));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = scratch.at("tree/other");
            for target in [&outside, &inside].into_iter().cycle() {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                std::os::unix::fs::symlink(target, &other).expect("it is ours");
                std::fs::rename(&other, &link).expect("it is ours");
            }
        });
        let mut read_inside = 0;
        for turn in 0..1000 {
            match plugin.attempt("open", &link) {
                Answer::Got(contents) => {
                    assert_eq!(contents, b"1", "turn {turn}");
                    read_inside += 1;
                }
                refused => assert_eq!(refused, REFUSED, "turn {turn}"),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(read_inside > 0, "it is read when it leads inside");
    });
}

#[test]
fn a_file_that_may_be_read_cannot_become_code() {
    let library = rig::library("hello").canonicalize().expect("it was built");
    let path = library.to_str().expect("plain names");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    for method in ["mmap_exec_file", "mprotect_exec_file"] {
        assert!(unconfined::attempt(method, path).reached(), "{method} works outside");
        let answer = plugin.attempt(method, path);
        assert!(matches!(answer, Answer::Errno(libc::EPERM | libc::EACCES)), "{method}: {answer:?}");
    }
    assert!(unconfined::attempt("dlopen", path).reached(), "dlopen works outside");
    let answer = plugin.attempt("dlopen", path);
    assert!(matches!(answer, Answer::Failed(_)), "dlopen: {answer:?}");
}

#[test]
fn file_read_lets_nothing_be_written() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    for (method, path) in [
        ("write_file", &file),
        ("unlink", &file),
        ("mkdir", &scratch.at("new")),
        ("write_file", &scratch.at("new")),
    ] {
        let answer = plugin.attempt(method, path);
        assert!(
            matches!(answer, Answer::Errno(libc::EACCES | libc::EPERM | libc::EROFS)),
            "{method}: {answer:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "contents");
    assert!(!std::path::Path::new(&scratch.at("new")).exists());
}

#[test]
fn names_that_are_no_paths_do_no_harm() {
    let plugin = probe_with(PluginPolicy::new().permission(PERMISSION_FILE_READ));
    let call = |arguments: &str| plugin.attempt("syscall", format!("{} {arguments}", libc::SYS_openat));
    assert_eq!(call("-100 s: 0"), Answer::Errno(libc::ENOENT), "an empty name");
    assert_eq!(call("-100 0 0"), Answer::Errno(libc::EFAULT), "no name");
    assert_eq!(call("-100 0x7fffffffffffffff 0"), Answer::Errno(libc::EFAULT), "no place for a name");
    assert_eq!(
        call(&format!("-100 s:/{} 0", "x".repeat(5000))),
        Answer::Errno(libc::ENAMETOOLONG),
        "too long"
    );
    assert_eq!(
        call(&format!("-100 s:/{} 0", "x".repeat(300))),
        Answer::Errno(libc::ENAMETOOLONG),
        "one part too long"
    );
    let odd = plugin.attempt("open", b"/tmp/\x1b[2J\xff\n".as_slice());
    assert_eq!(odd, Answer::Errno(libc::ENOENT), "no text");
    assert!(plugin.attempt("echo", "x").got_it());
}

#[test]
fn what_one_plugin_may_read_is_nothing_to_another() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let make = |id: &str, policy| -> PluginSandbox { rig::active(id, policy, rig::library("probe"), ()) };
    let (one, other) =
        (make("one", PluginPolicy::new().permission(read(&file))), make("other", PluginPolicy::new()));
    assert_eq!(one.attempt("open", &file), got("contents"));
    assert_eq!(other.attempt("open", &file), REFUSED);
}
