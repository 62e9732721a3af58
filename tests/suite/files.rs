//! Files under `file-read` and `file-write`: all that works when it is granted, and that no name, folder, link or move is a
//! way to what is not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rig::plugins::Attempts;
use rig::unconfined::{self, Outcome};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, probe, probe_with};
use sandbox_core::{
    PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PluginPermission, PluginPolicy, PluginSandbox,
    PluginSandboxManager, ResourceLimits,
};

const REFUSED: Answer = Answer::Errno(libc::EACCES);

fn read(path: &str) -> PluginPermission {
    PERMISSION_FILE_READ.scoped_to_path(path).expect("absolute")
}

fn write(path: &str) -> PluginPermission {
    PERMISSION_FILE_WRITE.scoped_to_path(path).expect("absolute")
}

fn granted(permissions: impl IntoIterator<Item = PluginPermission>) -> PluginSandbox {
    probe_with(PluginPolicy::new().permissions(permissions))
}

fn got(contents: &str) -> Answer {
    Answer::Got(contents.into())
}

/// What a tour wants to find.
fn furnished(scratch: &Scratch, name: &str) -> String {
    scratch.file(&format!("{name}/a"), "contents");
    scratch.file(&format!("{name}/d/inner"), "inside");
    scratch.link(&format!("{name}/l"), "a");
    scratch.at(name)
}

/// One thing that the probe does by the standard library.
fn by_std(plugin: &PluginSandbox, operation: &str, paths: &[&str]) -> Answer {
    plugin
        .attempt("fs", std::iter::once(operation).chain(paths.iter().copied()).collect::<Vec<_>>().join("\n"))
}

#[test]
fn whatever_is_granted_works_as_it_does_outside() {
    let scratch = Scratch::new();
    for tour in ["tour", "tour_c"] {
        let outside = unconfined::attempt(tour, &furnished(&scratch, &format!("{tour}-outside")));
        let Outcome::Answered(outside) = outside else { panic!("{outside:?}") };
        let inside = furnished(&scratch, &format!("{tour}-inside"));
        let plugin = granted([read(&inside), write(&inside)]);
        let inside = plugin.attempt(tour, &inside);
        let (outside, inside) = (outside.text(), inside.text());
        for (outside, inside) in outside.lines().zip(inside.lines()) {
            assert_eq!(inside, outside, "{tour}");
        }
        assert_eq!(inside.lines().count(), outside.lines().count());
        assert!(outside.lines().filter(|line| line.contains(": ok")).count() > 30, "{outside}");
    }
}

#[test]
fn without_a_grant_nothing_of_it_works_and_nothing_is_changed() {
    let scratch = Scratch::new();
    let folder = furnished(&scratch, "folder");
    for plugin in [probe(), granted([read(&scratch.folder("other")), write(&scratch.folder("other"))])] {
        let answers = plugin.attempt("tour", &folder).text();
        for line in answers.lines() {
            assert!(line.ends_with(": errno 13"), "{line}");
        }
        assert_eq!(plugin.attempt("tour_c", &folder), REFUSED);
    }
    let mut names: Vec<_> =
        fs::read_dir(&folder).expect("ours").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "d", "l"]);
    assert_eq!(fs::read_to_string(format!("{folder}/a")).expect("ours"), "contents");
}

#[test]
fn reading_and_writing_are_granted_apart() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let file = scratch.file("tree/file", "contents");
    let at = |name: &str| scratch.at(&format!("tree/{name}"));
    let reader = granted([read(&tree)]);
    let writer = granted([write(&tree)]);
    let new = at("new");
    for (operation, paths, by_reader, by_writer) in [
        ("read", vec![file.as_str()], got("contents"), REFUSED),
        ("names", vec![&tree], got("file"), REFUSED),
        ("stat", vec![&file], got("8"), got("8")),
        ("exists", vec![&new], got("false"), got("false")),
        ("readlink", vec![&file], Answer::Errno(libc::EINVAL), Answer::Errno(libc::EINVAL)),
        ("read and write", vec![&file], REFUSED, REFUSED),
        ("append", vec![&file], REFUSED, got("")),
        ("read what is written only", vec![&file], REFUSED, Answer::Errno(libc::EBADF)),
        ("set times", vec![&file], REFUSED, got("1000000000")),
        ("chmod", vec![&file], REFUSED, got("100600")),
        ("set length", vec![&file], REFUSED, got("")),
        ("create new to write", vec![&file], REFUSED, Answer::Errno(libc::EEXIST)),
        ("create new", vec![&new], REFUSED, REFUSED),
        ("create new to write", vec![&new], REFUSED, got("")),
        ("make folder", vec![&at("folder")], REFUSED, got("")),
        ("rename", vec![&new, &at("folder/new")], REFUSED, got("")),
        ("unlink", vec![&at("folder/new")], REFUSED, got("")),
        ("remove folder", vec![&at("folder")], REFUSED, got("")),
        ("write", vec![&file], REFUSED, got("")),
    ] {
        assert_eq!(by_std(&reader, operation, &paths), by_reader, "{operation} by the reader");
        assert_eq!(by_std(&writer, operation, &paths), by_writer, "{operation} by the writer");
    }
    assert_eq!(fs::read_to_string(&file).expect("ours"), "written");
}

