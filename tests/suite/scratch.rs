//! Scratch space: a `/tmp` of a plugin's own, of a bounded size, that nobody else sees and that goes with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use rig::plugins::{Attempts, explained};
use rig::unconfined::{self, Outcome};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, library, probe, probe_with};
use sandbox_core::{
    Cause, Layer, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_PROCESS, PluginPolicy,
    PluginSandbox, PluginSandboxError, ResourceLimits,
};

const MIB: u64 = 1 << 20;

fn limits(mb: u64) -> ResourceLimits {
    ResourceLimits::default().max_scratch_mb(mb).call_timeout(PATIENCE)
}

fn with(mb: u64) -> PluginSandbox {
    probe_with(PluginPolicy::new().limits(limits(mb)))
}

fn fs(plugin: &PluginSandbox, operation: &str, paths: &[&str]) -> Answer {
    plugin
        .attempt("fs", std::iter::once(operation).chain(paths.iter().copied()).collect::<Vec<_>>().join("\n"))
}

/// Writes so many bytes; how many there was room for, and why no more.
fn fill(plugin: &PluginSandbox, path: &str, bytes: u64) -> String {
    plugin.attempt("fill", format!("{bytes}\n{path}")).text()
}

const EACCES: Answer = Answer::Errno(libc::EACCES);

#[test]
fn scratch_space_is_had_up_to_its_bound_and_not_beyond() {
    for (mb, bytes, answer) in [
        (4, 4 * MIB, format!("{} 0", 4 * MIB)),
        (4, 4 * MIB + 1, format!("{} {}", 4 * MIB, libc::ENOSPC)),
        (8, 4 * MIB + 1, format!("{} 0", 4 * MIB + 1)),
    ] {
        let plugin = with(mb);
        assert_eq!(fill(&plugin, "/tmp/file", bytes), answer, "{mb} MiB");
        let used = plugin.resource_usage().and_then(|usage| usage.scratch_bytes).expect("it has some");
        assert!(used.now >= bytes.min(4 * MIB) && used.now <= mb * MIB, "{used:?}");
        assert!(fs(&plugin, "unlink", &["/tmp/file"]).got_it());
        assert_eq!(fill(&plugin, "/tmp/other", 4 * MIB), format!("{} 0", 4 * MIB), "there is room again");
        plugin.unload_plugin().expect("it ends");
        let last = plugin.resource_usage().and_then(|usage| usage.scratch_bytes).expect("it had some");
        assert!(last.now == 0 && last.peak >= 4 * MIB, "{last:?}");
    }
    assert_eq!(fs(&probe(), "write", &["/tmp/file"]), EACCES, "none is the default");
}

#[test]
fn as_many_files_as_there_is_room_for_can_be_made_and_not_one_more() {
    let plugin = with(1);
    assert_eq!(plugin.attempt("make_many", "2000\n/tmp/f").text(), format!("1024 {}", libc::ENOSPC));
}

#[test]
fn the_size_can_be_changed_while_the_plugin_runs_and_not_below_what_is_used() {
    let plugin = with(2);
    assert_eq!(fill(&plugin, "/tmp/a", 3 * MIB), format!("{} {}", 2 * MIB, libc::ENOSPC));
    plugin.set_resource_limits(limits(4)).expect("there is memory");
    assert_eq!(fill(&plugin, "/tmp/b", 3 * MIB), format!("{} {}", 2 * MIB, libc::ENOSPC));
    plugin.set_resource_limits(limits(3).max_file_handles(3)).expect_err("more is used");
    assert_eq!(plugin.resource_limits(), limits(4), "and nothing else is changed");
    for (plugin, mb) in [(&plugin, 0), (&probe(), 1)] {
        let error = plugin.set_resource_limits(limits(mb)).expect_err("that takes another load");
        assert!(error.to_string().starts_with(&format!("limit max_scratch_mb is {mb}: ")), "{error}");
    }
}

#[test]
fn whatever_is_done_there_works_as_it_does_outside() {
    let scratch = Scratch::new();
    for tour in ["tour", "tour_c"] {
        let outside = scratch.folder(tour);
        fs::write(format!("{outside}/a"), "written").expect("ours");
        fs::create_dir(format!("{outside}/d")).expect("ours");
        symlink("a", format!("{outside}/l")).expect("ours");
        // As a helper's umask has it.
        for (name, mode) in [("a", 0o600), ("d", 0o700)] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(format!("{outside}/{name}"), mode).expect("ours");
        }
        let Outcome::Answered(outside) = unconfined::attempt(tour, &outside) else { panic!("{tour}") };
        let plugin = with(4);
        for (operation, paths) in [
            ("make folder", &["/tmp/t"][..]),
            ("write", &["/tmp/t/a"]),
            ("make folder", &["/tmp/t/d"]),
            ("symlink", &["a", "/tmp/t/l"]),
        ] {
            assert!(fs(&plugin, operation, paths).got_it(), "{operation}");
        }
        let (outside, inside) = (outside.text(), plugin.attempt(tour, "/tmp/t").text());
        for (outside, inside) in outside.lines().zip(inside.lines()) {
            assert_eq!(inside, outside, "{tour}");
        }
        assert_eq!(inside.lines().count(), outside.lines().count());
        assert!(outside.lines().filter(|line| line.contains(": ok")).count() > 30, "{outside}");
    }
}

