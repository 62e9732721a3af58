//! The order of the steps is the security: whatever a library does first, it does confined.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use containment::libraries::replaced;
use rig::libraries::constructor_that;
use rig::plugins::Attempts;
use rig::unconfined::{self, Outcome};
use rig::wait::PATIENCE;
use rig::{Answer, Scratch, active, library, plugins};
use sandbox_core::{
    Demand, Layer, LayerPolicy, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, PluginSandboxError,
};

#[test]
fn a_constructor_is_already_confined_when_it_runs() {
    let library = library("probe-constructor");
    let control = unconfined::attempt_of(&library, "constructor_errno", "");
    assert_eq!(
        control,
        Outcome::Answered(Answer::Got(b"0".to_vec())),
        "outside the sandbox its open succeeds"
    );

    let plugin = active("constructor", PluginPolicy::new(), &library, ());
    let errno = plugin.call("constructor_errno", b"").expect("it answers");
    assert_eq!(String::from_utf8_lossy(&errno), libc::EACCES.to_string());
}

#[test]
fn a_grant_counts_for_a_constructor_too() {
    let policy =
        PluginPolicy::new().permission(PERMISSION_FILE_READ.scoped_to_path("/etc/passwd").expect("absolute"));
    let plugin = active("constructor", policy, library("probe-constructor"), ());
    assert_eq!(plugin.call("constructor_errno", b"").expect("it answers"), b"0");
}

#[test]
fn a_constructor_that_makes_a_forbidden_call_never_becomes_a_plugin() {
    let scratch = Scratch::new();
    let library = constructor_that(&scratch, "ptrace");
    let sandbox = PluginSandbox::new("constructor", PluginPolicy::new()).expect("a sandbox");
    let error = sandbox.load_plugin(library).expect_err("it is killed");
    assert!(error.to_string().contains("forbidden system call: ptrace("), "{}", plugins::explained(&error));
}

#[test]
fn every_layer_that_is_required_stands_before_the_library_is_loaded() {
    let plugin = rig::loaded("hello", PluginPolicy::new(), library("hello"));
    let report = plugin.enforcement_report().expect("there was a load");
    assert_eq!(report.plugin.as_str(), "hello");
    assert_eq!(report.layers.len(), Layer::ALL.len(), "each layer is accounted for");
    for layer in &report.layers {
        assert!(!layer.evidence.is_empty(), "{}: nothing read back", layer.layer);
        if layer.demand == Demand::Required {
            assert!(layer.enforced, "{}: {:?}", layer.layer, layer.why_not);
        }
        assert_eq!(layer.enforced, layer.why_not.is_none(), "{}", layer.layer);
    }
    println!("{report}");
}

#[test]
fn best_effort_gives_up_nothing_that_can_be_had() {
    let layers = Layer::ALL.into_iter().fold(LayerPolicy::strict(), LayerPolicy::best_effort);
    let weak = rig::loaded("hello", PluginPolicy::new().layers(layers), library("hello"));
    let strict = rig::loaded("hello", PluginPolicy::new(), library("hello"));
    let standing = |plugin: &PluginSandbox| -> Vec<Layer> {
        let report = plugin.enforcement_report().expect("there was a load");
        report.layers.iter().filter(|layer| layer.enforced).map(|layer| layer.layer).collect()
    };
    assert_eq!(standing(&weak), standing(&strict));
    let report = weak.enforcement_report().expect("there was a load");
    assert!(report.layers.iter().all(|layer| layer.demand != Demand::Required), "and says what was asked");
}

/// A library that its check refuses, and that would end its process if any of it ran.
fn refused_and_deadly(scratch: &Scratch) -> Vec<u8> {
    let deadly = fs::read(constructor_that(scratch, "exit")).expect("just made");
    let exits = unconfined::attempt_of(&constructor_that(scratch, "exit"), "", "");
    assert_eq!(exits, Outcome::Exited(3), "its constructor runs, where it is loaded");
    replaced(deadly, b"abi_stable 0.11", b"abi_stable 0.99").expect("it says what it was built against")
}

#[test]
fn a_file_that_changes_all_the_while_is_loaded_as_it_was_checked_or_not_at_all() {
    let scratch = Scratch::new();
    let deadly = scratch.file("deadly", refused_and_deadly(&scratch));
    let good = scratch.file("good", fs::read(library("probe-constructor")).expect("it was built"));
    let (at, next) = (scratch.at("plugin.so"), scratch.at("next"));
    fs::hard_link(&good, &at).expect("the folder is ours");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for file in [&deadly, &good].into_iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                fs::hard_link(file, &next).expect("the folder is ours");
                fs::rename(&next, &at).expect("the folder is ours");
            }
        });
        let _done = Done(&over);
        let (mut loaded, mut refused) = (0, 0);
        let deadline = Instant::now() + PATIENCE;
        while loaded + refused < 20 || loaded == 0 || refused == 0 {
            assert!(Instant::now() < deadline, "{loaded} loaded, {refused} refused: nothing changed");
            let plugin = PluginSandbox::new("changing", PluginPolicy::new()).expect("a sandbox");
            match plugin.load_plugin(&at) {
                Ok(_) => loaded += 1,
                Err(error @ PluginSandboxError::Ended { .. }) => panic!("{}", plugins::explained(&error)),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("another plugin interface"), "{}", plugins::explained(&error));
                    refused += 1;
                }
            }
        }
    });
}

/// Says that it is over, however it ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_is_overwritten_once_it_was_loaded_is_nothing_to_the_plugin() {
    let scratch = Scratch::new();
    let at = scratch.file("plugin.so", fs::read(library("probe")).expect("it was built"));
    let plugin = active("probe", PluginPolicy::new(), &at, ());
    // The same file, and not another of its name: pages that came from it would be gone, or others.
    fs::OpenOptions::new().write(true).truncate(true).open(&at).expect("it is ours");
    assert!(!plugin.attempt("facts", "").text().is_empty(), "code that was not run before is still there");
    fs::write(&at, refused_and_deadly(&scratch)).expect("it is ours");
    assert_eq!(plugin.attempt("echo", "x").text(), "x");
    assert_eq!(plugin.attempt("host_name", "").text(), "localhost");
    let other = PluginSandbox::new("other", PluginPolicy::new()).expect("a sandbox");
    let error = other.load_plugin(&at).expect_err("what it is now is refused");
    assert!(error.to_string().contains("another plugin interface"), "{}", plugins::explained(&error));
}