#[test]
fn what_is_made_is_the_hosts_users_and_as_the_plugins_umask_says() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let plugin = granted([read(&tree), write(&tree)]);
    let (file, folder) = (scratch.at("tree/file"), scratch.at("tree/folder"));
    for (umask, of_file, of_folder) in [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o666, 0o777)] {
        assert!(plugin.attempt("syscall", format!("{} {umask}", libc::SYS_umask)).got_it());
        assert_eq!(by_std(&plugin, "create new", &[&file]), got(""));
        assert_eq!(by_std(&plugin, "make folder", &[&folder]), got(""));
        for (path, mode) in [(&file, of_file), (&folder, of_folder)] {
            let of = fs::metadata(path).expect("it was made");
            assert_eq!(of.mode() & 0o7777, mode, "{path} under {umask:o}");
            assert_eq!(of.uid(), nix::unistd::geteuid().as_raw());
        }
        fs::remove_file(&file).expect("ours");
        fs::remove_dir(&folder).expect("ours");
    }
}

#[test]
fn no_file_comes_to_run_with_rights_of_its_own() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let plugin = granted([read(&tree), write(&tree)]);
    let new = scratch.at("tree/new");
    assert!(by_std(&plugin, "create with every mode", &[&new]).got_it());
    assert_eq!(fs::metadata(&new).expect("it was made").mode() & 0o7000, 0);
    assert_eq!(by_std(&plugin, "chmod all", &[&new]), got("100777"));
    let Outcome::Answered(outside) = unconfined::attempt("fs", &format!("chmod all\n{new}")) else {
        panic!("the control answers")
    };
    assert_eq!(outside, got("107777"), "outside they are set");
    for operation in ["append", "set length", "read and write"] {
        assert_eq!(by_std(&plugin, operation, &[&new]), REFUSED, "{operation}: what has them is not written");
    }
    assert_eq!(by_std(&plugin, "chmod all", &[&new]), got("107777"), "what it had it may keep");
    assert_eq!(by_std(&plugin, "chmod", &[&new]), got("100600"));
    assert!(by_std(&plugin, "append", &[&new]).got_it(), "and without them it is a file as any other");
    assert_eq!(by_std(&plugin, "give away", &[&new]), Answer::Errno(libc::EPERM));
}

#[test]
fn a_file_of_its_own_making_is_shared_memory_and_never_code() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let file = scratch.at("tree/file");
    let plugin = granted([read(&tree), write(&tree)]);
    assert_eq!(by_std(&plugin, "map", &[&file]), got("mine"));
    assert!(unconfined::attempt("fs", &format!("map as code\n{}", scratch.at("tree/control"))).reached());
    assert_eq!(by_std(&plugin, "map as code", &[&file]), Answer::Errno(libc::EPERM));
}

#[test]
fn nothing_is_moved_or_linked_to_where_more_is_granted() {
    let scratch = Scratch::new();
    let [wo, ro, rw] = ["wo", "ro", "rw"].map(|name| scratch.folder(name));
    for name in ["wo", "ro", "rw"] {
        scratch.file(&format!("{name}/file"), name);
        scratch.file(&format!("{name}/folder/file"), name);
    }
    let plugin = granted([write(&wo), read(&ro), read(&rw), write(&rw)]);
    let at = |name: &str| scratch.at(name);
    for (operation, from, to, expected) in [
        ("rename", "wo/file", "rw/moved", REFUSED),
        ("rename", "wo/folder", "rw/moved", REFUSED),
        ("link", "wo/file", "rw/linked", REFUSED),
        ("rename", "ro/file", "rw/moved", REFUSED),
        ("link", "ro/file", "rw/linked", REFUSED),
        ("link", "ro/file", "wo/linked", REFUSED),
        ("rename", "rw/file", "ro/moved", REFUSED),
        // Where less is granted, or as much, it may come.
        ("link", "rw/file", "wo/linked", got("")),
        ("rename", "rw/file", "wo/moved", got("")),
        ("rename", "wo/moved", "wo/again", got("")),
        ("rename", "wo/again", "rw/file", REFUSED),
        ("rename", "rw/folder", "rw/folder2", got("")),
    ] {
        let answer = by_std(&plugin, operation, &[&at(from), &at(to)]);
        assert_eq!(answer, expected, "{operation} {from} {to}");
    }
    for path in ["rw/moved", "rw/linked", "wo/linked2"] {
        assert!(!Path::new(&at(path)).exists(), "{path}");
    }
}

