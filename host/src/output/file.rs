//! Writes a result to a file, whole or not at all.
//!
//! Runs in the application's process. Owns the temporary file and the rename.
//! Never replaces what is not a regular file: a device or a pipe is written to, not renamed over.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path`, with the folders above it. Whoever looks sees the old file or the new one, never half.
///
/// # Errors
/// What the system said. A file that was there is then as it was.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() => replace(&fs::canonicalize(path)?, bytes, there.permissions()),
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => File::options().write(true).open(path)?.write_all(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder(path))?;
            // What any program's new file gets; the user's umask takes its part.
            replace(path, bytes, Permissions::from_mode(0o666))
        }
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, bytes: &[u8], permissions: Permissions) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".plugin-host-")
        .permissions(permissions)
        .tempfile_in(folder(path))?;
    file.write_all(bytes)?;
    // Without this a crash of the machine could leave the new name with none of the bytes.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_folders_are_made_and_nothing_else_is_left() {
        let top = tempfile::tempdir().expect("a folder");
        let path = top.path().join("a/b/result");
        write(&path, b"one").expect("a new file");
        write(&path, b"two").expect("the same file");
        assert_eq!(fs::read(&path).expect("the file"), b"two");
        assert_eq!(fs::read_dir(top.path().join("a/b")).expect("the folder").count(), 1);
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_keeps_pointing() {
        let top = tempfile::tempdir().expect("a folder");
        let (file, link) = (top.path().join("file"), top.path().join("link"));
        fs::write(&file, "old").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("our file");
        std::os::unix::fs::symlink("file", &link).expect("a link");
        write(&link, b"new").expect("through the link");
        assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
        assert_eq!(fs::read(&file).expect("the file"), b"new");
        assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_device_is_written_to_and_a_folder_refused() {
        let top = tempfile::tempdir().expect("a folder");
        let link = top.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
        write(&link, b"gone").expect("a device takes bytes");
        assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
        assert!(write(top.path(), b"x").is_err());
        assert_eq!(fs::read_dir(top.path()).expect("the folder").count(), 1);
    }
}
