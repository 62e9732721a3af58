//! What one plugin holds at this moment: grants, and the denials that cut a part out of a wider grant.
//!
//! Runs in the host. Owns the set semantics: the narrowest decision that covers an object counts, and of two equally
//! narrow ones the denial.

use std::path::Path;

use super::grade::Grade;
use super::permission::PluginPermission;
use super::scope::Scope;

/// The permissions that a plugin holds, as decisions in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grants {
    granted: Vec<Decision>,
    denied: Vec<Decision>,
    revokes: u64,
}

/// A grant or a denial.
#[derive(Debug, Clone)]
struct Decision {
    permission: PluginPermission,
    /// Where the scope's path really was, with every link followed, when this was decided. What is put in its place later
    /// is not what was decided about.
    real: Option<Scope>,
    /// What is handed out for it. Nothing is for a denial.
    grade: Grade,
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

impl Decision {
    fn places(&self) -> impl Iterator<Item = &Path> {
        [self.permission.scope(), self.real.as_ref()].into_iter().flatten().filter_map(Scope::place)
    }

    /// Whether this is about a part of what is at `path`, and not about all of it.
    fn is_below(&self, path: &Path) -> bool {
        self.places().any(|own| own != path && own.starts_with(path))
    }

    fn is_at(&self, path: &Path) -> bool {
        self.places().any(|own| own == path)
    }

    /// How narrowly this covers the object at `scope`: the more components, the narrower. `None` if it does not.
    fn width(&self, name: &str, scope: &Scope) -> Option<usize> {
        if self.permission.name() != name {
            return None;
        }
        let Some(own) = self.permission.scope() else { return (!scope.is_apart()).then_some(0) };
        [Some(own), self.real.as_ref()]
            .into_iter()
            .flatten()
            .filter(|own| own.covers(scope))
            .map(Scope::width)
            .max()
    }

    fn covers(&self, permission: &PluginPermission) -> bool {
        match permission.scope() {
            Some(scope) => self.width(permission.name(), scope).is_some(),
            None => self.permission.covers(permission),
        }
    }
}

impl Grants {
    /// Adds `permission`, whose scope really is at `real`, and lifts a denial of exactly the same. Granting what is held
    /// changes nothing but where it really is.
    pub(crate) fn grant(&mut self, permission: PluginPermission, real: Option<Scope>) {
        let grade = self.held(&permission).map_or_else(Grade::default, |held| held.grade);
        self.grant_as(permission, grade, real);
    }

    /// The same, as this grade from now on.
    pub(crate) fn grant_as(&mut self, permission: PluginPermission, grade: Grade, real: Option<Scope>) {
        self.denied.retain(|denial| denial.permission != permission);
        let decision = Decision { permission, real, grade };
        match self.held(&decision.permission) {
            Some(held) => *held = decision,
            None => self.granted.push(decision),
        }
    }

    /// The grant of exactly `permission`.
    fn held(&mut self, permission: &PluginPermission) -> Option<&mut Decision> {
        self.granted.iter_mut().find(|grant| grant.permission == *permission)
    }

    /// Takes away everything that `permission` covers. Returns whether any of it was held.
    pub(crate) fn revoke(&mut self, permission: &PluginPermission, real: Option<Scope>) -> bool {
        self.revokes = self.revokes.saturating_add(1);
        let held = self.holds(permission)
            || self.granted.iter().any(|grant| permission.takes_along(&grant.permission));
        self.granted.retain(|grant| !permission.takes_along(&grant.permission));
        self.denied.retain(|denial| !permission.takes_along(&denial.permission));
        let denial = Decision { permission: permission.clone(), real, grade: Grade::default() };
        // What is left and still covers it is wider: a denial cuts the revoked part out.
        let real = denial.real.clone().map(|real| permission.at(real));
        let wider = |grant: &Decision| {
            grant.covers(permission) || real.as_ref().is_some_and(|real| grant.covers(real))
        };
        if self.granted.iter().any(wider) {
            self.denied.push(denial);
        }
        held
    }

