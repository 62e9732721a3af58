//! The monitor: that its figures are what happened, that its commands do what they say, and that nobody who connects to it
//! can harm the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rig::child::{self, Part};
use rig::events::expect;
use rig::plugins::Attempts;
use rig::wait::{PATIENCE, until};
use rig::{Answer, Scratch, active, library, probe_with};
use sandbox_core::{
    App, AuditEvent, AuditLog, AuditReader, Cause, EventKind, HostFigures, MonitorAnswer, MonitorCommand,
    MonitorReply, MonitorRequest, MonitorSocket, Operation, PERMISSION_FILE_READ, PERMISSION_NETWORK,
    PERMISSION_UI, PluginFigures, PluginPolicy, PluginSandbox, PluginSandboxError, PluginSandboxManager,
    PluginState, ResourceLimits,
};

pub const PARTS: &[(&str, Part)] =
    &[("asks a monitor", asks_a_monitor), ("serves a monitor", serves_a_monitor)];

/// Any that is not root's.
const ORDINARY: u32 = 1000;

fn patient() -> ResourceLimits {
    ResourceLimits::default().call_timeout(PATIENCE).load_timeout(PATIENCE).activate_timeout(PATIENCE)
}

/// A manager with the plugin `probe` in it, active, and its monitor.
struct Host {
    manager: PluginSandboxManager,
    plugin: PluginSandbox,
    monitor: MonitorSocket,
    scratch: Scratch,
}

fn host_with(policy: PluginPolicy) -> Host {
    host_of(policy, App::new())
}

fn host_of(policy: PluginPolicy, app: App) -> Host {
    let scratch = Scratch::new();
    let manager = PluginSandboxManager::new();
    manager.register_plugin("probe", policy.limits(patient())).expect("it is new");
    manager.load_plugin("probe", library("probe")).expect("it loads");
    manager.activate_plugin("probe", app).expect("it activates");
    let plugin = manager.create_sandbox("probe").expect("it is registered");
    let monitor = manager.monitor_at(scratch.at("monitor")).expect("a monitor");
    Host { manager, plugin, monitor, scratch }
}

fn host() -> Host {
    host_with(PluginPolicy::new())
}

type Calling = JoinHandle<Result<Vec<u8>, PluginSandboxError>>;

/// A host whose plugin is in the middle of a call, until what comes with it is dropped.
fn host_in_a_call() -> (Host, Calling, Sender<()>) {
    let ((begins, begun), (release, released)) = (bounded::<()>(1), bounded::<()>(0));
    let app = App::new().service("hold", move |_| {
        let _ = begins.send(());
        let _ = released.recv();
        Ok(Vec::new())
    });
    let host = host_of(PluginPolicy::new(), app);
    let caller = host.plugin.clone();
    let calling = std::thread::spawn(move || caller.call("service", b"hold\n"));
    begun.recv_timeout(PATIENCE).expect("the call is under way");
    (host, calling, release)
}

struct Operator(BufReader<UnixStream>);

impl Operator {
    fn at(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the monitor is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it is read");
    }

