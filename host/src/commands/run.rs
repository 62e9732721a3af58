//! `plugin-host run`: one life of one plugin, from load to unload, with the calls in between.
//!
//! Runs in the application's process. Owns the order, and what is shown when. Reads every payload before anything is
//! loaded. Never goes on after a failure: it unloads and tells.

mod ask;
mod learn;
mod record;
mod services;
mod watch;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox_core::{
    AuditLog, EnforcementReport, LayerPolicy, MonitorSocket, PluginHandle, PluginMetadata, PluginPolicy,
    PluginSandbox, PluginSandboxError, PluginState, ResourceLimits, RestartPolicy,
};

use self::record::{Outcome, Record};
use self::services::Transcript;
use self::watch::Watch;
use crate::cli::{self, Call, Output, Payload, Restart, RunArgs};
use crate::commands::quarantine;
use crate::failure::{Exit, Failure};
use crate::output::human::{Look, note};
use crate::output::{escape, file, human, json};

/// Where what is not a result goes while the plugin runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Telling {
    /// To stderr, as it happens.
    Aloud(Look),
    /// Nowhere.
    Quiet,
    /// Into the JSON object.
    Recorded,
}

impl Telling {
    fn of(args: &RunArgs) -> Self {
        match (args.json, args.quiet) {
            (true, _) => Self::Recorded,
            (false, true) => Self::Quiet,
            (false, false) => Self::Aloud(Look::of(&io::stderr())),
        }
    }

    fn say(self, text: impl FnOnce(Look) -> String) {
        if let Self::Aloud(look) = self {
            note(&text(look));
        }
    }
}

/// Runs, and tells.
pub(crate) fn execute(args: &RunArgs) -> ExitCode {
    let telling = Telling::of(args);
    let mut record = Record::default();
    let mut ended = run(args, telling, &mut record);
    if args.json {
        let printed = json::print("run", record.object(args), ended.as_ref().err());
        // What went wrong first is what counts.
        ended = ended.and(printed);
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !args.json {
                human::print_failure(&failure);
            }
            failure.exit_code()
        }
    }
}

