//! The smallest set of grants under which what was recorded would have worked.
//!
//! Runs wherever a log is read; opens no file. Never suggests what no grant opens, and never a folder that a system stands on. What it reads may have been written by anybody: all of it is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use super::record::{AuditEvent, AuditRecord};
use crate::host::broker::is_resolver_file;
use crate::host::wide::is_too_wide;
use crate::shared::policy::{PluginPermission, STANDARD_PERMISSIONS};

/// How much is remembered, in bytes: some hundred thousand different objects.
const MOST_BYTES: usize = 64 << 20;

/// What remembering one thing takes beside its texts.
const ONE_THING: usize = 256;

/// Attempts that read nothing of a folder but that it is there.
const LOOKS: [&str; 12] = [
    "access",
    "chdir",
    "faccessat",
    "faccessat2",
    "fstat",
    "lstat",
    "newfstatat",
    "readlink",
    "readlinkat",
    "stat",
    "statfs",
    "statx",
];

/// Learns from the records of a run what each plugin needed, and suggests the grants for it.
///
/// Exact files become exact grants, until so many are in one folder that the folder is granted in their place: four, if
/// [`fold_at`](Self::fold_at) does not say otherwise. A folder that the system stands on is never suggested.
///
/// ```
/// use sandbox_core::{AuditReader, GrantSuggester};
/// # let log = r#"{"v":1,"time":"2026-01-01T12:00:00Z","plugin":"thumbs","kind":"access","permission":"file-read","action":"open","object":"/srv/a.png","resolved":null,"granted":false,"rule":"not granted"}"#.as_bytes();
/// let mut suggester = GrantSuggester::new();
/// for record in AuditReader::new(log).flatten() {
///     suggester.add(&record);
/// }
/// for suggestion in suggester.finish() {
///     println!("{} needs {:?}", suggestion.plugin, suggestion.permissions);
/// #   assert_eq!(suggestion.permissions[0].to_string(), "file-read:/srv/a.png");
/// }
/// ```
#[derive(Debug)]
pub struct GrantSuggester {
    fold_at: usize,
    plugins: BTreeMap<String, Needs>,
    /// How many bytes may still be remembered.
    room: usize,
    missing: u64,
}

/// What one plugin needed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GrantSuggestion {
    /// The plugin's id, as the log has it.
    pub plugin: String,
    /// What to grant.
    pub permissions: Vec<PluginPermission>,
    /// What was tried and is not covered by these.
    pub not_suggested: Vec<NotSuggested>,
    /// How many attempts are in the log as a number only: what they were about is not known.
    pub unknown: u64,
    /// How many attempts at objects were left out, since there were too many different ones.
    pub left_out: u64,
}

/// Something that a plugin tried and that no suggested grant opens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotSuggested {
    /// The permission that it was about.
    pub permission: String,
    /// What was tried.
    pub action: String,
    /// The object, as the log has it.
    pub object: String,
    /// Why nothing is suggested for it.
    pub why: String,
    /// How often it was tried.
    pub count: u64,
}

/// The objects of one plugin.
#[derive(Debug, Default)]
struct Needs {
    /// For each permission about paths the paths, and whether more than a look was taken.
    paths: BTreeMap<String, BTreeMap<PathBuf, Use>>,
    others: BTreeSet<String>,
    closed: BTreeMap<(String, String, String, String), u64>,
    unknown: u64,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Use {
    opened: bool,
    action: String,
    count: u64,
}

/// What one record asks for.
enum Wanted {
    Path(PathBuf),
    Other(PluginPermission),
    Closed(String),
}

impl Default for GrantSuggester {
    fn default() -> Self {
        Self::new()
    }
}

impl GrantSuggester {
    /// Has seen nothing yet.
    pub fn new() -> Self {
        Self { fold_at: 4, plugins: BTreeMap::new(), room: MOST_BYTES, missing: 0 }
    }

    /// From how many files or folders on the folder above them is suggested in their place; 0: never.
    #[must_use]
    pub fn fold_at(mut self, count: usize) -> Self {
        self.fold_at = if count == 0 { usize::MAX } else { count.max(2) };
        self
    }