#[test]
fn a_link_that_a_plugin_has_made_leads_no_later_grant_to_what_it_wants() {
    let scratch = Scratch::new();
    let (tree, secret) = (scratch.folder("tree"), scratch.file("secret/file", "secret"));
    let outside = scratch.at("secret");
    let (own, hosts) = (scratch.at("tree/own"), scratch.link("hosts", &outside));
    let plugin = granted([read(&tree), write(&tree)]);
    assert_eq!(by_std(&plugin, "symlink", &[&outside, &own]), got(""), "where nothing was decided yet");
    for permission in [read(&own), write(&own)] {
        plugin.grant_permission(permission);
    }
    assert_eq!(plugin.attempt("open", &secret), REFUSED);
    assert_eq!(plugin.attempt("open", format!("{own}/file")), REFUSED);
    // Nor in the next run, whose grants stand there from the start.
    let again = granted([read(&own), read(&tree), write(&tree)]);
    assert_eq!(again.attempt("open", format!("{own}/file")), REFUSED);
    // The control: a link of the host's leads where it leads.
    plugin.grant_permission(read(&hosts));
    assert_eq!(plugin.attempt("open", format!("{hosts}/file")), got("secret"));
}

#[test]
fn what_was_granted_becomes_no_link() {
    let scratch = Scratch::new();
    let (tree, other) = (scratch.folder("tree"), scratch.folder("other"));
    let below = scratch.folder("other/granted/below");
    let plugin = granted([read(&tree), write(&tree), read(&other), write(&other), read(&below)]);
    let (link, away) = (scratch.at("other/link"), scratch.at("other/away"));
    assert_eq!(by_std(&plugin, "symlink", &["/etc", &link]), got(""), "elsewhere a link is made");
    assert_eq!(by_std(&plugin, "rename", &[&tree, &away]), got(""));
    // What the next grant for the same path would be about.
    for (operation, from) in [("symlink", "/etc"), ("rename", &link), ("link", &link)] {
        assert_eq!(by_std(&plugin, operation, &[from, &tree]), REFUSED, "{operation}");
    }
    assert_eq!(by_std(&plugin, "make folder", &[&tree]), got(""));
    let exchange = |one: &str, two: &str| {
        plugin.attempt("syscall", format!("{} -100 s:{one} -100 s:{two} 2", libc::SYS_renameat2))
    };
    assert_eq!(exchange(&link, &tree), REFUSED);
    assert_eq!(exchange(&tree, &link), REFUSED);
    assert!(exchange(&away, &tree).got_it(), "folders are exchanged");
    assert_eq!(by_std(&plugin, "remove all", &[&scratch.at("other/granted")]), got(""));
    assert_eq!(
        by_std(&plugin, "symlink", &["/etc", &scratch.at("other/granted")]),
        REFUSED,
        "nor what is above it"
    );
    assert_eq!(by_std(&plugin, "symlink", &["/etc", &scratch.at("tree/within")]), got(""));
}