    /// The next line; `None` once it is closed.
    fn reply(&mut self) -> Option<MonitorAnswer> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.parse::<MonitorReply>().expect("a line of this version").answer),
        }
    }

    #[track_caller]
    fn ask(&mut self, command: MonitorCommand) -> MonitorAnswer {
        self.send(MonitorRequest::new(command).line().as_bytes());
        self.reply().expect("an answer")
    }

    #[track_caller]
    fn does(&mut self, command: MonitorCommand) -> String {
        match self.ask(command) {
            MonitorAnswer::Done { message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn fails(&mut self, command: MonitorCommand) -> String {
        match self.ask(command) {
            MonitorAnswer::Failed { message } => message,
            other => panic!("{other:?}"),
        }
    }

    fn figures(&mut self) -> HostFigures {
        match self.ask(MonitorCommand::Snapshot) {
            MonitorAnswer::Figures { figures } => figures,
            other => panic!("{other:?}"),
        }
    }
}

impl Host {
    fn operator(&self) -> Operator {
        Operator::at(self.monitor.path())
    }
}

fn revoke(permission: &str) -> MonitorCommand {
    MonitorCommand::Revoke { plugin: "probe".to_owned(), permission: permission.to_owned() }
}

fn kill(plugin: &str) -> MonitorCommand {
    MonitorCommand::Kill { plugin: plugin.to_owned() }
}

fn deactivate() -> MonitorCommand {
    MonitorCommand::Deactivate { plugin: "probe".to_owned() }
}

/// What is done, the figure that counts it, and by how much more that is then.
type Counted<'a> = (&'a str, &'a dyn Fn(), fn(&PluginFigures) -> u64, u64);

#[test]
fn what_is_counted_is_what_happened() {
    let scratch = Scratch::new();
    let (open, closed) = (scratch.file("open/file", "12345"), scratch.file("closed/file", "secret"));
    let policy = PluginPolicy::new()
        .permission(PERMISSION_FILE_READ.scoped_to_path(scratch.at("open")).expect("a scope"))
        .limits(patient());
    let app = App::new().service("log", |_| Ok(b"answer".to_vec())).service("ui.notify", |_| Ok(Vec::new()));
    let plugin = active("probe", policy, library("probe"), app);

    // Nobody listens: what is counted does not hang on that.
    let count = |act: &dyn Fn()| {
        let before = plugin.figures();
        act();
        (before, plugin.figures())
    };
    let counted: &[Counted<'_>] = &[
        ("calls", &|| drop(plugin.attempt("echo", "x")), |f| f.calls, 1),
        ("calls that fail", &|| drop(plugin.refused("panic", "")), |f| f.calls, 1),
        ("failures", &|| drop(plugin.refused("no such method", "")), |f| f.failed_calls, 1),
        ("no failures", &|| drop(plugin.attempt("echo", "x")), |f| f.failed_calls, 0),
        ("times", &|| drop(plugin.attempt("echo", "x")), |f| f.latency.count(), 1),
        ("bytes in", &|| drop(plugin.attempt("echo", "12345678")), |f| f.sent_bytes, 8),
        // The probe puts `ok ` before what it answers.
        ("bytes out", &|| drop(plugin.call("echo", b"12345678")), |f| f.received_bytes, 3 + 8),
        ("services", &|| drop(plugin.attempt("service", "log\nquestion")), |f| f.service_calls, 1),
        ("what services answer", &|| drop(plugin.attempt("service", "log\n")), |f| f.sent_bytes, 4 + 6),
        ("no denial of what is granted", &|| drop(plugin.attempt("open", &open)), PluginFigures::denied, 0),
        ("denials", &|| drop(plugin.attempt("open", &closed)), |f| f.denials["file-read"], 1),
        ("denials of others", &|| drop(plugin.attempt("open", &closed)), |f| f.denials["network"], 0),
        ("denied services", &|| drop(plugin.attempt("service", "ui.notify\n")), |f| f.denials["ui"], 1),
        ("all denials", &|| drop(plugin.attempt("service", "ui.notify\n")), PluginFigures::denied, 1),
    ];
    for (what, act, figure, more) in counted {
        let (before, after) = count(act);
        assert_eq!(figure(&after) - figure(&before), *more, "{what}");
    }
    assert_eq!(plugin.attempt("open", &closed), Answer::Errno(libc::EACCES));

    let now = plugin.figures();
    assert_eq!(
        (now.plugin.as_str(), now.state.as_str(), now.process_id),
        ("probe", "active", plugin.process_id())
    );
    assert_eq!(now.permissions, [format!("file-read:{}", scratch.at("open"))]);
    assert_eq!((now.loads, now.crashes, now.restarts, &now.last_end), (1, 0, 0, &None));
    assert_eq!(now.limits.max_memory_mb, Some(100));
    let usage = now.usage.expect("it has a process");
    assert!(usage.memory_bytes.now > 0 && usage.cpu_time > Duration::ZERO, "{usage:?}");
}

#[test]
fn loads_crashes_and_restarts_are_told_apart() {
    let plugin = PluginSandbox::new("probe", PluginPolicy::new().limits(patient())).expect("a sandbox");
    let counts = || {
        let figures = plugin.figures();
        (figures.loads, figures.crashes, figures.restarts)
    };
    let load = || {
        plugin.load_plugin(library("probe")).expect("it loads");
        plugin.activate_plugin(()).expect("it activates");
    };
    assert_eq!((counts(), plugin.figures().usage), ((0, 0, 0), None));
    load();
    plugin.unload_plugin().expect("it unloads");
    assert_eq!(counts(), (1, 0, 0), "an unload is no crash");
    load();
    assert_eq!(counts(), (2, 0, 0), "and a load after it no restart");
    plugin.refused("abort", "");
    assert_eq!(counts(), (2, 1, 0));
    let ended = plugin.figures();
    assert!(ended.last_end.is_some_and(|end| end.contains("SIGABRT")));
    assert_eq!((ended.state.as_str(), ended.process_id), ("crashed", None));
    assert!(ended.usage.is_some_and(|usage| usage.ended), "what it has used stays readable");
    load();
    assert_eq!(counts(), (3, 1, 1));
}

#[test]
fn an_operator_sees_what_the_embedder_sees() {
    let host = host();
    host.plugin.attempt("echo", "x");
    host.manager.register_plugin("another", PluginPolicy::new()).expect("it is new");
    let seen = host.operator().figures();
    let own = host.manager.figures();
    assert_eq!(seen.process_id, std::process::id());
    let told = |host: &HostFigures| -> Vec<_> {
        host.plugins.iter().map(|p| (p.plugin.clone(), p.state.clone(), p.calls, p.latency.clone())).collect()
    };
    assert_eq!(told(&seen), told(&own));
    assert_eq!(seen.plugins.iter().map(|p| p.plugin.as_str()).collect::<Vec<_>>(), ["another", "probe"]);

    let MonitorAnswer::Metrics { text } = host.operator().ask(MonitorCommand::Metrics) else {
        panic!("no metrics")
    };
    assert!(text.contains("plugin_sandbox_calls_total{outcome=\"ok\",plugin=\"probe\"} 1\n"), "{text}");
}

#[test]
fn metrics_are_there_for_a_scraper_that_speaks_http() {
    let host = host();
    let get = |request: &str| {
        let mut stream = UnixStream::connect(host.monitor.path()).expect("the monitor is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is closed behind the answer");
        answer
    };
    let answer = get("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert!(body.contains("plugin_sandbox_state{plugin=\"probe\",state=\"active\"} 1\n"), "{body}");
    assert!(get("GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
    let long = format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(5000));
    let posted = format!("POST /metrics HTTP/1.1\r\nContent-Length: 20000\r\n\r\n{}", "x".repeat(20000));
    for (request, status, says) in [
        (posted.as_str(), "405 Method Not Allowed", "GET"),
        ("HEAD /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "GET"),
        ("DELETE / HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "Allow: GET\r\n"),
        ("GET /metrics\r\n\r\n", "400 Bad Request", "want GET /metrics"),
        ("GET metrics HTTP/1.1\r\n\r\n", "400 Bad Request", "want GET /metrics"),
        ("get /metrics HTTP/1.1\r\n\r\n", "400 Bad Request", "want GET /metrics"),
        ("PRI * HTTP/2.0\r\n\r\n", "400 Bad Request", "want GET /metrics"),
        (many.as_str(), "400 Bad Request", "64 headers"),
        (long.as_str(), "400 Bad Request", "64 headers"),
    ] {
        let answer = get(request);
        let shown = &request[..request.len().min(60)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{shown}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{shown}: {head}");
        assert!(answer.contains(says), "{shown}: {answer}");
    }
}

#[test]
fn every_time_that_an_operator_is_told_is_a_number_of_milliseconds() {
    let host = host();
    host.plugin.attempt("echo", "x");
    let mut operator = host.operator();
    operator.send(MonitorRequest::new(MonitorCommand::Snapshot).line().as_bytes());
    let mut line = String::new();
    operator.0.read_line(&mut line).expect("an answer");
    for (key, after) in [
        ("load_timeout_ms", "30000"),
        ("call_timeout_ms", "30000"),
        ("deactivate_timeout_ms", "5000"),
        ("cpu_time_ms", ""),
        ("activation_cpu_time_ms", ""),
        ("sum_ms", ""),
    ] {
        let found = line.split(&format!("\"{key}\":")).nth(1).unwrap_or_else(|| panic!("no {key} in {line}"));
        assert!(
            found.starts_with(after) && found.starts_with(|c: char| c.is_ascii_digit()),
            "{key}: {found}"
        );
    }
    assert!(!line.contains("nanos") && !line.contains("secs\""), "{line}");
}

#[test]
fn a_killed_plugin_ends_in_the_middle_of_a_call_and_the_cause_names_the_operator() {
    let (host, calling, release) = host_in_a_call();
    let events = host.plugin.events();
    let uid = rustix::process::geteuid().as_raw();
    assert!(host.operator().does(kill("probe")).contains("ended"));
    drop(release);
    match calling.join().expect("it returns") {
        Err(PluginSandboxError::Ended {
            operation: Operation::Call,
            cause: Cause::ByOperator { uid: by },
            ..
        }) => {
            assert_eq!(by, uid);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(host.plugin.state(), PluginState::Unloaded, "it was asked for, and is no crash");
    assert_eq!(host.plugin.figures().crashes, 0);
    expect(&events, "the command", |kind| match kind {
        EventKind::OperatorCommand { command, uid: by } if command == "kill" && *by == uid => Some(()),
        _ => None,
    });
    expect(&events, "the end", |kind| match kind {
        EventKind::Ended { cause: Cause::ByOperator { .. }, .. } => Some(()),
        _ => None,
    });
    assert!(host.operator().fails(kill("probe")).contains("no process that lives"));
    host.manager.load_plugin("probe", library("probe")).expect("it loads again");
}

#[test]
fn a_plugin_that_is_free_is_deactivated_and_one_that_is_not_says_so() {
    let host = host();
    let mut operator = host.operator();
    assert_eq!(operator.does(deactivate()), "probe is deactivated");
    assert_eq!(host.plugin.state(), PluginState::Loaded);
    let again = operator.fails(deactivate());
    assert!(again.contains("loaded"), "{again}");
    host.plugin.activate_plugin(()).expect("it activates again");
}

#[test]
fn a_revoke_by_the_operator_is_one_by_the_host() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let host = host_with(PluginPolicy::new().permission(PERMISSION_FILE_READ).permission(PERMISSION_UI));
    let mut operator = host.operator();
    assert_eq!(host.plugin.attempt("open", &file).text(), "contents");
    assert_eq!(operator.does(revoke("file-read")), "file-read is revoked from probe");
    assert_eq!(host.plugin.attempt("open", &file), Answer::Errno(libc::EACCES));
    assert_eq!(host.plugin.permissions(), [PERMISSION_UI]);
    for (command, said) in [
        (revoke("network"), "did not hold network"),
        (revoke("ui:x"), "ui:x"),
        (revoke(""), ""),
        (kill("nobody"), "no plugin is registered as nobody"),
        (kill("\u{1b}[2J"), "no plugin is registered as \\u{1b}[2J"),
    ] {
        let message = operator.fails(command.clone());
        assert!(message.contains(said), "{command:?}: {message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
}

#[test]
fn each_command_is_in_the_audit_log() {
    let host = host_with(PluginPolicy::new().permission(PERMISSION_UI));
    let path = host.scratch.at("log");
    let log = AuditLog::open(&path).expect("a new file");
    host.manager.audit_to(&log);
    let mut operator = host.operator();
    operator.does(revoke("ui"));
    operator.does(deactivate());
    operator.does(kill("probe"));
    operator.figures();
    log.flush();
    let file = std::fs::File::open(&path).expect("the log");
    let uid = rustix::process::geteuid().as_raw();
    let commands: Vec<_> = AuditReader::new(BufReader::new(file))
        .filter_map(|record| match record.expect("a line").event {
            AuditEvent::OperatorCommand { command, uid: by } => Some((command, by)),
            _ => None,
        })
        .collect();
    assert_eq!(commands, ["revoke ui", "deactivate", "kill"].map(|command| (command.to_owned(), uid)));
}

#[test]
fn garbage_is_answered_or_closed_and_never_more() {
    let host = host();
    let at = |bytes: &[u8]| {
        let mut operator = host.operator();
        operator.send(bytes);
        operator.reply()
    };
    for bytes in [
        &b"snapshot\n"[..],
        b"\n",
        b"\xff\xfe\x00\n",
        b"{\"v\":2}\n",
        b"{\"v\":2,\"command\":\"reboot\"}\n",
        b"{\"v\":4294967296,\"command\":\"snapshot\"}\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[\n",
    ] {
        let answer = at(bytes);
        assert!(matches!(answer, Some(MonitorAnswer::Failed { .. })), "{bytes:?}: {answer:?}");
    }
    let nested = [vec![b'['; 4000], vec![b'\n']].concat();
    assert!(matches!(at(&nested), Some(MonitorAnswer::Failed { .. })));
    let Some(MonitorAnswer::Failed { message }) = at(b"{\"v\":7,\"command\":\"snapshot\"}\n") else {
        panic!("no")
    };
    assert!(message.contains("version 7"), "{message}");

    // A line that does not end is over at its bound, however much more would come.
    let mut operator = host.operator();
    let mut sent = 0;
    while sent < 1 << 20 {
        match operator.0.get_mut().write(&[b'x'; 4096]) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    let Some(MonitorAnswer::Failed { message }) = operator.reply() else { panic!("no answer") };
    assert!(message.contains("4096"), "{message}");
    assert!(operator.reply().is_none(), "and it is closed");
    assert!(sent < 1 << 20, "it was not read on");

    // Several in one piece, and one in several.
    let mut operator = host.operator();
    let line = MonitorRequest::new(MonitorCommand::Snapshot).line();
    let (first, second) = line.split_at(9);
    operator.send(format!("{line}{line}{first}").as_bytes());
    operator.send(second.as_bytes());
    for _ in 0..3 {
        assert!(matches!(operator.reply(), Some(MonitorAnswer::Figures { .. })));
    }
}

#[test]
fn one_that_never_reads_holds_up_nobody_and_is_let_go() {
    let host = host();
    let line = MonitorRequest::new(MonitorCommand::Metrics).line();
    let mut deaf = UnixStream::connect(host.monitor.path()).expect("the monitor is there");
    deaf.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    // Until the answers fill the socket, and then the questions fill theirs; and until it is closed for that.
    let (mut another, mut asked) = (host.operator(), 0_u64);
    while deaf.write_all(line.as_bytes()).is_ok() {
        asked += 1;
        assert_eq!(another.figures().plugins.len(), 1, "meanwhile another is served");
        assert!(asked < 1_000_000);
    }
}

#[test]
fn more_than_a_few_connections_are_turned_away_and_closed_ones_make_room() {
    let host = host();
    let mut served: Vec<_> = (0..8).map(|_| host.operator()).collect();
    for operator in &mut served {
        operator.figures();
    }
    let mut ninth = host.operator();
    let Some(MonitorAnswer::Failed { message }) = ninth.reply() else { panic!("it is served") };
    assert!(message.contains("8 others"), "{message}");
    assert!(ninth.reply().is_none());
    for operator in &mut served {
        operator.figures();
    }
    drop(served.pop());
    until("there is room again", || {
        let mut operator = host.operator();
        operator
            .0
            .get_mut()
            .write_all(MonitorRequest::new(MonitorCommand::Snapshot).line().as_bytes())
            .ok()?;
        matches!(operator.reply()?, MonitorAnswer::Figures { .. }).then_some(())
    });
}

/// What another user is told by the monitor at the first argument.
fn asks_a_monitor(arguments: &[String]) -> Vec<u8> {
    let [path] = arguments else { panic!("{arguments:?}") };
    let Ok(stream) = UnixStream::connect(path) else { return b"no connection".to_vec() };
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = BufReader::new(stream);
    // It may be closed by then.
    let _ = stream.get_mut().write_all(MonitorRequest::new(MonitorCommand::Snapshot).line().as_bytes());
    let mut line = String::new();
    let _ = stream.read_line(&mut line);
    line.into_bytes()
}

#[test]
fn another_user_is_turned_away_whatever_the_files_mode() {
    if !rustix::process::geteuid().is_root() {
        println!("only root can become another user");
        return;
    }
    let host = host();
    // A copy that the other user may run.
    let program = host.scratch.at("program");
    std::fs::copy(std::env::current_exe().expect("a name"), &program).expect("it is ours");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let path = host.monitor.path().display().to_string();
    let answer = |uid: u32| {
        use std::os::unix::process::CommandExt;
        let child = child::start_as("asks a monitor", &[&path], Path::new(&program), |command| {
            command.uid(uid).gid(uid);
        });
        String::from_utf8(child.end().well()).expect("text")
    };
    assert_eq!(answer(ORDINARY), "no connection");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("it is ours");
    assert!(answer(ORDINARY).contains("only root and the user of this host"));
    assert!(answer(0).contains("\"plugin\":\"probe\""), "the very same is root's to see");
}

#[test]
fn no_grant_lets_a_plugin_reach_the_monitor() {
    let scratch = Scratch::new();
    let path = scratch.at("monitor");
    let whole = PERMISSION_NETWORK.scoped(&format!("unix:{}", scratch.path().display())).expect("a scope");
    let plugin =
        probe_with(PluginPolicy::new().permission(whole).permission(PERMISSION_FILE_READ).limits(patient()));
    let reach = || plugin.attempt("unix_talk", format!("{path} hello"));
    let other = scratch.at("other");
    rig::servers::unix(&other);
    assert_eq!(
        plugin.attempt("unix_talk", format!("{other} hello")).text(),
        "hello",
        "the grant is good for others"
    );
    let monitor = plugin.monitor_at(&path).expect("a monitor");
    Operator::at(Path::new(&path)).figures();
    assert_eq!(reach(), Answer::Errno(libc::EACCES));
    drop(monitor);
}

/// Serves one at the first argument until it is killed.
fn serves_a_monitor(arguments: &[String]) -> Vec<u8> {
    let [path] = arguments else { panic!("{arguments:?}") };
    let manager = PluginSandboxManager::new();
    let monitor = manager.monitor_at(path).expect("a monitor");
    child::report_early(monitor.path().display().to_string().as_bytes());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_host_that_was_killed_leaves_a_socket_that_the_next_one_replaces() {
    let scratch = Scratch::new();
    let path = scratch.at("monitor");
    let mut first = child::start("serves a monitor", &[&path]);
    first.early_report();
    let manager = PluginSandboxManager::new();
    let error = manager.monitor_at(&path).expect_err("a host serves there");
    assert!(error.to_string().contains("another monitor"), "{error}");
    first.kill();
    drop(first);
    assert!(Path::new(&path).exists(), "nobody was left to remove it");
    let monitor = manager.monitor_at(&path).expect("in its place");
    assert_eq!(Operator::at(monitor.path()).figures().process_id, std::process::id());
    drop(monitor);
    assert!(!Path::new(&path).exists());
}

#[test]
fn whatever_its_connections_wait_for_a_monitor_goes_at_once() {
    let (host, calling, release) = host_in_a_call();
    let events = host.plugin.events();
    let (idle, mut half) = (host.operator(), host.operator());
    half.send(b"{\"v\":1,");
    let mut busy = host.operator();
    busy.figures();
    busy.send(MonitorRequest::new(deactivate()).line().as_bytes());
    expect(&events, "the command", |kind| matches!(kind, EventKind::OperatorCommand { .. }).then_some(()));
    let path = host.monitor.path().clone();
    let began = Instant::now();
    drop(host.monitor);
    // None of the minute that an idle one may take.
    assert!(began.elapsed() < PATIENCE);
    assert!(!path.exists());
    for mut operator in [idle, half, busy] {
        let last = operator.reply();
        assert!(matches!(last, None | Some(MonitorAnswer::Failed { .. })), "{last:?}");
    }
    drop(release);
    calling.join().expect("it returns").expect("the call was left alone");
    assert_eq!(host.plugin.state(), PluginState::Active);
}

#[test]
fn a_monitor_keeps_no_plugin_and_outlives_its_manager() {
    let Host { manager, plugin, monitor, scratch: _scratch } = host();
    let process = rig::wait::watch(plugin.process_id().expect("it lives"));
    let mut operator = Operator::at(monitor.path());
    assert_eq!(operator.figures().plugins.len(), 1);
    drop((manager, plugin));
    process.ended();
    assert!(operator.figures().plugins.is_empty());
    assert!(operator.fails(kill("probe")).contains("no plugin"));
}
