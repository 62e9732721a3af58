//! Which folders are too wide to be granted by the way.
//!
//! Runs in the host, and wherever a log is read; opens no file. Owns what is neither suggested nor asked about: a grant of it
//! would be one of a good part of the machine. Who means it can still grant it.

use std::path::Path;

/// Folders at the root that a system stands on. Each is more than a plugin needs.
const SYSTEM_FOLDERS: [&str; 21] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt", "proc",
    "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
];

/// Those whose every folder is as wide: users' homes, `/usr/lib`, `/var/log`, disks.
const WIDE_FOLDERS: [&str; 5] = ["home", "media", "mnt", "usr", "var"];

/// Whether a grant of this would be one of a good part of the machine.
pub(crate) fn is_too_wide(path: &Path, is_folder: bool) -> bool {
    let parts: Vec<_> = path.components().skip(1).filter_map(|part| part.as_os_str().to_str()).collect();
    match parts.as_slice() {
        [] => true,
        [top] => is_folder || SYSTEM_FOLDERS.contains(top),
        [top, _] => is_folder && WIDE_FOLDERS.contains(top),
        _ => false,
    }
}

/// Whether this is a folder that any system has: that it is there tells nothing.
pub(crate) fn is_any_systems(path: &Path) -> bool {
    let mut parts = path.components().skip(1);
    let top = parts.next().and_then(|part| part.as_os_str().to_str());
    parts.next().is_none() && top.is_none_or(|top| SYSTEM_FOLDERS.contains(&top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_system_stands_on_is_too_wide_and_what_is_in_it_is_not() {
        for (path, is_folder, wide) in [
            ("/", true, true),
            ("/etc", true, true),
            ("/home", false, true),
            ("/data", true, true),
            ("/data", false, false),
            ("/home/user", true, true),
            ("/home/user", false, false),
            ("/home/user/pictures", true, false),
            ("/usr/lib", true, true),
            ("/etc/hosts", false, false),
            ("/etc/ssl", true, false),
            ("/tmp/work", true, false),
        ] {
            assert_eq!(is_too_wide(Path::new(path), is_folder), wide, "{path} {is_folder}");
        }
    }

    #[test]
    fn any_system_has_the_same_folders_at_its_root() {
        for (path, known) in
            [("/", true), ("/tmp", true), ("/usr", true), ("/data", false), ("/usr/lib", false)]
        {
            assert_eq!(is_any_systems(Path::new(path)), known, "{path}");
        }
    }
}