#[test]
fn a_revoked_part_stays_closed_whatever_is_moved_linked_or_climbed_around_it() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    scratch.file("tree/up/part/secret", "secret");
    scratch.file("tree/up/beside", "beside");
    scratch.folder("tree/other");
    let at = |name: &str| scratch.at(&format!("tree/{name}"));
    let (part, secret) = (at("up/part"), at("up/part/secret"));
    let plugin = granted([read(&tree), write(&tree)]);
    assert_eq!(by_std(&plugin, "read", &[&secret]), got("secret"));
    assert!(by_std(&plugin, "names", &[&at("up")]).got_it(), "listed as long as all of it is granted");
    plugin.revoke_permission(&read(&part));
    for (operation, paths) in [
        ("read", vec![secret.clone()]),
        ("rename", vec![at("up"), at("down")]),
        ("rename", vec![part.clone(), at("down")]),
        ("rename", vec![secret.clone(), at("other/known")]),
        ("rename", vec![at("other"), at("up")]),
        ("link", vec![secret.clone(), at("other/known")]),
        ("read", vec![at("other/../up/part/secret")]),
        ("names", vec![part.clone()]),
        ("go", vec![at("up"), "part/secret".to_owned()]),
        ("go", vec![at("up/part"), "secret".to_owned()]),
    ] {
        let answer = by_std(&plugin, operation, &paths.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(answer, REFUSED, "{operation} {paths:?}");
    }
    // By what the kernel shows of a folder's descriptor there is nothing of it either.
    assert_eq!(by_std(&plugin, "names", &[&tree]), got("other/ up/"));
    assert_eq!(plugin.attempt("look_past", format!("{}\nup\nup/part", tree)), got("something 2"));
    plugin.revoke_permission(&write(&part));
    assert_eq!(
        by_std(&plugin, "names", &[&at("up")]),
        got("beside"),
        "neither read nor written it is not told"
    );
    plugin.grant_permission(write(&part));
    assert_eq!(by_std(&plugin, "symlink", &["../up/part/secret", &at("other/soft")]), got(""));
    assert_eq!(by_std(&plugin, "read", &[&at("other/soft")]), REFUSED, "a link is judged by where it leads");
    assert_eq!(by_std(&plugin, "go", &[&at("up"), "beside"]), got(&format!("{} beside", at("up"))));
    assert_eq!(by_std(&plugin, "rename", &[&at("up/beside"), &at("other/beside")]), got(""));
    assert_eq!(fs::read_to_string(&secret).expect("it is where it was"), "secret");
    // The control: granted again, it is moved.
    plugin.grant_permission(read(&part));
    assert_eq!(by_std(&plugin, "names", &[&at("up")]), got("part/"));
    assert_eq!(by_std(&plugin, "rename", &[&part, &at("down")]), got(""));
    assert_eq!(by_std(&plugin, "read", &[&at("down/secret")]), got("secret"));
}

#[test]
fn what_is_no_ordinary_file_is_not_changed_either() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let fifo = scratch.fifo("tree/fifo");
    let plugin = granted([PERMISSION_FILE_READ, PERMISSION_FILE_WRITE]);
    for operation in ["read", "write", "append", "unlink", "chmod", "set length", "names"] {
        assert_eq!(by_std(&plugin, operation, &[&fifo]), REFUSED, "{operation} a FIFO");
    }
    assert_eq!(by_std(&plugin, "rename", &[&fifo, &scratch.at("tree/moved")]), REFUSED);
    assert_eq!(by_std(&plugin, "link", &[&fifo, &scratch.at("tree/linked")]), REFUSED);
    for path in ["/proc/self/comm", "/proc/sys/kernel/hostname", "/dev/full", "/sys/kernel/uevent_seqnum"] {
        assert_eq!(by_std(&plugin, "append", &[path]), REFUSED, "{path}");
    }
    assert_eq!(by_std(&plugin, "make folder", &["/sys/kernel/probe"]), REFUSED);
    assert_eq!(by_std(&plugin, "names", &["/proc"]), REFUSED);
    assert_eq!(by_std(&plugin, "write", &[&scratch.at("tree/new")]), got(""), "an ordinary one is");
    let device = plugin.attempt("syscall", format!("{} -100 s:{tree}/null 8630 259", libc::SYS_mknodat));
    assert_eq!(device, REFUSED);
}

#[test]
fn what_a_path_outside_leads_to_is_not_told_by_any_call() {
    let scratch = Scratch::new();
    scratch.file("there", "x");
    scratch.folder("folder");
    scratch.file("folder/below", "x");
    let tree = scratch.folder("tree");
    scratch.file("tree/file", "x");
    let plugin = granted([read(&tree), write(&tree)]);
    for operation in [
        "write",
        "append",
        "create new",
        "set length",
        "make folder",
        "make folders",
        "names",
        "stat",
        "lstat",
        "readlink",
        "unlink",
        "remove folder",
        "remove all",
        "chmod",
        "set times",
        "canonicalize",
        "exists",
    ] {
        for path in
            ["there", "not-there", "folder", "folder/below", "folder/not-there", "there/below", "not/there"]
        {
            let answer = by_std(&plugin, operation, &[&scratch.at(path)]);
            assert_eq!(answer, REFUSED, "{operation} {path}");
        }
    }
    for (operation, from, to) in [
        ("rename", "there", "tree/new"),
        ("rename", "not-there", "tree/new"),
        ("rename", "tree/file", "there"),
        ("rename", "tree/file", "not-there"),
        ("link", "there", "tree/new"),
        ("link", "not-there", "tree/new"),
        ("link", "tree/file", "there"),
        ("link", "tree/file", "not-there"),
        ("go", "folder", "below"),
        ("go", "not-there", "below"),
    ] {
        let answer = by_std(&plugin, operation, &[&scratch.at(from), &scratch.at(to)]);
        assert_eq!(answer, REFUSED, "{operation} {from} {to}");
    }
}

