//! The plugins' libraries: found beside the test program, built if they are not there, and copies of them put wrong.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::Scratch;

/// Where the libraries are, for test programs that were copied away from where they were built.
pub const FOLDER_VARIABLE: &str = "PLUGIN_TESTS_LIBRARIES";

/// The packages whose libraries the tests load.
pub const PACKAGES: [&str; 8] = [
    "hello",
    "probe",
    "probe-bench",
    "probe-constructor",
    "probe-life",
    "probe-lying-layout",
    "probe-modules",
    "probe-stock",
];

/// The C sources of the libraries that `probe-modules` needs, nearest first.
const NEAR: &str = include_str!("../../example-plugins/probes/modules/c/near.c");
const FAR: &str = include_str!("../../example-plugins/probes/modules/c/far.c");

/// The library of one of the [`PACKAGES`].
pub fn library(package: &str) -> PathBuf {
    let path = folder().join(file_name(package));
    assert!(path.exists(), "{} is not among the packages that the rig builds", path.display());
    path
}

pub use containment::libraries::file_name;

/// The folder with all of them.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match env::var_os(FOLDER_VARIABLE) {
        Some(folder) => folder.into(),
        None => build(),
    })
}

/// Asks cargo each time: only cargo knows whether a library is older than its source.
fn build() -> PathBuf {
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM
    let test = env::current_exe().expect("a test program knows its name");
    let beside = test.parent().expect("it is in a folder");
    let profile = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    let profile = profile.expect("tests are built into target/PROFILE/deps");
    let target = profile.parent().expect("as above");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["build", "--quiet", "--profile", name, "--target-dir"]).arg(target);
    cargo.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let output = cargo.output().expect("cargo, which has built this test too");
    assert!(
        output.status.success(),
        "the plugins do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    profile.to_owned()
}

/// A copy of a package's library in which every `old` is `new`.
///
/// # Panics
/// If there is no `old`, or if it has another length than `new`.
pub fn patched(scratch: &Scratch, package: &str, old: &[u8], new: &[u8]) -> PathBuf {
    let bytes = containment::libraries::bytes_of(folder(), package)
        .and_then(|bytes| containment::libraries::replaced(bytes, old, new))
        .unwrap_or_else(|error| panic!("{package}: {error}"));
    changed(scratch, package, bytes)
}

/// Bytes as a library's file, under that package's name.
pub fn changed(scratch: &Scratch, package: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    scratch.file(&file_name(package), bytes).into()
}

/// The plugin `probe-constructor`, whose constructor does `act`.
pub fn constructor_that(scratch: &Scratch, act: &str) -> PathBuf {
    let place = |act: &str| format!("{:32}", format!("PROBE-CONSTRUCTOR:{act}"));
    patched(scratch, "probe-constructor", place("open").as_bytes(), place(act).as_bytes())
}

/// A C library of this source.
pub fn compile_c(scratch: &Scratch, soname: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let c = scratch.file(&format!("{soname}.c"), source);
    let library = scratch.at(soname);
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"])
        .arg(format!("-Wl,-soname,{soname}"))
        .args(["-o", &library, &c, "-L"])
        .arg(scratch.path())
        .args(arguments)
        .output()
        .expect("a C compiler, which Rust links with too");
    assert!(output.status.success(), "cc of {soname}:\n{}", String::from_utf8_lossy(&output.stderr));
    library.into()
}

/// A copy of `probe-modules` with both libraries that it needs beside it.
pub fn with_modules(scratch: &Scratch) -> PathBuf {
    compile_c(scratch, "libprobe_far.so", FAR, &[]);
    compile_c(scratch, "libprobe_near.so", NEAR, &["-lprobe_far"]);
    without_modules(scratch)
}

/// A copy of `probe-modules` alone.
pub fn without_modules(scratch: &Scratch) -> PathBuf {
    changed(scratch, "probe-modules", fs::read(library("probe-modules")).expect("it was built"))
}
