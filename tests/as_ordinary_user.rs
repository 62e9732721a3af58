//! The whole suite once more as an ordinary user, when it is root who runs the tests.
//!
//! From a copy, since such a user reaches neither root's folders nor, perhaps, the one that this was built in.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rig::{Scratch, libraries};

/// Any that is not root's. It need not be in a list of users.
const ORDINARY: u32 = 1000;

/// The newest test program of this name beside this one.
fn test_program(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a test program knows its name");
    let beside = own.parent().expect("it is in a folder");
    let newest = fs::read_dir(beside)
        .expect("it is there")
        .filter_map(Result::ok)
        .filter(|entry| {
            let file = entry.file_name();
            let hash = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
            hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        })
        .max_by_key(|entry| entry.metadata().and_then(|of| of.modified()).unwrap_or(SystemTime::UNIX_EPOCH));
    newest.unwrap_or_else(|| panic!("{name} was not built: run all tests of this package")).path()
}

fn copy(from: &Path, to: &str) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    fs::set_permissions(to, PermissionsExt::from_mode(0o755)).expect("it is ours");
}

#[test]
fn all_of_it_holds_for_an_ordinary_user_too() {
    if !nix::unistd::geteuid().is_root() {
        println!("an ordinary user is running the tests: nothing to repeat");
        return;
    }
    let scratch = Scratch::new();
    let folder = scratch.folder("libraries");
    for package in libraries::PACKAGES {
        let name = libraries::file_name(package);
        copy(&libraries::library(package), &format!("{folder}/{name}"));
    }
    let mut failed = Vec::new();
    for name in ["suite", "leftovers"] {
        let program = scratch.at(name);
        copy(&test_program(name), &program);
        let output = Command::new(&program)
            .env(libraries::FOLDER_VARIABLE, &folder)
            .current_dir(scratch.path())
            .uid(ORDINARY)
            .gid(ORDINARY)
            .output()
            .expect("the copy runs");
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            failed.push(format!("{name} as uid {ORDINARY}: {}\n{text}\n{errors}", output.status));
        }
        println!("{name} as uid {ORDINARY}: {}", text.trim_end().lines().last().unwrap_or_default());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