    /// Takes note of one record, granted or not. Leave out what is not to count.
    pub fn add(&mut self, record: &AuditRecord) {
        let (event, count) = record.event.counted();
        if let AuditEvent::Dropped { count } | AuditEvent::Lost { count, .. } = event {
            self.missing = self.missing.saturating_add(*count);
        }
        let Some(plugin) = record.plugin.as_deref() else { return };
        let (permission, action, object, wanted) = match event {
            AuditEvent::Access { permission, action, object, resolved, granted, rule } => {
                let resolved = resolved.as_deref().unwrap_or(object);
                // Of a file what it is, of a host what it was asked for by.
                let object = if permission == "network" && !object.is_empty() { object } else { resolved };
                match wanted(permission, action, object, *granted, rule) {
                    Some(wanted) => (permission.as_str(), action.as_str(), object, wanted),
                    None => return,
                }
            }
            AuditEvent::ServiceCall { service, permission: Some(permission), .. } => {
                let wanted = match parsed(permission, None) {
                    Ok(permission) => Wanted::Other(permission),
                    Err(why) => Wanted::Closed(why),
                };
                (permission.as_str(), "call", service.as_str(), wanted)
            }
            AuditEvent::Folded { count, .. } => {
                if let Some(needs) = self.needs(plugin) {
                    needs.unknown = needs.unknown.saturating_add(*count);
                }
                return;
            }
            _ => return,
        };
        let rule = if let AuditEvent::Access { rule, .. } = event { rule.len() } else { 0 };
        let cost = [permission.len(), action.len(), object.len(), rule, ONE_THING].iter().sum::<usize>();
        let room = self.room >= cost;
        let Some(needs) = self.needs(plugin) else { return };
        let added = needs.add((permission, action, object), wanted, count, room);
        self.room = self.room.saturating_sub(if added { cost } else { 0 });
    }

    /// How many events the log itself says it does not have, of whatever plugin.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// What each plugin needed, sorted by plugin. Those that needed nothing are there too, if they tried anything.
    pub fn finish(self) -> Vec<GrantSuggestion> {
        let fold_at = self.fold_at;
        self.plugins.into_iter().map(|(plugin, needs)| needs.suggestion(plugin, fold_at)).collect()
    }

    fn needs(&mut self, plugin: &str) -> Option<&mut Needs> {
        if !self.plugins.contains_key(plugin) {
            self.room = self.room.checked_sub(plugin.len().saturating_add(ONE_THING))?;
        }
        Some(self.plugins.entry(plugin.to_owned()).or_default())
    }
}

/// The permission that would open this refused access, if one would.
pub(crate) fn opener(permission: &str, action: &str, object: &str, rule: &str) -> Option<PluginPermission> {
    match wanted(permission, action, object, false, rule)? {
        Wanted::Path(path) => parsed(permission, Some(path.to_str()?)).ok(),
        Wanted::Other(permission) => Some(permission),
        Wanted::Closed(_) => None,
    }
}

/// What would open this access; `None` if nothing needs to.
fn wanted(permission: &str, action: &str, object: &str, granted: bool, rule: &str) -> Option<Wanted> {
    let by_grant = ["granted: ", "allowed when asked: ", "denied: ", "not granted"];
    let by_grant = by_grant.iter().any(|start| rule.starts_with(start));
    if !by_grant {
        // It went through for another reason, or was no attempt; every other reason to refuse stands whatever is granted.
        let needs_none = granted
            || rule == "base profile"
            || rule.starts_with("scratch space")
            || rule.starts_with("revoked: ");
        return (!needs_none).then(|| Wanted::Closed(format!("no grant opens it: {rule}")));
    }
    let closed = |why: &str| Wanted::Closed(why.to_owned());
    let grant = |scope: Option<&str>| parsed(permission, scope).map_or_else(Wanted::Closed, Wanted::Other);
    Some(match permission {
        "ui" | "system" => grant(None),
        "process" if object.is_empty() => closed("it names no program: any grant of process opens it"),
        _ if object.is_empty() => closed("it names nothing that could be granted"),
        _ if !is_spelled_out(object) => {
            closed("its name cannot be written as a grant: what it is in may be granted")
        }
        "file-read" | "file-write" | "process" => match plain_path(object) {
            Some(path) if !granted && is_kernels(&path) => {
                closed("no grant reaches devices and the kernel's own files")
            }
            // As granted files they would be the host's own, and no way to a name server.
            Some(path) if permission == "file-read" && !granted && is_resolver_file(&path) => {
                closed("looking up a name reads it: grant network:NAME; a learning run tells which")
            }
            Some(path) => Wanted::Path(path),
            None => closed("it names no path"),
        },
        "network" => match parsed(permission, Some(&network_scope(action, object, rule))) {
            Ok(permission) => Wanted::Other(permission),
            Err(_) => closed("it does not say whom it is to reach: that shows when it may go on"),
        },
        _ => grant(Some(object)),
    })
}

/// The scope of `network` that an attempt is about.
fn network_scope(action: &str, object: &str, rule: &str) -> String {
    match object.parse::<SocketAddr>() {
        // As it was asked for: port 0 is a port that the kernel chooses, whichever that is.
        Ok(at) if action == "bind" && at.ip().is_unspecified() => format!("listen:{}", at.port()),
        Ok(at) if action == "bind" => format!("listen:{at}"),
        // An address that a name leads to today may be another tomorrow.
        Ok(to) => match granted_name(rule) {
            Some(name) => format!("{name}:{}", to.port()),
            None => object.to_owned(),
        },
        Err(_) if object.starts_with('/') => format!("unix:{object}"),
        Err(_) => object.to_owned(),
    }
}

/// The host's name by which a grant opened something, if it was one name.
fn granted_name(rule: &str) -> Option<&str> {
    let granted = rule.strip_prefix("granted: ").or_else(|| rule.strip_prefix("allowed when asked: "));
    let scope = granted?.strip_prefix("network:")?;
    let host = match scope.split_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None, // `listen:`, `unix:`, or an IPv6 address
        None => scope,
    };
    let is_name = !host.contains(['*', '/', '[']) && host.parse::<IpAddr>().is_err();
    // `listen:8080` looks like a host and its port.
    (is_name && host != "listen").then_some(host)
}

