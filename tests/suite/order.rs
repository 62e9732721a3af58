//! The order of the steps is the security: whatever a library does first, it does confined.

use rig::libraries::constructor_that;
use rig::unconfined::{self, Outcome};
use rig::{Answer, Scratch, active, library, plugins};
use sandbox_core::{Demand, Layer, LayerPolicy, PERMISSION_FILE_READ, PluginPolicy};

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
    let sandbox = sandbox_core::PluginSandbox::new("constructor", PluginPolicy::new()).expect("a sandbox");
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
    let standing = |plugin: &sandbox_core::PluginSandbox| -> Vec<Layer> {
        let report = plugin.enforcement_report().expect("there was a load");
        report.layers.iter().filter(|layer| layer.enforced).map(|layer| layer.layer).collect()
    };
    assert_eq!(standing(&weak), standing(&strict));
    let report = weak.enforcement_report().expect("there was a load");
    assert!(report.layers.iter().all(|layer| layer.demand != Demand::Required), "and says what was asked");
}
