//! Arrows point one way, and `unsafe` stays where it may be: read from the sources themselves.
//!
//! Reads text, not syntax: comments are cut off, strings are not. Never builds or runs what it reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// A source file: its path below the root, and its lines without comments, numbered from 1.
struct Source {
    path: String,
    lines: Vec<(usize, String)>,
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(read(&path));
            }
        }
    }
    found
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // What stands behind this is for tests alone, by this project's convention the end of a file.
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        lines.push((number + 1, code.to_owned()));
    }
    let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    Source { path, lines }
}

/// Whether `word` stands in `code` as a word.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

/// The module of sandbox-core that a path goes to: `crate::host::..` and `super::super::host::..` alike.
fn goes_to(code: &str, module: &str) -> bool {
    code.contains(&format!("crate::{module}::"))
        || code.contains(&format!("crate::{module};"))
        || code.contains(&format!("super::{module}::"))
        || (code.contains("crate::{") && has_word(code, module))
}

#[track_caller]
fn check(what: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[test]
fn no_arrow_points_up() {
    // Who may not name whom. `entry` alone names zygote and helper, and nobody names it.
    let rules: [(&str, &[&str]); 4] = [
        ("sandbox-core/src/host", &["zygote", "helper", "entry"]),
        ("sandbox-core/src/helper", &["host", "zygote", "entry"]),
        ("sandbox-core/src/zygote", &["host", "helper", "entry"]),
        ("sandbox-core/src/shared", &["host", "zygote", "helper", "entry"]),
    ];
    let mut wrong = Vec::new();
    for (folder, forbidden) in rules {
        for source in sources(folder) {
            // `super::` inside a folder leads to a neighbour: `host/zygote.rs` is not the process of that name.
            let neighbours =
                Path::new(&source.path).parent().map(|parent| root().join(parent)).expect("in a folder");
            for (number, code) in &source.lines {
                for module in forbidden {
                    let neighbour =
                        neighbours.join(format!("{module}.rs")).exists() || neighbours.join(module).exists();
                    let by_crate = code.contains(&format!("crate::{module}"));
                    if by_crate || (goes_to(code, module) && !neighbour) {
                        wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
                    }
                }
            }
        }
    }
    check("an arrow points up", wrong);
}

#[test]
fn inside_shared_what_touches_the_world_knows_none_of_ours() {
    let mut wrong = Vec::new();
    for source in sources("sandbox-core/src/shared/sys") {
        for (number, code) in &source.lines {
            if ["policy", "plan", "wire"].iter().any(|module| code.contains(&format!("shared::{module}"))) {
                wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
            }
        }
    }
    for source in sources("sandbox-core/src/shared/policy") {
        for (number, code) in &source.lines {
            if ["sys", "plan", "wire"].iter().any(|module| code.contains(&format!("shared::{module}"))) {
                wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
            }
        }
    }
    check("an arrow points up inside shared", wrong);
}

#[test]
fn unsafe_code_stays_in_its_places() {
    let allowed = |path: &str| {
        path.starts_with("sandbox-core/src/shared/sys/")
            || [
                "sandbox-core/src/entry.rs",
                "sandbox-core/src/helper/load.rs",
                "sandbox-core/src/shared/wire/ring.rs",
                "plugin-abi/src/binding.rs",
                "plugin-abi/src/export.rs",
            ]
            .contains(&path)
    };
    let mut wrong = Vec::new();
    for folder in ["sandbox-core/src", "plugin-abi/src", "host/src"] {
        for source in sources(folder).into_iter().filter(|source| !allowed(&source.path)) {
            for (number, code) in &source.lines {
                let lint = ["allow(unsafe_code", "deny(unsafe", "forbid(unsafe"]
                    .iter()
                    .any(|lint| code.contains(lint));
                if lint || has_word(code, "unsafe") {
                    wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
                }
            }
        }
    }
    check("unsafe outside its places", wrong);
}

#[test]
fn the_binding_alone_names_what_carries_the_boundary() {
    let mut wrong = Vec::new();
    for folder in [
        "sandbox-core/src",
        "plugin-abi/src",
        "host/src",
        "example-plugins/hello",
        "example-plugins/image-thumbnail",
    ] {
        for source in sources(folder) {
            for (number, code) in &source.lines {
                if source.path != "plugin-abi/src/binding.rs" && code.contains("abi_stable::") {
                    wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
                }
            }
        }
    }
    check("abi_stable outside its module", wrong);
}

#[test]
fn the_host_never_loads_a_library_and_never_forks() {
    let mut wrong = Vec::new();
    for source in sources("sandbox-core/src/host") {
        for (number, code) in &source.lines {
            if ["libloading", "dlopen(", "fork(", "plugin_abi::loader"].iter().any(|name| code.contains(name))
            {
                wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
            }
        }
    }
    check("the host touches what only a helper or the zygote may", wrong);
}

#[test]
fn no_module_is_named_after_nothing() {
    let mut wrong = Vec::new();
    for folder in ["sandbox-core/src", "plugin-abi/src", "host/src", "tests"] {
        for source in sources(folder) {
            for (number, code) in &source.lines {
                let name = code.split_once("mod ").map(|(_, name)| name.trim_end_matches([';', ' ', '{']));
                let inline = source.path == "plugin-abi/src/binding.rs"; // its types are the boundary's, in one place
                if !inline
                    && name.is_some_and(|name| {
                        ["utils", "util", "common", "helpers", "misc", "types"].contains(&name)
                    })
                {
                    wrong.push(format!("{}:{number}: {}", source.path, code.trim()));
                }
            }
        }
    }
    check("a module that says nothing", wrong);
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for folder in ["sandbox-core/src", "plugin-abi/src", "host/src", "tests", "example-plugins/probes"] {
        for source in sources(folder) {
            let text = fs::read_to_string(root().join(&source.path)).expect("read before");
            if !text.trim_start().starts_with("//!") {
                wrong.push(source.path);
            }
        }
    }
    check("files without a header", wrong);
}

/// The features that cargo gives sandbox-core when these packages are built.
fn features(arguments: &[&str]) -> String {
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["tree", "--offline", "--edges", "normal,build", "--format", "{p} [{f}]", "--manifest-path"]);
    let output = cargo
        .arg(root().join("Cargo.toml"))
        .args(arguments)
        .output()
        .expect("cargo, which has built this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let all: Vec<&str> = tree.lines().filter(|line| line.contains("sandbox-core v")).collect();
    assert!(!all.is_empty(), "{tree}");
    all.join("\n")
}

#[test]
fn no_program_that_is_shipped_can_leave_out_a_layer() {
    const FEATURE: &str = "test-support";
    for packages in [&["--package", "plugin-host"][..], &["--package", "sandbox-core"], &["--workspace"]] {
        let features = features(packages);
        assert!(!features.contains(FEATURE), "{packages:?}: {features}");
    }
    // The control: where the tests themselves are built, it is there.
    let tests = features(&["--package", "integration-tests", "--edges", "normal,build,dev"]);
    assert!(tests.contains(FEATURE), "{tests}");
}

#[test]
fn every_test_that_security_md_names_is_there() {
    let text = fs::read_to_string(root().join("SECURITY.md")).expect("it is there");
    let sources: String = ["tests", "sandbox-core/src", "plugin-abi/src", "host"]
        .into_iter()
        .flat_map(sources_whole)
        .map(|path| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect();
    let names: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next())
        .flat_map(|tests| tests.split('`').skip(1).step_by(2))
        .collect();
    assert!(names.len() > 50, "the table of promises is read: {names:?}");
    let wrong = names
        .into_iter()
        .filter(|name| {
            let file = name.ends_with(".rs");
            let found = if file {
                root().join(name).is_file() || root().join("tests/suite").join(name).is_file()
            } else if name.contains("::") || name.contains(' ') {
                true
            } else {
                // A test of its own, or one that a macro makes.
                sources.contains(&format!("fn {name}(")) || sources.contains(&format!("    {name}: "))
            };
            !found
        })
        .map(str::to_owned)
        .collect();
    check("SECURITY.md names a test that there is not", wrong);
}

/// Every source file below a folder, tests at the ends of files and all.
fn sources_whole(folder: &str) -> Vec<PathBuf> {
    sources(folder).into_iter().map(|source| root().join(source.path)).collect()
}

#[test]
fn the_drawing_shows_every_thread_of_the_host() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("a document");
    let drawing = text.split("```").nth(1).expect("a drawing");
    let mut threads = Vec::new();
    for source in sources("sandbox-core/src/host") {
        for (number, code) in &source.lines {
            let name = code.split_once(".name(\"plugin-").and_then(|(_, name)| name.split('"').next());
            threads
                .extend(name.map(|name| (format!("{}:{number}: {name}", source.path), format!("-{name}"))));
        }
    }
    assert!(threads.len() > 5, "the threads are named in another way by now: {threads:?}");
    let missing = threads.into_iter().filter(|(_, name)| !drawing.contains(name)).map(|(place, _)| place);
    check("a thread that the drawing does not show", missing.collect());
}

#[test]
fn every_test_that_the_eleven_steps_name_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it is there");
    let sources: Vec<_> =
        sources_whole("tests").iter().map(|path| fs::read_to_string(path).expect("a source")).collect();
    let is_sentence = |name: &&str| {
        name.matches('_').count() > 3 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let names: Vec<_> = text.split('`').skip(1).step_by(2).filter(is_sentence).collect();
    assert!(names.len() > 8, "the table of the steps is read: {names:?}");
    let called = |name: &str| {
        sources
            .iter()
            .any(|text| text.contains(&format!("fn {name}(")) || text.contains(&format!("    {name}: ")))
    };
    let wrong = names.into_iter().filter(|name| !called(name)).map(str::to_owned).collect();
    check("ARCHITECTURE.md names a test that there is not", wrong);
}