/// Whether only devices and the kernel's own files are there. A plugin that holds nothing is refused before that is looked
/// at.
fn is_kernels(path: &Path) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|top| path.starts_with(top)) && !path.starts_with("/dev/shm")
}

/// Whether a name in the log is the name itself: not shortened, nothing in it escaped, no byte of it replaced.
fn is_spelled_out(name: &str) -> bool {
    !(name.contains("\\u{") || name.contains('\u{fffd}') || name.ends_with('…'))
}

/// An absolute path without `.`, `..` and doubled slashes.
fn plain_path(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return None;
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    Some(plain)
}

fn parsed(name: &str, scope: Option<&str>) -> Result<PluginPermission, String> {
    let known = STANDARD_PERMISSIONS.into_iter().find(|permission| permission.name() == name);
    let permission = match known {
        Some(permission) => permission,
        None => PluginPermission::new(name, "a permission of this host's own").map_err(|e| e.to_string())?,
    };
    match scope {
        None => Ok(permission),
        Some(scope) => permission.scoped(scope).map_err(|error| error.to_string()),
    }
}

impl Needs {
    /// Returns whether something new is remembered.
    fn add(
        &mut self,
        (permission, action, object): (&str, &str, &str),
        wanted: Wanted,
        count: u64,
        room: bool,
    ) -> bool {
        let new = match wanted {
            Wanted::Path(path) => {
                let paths = self.paths.entry(permission.to_owned()).or_default();
                let new = !paths.contains_key(&path);
                if !new || room {
                    let used = paths.entry(path).or_default();
                    used.opened |= !LOOKS.contains(&action);
                    used.count = used.count.saturating_add(count);
                    if used.action.is_empty() {
                        action.clone_into(&mut used.action);
                    }
                    return new;
                }
                new
            }
            Wanted::Other(permission) => {
                let text = permission.to_string();
                let new = !self.others.contains(&text);
                if room && new {
                    self.others.insert(text);
                    return true;
                }
                new
            }
            Wanted::Closed(why) => {
                let key = (permission.to_owned(), action.to_owned(), object.to_owned(), why);
                match self.closed.get_mut(&key) {
                    Some(known) => {
                        *known = known.saturating_add(count);
                        false
                    }
                    None if room => {
                        self.closed.insert(key, count);
                        return true;
                    }
                    None => true,
                }
            }
        };
        if new {
            self.left_out = self.left_out.saturating_add(count);
        }
        false
    }