fn run(args: &RunArgs, telling: Telling, record: &mut Record) -> Result<(), Failure> {
    let limits = args.resource_limits();
    limits.check().map_err(|error| Failure::new(Exit::Usage, "limit", error.to_string()))?;
    let id = args.id.as_ref().map_or_else(|| id_from(&args.path), ToString::to_string);
    record.id.clone_from(&id);
    let payloads =
        args.calls.0.iter().map(|call| read(&call.payload, &limits)).collect::<Result<Vec<_>, _>>()?;

    let layers =
        args.best_effort.iter().fold(LayerPolicy::strict(), |layers, layer| layers.best_effort(*layer));
    let policy = PluginPolicy::new()
        .permissions(args.grants.iter().cloned())
        .limits(limits)
        .allow_modules(args.allowed_modules.iter().cloned())
        .restart(match args.restart {
            Restart::Never => RestartPolicy::never(),
            Restart::OnCrash => RestartPolicy::on_crash(),
            Restart::Always => RestartPolicy::always(),
        })
        .layers(layers);
    // Before the sandbox, so that it is dropped after it: the end of the helper is the last that is written.
    let log = args.audit.as_deref().map(open_log).transpose()?;
    let sandbox = PluginSandbox::new(&id, policy)?;
    if let Some(log) = &log {
        sandbox.audit_to(log);
    }
    if let Some(file) = &args.quarantine {
        let file = (!file.is_empty()).then(|| Path::new(file));
        sandbox.quarantine_in(&quarantine::open(file)?);
    }
    if args.ask {
        ask::at_terminal(&sandbox)?;
    }
    let monitor = args.monitor.as_deref().map(|path| open_monitor(&sandbox, path)).transpose()?;
    let lesson = args.learn.then(|| learn::Lesson::start(&sandbox)).transpose()?;
    let watch = Watch::start(sandbox.events(), telling);
    let transcript = Arc::new(Transcript::new(telling));

    let calls: Vec<_> = args.calls.0.iter().zip(&payloads).collect();
    let lived = live(args, &sandbox, telling, &transcript, &calls, record);
    if lived.is_err() && matches!(sandbox.state(), PluginState::Loaded | PluginState::Active) {
        // The first failure is the one to tell; the helper ends with the sandbox in any case.
        let _ = sandbox.unload_plugin();
    }
    let allowed: Vec<_> =
        sandbox.permissions().into_iter().filter(|held| !args.grants.contains(held)).collect();
    if !allowed.is_empty() {
        let again = allowed.iter().flat_map(|permission| ["--grant".to_owned(), permission.to_string()]);
        let again: Vec<_> = again.collect();
        let again = escape::line(&shlex::try_join(again.iter().map(String::as_str)).unwrap_or_default());
        telling.say(|look| format!("{} what was allowed always is {again}", look.doubtful("note:")));
    }
    if let Some(lesson) = lesson {
        lesson.tell()?;
    }
    drop(monitor);
    record.printed = sandbox.printed();
    record.end = sandbox.last_end().filter(|end| !end.cause.was_asked_for());
    record.watched = watch.finish();
    record.said = transcript.take();
    if !record.printed.is_empty() {
        telling.say(|look| printed(look, &record.printed));
    }
    let lived = match sandbox.state() {
        PluginState::Quarantined => lived.map_err(|failure| failure.with_help(to_clear(args))),
        _ => lived,
    };
    let Some(end) = &record.end else { return lived };
    telling.say(|look| human::end(look, end));
    lived.map_err(|mut failure| {
        // The last refusal is only a guess: what the error itself advises comes first.
        let opened_by = end.refused.as_ref().and_then(|refused| refused.opened_by.as_ref());
        if let (None, Some(help)) = (&failure.help, end.help()) {
            failure.help = Some(opened_by.map_or(help, |permission| {
                format!("what it was refused last may be why; --grant {permission} opens that")
            }));
        }
        failure
    })
}

/// What to do about a plugin that is quarantined.
fn to_clear(args: &RunArgs) -> String {
    let mut clear = vec!["plugin-host", "quarantine", "clear"];
    let library = args.path.display().to_string();
    clear.push(&library);
    let file = match &args.quarantine {
        Some(file) if !file.is_empty() => Some(file.display().to_string()),
        Some(_) => None,
        None => return "it crashed too often in this run; find out why".to_owned(),
    };
    if let Some(file) = &file {
        clear.extend(["--file", file]);
    }
    let clear = shlex::try_join(clear).unwrap_or_default();
    format!("find out why it crashes, then `{clear}`")
}

fn open_log(path: &Path) -> Result<AuditLog, Failure> {
    AuditLog::open(path).map_err(|error| Failure::of_file("cannot write the audit log", path, &error))
}

fn open_monitor(sandbox: &PluginSandbox, path: &Path) -> Result<MonitorSocket, Failure> {
    sandbox.monitor_at(path).map_err(|error| Failure::of_file("cannot open the monitor", path, &error))
}

