//! Where a scope's path really is at the moment of a decision.
//!
//! Runs in the host, on the embedder's thread. Owns whose links count: what a plugin could have put in a granted path's place
//! leads a grant nowhere, so that nobody can be brought to grant something else than what was named.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::shared::policy::{Grants, NetworkScope, PERMISSION_FILE_WRITE, PluginPermission, Scope};

/// How many links are followed, as in the kernel: path_resolution(7).
const MOST_LINKS: usize = 40;

/// The scope of a revoke, with every link followed: a denial may reach further, a grant may not. `None` if it has no path, or
/// nothing is there.
pub(crate) fn followed(permission: &PluginPermission) -> Option<Scope> {
    with_path(permission, |path| path.canonicalize().ok())
}

/// The scope of a grant to whoever holds `held`, who must not have been able to put any link that is followed where it is.
/// `None` as before, and if there is such a link: then nothing but the path as it stands is granted.
pub(crate) fn granted(permission: &PluginPermission, held: &Grants) -> Option<Scope> {
    let may_write = |link: &Path| {
        Scope::path(link).is_ok_and(|link| held.judge(PERMISSION_FILE_WRITE.name(), &link).is_granted())
    };
    with_path(permission, |path| walk(path, may_write))
}

fn with_path(permission: &PluginPermission, real: impl Fn(&Path) -> Option<PathBuf>) -> Option<Scope> {
    match permission.scope()? {
        Scope::Path(path) => Scope::path(real(path)?).ok(),
        Scope::Network(scope) => NetworkScope::unix(real(scope.unix_path()?)?).ok().map(Scope::Network),
        Scope::Name(_) => None,
    }
}

/// Where `path` leads. Looks at each part once: what becomes a link after that is followed by nobody.
fn walk(path: &Path, may_write: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut real = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            real.pop();
            continue;
        }
        let here = real.join(&part);
        match here.read_link() {
            // No link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => real = here,
            Err(_) => return None,
            Ok(_) if may_write(&here) => return None,
            Ok(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                let mut target = parts(&target);
                target.append(&mut ahead);
                ahead = target;
            }
        }
    }
    Some(real)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_leads_where_the_kernel_says() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "").unwrap();
        symlink("a/b", at("relative")).unwrap();
        symlink(at("a"), at("absolute")).unwrap();
        symlink("../absolute/b/../b/file", at("a/winding")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for name in
            ["a", "a/b/file", "relative/file", "absolute/b", "a/winding", "loop", "none", "a/b/file/x"]
        {
            assert_eq!(walk(&at(name), |_| false), at(name).canonicalize().ok(), "{name}");
        }
    }

    #[test]
    fn a_link_that_the_plugin_could_have_made_leads_a_grant_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("own/real")).unwrap();
        std::fs::create_dir(at("secret")).unwrap();
        symlink(at("secret"), at("own/link")).unwrap();
        symlink(at("own"), at("hosts")).unwrap();
        let mut held = Grants::default();
        let wanted =
            |path: &str| PluginPermission::new("file-read", "").unwrap().scoped_to_path(at(path)).unwrap();
        let real = |path: &str| Scope::path(at(path)).ok();
        assert_eq!(
            granted(&wanted("own/link"), &held),
            real("secret"),
            "another's link is the host's business"
        );
        held.grant(PERMISSION_FILE_WRITE.scoped_to_path(at("own")).unwrap(), None);
        assert_eq!(granted(&wanted("own/link"), &held), None);
        assert_eq!(granted(&wanted("hosts/link"), &held), None);
        assert_eq!(granted(&wanted("hosts/real"), &held), real("own/real"));
        assert_eq!(followed(&wanted("own/link")), real("secret"), "a denial may reach as far as it likes");
    }
}