    fn suggestion(self, plugin: String, fold_at: usize) -> GrantSuggestion {
        let mut permissions = Vec::new();
        let mut not_suggested: Vec<_> = self
            .closed
            .into_iter()
            .map(|((permission, action, object, why), count)| NotSuggested {
                permission,
                action,
                object,
                why,
                count,
            })
            .collect();
        for (name, paths) in &self.paths {
            let (granted, wide) = scopes(paths, if name == "process" { usize::MAX } else { fold_at });
            let grants = granted.iter().filter_map(|path| parsed(name, path.to_str()).ok());
            permissions.extend(grants);
            not_suggested.extend(wide.into_iter().map(|(path, used, why)| NotSuggested {
                permission: name.clone(),
                action: used.action.clone(),
                object: path.display().to_string(),
                why: why.to_owned(),
                count: used.count,
            }));
        }
        // A name that was looked up and then reached at a port is granted with that port.
        let is_part = |text: &str| {
            let with_port = format!("{text}:");
            text.starts_with("network:")
                && self
                    .others
                    .range(with_port.clone()..)
                    .next()
                    .is_some_and(|next| next.starts_with(&with_port))
        };
        let others = self.others.iter().filter(|text| !is_part(text));
        let others: Vec<_> = others.filter_map(|text| PluginPermission::of_text(text).ok()).collect();
        // A port of every address is that port of each.
        let anywhere: Vec<_> = others.iter().filter(|other| is_listen_anywhere(other)).cloned().collect();
        let is_more = |other: &PluginPermission| !anywhere.iter().any(|a| a != other && a.covers(other));
        permissions.extend(others.into_iter().filter(is_more));
        GrantSuggestion { plugin, permissions, not_suggested, unknown: self.unknown, left_out: self.left_out }
    }
}

