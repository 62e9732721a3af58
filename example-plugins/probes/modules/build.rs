//! Builds the two C libraries that the plugin is linked against. The tests build their own, from the same sources.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    compile(&out, "far", &[]);
    compile(&out, "near", &["-lprobe_far"]);
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=dylib=probe_near");
    // Beside the plugin is where its libraries are found.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo:rerun-if-changed=c");
}

fn compile(out: &Path, name: &str, needs: &[&str]) {
    let soname = format!("libprobe_{name}.so");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"])
        .arg(format!("-Wl,-soname,{soname}"))
        .arg("-o")
        .arg(out.join(&soname))
        .arg(format!("c/{name}.c"))
        .arg("-L")
        .arg(out)
        .args(needs)
        .status()
        .expect("a C compiler, which Rust links with too");
    assert!(done.success(), "cc of {name}.c: {done}");
}
