//! The audit log: that it has every decision, that it stays within its bounds and its format whatever a plugin does, and
//! that what it suggests opens what was needed and nothing beside it.

use std::fs::{self, File};
use std::io::BufReader;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use rig::child::Part;
use rig::events::expect;
use rig::plugins::Attempts;
use rig::{Answer, Scratch, active, library, probe, probe_with};
use sandbox_core::{
    App, AuditEvent, AuditLog, AuditOptions, AuditReader, AuditRecord, EventKind, GrantSuggester,
    GrantSuggestion, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox, PluginSandboxManager, ResourceLimits,
    Ruling,
};

pub const PARTS: &[(&str, Part)] = &[("a log without room", without_room)];

const REFUSED: Answer = Answer::Errno(libc::EACCES);

/// Every record of a file.
///
/// # Panics
/// If a line of it is broken.
#[track_caller]
fn records(path: impl AsRef<Path>) -> Vec<AuditRecord> {
    let file = File::open(path).expect("the log is there");
    AuditReader::new(BufReader::new(file)).collect::<Result<_, _>>().expect("no line is broken")
}

/// How many refused opens below `prefix` were told one by one, and how many were counted.
fn refusals(records: &[AuditRecord], prefix: &str) -> (u64, u64) {
    let mut told = (0, 0);
    for record in records {
        match record.event.counted() {
            (AuditEvent::Access { object, granted: false, .. }, count) if object.starts_with(prefix) => {
                match record.event {
                    AuditEvent::Repeated { .. } => told.1 += count,
                    _ => told.0 += count,
                }
            }
            (AuditEvent::Folded { granted: false, .. }, count) => told.1 += count,
            _ => {}
        }
    }
    told
}

#[test]
fn a_plugin_that_floods_is_counted_to_the_last_and_the_file_stays_small() {
    let scratch = Scratch::new();
    for (method, payload, count) in [
        ("open_storm", format!("4 2000\n{}", scratch.at("secret")), 8000),
        ("open_numbered", format!("6000\n{}", scratch.at("secret")), 6000),
    ] {
        let (whole, small) = (scratch.at(&format!("{method}.whole")), scratch.at(&format!("{method}.small")));
        let limits = ResourceLimits::default().call_timeout(rig::wait::PATIENCE);
        let plugin = probe_with(PluginPolicy::new().limits(limits));
        let log = AuditLog::open(&whole).expect("a new file");
        let bounded =
            AuditOptions::new().max_file_bytes(64 << 10).keep_files(1).open(&small).expect("a new file");
        plugin.audit_to(&log);
        plugin.audit_to(&bounded);
        assert_eq!(plugin.attempt(method, payload).text(), "0", "all are refused");
        plugin.unload_plugin().expect("it unloads");
        let paths = bounded.paths().to_vec();
        drop((log, bounded));

        let (told, counted) = refusals(&records(&whole), &scratch.at("secret"));
        assert_eq!(told + counted, count, "{method}");
        assert!(counted > 0, "{method}: all {told} were told one by one");
        let sizes: Vec<_> = paths.iter().filter_map(|path| fs::metadata(path).ok()).collect();
        assert!(sizes.iter().all(|file| file.len() <= 64 << 10), "{sizes:?}");
        assert!(sizes.len() <= 2, "{sizes:?}");
    }
}

#[test]
fn what_was_only_counted_is_told_though_the_plugin_does_nothing_more() {
    let scratch = Scratch::new();
    let plugin = probe();
    let events = plugin.events();
    let payload = format!("1 100\n{}", scratch.at("secret"));
    assert_eq!(plugin.attempt("open_storm", payload).text(), "0");
    let count = expect(&events, "a count", |kind| match kind {
        EventKind::Repeated { count, event, .. } => match &**event {
            EventKind::Access { object, granted: false, .. } => {
                (*object == scratch.at("secret")).then_some(*count)
            }
            _ => None,
        },
        _ => None,
    });
    assert!((1..100).contains(&count), "{count}");
}