#[test]
fn of_the_folders_above_what_is_granted_it_is_told_that_they_are_folders() {
    let scratch = Scratch::new();
    let tree = scratch.folder("above/tree");
    let file = scratch.file("above/tree/file", "contents");
    scratch.file("above/beside", "secret");
    let above = scratch.at("above");
    let plugin = granted([read(&tree), write(&tree)]);
    assert_eq!(by_std(&plugin, "stat", &[&above]), got("folder"));
    assert_eq!(plugin.attempt("stat", &above), got("0 40555"), "and nothing else of them");
    assert_eq!(by_std(&plugin, "canonicalize", &[&file]), got(&file), "which looks at each of them");
    assert_eq!(by_std(&plugin, "make folder", &[&above]), Answer::Errno(libc::EEXIST));
    assert_eq!(by_std(&plugin, "go", &[&above, "tree/file"]), got(&format!("{above} contents")));
    for (operation, path) in [("names", &above), ("read", &scratch.at("above/beside")), ("chmod", &above)] {
        assert_eq!(by_std(&plugin, operation, &[path]), REFUSED, "{operation} {path}");
    }
    let other = probe();
    assert_eq!(other.attempt("stat", &above), REFUSED, "nor to whom nothing below is granted");
    assert_eq!(other.attempt("stat", "/"), got("0 40755"), "but of the root, which is one on any system");
    assert_eq!(by_std(&other, "names", &["/"]), REFUSED);
}

#[test]
fn what_is_the_hosts_own_no_grant_reaches() {
    let scratch = Scratch::new();
    let (records, rotated) = (scratch.file("own/records", "records"), scratch.file("own/records.1", "old"));
    let other = scratch.file("own/other", "other");
    let library = scratch.at("plugins/probe.so");
    scratch.folder("plugins/data");
    fs::copy(rig::library("probe"), &library).expect("ours");
    let manager = PluginSandboxManager::new();
    manager.protect(&records);
    let everything = PluginPolicy::new().permissions([PERMISSION_FILE_READ, PERMISSION_FILE_WRITE]);
    manager.register_plugin("probe", everything).expect("a new one");
    manager.load_plugin("probe", &library).expect("it loads");
    manager.activate_plugin("probe", ()).expect("it is activated");
    let plugin = manager.create_sandbox("probe").expect("it is registered");
    for path in [&records, &rotated] {
        for operation in ["read", "append", "unlink", "stat", "chmod"] {
            assert_eq!(by_std(&plugin, operation, &[path]), REFUSED, "{operation} {path}");
        }
        assert_eq!(by_std(&plugin, "rename", &[path, &scratch.at("own/moved")]), REFUSED);
        assert_eq!(by_std(&plugin, "rename", &[&other, path]), REFUSED);
    }
    assert_eq!(by_std(&plugin, "rename", &[&scratch.at("own"), &scratch.at("moved")]), REFUSED);
    assert_eq!(
        by_std(&plugin, "chmod", &[&scratch.at("own")]),
        REFUSED,
        "nor is the way to it closed, or opened"
    );
    assert!(by_std(&plugin, "chmod", &[&scratch.folder("elsewhere")]).got_it());
    assert_eq!(by_std(&plugin, "read", &[&other]), got("other"), "what is beside it is reached");
    // What a plugin is loaded from is read, and not written; a hard link to it is the same file.
    let alias = scratch.at("alias");
    fs::hard_link(&library, &alias).expect("ours");
    for path in [&library, &alias] {
        assert!(plugin.attempt("open_c", path).got_it());
        for operation in ["append", "set length", "chmod", "unlink"] {
            assert_eq!(by_std(&plugin, operation, &[path]), REFUSED, "{operation} {path}");
        }
    }
    assert_eq!(by_std(&plugin, "write", &[&scratch.at("plugins/new.so")]), REFUSED);
    assert_eq!(by_std(&plugin, "rename", &[&other, &scratch.at("plugins/new.so")]), REFUSED);
    assert_eq!(by_std(&plugin, "rename", &[&scratch.at("plugins"), &scratch.at("moved")]), REFUSED);
    assert_eq!(by_std(&plugin, "write", &[&scratch.at("plugins/data/new")]), got(""));
}

