//! Builds the one function that needs a resolver, which Rust has no word for, into the plugin itself.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let object = out.join("resolver.o");
    let done = Command::new("cc")
        .args(["-c", "-O1", "-fPIC", "-Wall", "-Werror", "c/resolver.c", "-o"])
        .arg(&object)
        .status()
        .expect("a C compiler, which Rust links with too");
    assert!(done.success(), "cc of resolver.c: {done}");
    println!("cargo:rustc-cdylib-link-arg={}", object.display());
    println!("cargo:rerun-if-changed=c");
}