fn live(
    args: &RunArgs,
    sandbox: &PluginSandbox,
    telling: Telling,
    transcript: &Arc<Transcript>,
    calls: &[(&Call, &Vec<u8>)],
    record: &mut Record,
) -> Result<(), Failure> {
    let loaded = sandbox.load_plugin(&args.path);
    record.report = sandbox.enforcement_report();
    let plugin = match loaded {
        Ok(plugin) => plugin,
        Err(error) => {
            if let Some(report) = &record.report {
                telling.say(|look| human::report(look, report) + "\n");
            }
            return Err(error.into());
        }
    };
    record.metadata = Some(plugin.metadata().clone());
    telling.say(|look| introduction(look, &plugin, record.report.as_ref()));
    let lacking = not_granted(sandbox, plugin.metadata());
    if !lacking.is_empty() {
        telling
            .say(|look| format!("{} it asks for more; to grant it, add {lacking}\n", look.doubtful("note:")));
    }

    sandbox.activate_plugin(services::offer(transcript))?;
    let mut first_end: Option<Failure> = None;
    for round in 0..args.times {
        if round > 0 && !args.pause.is_zero() {
            std::thread::sleep(args.pause);
        }
        for (call, payload) in calls {
            let start = Instant::now();
            let result = match plugin.call(&call.method, payload) {
                Ok(result) => result,
                Err(PluginSandboxError::Ended { plugin, operation, cause })
                    if args.restart != Restart::Never && !cause.was_asked_for() =>
                {
                    let error = PluginSandboxError::Ended { plugin, operation, cause };
                    let failure = Failure::from(error);
                    telling.say(|look| human::failure(look, &failure));
                    let failure = first_end.get_or_insert(failure);
                    if comes_back(sandbox) {
                        continue;
                    }
                    telling.say(|look| look.dim(&format!("it is {}, and stays so", sandbox.state())));
                    return Err(std::mem::replace(
                        failure,
                        Failure::new(Exit::Plugin, "ended", String::new()),
                    ));
                }
                Err(error) => return Err(first_end.unwrap_or_else(|| error.into())),
            };
            let took = start.elapsed();
            telling.say(|look| {
                let method = escape::line(&call.method);
                let (sent, got) = (human::size(size_of_bytes(payload)), human::size(size_of_bytes(&result)));
                look.dim(&format!("call {method}: {sent} in, {got} out, {:.3} ms", took.as_secs_f64() * 1e3))
            });
            deliver(call, &result, telling)?;
            if matches!(telling, Telling::Recorded) {
                record.calls.push(Outcome {
                    call: record.calls.len(),
                    payload_bytes: payload.len(),
                    took,
                    result,
                });
            }
        }
    }
    sandbox.deactivate_plugin()?;
    sandbox.unload_plugin()?;
    first_end.map_or(Ok(()), Err)
}

/// Waits for a plugin that has ended, as long as its restart policy keeps at it.
fn comes_back(sandbox: &PluginSandbox) -> bool {
    const LOOK_AGAIN: Duration = Duration::from_millis(200);
    loop {
        if sandbox.wait_until_active(LOOK_AGAIN) {
            return true;
        }
        if matches!(sandbox.state(), PluginState::Crashed | PluginState::Quarantined | PluginState::Unloaded)
        {
            // A restart that has failed passes by these on its way to the next.
            if sandbox.wait_until_active(LOOK_AGAIN) {
                return true;
            }
            if matches!(sandbox.state(), PluginState::Crashed | PluginState::Quarantined) {
                return false;
            }
        }
    }
}

/// Puts a result where it was asked for. What cannot be shown is described on stderr, even if all else is quiet.
fn deliver(call: &Call, result: &[u8], telling: Telling) -> Result<(), Failure> {
    match &call.output {
        Output::File(path) => {
            file::write(path, result).map_err(|error| Failure::of_file("cannot write", path, &error))?;
            if matches!(telling, Telling::Recorded) {
                return Ok(());
            }
            human::result(format!("{}\n", escape::line(&path.display().to_string())).as_bytes())
        }
        Output::Stdout => human::result(result),
        Output::Shown if matches!(telling, Telling::Recorded) || result.is_empty() => Ok(()),
        Output::Shown => match escape::printable(result) {
            Some(text) if text.ends_with('\n') => human::result(text.as_bytes()),
            Some(text) => human::result(format!("{text}\n").as_bytes()),
            None => {
                let (method, size) = (escape::line(&call.method), human::size(size_of_bytes(result)));
                note(&format!(
                    "call {method}: {size} that are no plain text: --out FILE keeps them, --out - sends them to stdout"
                ));
                Ok(())
            }
        },
    }
}