#[test]
fn a_file_grows_as_far_as_its_limit_and_no_further() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let file = scratch.file("tree/file", "");
    let limits = ResourceLimits::default().max_file_size_mb(1);
    let policy = PluginPolicy::new().permissions([read(&tree), write(&tree)]).limits(limits.clone());
    let plugin = probe_with(policy);
    let truncate = |bytes: u64| plugin.attempt("syscall", format!("{} s:{file} {bytes}", libc::SYS_truncate));
    let (just_under, just_over) = (1 << 20, (1 << 20) + 1);
    assert!(truncate(just_under).got_it());
    assert_eq!(truncate(just_over), Answer::Errno(libc::EFBIG));
    // A write at the end, which the kernel holds.
    assert_eq!(by_std(&plugin, "append", &[&file]), Answer::Errno(libc::EFBIG));
    plugin.set_resource_limits(limits.max_file_size_mb(2)).expect("it can be raised");
    assert!(by_std(&plugin, "append", &[&file]).got_it());
    assert!(truncate(just_over).got_it());
    assert!(plugin.attempt("echo", "x").got_it(), "it lives");
}

#[test]
fn a_held_descriptor_changes_nothing_that_is_not_granted_any_more() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let file = scratch.file("tree/file", "contents");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("ours");
    let plugin = granted([read(&tree), write(&tree)]);
    let number = plugin.attempt("held_open", format!("r\n{file}")).text();
    let chmod = |mode: u32| plugin.attempt("held_chmod", format!("{number}\n{mode}"));
    assert!(chmod(0o600).got_it());
    plugin.revoke_permission(&write(&tree));
    assert_eq!(chmod(0o666), REFUSED);
    assert_eq!(fs::metadata(&file).expect("ours").mode() & 0o777, 0o600);
}

/// What a churn turns over: places whose files name them, each with some depth.
fn turned(scratch: &Scratch, name: &str) -> String {
    for place in ["tree", "tree/part", "tree/toggled", "ro", "wo", "outside"] {
        for file in ["a", "b", "deep/a", "deep/part/a"] {
            scratch.file(&format!("{name}/{place}/{file}"), format!("{}\n", place.replace('/', "-")));
        }
    }
    scratch.at(name)
}

/// Every file below a folder, with its contents.
fn everything(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("ours").map(|entry| entry.expect("ours")) {
        if entry.file_type().expect("ours").is_dir() {
            found.extend(everything(&entry.path()));
        } else {
            found.push((entry.path(), fs::read_to_string(entry.path()).unwrap_or_default()));
        }
    }
    found.sort();
    found
}

#[test]
fn whatever_is_made_moved_and_linked_nothing_opens_that_is_not_granted() {
    const STEPS: u32 = 1500;
    let own_seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let own_seed = u64::from(own_seed.subsec_nanos());
    let scratch = Scratch::new();
    let mut reads_of_tree = 0;
    for seed in [1, 2, own_seed] {
        println!("seed {seed}");
        let folder = turned(&scratch, &format!("inside-{seed}"));
        let at = |place: &str| format!("{folder}/{place}");
        let (tree, toggled, ro, wo) = (at("tree"), at("tree/toggled"), at("ro"), at("wo"));
        let policy =
            PluginPolicy::new().permissions([read(&tree), write(&tree), read(&ro), write(&wo)]).limits(
                ResourceLimits::default().call_timeout(PATIENCE).max_file_handles(64).max_cpu_time_sec(None),
            );
        let plugin = probe_with(policy);
        for permission in [read(&at("tree/part")), write(&at("tree/part"))] {
            plugin.revoke_permission(&permission);
        }
        let untouched = ["tree/part", "ro", "outside"].map(|place| PathBuf::from(at(place)));
        let before = untouched.each_ref().map(|place| everything(place));
        let (done, read_door) = (AtomicBool::new(false), read(&at("outside/door")));
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // Never to write and not to read: what is moved there then may be read later.
                    let (read, write) = (read(&toggled), write(&toggled));
                    let door = read_door.clone();
                    if turn % 2 == 0 {
                        for permission in [write, read, door] {
                            plugin.revoke_permission_leaving_open(&permission);
                        }
                    } else {
                        [read, write, door]
                            .into_iter()
                            .for_each(|permission| plugin.grant_permission(permission));
                    }
                }
            });
            let found = plugin.attempt("churn", format!("{seed} {STEPS}\n{folder}")).text();
            done.store(true, Ordering::Relaxed);
            found
        });
        let (counts, tags) = found.split_once('\n').expect("a line of counts");
        let (changes, reads) = counts.split_once(' ').expect("two counts");
        assert!(changes != "0" && reads != "0", "seed {seed}: {found}");
        for tag in tags.lines() {
            let granted = ["tree", "tree-toggled", "ro", "made", ""];
            assert!(granted.contains(&tag), "seed {seed}: what is in {tag} was read");
        }
        reads_of_tree += tags.lines().filter(|tag| *tag == "tree").count();
        assert_eq!(untouched.each_ref().map(|place| everything(place)), before, "seed {seed}");
    }
    assert_ne!(reads_of_tree, 0, "what is granted is read, unless chance has moved all of it away");
    // The control: where nothing holds them the same steps reach everything, sooner or later: two threads are no dice.
    let mut missing = vec!["outside", "wo", "tree-part"];
    for seed in 1..=30 {
        let folder = turned(&scratch, &format!("control-{seed}"));
        let control = unconfined::attempt("churn", &format!("{seed} {STEPS}\n{folder}"));
        let Outcome::Answered(found) = control else { panic!("{control:?}") };
        let found = found.text();
        missing.retain(|tag| !found.lines().any(|line| line == *tag));
        if missing.is_empty() {
            break;
        }
    }
    assert_eq!(missing, [""; 0], "out of reach unconfined");
}

