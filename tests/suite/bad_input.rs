//! Files that are no plugin: each refused with its own error, before a line of theirs has run.

use std::fs;
use std::path::Path;

use rig::libraries::{changed, compile_c, constructor_that, patched, with_modules, without_modules};
use rig::plugins::explained;
use rig::{Scratch, active, library};
use sandbox_core::{LibraryError, PluginPolicy, PluginSandbox, PluginSandboxError, PluginState};

#[track_caller]
fn error_of(path: impl AsRef<Path>) -> PluginSandboxError {
    error_with(PluginPolicy::new(), path)
}

#[track_caller]
fn error_with(policy: PluginPolicy, path: impl AsRef<Path>) -> PluginSandboxError {
    let plugin = PluginSandbox::new("bad", policy).expect("a sandbox");
    let error = plugin.load_plugin(path).expect_err("it is no plugin that may be loaded");
    assert_ne!(plugin.state(), PluginState::Crashed, "nothing of it ran: {}", explained(&error));
    assert_eq!(plugin.process_id(), None);
    // A sandbox that has refused one library takes the next.
    plugin.load_plugin(library("hello")).unwrap_or_else(|error| panic!("{}", explained(&error)));
    error
}

macro_rules! check {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $error;
        assert!(matches!(&error, $pattern $(if $guard)?), "{}", explained(&error));
    }};
}

use PluginSandboxError::{Abi, Library, LoadFailed, NotAPlugin};

#[test]
fn a_file_that_is_not_there() {
    check!(error_of("/nowhere/plugin.so"), Library(LibraryError::NotFound { .. }));
    check!(error_of(""), Library(LibraryError::NotFound { .. }));
    check!(error_of("/etc/passwd/plugin.so"), Library(LibraryError::NotFound { .. }));
}

#[test]
fn a_name_that_leads_to_no_regular_file() {
    let scratch = Scratch::new();
    // A FIFO without a writer: opening it the plain way would wait for ever.
    for path in [scratch.folder("folder"), scratch.fifo("fifo"), "/dev/null".to_owned()] {
        check!(error_of(path), Library(LibraryError::NotARegularFile { .. }));
    }
}

#[test]
fn a_file_that_is_no_library() {
    let scratch = Scratch::new();
    for (name, contents) in [
        ("text", "just text, and long enough that it could hold an ELF header: xxxxxxxxxxxxxxxx"),
        ("script", "#!/bin/sh\necho hello\n"),
    ] {
        check!(error_of(scratch.file(name, contents)), Library(LibraryError::NotALibrary { .. }));
    }
    check!(
        error_of(scratch.file("empty", "")),
        Library(LibraryError::NotALibrary { .. } | LibraryError::Truncated { .. })
    );
}

#[test]
fn a_program_is_no_library() {
    let program = fs::canonicalize("/bin/true").expect("every system has it");
    check!(error_of(program), Library(LibraryError::NotALibrary { .. }) | NotAPlugin { .. });
}

#[test]
fn a_truncated_library() {
    let scratch = Scratch::new();
    let whole = fs::read(library("hello")).expect("it was built");
    for len in [63, 64, 65, 1000, 4096, whole.len() / 2, whole.len() - 1] {
        let cut = changed(&scratch, "hello", &whole[..len]);
        let error = error_of(cut);
        assert!(
            matches!(&error, Library(LibraryError::Truncated { .. } | LibraryError::NotALibrary { .. })),
            "cut to {len} of {}: {}",
            whole.len(),
            explained(&error)
        );
    }
}

#[test]
fn a_library_of_another_architecture() {
    const E_MACHINE: usize = 18;
    const S390: u16 = 22;
    let scratch = Scratch::new();
    let mut bytes = fs::read(library("hello")).expect("it was built");
    bytes[E_MACHINE..E_MACHINE + 2].copy_from_slice(&S390.to_le_bytes());
    check!(error_of(changed(&scratch, "hello", bytes)), Library(LibraryError::WrongArchitecture { .. }));
}

#[test]
fn a_library_that_is_no_plugin() {
    let scratch = Scratch::new();
    let plain = compile_c(&scratch, "libplain.so", "int plain(void) { return 1; }", &[]);
    check!(error_of(plain), NotAPlugin { .. });
}

#[test]
fn metadata_that_cannot_be_read() {
    let scratch = Scratch::new();
    check!(
        error_of(patched(&scratch, "hello", b"PLGABI\0\x01", b"PLGABI\0\x63")),
        PluginSandboxError::Metadata { .. }
    );
}