/// Whether this is to listen at every address of the machine, at some port.
fn is_listen_anywhere(permission: &PluginPermission) -> bool {
    let text = permission.to_string();
    let port = text.strip_prefix("network:listen:");
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The fewest scopes that cover these paths without being too wide, and what is not covered for that reason.
fn scopes(
    paths: &BTreeMap<PathBuf, Use>,
    fold_at: usize,
) -> (Vec<PathBuf>, Vec<(&PathBuf, &Use, &'static str)>) {
    let (mut leaves, mut looked_at, mut wide) = (Vec::<&Path>::new(), Vec::new(), Vec::new());
    // By components, so that what is in a folder comes right behind it.
    let mut sorted = paths.iter().peekable();
    while let Some((path, used)) = sorted.next() {
        let is_folder = sorted.peek().is_some_and(|(next, _)| next.starts_with(path));
        if is_too_wide(path, is_folder) {
            wide.push((path, used, "it would open everything below a folder that the system stands on"));
        } else if leaves.last().is_some_and(|leaf| path.starts_with(leaf)) {
            // A grant for it is suggested already.
        } else if is_folder && !used.opened {
            looked_at.push((path, used));
        } else {
            leaves.push(path);
        }
    }
    let granted = folded(&leaves, 1, fold_at);
    let uncovered =
        looked_at.into_iter().filter(|(path, _)| !granted.iter().any(|scope| path.starts_with(scope)));
    wide.extend(uncovered.map(|(path, used)| {
        (path, used, "it is a folder that was only looked at, and a grant would open everything below it")
    }));
    (granted, wide)
}

/// Replaces paths by the folder above them wherever there are so many. All share their first `depth` components.
fn folded(leaves: &[&Path], depth: usize, fold_at: usize) -> Vec<PathBuf> {
    let mut scopes = Vec::new();
    for group in leaves.chunk_by(|a, b| a.components().nth(depth) == b.components().nth(depth)) {
        match group {
            [only] => scopes.push(only.to_path_buf()),
            several => scopes.extend(folded(several, depth + 1, fold_at)),
        }
    }
    let folder: PathBuf =
        leaves.first().map(|leaf| leaf.components().take(depth).collect()).unwrap_or_default();
    if scopes.len() >= fold_at && !is_too_wide(&folder, true) {
        scopes = vec![folder];
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(permission: &str, action: &str, object: &str, granted: bool, rule: &str) -> AuditEvent {
        AuditEvent::Access {
            permission: permission.to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            resolved: None,
            granted,
            rule: rule.to_owned(),
        }
    }

    fn of(events: impl IntoIterator<Item = AuditEvent>, fold_at: usize) -> GrantSuggestion {
        let mut suggester = GrantSuggester::new().fold_at(fold_at);
        for event in events {
            suggester.add(&AuditRecord { plugin: Some("p".to_owned()), ..AuditRecord::now(event) });
        }
        suggester.finish().pop().expect("a plugin that tried something")
    }

    fn texts(suggestion: &GrantSuggestion) -> Vec<String> {
        suggestion.permissions.iter().map(ToString::to_string).collect()
    }

    fn reads(paths: &[&str]) -> Vec<String> {
        let suggestion = of(paths.iter().map(|p| access("file-read", "open", p, false, "not granted")), 4);
        texts(&suggestion)
    }

    #[test]
    fn files_stay_exact_until_there_are_many_in_one_folder() {
        for (paths, expected) in [
            (&["/srv/a/1"][..], &["/srv/a/1"][..]),
            (&["/srv/a/1", "/srv/a/2", "/srv/a/3"], &["/srv/a/1", "/srv/a/2", "/srv/a/3"]),
            (&["/srv/a/1", "/srv/a/2", "/srv/a/3", "/srv/a/4"], &["/srv/a"]),
            (&["/srv/a/w/1", "/srv/a/x/2", "/srv/a/y/z/3", "/srv/a/4"], &["/srv/a"]),
            // The deepest folder that has so many.
            (
                &["/srv/a/b/1", "/srv/a/b/2", "/srv/a/b/3", "/srv/a/b/4", "/srv/a/5"],
                &["/srv/a/5", "/srv/a/b"],
            ),
            // Names that merely start alike, and one file twice.
            (
                &["/srv/a/1", "/srv/a/1", "/srv/a/./1", "/srv/a/x/../1", "/srv/ab/1"],
                &["/srv/a/1", "/srv/ab/1"],
            ),
            // What the system stands on is never opened whole.
            (&["/etc/a", "/etc/b", "/etc/c", "/etc/d"], &["/etc/a", "/etc/b", "/etc/c", "/etc/d"]),
            (
                &["/home/u/a", "/home/u/b", "/home/u/c", "/home/u/d"],
                &["/home/u/a", "/home/u/b", "/home/u/c", "/home/u/d"],
            ),
            (&["/a", "/b", "/c", "/d"], &["/a", "/b", "/c", "/d"]),
            (&["/usr/share/x/1", "/usr/share/x/2", "/usr/share/x/3", "/usr/share/x/4"], &["/usr/share/x"]),
            // A folder that is opened itself has all that is in it.
            (&["/srv/a", "/srv/a/1", "/srv/a/b/2"], &["/srv/a"]),
        ] {
            let expected: Vec<_> = expected.iter().map(|path| format!("file-read:{path}")).collect();
            assert_eq!(reads(paths), expected, "{paths:?}");
        }
    }

    #[test]
    fn folding_can_be_switched_off_and_set_otherwise() {
        let files = || {
            (0..6).map(|n| access("file-read", "open", &format!("/srv/a/{n}"), true, "granted: file-read"))
        };
        assert_eq!(of(files(), 0).permissions.len(), 6);
        assert_eq!(of(files(), 7).permissions.len(), 6);
        assert_eq!(texts(&of(files(), 2)), ["file-read:/srv/a"]);
    }

    #[test]
    fn each_kind_of_object_becomes_the_grant_that_opens_it() {
        let suggestion = of(
            [
                access("file-write", "open", "/srv/out", false, "not granted"),
                access("network", "connect", "example.org:443", false, "not granted"),
                access("network", "connect", "[::1]:80", true, "granted: network"),
                access("process", "execve", "/usr/bin/true", false, "denied: process:/usr/bin"),
                access("plugin", "send", "other", false, "not granted"),
                access("system", "open", "/proc/meminfo", false, "not granted"),
                AuditEvent::ServiceCall {
                    service: "ui.x".into(),
                    permission: Some("ui".into()),
                    granted: false,
                },
                AuditEvent::ServiceCall { service: "log".into(), permission: None, granted: true },
                AuditEvent::ServiceCall {
                    service: "payments.x".into(),
                    permission: Some("payments".into()),
                    granted: true,
                },
            ],
            4,
        );
        let expected = [
            "file-write:/srv/out",
            "process:/usr/bin/true",
            "network:[::1]:80",
            "network:example.org:443",
            "payments",
            "plugin:other",
            "system",
            "ui",
        ];
        assert_eq!(texts(&suggestion), expected);
        assert!(suggestion.not_suggested.is_empty(), "{:?}", suggestion.not_suggested);
    }

    #[test]
    fn what_reaches_a_host_is_granted_by_the_name_it_was_asked_for() {
        let v4 = "192.0.2.1:443";
        for (action, object, rule, expected) in [
            ("connect", "example.org:443", "not granted", "example.org:443"),
            ("connect", v4, "not granted", v4),
            ("connect", "[::1]:80", "granted: network", "[::1]:80"),
            ("connect", v4, "granted: network:example.org:443", "example.org:443"),
            ("connect", v4, "granted: network:example.org", "example.org:443"),
            ("connect", v4, "allowed when asked: network:example.org:443", "example.org:443"),
            ("connect", v4, "granted: network:*.example.org:443", v4),
            ("connect", v4, "granted: network:192.0.2.0/24", v4),
            ("connect", v4, "granted: network:192.0.2.1:443", v4),
            ("connect", "[::1]:80", "granted: network:::1", "[::1]:80"),
            ("connect", "/run/app.sock", "not granted", "unix:/run/app.sock"),
            ("bind", "0.0.0.0:8080", "not granted", "listen:8080"),
            ("bind", "127.0.0.1:0", "granted: network:listen:8080", "listen:127.0.0.1:0"),
            ("bind", "0.0.0.0:0", "not granted", "listen:0"),
            ("bind", "[::]:0", "not granted", "listen:0"),
            ("bind", "[::1]:80", "not granted", "listen:[::1]:80"),
            ("listen", "listen:127.0.0.1:80", "not granted", "listen:127.0.0.1:80"),
        ] {
            let suggestion = of([access("network", action, object, true, rule)], 4);
            assert_eq!(texts(&suggestion), [format!("network:{expected}")], "{action} {object} {rule}");
        }
        let looked_up = ["example.org", "example.org:443", "example.organic", "other.org"];
        let suggestion =
            of(looked_up.map(|host| access("network", "connect", host, false, "not granted")), 4);
        let expected = ["network:example.org:443", "network:example.organic", "network:other.org"];
        assert_eq!(texts(&suggestion), expected);
    }

    #[test]
    fn where_it_listens_is_suggested_once_and_no_wider_than_it_asked() {
        for (tried, expected) in [
            (&[("bind", "127.0.0.1:0"), ("listen", "listen:127.0.0.1:0")][..], &["listen:127.0.0.1:0"][..]),
            (&[("bind", "0.0.0.0:0"), ("bind", "[::]:0"), ("bind", "127.0.0.1:0")], &["listen:0"]),
            (&[("bind", "0.0.0.0:80"), ("bind", "[::1]:80"), ("accept", "listen:80")], &["listen:80"]),
            (&[("bind", "0.0.0.0:0"), ("bind", "[::1]:80")], &["listen:0", "listen:[::1]:80"]),
        ] {
            let tried = tried.iter().map(|(action, at)| access("network", action, at, false, "not granted"));
            let expected: Vec<_> = expected.iter().map(|scope| format!("network:{scope}")).collect();
            assert_eq!(texts(&of(tried, 4)), expected);
        }
    }

    #[test]
    fn what_looking_up_a_name_reads_is_no_file_to_grant_unless_one_was() {
        let read = |path, granted, rule| access("file-read", "open", path, granted, rule);
        let suggestion =
            of(["/etc/resolv.conf", "/etc/hosts"].map(|path| read(path, false, "not granted")), 4);
        assert_eq!(texts(&suggestion), Vec::<String>::new());
        assert!(suggestion.not_suggested.iter().all(|not| not.why.contains("network:NAME")));
        assert_eq!(suggestion.not_suggested.len(), 2);
        let suggestion = of([read("/etc/hosts", true, "granted: file-read:/etc")], 4);
        assert_eq!(texts(&suggestion), ["file-read:/etc/hosts"]);
    }

    #[test]
    fn what_no_grant_opens_is_not_suggested_but_named() {
        let devices = "no grant reaches devices, FIFOs and sockets";
        let suggestion = of(
            [
                access("file-read", "open", "/usr/share/zoneinfo/UTC", true, "base profile"),
                access("file-read", "open", "/usr/lib/libc.so.6", true, "a program's library"),
                access("network", "revoke", "h:1", false, "revoked: network; the socket was shut"),
                access("file-read", "open", "/dev/mem", false, devices),
                access("file-read", "open", "/dev/mem", false, devices),
                access("process", "vfork", "", true, "granted: process"),
                access("network", "socket", "family 2, type 1, protocol 0", false, "not granted"),
                access("network", "socket", "", false, "not served by this version"),
                access("network", "socket", "", false, "not granted"),
                access("file-read", "open", "/proc/self/environ", false, "not granted"),
                access("file-read", "open", "/srv/\\u{a}", false, "not granted"),
                access("file-read", "open", "/srv/\u{fffd}", false, "not granted"),
                access("file-read", "open", "relative", false, "not granted"),
                access("file-read", "open", "/", false, "not granted"),
                access("file-read", "open", "/etc", false, "not granted"),
            ],
            4,
        );
        assert_eq!(texts(&suggestion), Vec::<String>::new());
        assert_eq!(suggestion.not_suggested.len(), 11, "{:#?}", suggestion.not_suggested);
        let twice = suggestion.not_suggested.iter().find(|not| not.object == "/dev/mem").unwrap();
        assert_eq!((twice.count, twice.why.contains(devices)), (2, true));
    }

    #[test]
    fn what_was_granted_and_not_there_is_needed_to_find_that_out() {
        for rule in ["granted: file-read:/srv; ENOENT", "allowed when asked: file-read:/srv/config; ENOENT"] {
            let absent = access("file-read", "open", "/srv/config", true, rule);
            assert_eq!(texts(&of([absent], 4)), ["file-read:/srv/config"], "{rule}");
        }
    }

    #[test]
    fn a_folder_that_is_only_looked_at_is_not_opened_for_that() {
        let looks = [
            access("file-read", "stat", "/srv/data", false, "not granted"),
            access("file-read", "stat", "/srv", false, "not granted"),
            access("file-read", "open", "/srv/data/file", false, "not granted"),
        ];
        let suggestion = of(looks, 4);
        assert_eq!(texts(&suggestion), ["file-read:/srv/data/file"]);
        let left: Vec<_> = suggestion.not_suggested.iter().map(|not| not.object.as_str()).collect();
        assert_eq!(left, ["/srv", "/srv/data"]);
    }

    #[test]
    fn a_log_with_very_many_objects_is_read_within_bounds() {
        const MANY: u64 = 1000;
        let mut suggester = GrantSuggester { room: 100 * ONE_THING, ..GrantSuggester::new() };
        let many = (0..MANY).map(|n| access("network", "connect", &format!("h{n}:1"), false, "not granted"));
        let since = std::time::SystemTime::now();
        let folded = AuditEvent::Folded { count: 5, since, permission: None, granted: false };
        for event in many.chain([folded]) {
            suggester.add(&AuditRecord { plugin: Some("p".to_owned()), ..AuditRecord::now(event) });
        }
        let suggestion = suggester.finish().remove(0);
        let suggested = suggestion.permissions.len() as u64;
        assert!((50..100).contains(&suggested), "{suggested}");
        assert_eq!((suggested + suggestion.left_out, suggestion.unknown), (MANY, 5));
    }

    #[test]
    fn what_was_repeated_counts_as_often_as_it_came() {
        let event = Box::new(access("file-read", "open", "/dev/mem", false, "no grant reaches devices"));
        let repeated = AuditEvent::Repeated { count: 41, since: std::time::SystemTime::now(), event };
        assert_eq!(of([repeated], 4).not_suggested[0].count, 41);
    }
}
