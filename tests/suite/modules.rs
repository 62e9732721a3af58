//! Modules that are allowed, or not any more, while a plugin runs: what its next `dlopen` does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rig::libraries::{compile_c, with_modules};
use rig::plugins::explained;
use rig::{Scratch, active, wait};
use sandbox_core::{
    LibraryError, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState,
};

const NEEDED: [&str; 2] = ["libprobe_near.so", "libprobe_far.so"];
const MORE: &str = "libprobe_more.so";
const DEEP: &str = "libprobe_deep.so";

/// A plugin, and beside it two libraries that nothing needs yet, of which one needs the other.
fn plugin(scratch: &Scratch) -> (PluginSandbox, PathBuf) {
    compile_c(scratch, DEEP, "int probe_deep(void) { return 7; }", &[]);
    compile_more(scratch, "probe_deep()");
    let library = with_modules(scratch);
    (active("modules", PluginPolicy::new().allow_modules(NEEDED), &library, ()), library)
}

fn compile_more(scratch: &Scratch, returns: &str) {
    let source = format!("int probe_deep(void); int probe_more(void) {{ return {returns}; }}");
    compile_c(scratch, MORE, &source, &["-lprobe_deep"]);
}

/// What the library's function returned; the loader's error if there is no such library.
fn load(plugin: &PluginSandbox, name: &str) -> Result<String, String> {
    match plugin.call("dlopen", name.as_bytes()) {
        Ok(returned) => Ok(String::from_utf8_lossy(&returned).into_owned()),
        Err(PluginSandboxError::PluginFailed { message, .. }) => Err(message),
        Err(error) => panic!("{}", explained(&error)),
    }
}

fn add(plugin: &PluginSandbox, name: &str) -> bool {
    plugin.add_allowed_module(name).unwrap_or_else(|error| panic!("{}", explained(&error)))
}

#[test]
fn a_module_that_is_allowed_meanwhile_is_loaded_by_the_next_dlopen() {
    let scratch = Scratch::new();
    let (plugin, _) = plugin(&scratch);
    for name in [MORE, &scratch.at(MORE)] {
        load(&plugin, name).expect_err("not allowed yet");
    }
    assert!(add(&plugin, DEEP));
    load(&plugin, MORE).expect_err("that was another");
    assert!(add(&plugin, MORE));
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"), "although it was not there before");
    assert_eq!(load(&plugin, &scratch.at(MORE)).as_deref(), Ok("7"), "by its path too");
    assert!(!add(&plugin, MORE), "it is allowed already");
    assert_eq!(plugin.call("sum", b"5").expect("it goes on"), b"16");
}

#[test]
fn a_module_that_is_refused_changes_nothing_and_the_error_names_its_chain() {
    let scratch = Scratch::new();
    let (plugin, _) = plugin(&scratch);
    let before = plugin.allowed_modules();
    scratch.file("libprobe_odd.so", "no library");
    let refused = |name: &str| match plugin.add_allowed_module(name) {
        Err(PluginSandboxError::Library(error)) => {
            assert_eq!(plugin.allowed_modules(), before, "{name}");
            load(&plugin, name).expect_err("not allowed");
            error
        }
        other => panic!("{name}: {other:?}"),
    };
    let error = refused(MORE);
    let LibraryError::ModuleNotAllowed { module, chain } = &error else { panic!("{error}") };
    assert_eq!((module.as_str(), &chain[1..]), (DEEP, [MORE.to_owned(), DEEP.to_owned()].as_slice()));
    let error = refused("libprobe_nothing.so");
    assert!(matches!(error, LibraryError::ModuleNotFound { .. }), "{error}");
    let not_loaded = PluginSandbox::new("modules", PluginPolicy::new()).expect("a sandbox");
    for name in ["../libprobe_deep.so", &scratch.at(DEEP)] {
        let error = refused(name);
        assert!(matches!(&error, LibraryError::ModuleName { module } if module == name), "{name}: {error}");
        let shown = error.to_string();
        assert!(shown.contains("no soname such as libz.so.1"), "{shown}");
        let early = not_loaded.add_allowed_module(name).expect_err("not where nothing is loaded either");
        assert_eq!(early.to_string(), shown);
        let policy = PluginPolicy::new().allow_module(name);
        let early = PluginSandbox::new("modules", policy).expect_err("nor from the beginning");
        assert_eq!(early.to_string(), shown);
    }
    refused("libprobe_odd.so");
    assert!(add(&plugin, DEEP) && add(&plugin, MORE), "in the right order they are allowed");
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"));
}