    /// How often something was revoked.
    pub(crate) fn revokes(&self) -> u64 {
        self.revokes
    }

    /// Without a scope: held at any scope. With one: is all of it covered, and no part of it denied.
    pub(crate) fn holds(&self, permission: &PluginPermission) -> bool {
        match permission.scope() {
            None => self.holds_named(permission.name()),
            Some(scope) => {
                let inside = |denial: &Decision| {
                    denial.permission != *permission && permission.covers(&denial.permission)
                };
                self.judge(permission.name(), scope).is_granted() && !self.denied.iter().any(inside)
            }
        }
    }

    /// Whether the permission called `name` is held at any scope.
    pub(crate) fn holds_named(&self, name: &str) -> bool {
        self.granted.iter().any(|grant| grant.permission.name() == name)
    }

    /// Whether the object at `scope` may be used under the permission called `name`.
    pub(crate) fn judge(&self, name: &str, scope: &Scope) -> Verdict<'_> {
        self.judge_as(name, std::slice::from_ref(scope))
    }

    /// The same of an object that is known under several scopes, such as an address and the names that it was found by.
    pub(crate) fn judge_as(&self, name: &str, scopes: &[Scope]) -> Verdict<'_> {
        match self.deciding(name, scopes) {
            None => Verdict::NotGranted,
            Some(Ok(grant)) => Verdict::Granted(&grant.permission),
            Some(Err(denial)) => Verdict::Denied(&denial.permission),
        }
    }

    /// The grade of the grant that opens the object at `scope` under the permission called `name`; `None` if none does.
    pub(crate) fn grade(&self, name: &str, scope: &Scope) -> Option<Grade> {
        self.grade_as(name, std::slice::from_ref(scope))
    }

    /// The same of an object that is known under several scopes.
    pub(crate) fn grade_as(&self, name: &str, scopes: &[Scope]) -> Option<Grade> {
        self.deciding(name, scopes)?.ok().map(|grant| grant.grade)
    }

    /// The grant that opens it, or the denial that does not.
    fn deciding(&self, name: &str, scopes: &[Scope]) -> Option<Result<&Decision, &Decision>> {
        // Of two equally narrow grants, the one of which more can be taken back.
        fn narrowest<'a>(
            list: &'a [Decision],
            name: &str,
            scopes: &[Scope],
        ) -> Option<(usize, &'a Decision)> {
            let width = |own: &Decision| scopes.iter().filter_map(|scope| own.width(name, scope)).max();
            let covering = list.iter().filter_map(|own| Some((width(own)?, own)));
            covering.max_by_key(|(width, own)| (*width, own.grade))
        }
        match (narrowest(&self.granted, name, scopes), narrowest(&self.denied, name, scopes)) {
            (None, None) => None,
            (Some((_, grant)), None) => Some(Ok(grant)),
            (Some((grant_width, grant)), Some((denial_width, _))) if grant_width > denial_width => {
                Some(Ok(grant))
            }
            (_, Some((_, denial))) => Some(Err(denial)),
        }
    }

    /// The scopes of every decision about the permission called `name`; `None` is the unscoped one.
    pub(crate) fn scopes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Option<&'a Scope>> + 'a {
        let all = self.granted.iter().chain(&self.denied).map(|decision| &decision.permission);
        all.filter(move |permission| permission.name() == name).map(PluginPermission::scope)
    }

    /// Whether anything at all was decided about a part of what is at `path`, not the whole of it.
    pub(crate) fn decides_below(&self, path: &Path) -> bool {
        self.granted.iter().chain(&self.denied).any(|own| own.is_below(path))
    }

    /// Whether anything was decided about exactly what is at `path`.
    pub(crate) fn decides_at(&self, path: &Path) -> bool {
        self.granted.iter().chain(&self.denied).any(|own| own.is_at(path))
    }

    /// Whether files in a part of the tree at `path` are granted, for reading or for writing.
    pub(crate) fn grants_below(&self, path: &Path) -> bool {
        let of_files = |own: &&Decision| matches!(own.permission.name(), "file-read" | "file-write");
        self.granted.iter().filter(of_files).any(|own| own.is_below(path))
    }

    /// Whether the permission called `name` is denied for a part of the tree at `path`.
    pub(crate) fn denies_below(&self, name: &str, path: &Path) -> bool {
        self.denied.iter().any(|own| own.permission.name() == name && own.is_below(path))
    }

    /// Every permission that is granted, in the order in which it was.
    pub(crate) fn list(&self) -> Vec<PluginPermission> {
        self.granted.iter().map(|grant| grant.permission.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::permission::{PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK};
    use super::*;

    fn granted(permissions: impl IntoIterator<Item = PluginPermission>) -> Grants {
        let mut grants = Grants::default();
        permissions.into_iter().for_each(|permission| grants.grant(permission, None));
        grants
    }

    fn at(path: &str) -> PluginPermission {
        PERMISSION_FILE_READ.scoped_to_path(path).unwrap()
    }

    #[test]
    fn granting_twice_is_granting_once() {
        let mut grants = granted([at("/a"), at("/a")]);
        assert_eq!(grants.list().len(), 1);
        assert!(grants.revoke(&at("/a"), None));
        assert!(!grants.holds(&at("/a")));
        assert!(!grants.revoke(&at("/a"), None));
    }

    #[test]
    fn revoking_the_unscoped_permission_removes_every_scope() {
        let mut grants = granted([at("/a"), at("/b"), PERMISSION_FILE_WRITE]);
        assert!(grants.revoke(&PERMISSION_FILE_READ, None));
        assert!(!grants.holds(&PERMISSION_FILE_READ));
        assert!(!grants.holds(&at("/a")));
        assert!(grants.holds(&PERMISSION_FILE_WRITE));
    }

    #[test]
    fn revoking_a_part_of_a_wider_grant_leaves_a_denial_which_beats_the_grant() {
        let mut grants = granted([at("/a")]);
        assert!(grants.revoke(&at("/a/b"), None));
        assert!(grants.holds(&at("/a/c")));
        assert!(!grants.holds(&at("/a/b")));
        assert!(!grants.holds(&at("/a/b/c")));
        assert!(!grants.holds(&at("/a")), "not all of it is covered any more");
        assert!(grants.holds(&PERMISSION_FILE_READ), "held at some scope");
        grants.grant(at("/a"), None);
        assert!(!grants.holds(&at("/a/b")), "granting the wider one again does not lift the denial");
        grants.grant(at("/a/b"), None);
        assert!(grants.holds(&at("/a/b")), "granting the same does");
        assert!(grants.holds(&at("/a")));
    }

    #[test]
    fn a_grant_inside_a_denial_opens_just_that_part() {
        let mut grants = granted([PERMISSION_FILE_READ]);
        grants.revoke(&at("/a"), None);
        grants.grant(at("/a/b"), None);
        assert!(grants.holds(&at("/a/b/c")));
        assert!(!grants.holds(&at("/a/c")));
        assert!(grants.holds(&at("/z")));
    }

    #[test]
    fn the_grade_is_that_of_the_grant_that_decides() {
        let grade = |grants: &Grants, path| grants.grade("file-read", &Scope::path(path).unwrap());
        let mut grants = granted([at("/a")]);
        assert_eq!(grade(&grants, "/a/b/c"), Some(Grade::Descriptor));
        grants.grant_as(at("/a/b"), Grade::Mediated, None);
        assert_eq!(grade(&grants, "/a/b/c"), Some(Grade::Mediated));
        assert_eq!(grade(&grants, "/a/c"), Some(Grade::Descriptor));
        assert_eq!(grade(&grants, "/c"), None);
        grants.grant(at("/a/b"), None);
        assert_eq!(grade(&grants, "/a/b"), Some(Grade::Mediated), "granting what is held changes nothing");
        grants.grant_as(at("/a/b"), Grade::Descriptor, None);
        assert_eq!(grade(&grants, "/a/b"), Some(Grade::Descriptor), "granting it as another does");
        assert_eq!(grants.list().len(), 2);
        grants.grant_as(at("/a/b"), Grade::Mediated, None);
        assert!(grants.revoke(&at("/a/b/c"), None));
        assert_eq!(grade(&grants, "/a/b/c/d"), None);
        assert_eq!(grade(&grants, "/a/b/d"), Some(Grade::Mediated));
        assert!(grants.revoke(&at("/a/b"), None));
        assert_eq!(grade(&grants, "/a/b/d"), None);
    }

    #[test]
    fn of_two_equally_narrow_grants_more_can_be_taken_back() {
        let real = Some(Scope::path("/mnt/photos").unwrap());
        for first in [Grade::Descriptor, Grade::Mediated] {
            let second = if first == Grade::Descriptor { Grade::Mediated } else { Grade::Descriptor };
            let mut grants = Grants::default();
            grants.grant_as(at("/mnt/photos"), first, None);
            grants.grant_as(at("/run/photos"), second, real.clone());
            let photo = Scope::path("/mnt/photos/a").unwrap();
            assert_eq!(grants.grade("file-read", &photo), Some(Grade::Mediated));
        }
    }

    #[test]
    fn a_scope_that_is_not_held_is_not_there_to_be_revoked() {
        let mut grants = granted([at("/a")]);
        assert!(!grants.revoke(&at("/b"), None));
        assert!(grants.holds(&at("/a")));
    }

    #[test]
    fn unix_sockets_are_granted_by_their_own_scope_and_revoked_with_everything() {
        let network = |scope: &str| PERMISSION_NETWORK.scoped(scope).unwrap();
        let mut grants = granted([PERMISSION_NETWORK]);
        assert!(grants.holds(&network("10.0.0.1:80")));
        assert!(grants.holds(&network("listen:80")));
        assert!(!grants.holds(&network("unix:/run/a")));
        grants.grant(network("unix:/run"), None);
        assert!(grants.holds(&network("unix:/run/a")));
        assert!(grants.revoke(&PERMISSION_NETWORK, None));
        assert!(grants.list().is_empty());
    }

    #[test]
    fn an_address_is_judged_by_the_names_it_was_found_by_too_and_the_narrowest_counts() {
        let network = |scope: &str| PERMISSION_NETWORK.scoped(scope).unwrap();
        let found = ["10.0.0.1:80", "a.org:80"].map(|scope| Scope::network(scope).unwrap());
        let mut grants = granted([network("b.org")]);
        assert!(!grants.judge_as("network", &found).is_granted());
        grants.grant(network("a.org:80"), None);
        assert!(grants.judge_as("network", &found).is_granted());
        let mut grants = granted([PERMISSION_NETWORK]);
        grants.revoke(&network("a.org"), None);
        assert!(!grants.judge_as("network", &found).is_granted());
    }

    #[test]
    fn a_scope_is_where_it_was_when_it_was_granted() {
        let real = |path| Some(Scope::path(path).unwrap());
        let mut grants = Grants::default();
        grants.grant(at("/run/photos"), real("/mnt/disk/photos"));
        assert!(grants.holds(&at("/mnt/disk/photos/a")));
        assert!(grants.holds(&at("/run/photos/a")));
        assert!(!grants.holds(&at("/mnt/disk/other")));
        assert!(grants.revoke(&at("/run/photos/private"), real("/mnt/disk/photos/private")));
        assert!(!grants.holds(&at("/mnt/disk/photos/private/a")), "a denial is where it really is, too");
        assert!(grants.holds(&at("/mnt/disk/photos/a")));
    }
}