#[test]
fn no_name_breaks_a_line() {
    let scratch = Scratch::new();
    let path = scratch.at("log");
    let app = App::new().service("log", |_| Ok(Vec::new()));
    let plugin = active("probe", PluginPolicy::new(), library("probe"), app);
    let log = AuditLog::open(&path).expect("a new file");
    plugin.audit_to(&log);
    let hostile: [&[u8]; 7] = [
        b"/a\nb\r\n{\"v\":1,\"kind\":\"ended\"}",
        b"/\",\"granted\":true,\"x\":\"",
        b"/\\\\\\\"\\u0022\\",
        b"/\x1b[2J\x1b]0;title\x07\x08\x7f",
        "/\u{202e}txt.exe\u{2066}\u{2028}\u{200b}\u{9b}31m\u{feff}".as_bytes(),
        b"/\xff\xfe\xc3(\xed\xa0\x80",
        &[b'/'; 4000],
    ];
    for name in hostile {
        assert!(!plugin.attempt("open", name).got_it(), "{name:?}");
        // Named without a NUL, so that it is sent: a service's name is text.
        if let Ok(text) = std::str::from_utf8(name)
            && text.len() < 200
        {
            let line = text.replace('\n', "\r");
            assert!(
                plugin.attempt("service", format!("ui.{line}\n")).text().starts_with("denied"),
                "{name:?}"
            );
        }
    }
    plugin.unload_plugin().expect("it unloads");
    drop(log);
    let text = fs::read_to_string(&path).expect("text");
    let harmless = |c: char| {
        c == '\n'
            || !(c.is_control()
                || ('\u{2028}'..='\u{202e}').contains(&c)
                || c == '\u{200b}'
                || c == '\u{feff}')
    };
    assert!(text.chars().all(harmless), "{text:?}");
    let records = records(&path);
    assert_eq!(text.lines().count(), records.len());
    let refused = |record: &&AuditRecord| record.event.verdict().is_some_and(|(_, granted)| !granted);
    assert_eq!(records.iter().filter(refused).count(), hostile.len() + 5, "{text}");
    assert!(
        records.iter().all(|record| record.event.verdict().is_none_or(|(_, granted)| !granted)),
        "{text}"
    );
}

#[test]
fn a_managers_log_has_what_was_decided_about_each_of_its_plugins() {
    let scratch = Scratch::new();
    let (path, file) = (scratch.at("log"), scratch.file("file", "contents"));
    let manager = PluginSandboxManager::new();
    let log = AuditLog::open(&path).expect("a new file");
    manager.audit_to(&log);
    for id in ["one", "two"] {
        manager.register_plugin(id, PluginPolicy::new()).expect("it is new");
        manager.load_plugin(id, library("probe")).expect("it loads");
        manager.activate_plugin(id, ()).expect("it activates");
    }
    let read = PERMISSION_FILE_READ.scoped_to_path(&file).expect("absolute");
    manager.grant_permission("one", read.clone()).expect("it is known");
    for id in ["one", "two"] {
        manager.call(id, "open", file.as_bytes()).expect("an answer, whatever it is");
    }
    manager.revoke_permission("one", &read).expect("it is known");
    manager.unload_plugin("one").expect("it unloads");
    log.flush();

    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let records = records(&path);
    let has = |id: &str, is: &dyn Fn(&AuditEvent) -> bool| {
        records.iter().any(|record| record.plugin.as_deref() == Some(id) && is(&record.event))
    };
    let opened = |wanted: bool| {
        let (file, rule) = (file.clone(), if wanted { "granted: file-read:" } else { "not granted" });
        move |event: &AuditEvent| match event {
            AuditEvent::Access { permission, action, object, granted, rule: by, .. } => {
                let what = (permission.as_str(), action.as_str(), object == &file, *granted);
                what == ("file-read", "open", true, wanted) && by.starts_with(rule)
            }
            _ => false,
        }
    };
    assert!(has("one", &opened(true)) && !has("one", &opened(false)), "{records:#?}");
    assert!(has("two", &opened(false)) && !has("two", &opened(true)), "{records:#?}");
    let text = read.to_string();
    assert!(has("one", &|event| *event == AuditEvent::PermissionGranted { permission: text.clone() }));
    assert!(
        has("one", &|event| *event == AuditEvent::PermissionRevoked { permission: text.clone(), held: true })
    );
    assert!(has("one", &|event| matches!(event, AuditEvent::StateChanged { to, .. } if to == "unloaded")));
    assert!(!has("two", &|event| matches!(event, AuditEvent::StateChanged { to, .. } if to == "unloaded")));
}