fn read(payload: &Payload, limits: &ResourceLimits) -> Result<Vec<u8>, Failure> {
    match payload {
        Payload::Empty => Ok(Vec::new()),
        Payload::Text(text) => Ok(text.as_bytes().to_vec()),
        Payload::File(path) => {
            let opened = File::open(path).and_then(|file| read_bounded(file, limits));
            within(limits, opened.map_err(|error| Failure::of_file("cannot read", path, &error))?, path)
        }
        Payload::Stdin => {
            let path = Path::new("stdin");
            let all = read_bounded(io::stdin().lock(), limits);
            within(limits, all.map_err(|error| Failure::of_file("cannot read", path, &error))?, path)
        }
    }
}

/// One byte more than may be sent is enough to know that it is too much: the file may have no end.
fn read_bounded(from: impl Read, limits: &ResourceLimits) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limits.max_message_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn within(limits: &ResourceLimits, bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>, Failure> {
    let most = limits.max_message_bytes;
    if size_of_bytes(&bytes) <= most {
        return Ok(bytes);
    }
    let message = format!("{} has more than the {most} bytes that a call may send", path.display());
    Err(Failure::new(Exit::Usage, "message-too-large", message)
        .with_help("raise it with --limit max_message_bytes=N"))
}

/// The file's name without `lib` and `.so`, with what an id cannot have replaced.
fn id_from(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split(".so").next().unwrap_or_default();
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let id: String = stem.chars().map(plain).skip_while(|c| !c.is_ascii_alphanumeric()).take(64).collect();
    if id.is_empty() { "plugin".to_owned() } else { id }
}

fn introduction(look: Look, plugin: &PluginHandle, report: Option<&EnforcementReport>) -> String {
    let metadata = plugin.metadata();
    let name = format!("{} {}", escape::line(&metadata.id), escape::line(&metadata.version));
    let description = escape::line(metadata.description.lines().next().unwrap_or_default());
    let sandbox = plugin.sandbox();
    let process = sandbox.process_id().map(|pid| format!(", process {pid}")).unwrap_or_default();
    let table = human::report(look, report.unwrap_or(plugin.report()));
    format!("{}: {description}\nas {}{process}\n\n{table}\n", look.bold(&name), sandbox.plugin_id())
}

/// The options that would grant what the plugin asks for and does not hold, as far as this host knows it.
fn not_granted(sandbox: &PluginSandbox, metadata: &PluginMetadata) -> String {
    let held = sandbox.permissions();
    let lacking = metadata.permissions.iter().filter_map(|text| {
        let wanted = cli::permission(text).ok()?;
        (!held.iter().any(|own| own.covers(&wanted))).then_some(["--grant", text.as_str()])
    });
    // Quoting fails for a NUL only, which metadata cannot have.
    escape::line(&shlex::try_join(lacking.flatten()).unwrap_or_default())
}

fn printed(look: Look, printed: &str) -> String {
    let lines: Vec<_> = printed.lines().map(|line| format!("  {}", escape::line(line))).collect();
    format!("{}\n{}", look.dim("the plugin printed"), lines.join("\n"))
}

fn size_of_bytes(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sandbox_core::PluginId;

    use super::*;

    #[test]
    fn every_file_name_makes_an_id() {
        for (path, id) in [
            ("target/release/libimage_thumbnail.so", "image_thumbnail"),
            ("hello.so.1.2", "hello"),
            ("/opt/my plugin.so", "my-plugin"),
            ("./..so", "plugin"),
            ("libé.so", "plugin"),
            ("..", "plugin"),
            ("/", "plugin"),
        ] {
            assert_eq!(id_from(Path::new(path)), id, "{path}");
            assert!(PluginId::new(id).is_ok());
        }
        assert!(PluginId::new(&id_from(Path::new(&"x".repeat(300)))).is_ok());
    }

    #[test]
    fn a_payload_without_end_is_refused_as_soon_as_it_is_too_long() {
        let limits = ResourceLimits::default().max_message_bytes(1024);
        let error = read(&Payload::File("/dev/zero".into()), &limits).expect_err("more than 1024 bytes");
        assert_eq!((error.kind, error.exit), ("message-too-large", Exit::Usage));
        assert!(read(&Payload::File("/dev/null".into()), &limits).expect("nothing").is_empty());
    }
}
