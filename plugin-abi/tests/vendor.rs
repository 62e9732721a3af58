//! What a vendor writes, compiled as a vendor compiles it.
//!
//! Runs in a process of its own, with the example plugin's very source as a module.
//! Owns the promise that a complete plugin is eight lines.
//! Never loads a library: that takes a helper, and is tested where helpers are.

use plugin_abi::metadata;

#[path = "../../example-plugins/hello/src/lib.rs"]
mod hello;

#[test]
fn a_complete_plugin_is_eight_lines() {
    let source = include_str!("../../example-plugins/hello/src/lib.rs");
    assert!(source.lines().count() <= 8, "{source}");
}

#[test]
fn the_metadata_can_be_read_from_the_file_alone() {
    let file = std::env::current_exe().and_then(std::fs::read).expect("a test can read its own program");
    // A scanner finds the section by name. Its beginning is enough here, and also stands where it is compared with.
    let found =
        file.windows(8).enumerate().filter(|(_, window)| *window == b"PLGABI\0\x01").find_map(|(at, _)| {
            let len = file.get(at + 8..at + 12)?.try_into().ok().map(u32::from_le_bytes)?;
            let section = file.get(at..at.checked_add(usize::try_from(len).ok()?)?)?;
            metadata::decode(section).ok()
        });
    let metadata = found.expect("the export macro wrote a section");
    assert_eq!(metadata.id, "hello");
    assert_eq!(metadata.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata.description, "greets whoever calls");
    assert_eq!(metadata.abi.difference(&metadata::AbiFingerprint::current()), None);
}