/// What one run of the probe tried and got, and what its log suggests.
fn run(
    scratch: &Scratch,
    name: &str,
    policy: PluginPolicy,
    paths: &[String],
) -> (Vec<Answer>, GrantSuggestion) {
    let path = scratch.at(name);
    let log = AuditLog::open(&path).expect("a new file");
    let plugin = probe_with(policy);
    plugin.audit_to(&log);
    let answers = paths.iter().map(|path| plugin.attempt("open", path)).collect();
    assert_eq!(plugin.attempt("open", "/dev/full"), REFUSED);
    plugin.unload_plugin().expect("it unloads");
    drop(log);
    let mut suggester = GrantSuggester::new();
    records(&path).iter().for_each(|record| suggester.add(record));
    let mut suggestions = suggester.finish();
    assert_eq!(suggestions.len(), 1, "{suggestions:#?}");
    (answers, suggestions.remove(0))
}

#[test]
fn the_suggested_grants_open_what_a_run_needed_and_not_its_neighbours() {
    let scratch = Scratch::new();
    let single = scratch.file("single/file", "single");
    let link = scratch.link("link", scratch.file("behind/file", "behind"));
    let many: Vec<_> =
        (0..5).map(|n| scratch.file(&format!("many/sub{}/{n}", n % 2), n.to_string())).collect();
    let needed: Vec<_> = [single.clone(), link].into_iter().chain(many).collect();
    let neighbours =
        [scratch.file("single/file2", "x"), scratch.file("behind/other", "x"), scratch.file("many2/0", "x")];

    let (answers, suggestion) = run(&scratch, "first", PluginPolicy::new(), &needed);
    assert!(answers.iter().all(|answer| *answer == REFUSED), "{answers:?}");
    let texts: Vec<_> = suggestion.permissions.iter().map(ToString::to_string).collect();
    let expected = ["link", "many", "single/file"].map(|name| format!("file-read:{}", scratch.at(name)));
    assert_eq!(texts, expected);

    let policy = || PluginPolicy::new().permissions(suggestion.permissions.iter().cloned());
    let (answers, again) = run(&scratch, "second", policy(), &needed);
    assert!(answers.iter().all(Answer::got_it), "{answers:?}");
    let plugin = probe_with(policy());
    for path in &neighbours {
        assert_eq!(plugin.attempt("open", path), REFUSED, "{path}");
    }
    // What was granted suggests the same, but for the link, which now is known to lead elsewhere.
    let texts: Vec<_> = again.permissions.iter().map(ToString::to_string).collect();
    let expected =
        ["behind/file", "many", "single/file"].map(|name| format!("file-read:{}", scratch.at(name)));
    assert_eq!(texts, expected);
    for suggestion in [suggestion, again] {
        let device = suggestion.not_suggested.iter().find(|not| not.object == "/dev/full");
        let why = device.map(|not| not.why.as_str()).unwrap_or_default();
        assert!(why.contains("no grant reaches devices"), "{why}");
    }
}