#[test]
fn a_plugin_built_against_another_layout_is_told_from_its_file_in_three_lines_at_most() {
    let scratch = Scratch::new();
    let error = error_of(patched(&scratch, "hello", b"abi_stable 0.11", b"abi_stable 0.99"));
    let Abi { difference, .. } = &error else { panic!("{}", explained(&error)) };
    assert!(difference.contains("0.99") && difference.lines().count() <= 3, "{difference}");
    assert!(error.to_string().lines().count() <= 4, "{error}");
}

#[test]
fn a_plugin_whose_metadata_lies_about_its_layout_is_found_out_before_its_code_runs() {
    // Its code would abort. The library itself has been loaded by then, so this is found in the helper.
    let plugin = PluginSandbox::new("liar", PluginPolicy::new()).expect("a sandbox");
    let error = plugin.load_plugin(library("probe-lying-layout")).expect_err("it does not fit");
    let Abi { difference, .. } = &error else { panic!("{}", explained(&error)) };
    assert!((1..=3).contains(&difference.lines().count()), "{difference}");
    plugin.load_plugin(library("hello")).expect("the sandbox takes another");
}

#[test]
fn a_plugin_with_metadata_and_no_entry() {
    let scratch = Scratch::new();
    let plugin = PluginSandbox::new("headless", PluginPolicy::new()).expect("a sandbox");
    let library = patched(&scratch, "hello", b"_1as_0lib_1header", b"_2as_0lib_1header");
    let error = plugin.load_plugin(library).expect_err("it has no entry");
    assert!(matches!(error, NotAPlugin { .. } | Abi { .. } | LoadFailed { .. }), "{}", explained(&error));
}

#[test]
fn a_module_that_was_not_allowed_is_named_with_the_chain_to_it() {
    let scratch = Scratch::new();
    let plugin = with_modules(&scratch);
    let chain_of = |policy| match error_with(policy, &plugin) {
        Library(LibraryError::ModuleNotAllowed { module, chain }) => (module, chain),
        other => panic!("{}", explained(&other)),
    };
    let (near, far) = ("libprobe_near.so", "libprobe_far.so");
    let (module, chain) = chain_of(PluginPolicy::new());
    assert_eq!((module.as_str(), chain.len()), (near, 2), "{chain:?}");
    let (module, chain) = chain_of(PluginPolicy::new().allow_module(near));
    assert_eq!((module.as_str(), chain.len()), (far, 3), "{chain:?}");
    assert_eq!(chain[1..], [near, far]);
    let (module, _) = chain_of(PluginPolicy::new().allow_module(far));
    assert_eq!(module, near, "the way to it counts too");

    let allowed = active("modules", PluginPolicy::new().allow_modules([near, far]), &plugin, ());
    assert_eq!(allowed.call("sum", b"5").expect("it answers"), b"16");
}

#[test]
fn a_module_that_is_allowed_but_not_there() {
    let scratch = Scratch::new();
    let policy = PluginPolicy::new().allow_modules(["libprobe_near.so", "libprobe_far.so"]);
    check!(
        error_with(policy, without_modules(&scratch)),
        Library(LibraryError::ModuleNotFound { module, .. }) if module == "libprobe_near.so"
    );
}

#[test]
fn a_module_that_the_plugin_may_load_does_not_let_it_load_another() {
    use rig::plugins::Attempts;
    let plugin = rig::probe();
    for name in ["libprobe_near.so", "libz.so.1", "/usr/lib/x86_64-linux-gnu/libz.so.1", "./hello.so"] {
        let answer = plugin.attempt("dlopen", name);
        assert!(matches!(answer, rig::Answer::Failed(_)), "{name}: {answer:?}");
    }
}

#[test]
fn none_of_the_library_runs_before_all_of_its_file_was_judged() {
    let scratch = Scratch::new();
    // A constructor that would end the helper, in a file with another fault.
    let library = constructor_that(&scratch, "abort");
    let bytes = fs::read(&library).expect("written just now");
    let text = b"abi_stable 0.11";
    let at = bytes.windows(text.len()).position(|window| window == text).expect("it stands in the section");
    let mut bytes = bytes;
    bytes[at + text.len() - 1] = b'9';
    check!(error_of(changed(&scratch, "hello", bytes)), Abi { .. });
}

#[test]
fn inspecting_a_library_never_loads_it() {
    let scratch = Scratch::new();
    let library = constructor_that(&scratch, "abort");
    let inspection = sandbox_core::inspect(&library).expect("a plugin");
    assert_eq!(inspection.metadata.expect("it has some").id, "probe-constructor");
    assert_eq!(inspection.abi_difference, None);
    let inspection = sandbox_core::inspect(without_modules(&scratch)).expect("a plugin");
    let near =
        inspection.modules.iter().find(|module| module.soname == "libprobe_near.so").expect("it is needed");
    assert!(!near.allowed && near.path.is_none());
}