#[test]
fn no_plugin_sees_anothers_scratch_space_and_it_goes_with_the_plugin() {
    let (one, other) = (with(1), with(1));
    assert!(fs(&one, "write", &["/tmp/mine"]).got_it());
    assert_eq!(fs(&one, "names", &["/tmp"]).text(), "mine");
    assert_eq!(fs(&other, "names", &["/tmp"]).text(), "");
    assert_eq!(fs(&other, "read", &["/tmp/mine"]), Answer::Errno(libc::ENOENT));
    one.unload_plugin().expect("it ends");
    one.load_plugin(library("probe")).expect("it loads again");
    one.activate_plugin(()).expect("it activates");
    assert_eq!(fs(&one, "names", &["/tmp"]).text(), "");
}

#[test]
fn nothing_leads_out_of_scratch_space_and_nothing_of_the_hosts_in() {
    let outside = Scratch::new();
    let file = outside.file("file", "the host's");
    // Also where all of the host's tree is granted, which its `/tmp` is a part of.
    for permissions in [&[][..], &[PERMISSION_FILE_READ, PERMISSION_FILE_WRITE]] {
        let policy = PluginPolicy::new().permissions(permissions.iter().cloned()).limits(limits(1));
        let plugin = probe_with(policy);
        assert!(fs(&plugin, "symlink", &["/etc/passwd", "/tmp/link"]).got_it());
        assert_eq!(fs(&plugin, "read", &["/tmp/link"]), EACCES);
        assert!(fs(&plugin, "write", &["/tmp/a"]).got_it());
        for (operation, paths, answer) in [
            ("map as code", &["/tmp/code"][..], Answer::Errno(libc::EPERM)),
            ("remove folder", &["/tmp"], Answer::Errno(libc::EINVAL)),
            ("rename", &["/tmp/a", "/srv/a"], Answer::Errno(libc::EXDEV)),
            ("link", &["/srv/a", "/tmp/b"], Answer::Errno(libc::EXDEV)),
            ("read", &["/srv/../tmp/a"], Answer::Got(b"written".to_vec())),
            ("go", &["/tmp", "a"], Answer::Got(b"/tmp written".to_vec())),
        ] {
            assert_eq!(fs(&plugin, operation, paths), answer, "{operation} {paths:?}");
        }
        if file.starts_with("/tmp/") {
            assert_eq!(fs(&plugin, "read", &[&file]), Answer::Errno(libc::ENOENT), "it is another /tmp");
        }
        assert!(!fs::exists("/tmp/plugin-scratch-a").unwrap_or(true));
        assert!(fs(&plugin, "write", &["/tmp/plugin-scratch-a"]).got_it());
        assert!(!fs::exists("/tmp/plugin-scratch-a").unwrap_or(true), "nothing is in the host's");
    }
}

#[test]
fn programs_that_the_plugin_starts_share_its_scratch_space() {
    let policy = PluginPolicy::new().permission(PERMISSION_PROCESS).limits(limits(1));
    let plugin = probe_with(policy);
    let told = plugin.attempt("run", "/bin/sh\n-c\necho by a shell > /tmp/a").text();
    assert_eq!(told, "exit 0\n");
    assert_eq!(fs(&plugin, "read", &["/tmp/a"]).text(), "by a shell\n");
}

#[test]
fn what_is_in_scratch_space_counts_as_the_plugins_memory_where_a_group_bounds_that() {
    let full = |memory| {
        let plugin = probe_with(PluginPolicy::new().limits(limits(64).max_memory_mb(memory)));
        let is_in_group =
            plugin.enforcement_report().and_then(|report| Some(report.layer(Layer::MemoryCgroup)?.enforced));
        (is_in_group == Some(true), plugin.call("fill", format!("{}\n/tmp/a", 60 * MIB).as_bytes()))
    };
    assert!(full(200).1.is_ok(), "under the limit it is had");
    match full(16) {
        (true, Err(PluginSandboxError::Ended { cause, .. })) => {
            assert!(matches!(cause, Cause::Memory { .. }), "{cause}");
        }
        (true, other) => panic!("it was had: {:?}", other.map_err(|error| explained(&error))),
        (false, had) => {
            println!("no group bounds memory here: not proven");
            had.expect("its own size is the bound then");
        }
    }
}