#[test]
fn what_a_learning_run_was_allowed_once_is_what_is_suggested() {
    let scratch = Scratch::new();
    let (log_path, file) = (scratch.at("log"), scratch.file("data/file", "contents"));
    let (link, absent, private) =
        (scratch.link("link", &file), scratch.at("data/absent"), scratch.file("private", "x"));
    let learning = probe();
    let log = AuditLog::open(&log_path).expect("a new file");
    learning.audit_to(&log);
    let not_this = private.clone();
    learning.set_decider(rig::wait::PATIENCE, move |wish| {
        if wish.resolved.as_ref() == Some(&not_this) { Ruling::Deny } else { Ruling::AllowOnce }
    });
    let wanted = [&link, &absent, &private];
    let learned: Vec<_> = wanted.iter().map(|path| learning.attempt("open", path)).collect();
    assert_eq!(learned, [Answer::Got("contents".into()), Answer::Errno(libc::ENOENT), REFUSED]);
    learning.unload_plugin().expect("it unloads");
    drop(log);

    let suggested = |only_granted: bool| {
        let mut suggester = GrantSuggester::new();
        let of_verdict = |record: &&AuditRecord| {
            !only_granted || record.event.verdict() == Some((Some("file-read"), true))
        };
        records(&log_path).iter().filter(of_verdict).for_each(|record| suggester.add(record));
        suggester.finish().remove(0).permissions
    };
    let texts: Vec<_> = suggested(true).iter().map(ToString::to_string).collect();
    let expected = [&absent, &file].map(|path| format!("file-read:{path}"));
    assert_eq!(texts, expected, "what was granted, whether it is there or not");
    let policy = PluginPolicy::new().permissions(suggested(false));
    let plugin = probe_with(policy.clone());
    let again: Vec<_> = wanted.iter().map(|path| plugin.attempt("open", path)).collect();
    assert_eq!(again[..2], learned[..2], "the same, and nobody is asked");
    assert!(
        again[2].got_it(),
        "what was tried and denied is suggested too, unless only what was granted counts"
    );
}

/// A host that may write files of no more than 40,000 bytes, until it may again: as good as a disk that is full.
fn without_room(arguments: &[String]) -> Vec<u8> {
    const GRANTS: usize = 1000;
    // SAFETY: the signal's only other effect would be to end this process, which has no handler of it.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.expect("it can be ignored");
    let manager = PluginSandboxManager::new();
    manager.register_plugin("one", PluginPolicy::new()).expect("it is new");
    let log = AuditLog::open(&arguments[0]).expect("a new file");
    manager.audit_to(&log);
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_FSIZE, 40_000, most).expect("a lower limit");
    let grant = || manager.grant_permission("one", PERMISSION_FILE_READ).expect("it is known");
    for _ in 0..GRANTS {
        grant();
        log.flush();
    }
    let full = records(&arguments[0]).len();
    setrlimit(Resource::RLIMIT_FSIZE, most, most).expect("as before");
    grant();
    log.flush();
    let records = records(&arguments[0]);
    let written =
        records.iter().filter(|record| matches!(record.event, AuditEvent::PermissionGranted { .. }));
    let lost = records.iter().filter_map(|record| match &record.event {
        AuditEvent::Lost { count, .. } => Some(usize::try_from(*count).expect("a few")),
        _ => None,
    });
    let (written, lost) = (written.count(), lost.sum::<usize>());
    assert!(lost > 0 && records.len() == full + 2, "{full} of {GRANTS} had room, then {}", records.len());
    assert_eq!(written + lost, GRANTS + 1);
    Vec::new()
}

#[test]
fn a_log_without_room_goes_on_when_there_is_some_and_says_what_it_lacks() {
    let scratch = Scratch::new();
    rig::child::run("a log without room", &[&scratch.at("log")]);
}