#[test]
fn a_folders_descriptor_leads_nowhere_but_below_it() {
    let scratch = Scratch::new();
    let folder = furnished(&scratch, "granted/folder");
    scratch.file("granted/beside", "beside");
    scratch.link("granted/folder/up", "../beside");
    scratch.link("granted/folder/away", scratch.at("granted/beside"));
    let paths =
        ["a", "..", "../beside", "../../..", "up", "away", "d/../../beside", "/", "/etc/passwd"].join("\n");
    let plugin = granted([read(&folder)]);
    let answer = plugin.attempt("look_past", format!("{folder}\n{paths}")).text();
    let nothing = libc::ENOENT.to_string();
    let own_root = "something"; // an empty one
    let expected =
        ["something", "itself", &nothing, "itself", &nothing, &nothing, &nothing, own_root, &nothing]
            .join(" ");
    assert_eq!(answer, expected);
    let outside = unconfined::attempt("look_past", &format!("{folder}\n{paths}"));
    assert_eq!(
        outside,
        Outcome::Answered(got(&["something"; 9].join(" "))),
        "any other folder's leads anywhere"
    );
}

#[test]
fn a_folder_in_which_something_is_mounted_is_listed_too() {
    let plugin = granted([PERMISSION_FILE_READ]);
    let Outcome::Answered(outside) = unconfined::attempt("fs", "names\n/") else {
        panic!("the control answers")
    };
    assert_eq!(by_std(&plugin, "names", &["/"]), outside);
    assert!(outside.text().contains("proc/"));
    let beyond = plugin.attempt("look_past", "/\nproc\nproc/self\nproc/1/environ\netc/passwd").text();
    assert_eq!(beyond, "something 2 2 2", "there is nothing behind the names");
}

#[test]
fn a_folder_with_many_long_names_is_listed_whole() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let hidden = scratch.folder("tree/hidden");
    let names: Vec<_> = (0..300).map(|n| format!("{n:0>3}{}", "x".repeat(n % 250))).collect();
    names.iter().for_each(|name| drop(scratch.file(&format!("tree/{name}"), "")));
    let plugin = granted([read(&tree)]);
    plugin.revoke_permission(&read(&hidden));
    let mut sorted = names;
    sorted.sort();
    assert_eq!(by_std(&plugin, "names", &[&tree]).text(), sorted.join(" "));
}