#[test]
fn a_module_that_is_allowed_no_more_is_not_loaded_and_one_that_is_loaded_stays() {
    let scratch = Scratch::new();
    let (plugin, library) = plugin(&scratch);
    plugin.grant_permission(PERMISSION_FILE_READ);
    assert!(add(&plugin, DEEP) && add(&plugin, MORE));
    assert!(plugin.remove_allowed_module(MORE) && !plugin.remove_allowed_module(MORE));
    for name in [MORE, &scratch.at(MORE)] {
        load(&plugin, name).expect_err("it may be read, and not loaded");
    }
    assert!(add(&plugin, MORE) && plugin.remove_allowed_module(DEEP));
    load(&plugin, MORE).expect_err("what it needs is not allowed");
    assert!(add(&plugin, DEEP));
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"));
    assert!(plugin.remove_allowed_module(MORE));
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"), "it is the plugin's own code by now");
    plugin.unload_plugin().expect("it unloads");
    plugin.load_plugin(&library).expect("it loads");
    plugin.activate_plugin(()).expect("it activates");
    load(&plugin, MORE).expect_err("a new helper has not loaded it");
}

#[test]
fn what_is_loaded_are_the_bytes_that_were_checked_when_the_module_was_allowed() {
    let scratch = Scratch::new();
    let (plugin, library) = plugin(&scratch);
    assert!(add(&plugin, DEEP) && add(&plugin, MORE));
    compile_more(&scratch, "8");
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"));
    plugin.unload_plugin().expect("it unloads");
    plugin.load_plugin(&library).expect("it loads");
    plugin.activate_plugin(()).expect("it activates");
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("8"), "a load checks anew");
}

#[test]
fn modules_may_change_while_the_plugin_asks_for_them() {
    let scratch = Scratch::new();
    let (plugin, _) = plugin(&scratch);
    assert!(add(&plugin, DEEP));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                assert!(add(&plugin, MORE) && plugin.remove_allowed_module(MORE));
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            match load(&plugin, "libprobe_far.so").as_deref() {
                Ok("") => {}
                other => panic!("{other:?}"),
            }
            let _either = load(&plugin, DEEP).expect("allowed all the time");
        }
    });
    assert!(add(&plugin, MORE));
    assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"));
}

#[test]
fn modules_that_change_during_a_load_are_what_the_loaded_plugin_finds() {
    let scratch = Scratch::new();
    let (plugin, library) = plugin(&scratch);
    // It may be over by then: what changes afterwards is found too.
    let begins = || wait::until("the load", || (plugin.state() != PluginState::Unloaded).then_some(()));
    for turn in 0..5 {
        plugin.unload_plugin().expect("it unloads");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begins();
                assert!(add(&plugin, DEEP) && add(&plugin, MORE), "turn {turn}");
            });
            plugin.load_plugin(&library).expect("it loads");
        });
        plugin.activate_plugin(()).expect("it activates");
        assert_eq!(load(&plugin, MORE).as_deref(), Ok("7"), "turn {turn}");
        plugin.unload_plugin().expect("it unloads");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begins();
                assert!(plugin.remove_allowed_module(MORE) && plugin.remove_allowed_module(DEEP));
            });
            plugin.load_plugin(&library).expect("it loads");
        });
        plugin.activate_plugin(()).expect("it activates");
        load(&plugin, MORE).expect_err("allowed no more");
    }
}
