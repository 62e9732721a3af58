//! What one plugin holds at this moment: grants, and the denials that cut a part out of a wider grant.
//!
//! Runs in the host. Owns the set semantics: the narrowest decision that covers an object counts, and of two equally
//! narrow ones the denial.

use super::permission::PluginPermission;
use super::scope::Scope;

/// The permissions that a plugin holds, as decisions in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grants {
    granted: Vec<PluginPermission>,
    denied: Vec<PluginPermission>,
}

/// What the grants say of one object, and which decision said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Granted(&'a PluginPermission),
    Denied(&'a PluginPermission),
    NotGranted,
}

impl Verdict<'_> {
    pub(crate) fn is_granted(self) -> bool {
        matches!(self, Self::Granted(_))
    }
}

impl Grants {
    pub(crate) fn new(permissions: impl IntoIterator<Item = PluginPermission>) -> Self {
        let mut grants = Self::default();
        permissions.into_iter().for_each(|permission| grants.grant(permission));
        grants
    }

    /// Adds `permission`, and lifts a denial of exactly the same. Granting what is held changes nothing.
    pub(crate) fn grant(&mut self, permission: PluginPermission) {
        self.denied.retain(|denial| *denial != permission);
        if !self.granted.contains(&permission) {
            self.granted.push(permission);
        }
    }

    /// Takes away everything that `permission` covers. Returns whether any of it was held.
    pub(crate) fn revoke(&mut self, permission: &PluginPermission) -> bool {
        let held = self.holds(permission) || self.granted.iter().any(|grant| permission.covers(grant));
        self.granted.retain(|grant| !permission.covers(grant));
        self.denied.retain(|denial| !permission.covers(denial));
        // What is left and still covers it is wider: a denial cuts the revoked part out.
        if self.granted.iter().any(|grant| grant.covers(permission)) {
            self.denied.push(permission.clone());
        }
        held
    }

    /// Without a scope: held at any scope. With one: is all of it covered, and no part of it denied.
    pub(crate) fn holds(&self, permission: &PluginPermission) -> bool {
        match permission.scope() {
            None => self.granted.iter().any(|grant| grant.name() == permission.name()),
            Some(scope) => {
                self.judge(permission.name(), scope).is_granted()
                    && !self.denied.iter().any(|denial| *denial != *permission && permission.covers(denial))
            }
        }
    }

    /// Whether the object at `scope` may be used under the permission called `name`.
    pub(crate) fn judge(&self, name: &str, scope: &Scope) -> Verdict<'_> {
        let narrowest = |list: &'_ [PluginPermission]| {
            list.iter()
                .enumerate()
                .filter(|(_, p)| p.name() == name && p.scope().is_none_or(|own| own.covers(scope)))
                .max_by_key(|(_, p)| width(p))
                .map(|(index, p)| (index, width(p)))
        };
        match (narrowest(&self.granted), narrowest(&self.denied)) {
            (None, None) => Verdict::NotGranted,
            (None, Some((index, _))) => Verdict::Denied(&self.denied[index]),
            (Some((index, grant)), Some((_, denial))) if grant > denial => {
                Verdict::Granted(&self.granted[index])
            }
            (Some(_), Some((index, _))) => Verdict::Denied(&self.denied[index]),
            (Some((index, _)), None) => Verdict::Granted(&self.granted[index]),
        }
    }

    /// Every permission that is granted, in the order in which it was.
    pub(crate) fn list(&self) -> &[PluginPermission] {
        &self.granted
    }

    /// The decisions on `name` with each scope as `resolve` finds it now; a scope that it finds nowhere stays as it is.
    pub(crate) fn map_scopes(&self, name: &str, resolve: impl Fn(&Scope) -> Option<Scope>) -> Self {
        let map = |list: &[PluginPermission]| {
            let ours = list.iter().filter(|p| p.name() == name);
            ours.map(|p| match p.scope().and_then(&resolve) {
                Some(scope) => p.at(scope),
                None => p.clone(),
            })
            .collect()
        };
        Self { granted: map(&self.granted), denied: map(&self.denied) }
    }
}

/// How narrow a permission is: the more components, the narrower. Only ones that cover the same object are compared.
fn width(permission: &PluginPermission) -> usize {
    match permission.scope() {
        None => 0,
        Some(Scope::Path(path)) => path.components().count(),
        Some(Scope::Name(_)) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::super::permission::{PERMISSION_FILE_READ, PERMISSION_FILE_WRITE};
    use super::*;

    fn at(path: &str) -> PluginPermission {
        PERMISSION_FILE_READ.scoped_to_path(path).unwrap()
    }

    #[test]
    fn granting_twice_is_granting_once() {
        let mut grants = Grants::new([at("/a"), at("/a")]);
        assert_eq!(grants.list().len(), 1);
        assert!(grants.revoke(&at("/a")));
        assert!(!grants.holds(&at("/a")));
        assert!(!grants.revoke(&at("/a")));
    }

    #[test]
    fn revoking_the_unscoped_permission_removes_every_scope() {
        let mut grants = Grants::new([at("/a"), at("/b"), PERMISSION_FILE_WRITE]);
        assert!(grants.revoke(&PERMISSION_FILE_READ));
        assert!(!grants.holds(&PERMISSION_FILE_READ));
        assert!(!grants.holds(&at("/a")));
        assert!(grants.holds(&PERMISSION_FILE_WRITE));
    }

    #[test]
    fn revoking_a_part_of_a_wider_grant_leaves_a_denial_which_beats_the_grant() {
        let mut grants = Grants::new([at("/a")]);
        assert!(grants.revoke(&at("/a/b")));
        assert!(grants.holds(&at("/a/c")));
        assert!(!grants.holds(&at("/a/b")));
        assert!(!grants.holds(&at("/a/b/c")));
        assert!(!grants.holds(&at("/a")), "not all of it is covered any more");
        assert!(grants.holds(&PERMISSION_FILE_READ), "held at some scope");
        grants.grant(at("/a"));
        assert!(!grants.holds(&at("/a/b")), "granting the wider one again does not lift the denial");
        grants.grant(at("/a/b"));
        assert!(grants.holds(&at("/a/b")), "granting the same does");
        assert!(grants.holds(&at("/a")));
    }

    #[test]
    fn a_grant_inside_a_denial_opens_just_that_part() {
        let mut grants = Grants::new([PERMISSION_FILE_READ]);
        grants.revoke(&at("/a"));
        grants.grant(at("/a/b"));
        assert!(grants.holds(&at("/a/b/c")));
        assert!(!grants.holds(&at("/a/c")));
        assert!(grants.holds(&at("/z")));
    }

    #[test]
    fn a_scope_that_is_not_held_is_not_there_to_be_revoked() {
        let mut grants = Grants::new([at("/a")]);
        assert!(!grants.revoke(&at("/b")));
        assert!(grants.holds(&at("/a")));
    }
}