#[test]
fn a_link_of_its_own_making_tells_nothing_of_where_the_plugin_may_not_look() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    scratch.file("tree/file", "inside");
    scratch.file("out/there", "x");
    scratch.folder("out/folder");
    let at = |name: &str| scratch.at(name);
    let plugin = granted([read(&tree), write(&tree)]);
    let link = at("tree/link");
    let back = "/../../tree/file";
    for (target, by_itself) in [
        (at("out/there"), REFUSED),
        (at("out/not-there"), REFUSED),
        (at("out/there/below"), REFUSED),
        (at("out/folder/"), REFUSED),
        (at("not/there"), REFUSED),
        // Each leads back in if what is on its way is a folder.
        (at("out/folder") + back, REFUSED),
        (at("out/there") + back, REFUSED),
        (at("out/not-there") + back, REFUSED),
        ("../out/folder/../../tree/file".to_owned(), REFUSED),
        ("../out/not-there/../../tree/file".to_owned(), REFUSED),
        // The control: from the folder that the link is in, and by what the plugin may see.
        ("../tree/file".to_owned(), got("inside")),
        (at("tree/../tree/file"), got("inside")),
        (at("tree/not-there"), Answer::Errno(libc::ENOENT)),
    ] {
        assert_eq!(by_std(&plugin, "symlink", &[&target, &link]), got(""));
        let lost = !matches!(by_itself, Answer::Got(_));
        for operation in ["read", "append"] {
            let answer = by_std(&plugin, operation, &[&link]);
            let expected = if operation == "append" && !lost { got("") } else { by_itself.clone() };
            assert_eq!(answer, expected, "{operation} by way of {target}");
        }
        for operation in ["stat", "set length", "chmod", "canonicalize", "set times"] {
            let answer = by_std(&plugin, operation, &[&link]);
            assert_eq!(answer.got_it(), !lost, "{operation} by way of {target}: {answer:?}");
            assert!(answer.got_it() || answer == by_itself, "{operation} by way of {target}: {answer:?}");
        }
        if lost {
            let below = format!("{link}/below");
            for operation in ["read", "write", "make folder", "names", "unlink", "stat"] {
                assert_eq!(by_std(&plugin, operation, &[&below]), by_itself, "{operation} below {target}");
            }
        }
        fs::write(at("tree/file"), "inside").expect("ours");
        assert_eq!(by_std(&plugin, "unlink", &[&link]), got(""));
    }
}

#[test]
fn what_is_taken_back_under_one_name_is_under_each_that_the_plugin_gave_it() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let secret = scratch.file("tree/part/secret", "secret");
    let moved = scratch.file("tree/part/moved", "moved");
    let (known, aside, other) =
        (scratch.at("tree/known"), scratch.at("tree/aside"), scratch.at("tree/other"));
    let part = scratch.at("tree/part");
    let plugin = granted([read(&tree), write(&tree)]);
    assert_eq!(by_std(&plugin, "link", &[&secret, &known]), got(""));
    // Moved out, and linked back in.
    assert_eq!(by_std(&plugin, "rename", &[&moved, &aside]), got(""));
    assert_eq!(by_std(&plugin, "link", &[&aside, &moved]), got(""));
    assert_eq!(by_std(&plugin, "read", &[&known]), got("secret"));
    // Linked outside, and one of the names, or the folder that it is in, moved there.
    let (file, folder) = (scratch.file("tree/file", "file"), scratch.folder("tree/folder"));
    let (inner, kept) = (scratch.file("tree/folder/inner", "inner"), scratch.at("tree/kept"));
    let second = scratch.at("tree/second");
    assert_eq!(by_std(&plugin, "link", &[&file, &second]), got(""));
    assert_eq!(by_std(&plugin, "rename", &[&second, &file]), got(""), "nothing, of two names of one file");
    assert_eq!(by_std(&plugin, "rename", &[&second, &scratch.at("tree/part/second")]), got(""));
    assert_eq!(by_std(&plugin, "link", &[&inner, &kept]), got(""));
    assert_eq!(by_std(&plugin, "rename", &[&folder, &scratch.at("tree/part/folder")]), got(""));
    plugin.revoke_permission(&read(&part));
    for path in [&known, &aside, &moved, &secret, &file, &kept] {
        assert_eq!(by_std(&plugin, "read", &[path]), REFUSED, "{path}");
        assert!(unconfined::attempt("open", path).reached(), "{path} is there");
    }
    assert_eq!(by_std(&plugin, "append", &[&known]), got(""), "writing was not taken back");
    assert_eq!(by_std(&plugin, "rename", &[&known, &other]), got(""));
    assert_eq!(by_std(&plugin, "read", &[&other]), REFUSED, "nor is it a third name's");
    plugin.unload_plugin().expect("it is loaded");
    plugin.load_plugin(rig::library("probe")).expect("it loads again");
    plugin.activate_plugin(()).expect("it is activated");
    assert_eq!(by_std(&plugin, "read", &[&other]), REFUSED, "nor the next load's");
    plugin.grant_permission(read(&part));
    assert_eq!(by_std(&plugin, "read", &[&other]), got("secret and more"));
}