#[test]
fn a_learning_run_suggests_the_one_port_that_was_reached() {
    let scratch = Scratch::new();
    let path = scratch.at("log");
    let [needed, other] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port().to_string();
    let learning = probe();
    let log = AuditLog::open(&path).expect("a new file");
    learning.audit_to(&log);
    learning.learn();
    assert!(learning.attempt("connect_loopback", port(&needed)).got_it(), "everything is let through");
    learning.unload_plugin().expect("it unloads");
    drop(log);
    let mut suggester = GrantSuggester::new();
    records(&path).iter().for_each(|record| suggester.add(record));
    let permissions = suggester.finish().remove(0).permissions;
    let texts: Vec<_> = permissions.iter().map(ToString::to_string).collect();
    assert_eq!(texts, [format!("network:127.0.0.1:{}", port(&needed))]);
    let plugin = probe_with(PluginPolicy::new().permissions(permissions));
    assert!(plugin.attempt("connect_loopback", port(&needed)).got_it());
    assert_eq!(plugin.attempt("connect_loopback", port(&other)), REFUSED);
}

#[test]
fn a_learning_run_that_writes_beside_and_renames_suggests_both_names() {
    let scratch = Scratch::new();
    let (log_path, folder) = (scratch.at("log"), scratch.folder("out"));
    let (written, result) = (format!("{folder}/.tmp"), format!("{folder}/result"));
    let steps = |plugin: &PluginSandbox| {
        [vec!["create new to write", &written], vec!["rename", &written, &result]]
            .map(|step| plugin.attempt("fs", step.join("\n")))
    };
    let done = [Answer::Got(Vec::new()), Answer::Got(Vec::new())];
    let learning = probe();
    let log = AuditLog::open(&log_path).expect("a new file");
    learning.audit_to(&log);
    learning.learn();
    assert_eq!(steps(&learning), done);
    learning.unload_plugin().expect("it unloads");
    drop(log);
    fs::remove_file(&result).expect("it was made");

    let mut suggester = GrantSuggester::new();
    records(&log_path).iter().for_each(|record| suggester.add(record));
    let permissions = suggester.finish().remove(0).permissions;
    let texts: Vec<_> = permissions.iter().map(ToString::to_string).collect();
    assert_eq!(texts, [&written, &result].map(|path| format!("file-write:{path}")));
    let plugin = probe_with(PluginPolicy::new().permissions(permissions.iter().cloned()));
    assert_eq!(steps(&plugin), done, "the same, and nobody is asked");

    // Of what is refused it says which of the two it was.
    let plugin = probe_with(PluginPolicy::new().permissions(permissions.into_iter().take(1)));
    let events = plugin.events();
    assert_eq!(steps(&plugin)[1], REFUSED);
    let refused = expect(&events, "a refused rename", |kind| match kind {
        EventKind::Access { action: "rename", object, granted: false, .. } => Some(object.clone()),
        _ => None,
    });
    assert_eq!(refused, result);
}

#[test]
fn what_a_database_was_learnt_to_need_suffices_for_it() {
    let scratch = Scratch::new();
    let (log_path, database) = (scratch.at("log"), format!("{}/numbers.db", scratch.folder("data")));
    let run = |policy: PluginPolicy, log: Option<&AuditLog>| {
        let plugin = active("probe-stock", policy, library("probe-stock"), ());
        if let Some(log) = log {
            plugin.audit_to(log);
            plugin.learn();
        }
        let answer = plugin.attempt("sqlite", &database);
        plugin.unload_plugin().expect("it unloads");
        fs::remove_file(&database).map_or(answer.clone(), |()| answer)
    };
    let done = Answer::Got(b"5050".to_vec());
    assert_ne!(run(PluginPolicy::new(), None), done, "with nothing granted");
    let log = AuditLog::open(&log_path).expect("a new file");
    assert_eq!(run(PluginPolicy::new(), Some(&log)), done);
    drop(log);

    let mut suggester = GrantSuggester::new();
    records(&log_path).iter().for_each(|record| suggester.add(record));
    let permissions = suggester.finish().remove(0).permissions;
    assert_eq!(
        run(PluginPolicy::new().permissions(permissions.iter().cloned()), None),
        done,
        "{permissions:?}"
    );
}
