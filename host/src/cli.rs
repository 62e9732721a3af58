//! The command line: what there is to say, what it means, and what is wrong with it.
//!
//! Runs in the application's process, before anything else of ours. Owns names, help texts and defaults.
//! Never touches a file or the sandbox: what comes out are plain values.

mod calls;
mod values;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueHint};
use containment::Group;
use sandbox_core::{Layer, PluginId, PluginPermission, ResourceLimits};

pub(crate) use calls::{Call, Calls, Output, Payload};
pub(crate) use values::{LimitSetting, permission};

const EXIT_CODES: &str = "\
Exit codes:
  0  everything worked
  1  the plugin failed, was ended, or was denied what it could not do without
  2  bad usage or bad input: arguments, policy, files
  3  the sandbox could not be had; `plugin-host doctor` tells why";

const EXAMPLES: &str = "\
Examples:
  plugin-host doctor
  plugin-host inspect target/release/libhello.so
  plugin-host run target/release/libhello.so --call greet --payload world";

const RUN_EXAMPLES: &str = "\
Examples:
  plugin-host run libhello.so --call greet --payload world
  plugin-host run libimage_thumbnail.so \\
      --call thumbnail --payload-file lake.jpg --out out/thumbnail.png
  plugin-host run libimage_thumbnail.so \\
      --limit max_memory_mb=64 --limit call_timeout=500ms \\
      --call thumbnail/64 --payload-file lake.jpg --out small.png \\
      --call describe --payload-file lake.jpg
  plugin-host run plugin.so --grant file-read:/srv/photos --grant ui --call index
  plugin-host run plugin.so --restart on-crash --quarantine --call a --call b
  plugin-host run plugin.so --limit max_scratch_mb=64 --limit max_processes=0 --call index
  plugin-host run plugin.so --monitor $XDG_RUNTIME_DIR/plugins.sock \\
      --call index --times 10000 --pause 100ms --quiet

--payload, --payload-file and --out belong to the --call before them. A call
without a payload gets an empty one. Results go to stdout, the report and
events to stderr.

Scopes of --grant: a file or a tree for file-read, file-write and process; for
network example.org:443, *.example.org, 10.0.0.0/8:443, [::1]:80, listen:8080,
unix:/run/app.sock, each without its port for any; a plugin's id for plugin.

Limits and their defaults; `none` lifts those of the first group:
  max_memory_mb=100  max_cpu_time_sec=10  max_cpu_percent=none
  max_file_handles=10  max_file_size_mb=1024  max_network_connections=5
  max_threads=16  max_processes=8
  max_output_bytes=none  max_output_bytes_per_sec=1048576

  max_scratch_mb=0  max_message_bytes=16777216
  max_pending_services=64  max_queued_messages=256
  load_timeout=5s  activate_timeout=5s  deactivate_timeout=5s  call_timeout=5s

Services of this host, and the permissions that they need:
  host.log (none)  ui.notify (ui)  system.hostname (system)

PLUGIN_HOST_LOG=debug logs what the sandbox does. Nothing in the environment
weakens it.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  plugin-host inspect target/release/libimage_thumbnail.so
  plugin-host inspect plugin.so --allow-module libz.so.1 --json

Exits with 0 if the printed command would load the plugin, with 2 if none would.";

const AUDIT_EXAMPLES: &str = "\
Examples:
  plugin-host run plugin.so --audit audit.jsonl --call index
  plugin-host audit audit.jsonl --denied --since 10m
  plugin-host audit audit.jsonl --summary
  plugin-host audit audit.jsonl --suggest

Times are UTC: 2026-01-31, 2026-01-31T12:00, or how long ago, as in 10m or 2h.
Files are read in the order given; `-` is stdin. Lines that are no records are
counted, named on stderr, and read past.

--suggest prints the smallest set of grants under which what was tried works,
granted or not: exact files, until there are so many in one folder; never a
folder that the system stands on. Review it: a plugin can try anything. With
--granted it is what was used of what was granted.";

const QUARANTINE_EXAMPLES: &str = "\
Examples:
  plugin-host run plugin.so --restart on-crash --quarantine --call index
  plugin-host quarantine list
  plugin-host quarantine clear plugin.so
  plugin-host quarantine clear --all

A library is known by what of it is loaded, whatever it is called. The file is
quarantine.json in $XDG_STATE_HOME/plugin-host, by default
~/.local/state/plugin-host; --file names another.";

const TOP_EXAMPLES: &str = "\
Examples:
  plugin-host run plugin.so --monitor $XDG_RUNTIME_DIR/plugins.sock \\
      --call index --times 10000 --pause 100ms --quiet
  plugin-host top $XDG_RUNTIME_DIR/plugins.sock
  plugin-host top $XDG_RUNTIME_DIR/plugins.sock --once --json

Any host opens such a socket with `monitor_at` of its manager. Only its own
user and root may connect.

Keys: up and down choose a plugin, left and right the column to sort by, i
turns the order; d deactivates, k kills, r revokes; ? is help, q or Esc quits.

Exits with 1 if the host ends meanwhile, with 2 if none serves the socket.";

const METRICS_EXAMPLES: &str = "\
Examples:
  plugin-host metrics $XDG_RUNTIME_DIR/plugins.sock
  curl --unix-socket $XDG_RUNTIME_DIR/plugins.sock http://localhost/metrics

For node_exporter, write it to a file of the textfile collector's under
another name, and rename it.";

const DOCTOR_EXAMPLES: &str = "\
Exits with 0 if every layer that a load requires stands, with 1 if one does
not, with 3 if nothing could be tried.";

const PROVE_EXAMPLES: &str = "\
Examples:
  plugin-host prove
  plugin-host prove --group network --group files
  plugin-host prove --row 'mounts' --json
  plugin-host prove --every 10
  plugin-host prove --list

Each row is tried in the sandbox, with nothing granted and with the most that
must not open it, and by the same code where nothing confines it, in a child
with small limits. What is not shown held, but the control did not do here what
the attempt must not: only root may, this kernel does not have it, or a filter
around this host, as a container's, refuses it. Nothing of it changes the
machine.

The probes are plugins: libprobe.so, libprobe_constructor.so,
libprobe_life.so, libprobe_modules.so.
cargo build --release --workspace puts them beside this program.

Exits with 0 if nothing was found that is not held, with 1 if something was,
with 2 if the probes are not there, with 3 if the sandbox could not be had.";

/// How the program is told to play a control.
pub(crate) const PROVE_CONTROL: &str = "prove-control";

/// Runs native plugins confined, each in a process of its own that has given up every authority.
#[derive(Debug, Parser)]
#[command(name = "plugin-host", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Loads a plugin confined, activates it, calls it, deactivates and unloads it.
    #[command(after_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
    Run(RunArgs),
    /// Shows what a plugin says of itself and what it needs, without running any of its code.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Shows what this kernel and this user can enforce, what is missing and why it matters.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Reads an audit log back: lists it, sums it up, or suggests the grants that a run needed.
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit(AuditArgs),
    /// Tries on this machine what no plugin may do, and shows what came of each attempt.
    #[command(after_help = PROVE_EXAMPLES)]
    Prove(ProveArgs),
    /// What `prove` starts: an attempt where nothing confines it.
    #[command(name = PROVE_CONTROL, hide = true)]
    ProveControl,
    /// Shows which libraries have crashed too often and are not loaded any more, and clears them.
    #[command(after_help = QUARANTINE_EXAMPLES)]
    Quarantine(QuarantineArgs),
    /// Shows what the plugins of a host are doing, as it changes; deactivates, ends and holds them back.
    #[command(after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Prints the same figures in the text format of Prometheus.
    #[command(after_help = METRICS_EXAMPLES)]
    Metrics(MetricsArgs),
    /// Prints the completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `plugin-host run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The plugin's shared library.
    #[arg(value_name = "PLUGIN.so")]
    pub(crate) path: PathBuf,
    /// The name to run it under [default: from the file's name].
    #[arg(long)]
    pub(crate) id: Option<PluginId>,
    /// Grants a permission, such as `ui` or `file-read:/srv/photos`. Can be given several times.
    #[arg(long = "grant", value_name = "PERM[:SCOPE]", value_parser = values::permission)]
    pub(crate) grants: Vec<PluginPermission>,
    /// Asks at the terminal about what is not granted: once, always, or no. No answer within a minute is no.
    #[arg(long)]
    pub(crate) ask: bool,
    /// Writes every decision to this file, one JSON object a line; see `plugin-host audit`. Kept below 16 MiB, with four
    /// old files beside it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) audit: Option<PathBuf>,
    /// Lets through, once each, whatever is not granted, and prints the grants that the run needed. The plugin can then do
    /// nearly all that you can: only for one that you trust.
    #[arg(long, conflicts_with_all = ["ask", "json"])]
    pub(crate) learn: bool,
    /// Sets a limit, such as `max_memory_mb=64` or `call_timeout=2s`. Can be given several times.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    pub(crate) limits: Vec<LimitSetting>,
    /// Lets the plugin load a shared library beyond the C library's own. Can be given several times.
    #[arg(long = "allow-module", value_name = "SONAME", value_parser = values::soname)]
    pub(crate) allowed_modules: Vec<String>,
    /// Loads the plugin again when it ends during a call, after a while that grows; the calls that are left are made then.
    /// The program still exits with 1.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Restart::Never)]
    pub(crate) restart: Restart,
    /// Counts crashes in this file, and does not load what has crashed five times within ten minutes; see `plugin-host
    /// quarantine`. Without a file in quarantine.json of the user's state folder.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) quarantine: Option<std::ffi::OsString>,
    /// Goes on without a layer where this machine does not have it. Weakens the sandbox; the report says so.
    #[arg(long = "best-effort", value_name = "LAYER")]
    pub(crate) best_effort: Vec<Layer>,
    #[command(flatten)]
    pub(crate) calls: Calls,
    /// Makes all calls so many times, one round after the other.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "json", requires = "call")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) times: u64,
    /// Waits so long between two rounds of calls, as in 100ms.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration, requires = "times")]
    pub(crate) pause: Duration,
    /// Opens a socket there for `plugin-host top` and `metrics`, in a folder that only you may write to.
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(crate) monitor: Option<PathBuf>,
    /// Prints one JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints results and errors only: no report, no events.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl RunArgs {
    /// The default limits with the settings applied in their order. Not checked: the sandbox does.
    pub(crate) fn resource_limits(&self) -> ResourceLimits {
        let mut limits = ResourceLimits::default();
        self.limits.iter().for_each(|setting| setting.apply(&mut limits));
        limits
    }
}

/// When a plugin that has ended is loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Restart {
    /// Never.
    Never,
    /// When it has crashed.
    OnCrash,
    /// When it has ended, with exit code 0 too.
    Always,
}

/// `plugin-host quarantine`.
#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) action: QuarantineAction,
    /// The file, if it is not that of the user's state folder.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub(crate) file: Option<PathBuf>,
    /// Prints one JSON object on stdout instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineAction {
    /// Lists the libraries that have crashed, and which of them are quarantined.
    List,
    /// Forgets the crashes of libraries, so that they are loaded again.
    Clear {
        /// Libraries: a digest as `list` shows it, a plugin's file, or where one was when it crashed last.
        #[arg(value_name = "DIGEST|PLUGIN.so", required_unless_present = "all", conflicts_with = "all")]
        libraries: Vec<String>,
        /// All of them, also of a file that cannot be read.
        #[arg(long)]
        all: bool,
    },
}

/// `plugin-host inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The plugin's shared library.
    #[arg(value_name = "PLUGIN.so")]
    pub(crate) path: PathBuf,
    /// Counts a shared library as allowed. Can be given several times.
    #[arg(long = "allow-module", value_name = "SONAME", value_parser = values::soname)]
    pub(crate) allowed_modules: Vec<String>,
    /// Prints one JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `plugin-host doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Prints one JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Exits with 1 if any layer is missing, required or not.
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `plugin-host audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// The logs, the oldest first; `-` is stdin.
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// Reads the old files of each too: FILE.2, FILE.1, then FILE.
    #[arg(long)]
    pub(crate) rotated: bool,
    /// Only this plugin's. Can be given several times.
    #[arg(long = "plugin", value_name = "ID", help_heading = "Which records")]
    pub(crate) plugins: Vec<String>,
    /// Only what is about this permission. Can be given several times.
    #[arg(long = "permission", value_name = "NAME", help_heading = "Which records")]
    pub(crate) permissions: Vec<String>,
    /// Only what was refused.
    #[arg(long, conflicts_with = "granted", help_heading = "Which records")]
    pub(crate) denied: bool,
    /// Only what was granted.
    #[arg(long, help_heading = "Which records")]
    pub(crate) granted: bool,
    /// Only from this time on.
    #[arg(long, value_name = "TIME", value_parser = values::moment, help_heading = "Which records")]
    pub(crate) since: Option<SystemTime>,
    /// Only before this time.
    #[arg(long, value_name = "TIME", value_parser = values::moment, help_heading = "Which records")]
    pub(crate) until: Option<SystemTime>,
    /// Only those in whose text this stands.
    #[arg(long, value_name = "TEXT", help_heading = "Which records")]
    pub(crate) grep: Option<String>,
    /// Counts instead of lists: by plugin, permission and verdict, with what was tried most often.
    #[arg(long, conflicts_with = "suggest")]
    pub(crate) summary: bool,
    /// Prints the grants that were needed instead, ready to paste.
    #[arg(long)]
    pub(crate) suggest: bool,
    /// From how many files in one folder on the folder is suggested; 0: never.
    #[arg(long, value_name = "N", default_value_t = 4, requires = "suggest")]
    pub(crate) fold_at: usize,
    /// Prints one JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `plugin-host prove`.
#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// Only the rows of this group. Can be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Group>,
    /// Only rows in whose name this stands. Can be given several times.
    #[arg(long = "row", value_name = "NAME")]
    pub(crate) rows: Vec<String>,
    /// Of the rows that are left only the first and every Nth after it: a quick look at every group.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) every: NonZeroUsize,
    /// How long anything may take that nothing is to end; more for a slow machine.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) patience: Duration,
    /// Where the probes' libraries are [default: beside this program].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) probes: Option<PathBuf>,
    /// Goes on without a layer where this machine does not have it, to see what still holds.
    #[arg(long = "best-effort", value_name = "LAYER")]
    pub(crate) best_effort: Vec<Layer>,
    /// Prints one JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Names the rows and what holds them, and tries none.
    #[arg(long, conflicts_with = "json")]
    pub(crate) list: bool,
}

/// `plugin-host top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The socket that the host has opened.
    #[arg(value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(crate) socket: PathBuf,
    /// Prints the figures of one second and ends.
    #[arg(long)]
    pub(crate) once: bool,
    /// Prints them as they are at the moment, as one JSON object on stdout.
    #[arg(long, requires = "once")]
    pub(crate) json: bool,
}

/// `plugin-host metrics`.
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// The socket that the host has opened.
    #[arg(value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(crate) socket: PathBuf,
}

impl Command {
    /// The command as it was typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Inspect(_) => "inspect",
            Self::Doctor(_) => "doctor",
            Self::Audit(_) => "audit",
            Self::Prove(_) => "prove",
            Self::ProveControl => PROVE_CONTROL,
            Self::Quarantine(_) => "quarantine",
            Self::Top(_) => "top",
            Self::Metrics(_) => "metrics",
            Self::Completions { .. } => "completions",
        }
    }

    /// Whether stdout belongs to a JSON object.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Inspect(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Audit(args) => args.json,
            Self::Prove(args) => args.json,
            Self::Quarantine(args) => args.json,
            Self::Top(args) => args.json,
            Self::Metrics(_) | Self::ProveControl | Self::Completions { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("plugin-host").chain(args.iter().copied()))
    }

    fn run(args: &[&str]) -> RunArgs {
        let all: Vec<_> = ["run", "p.so"].iter().chain(args).copied().collect();
        match parse(&all).expect("a valid command line").command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(args: &[&str]) -> String {
        let all: Vec<_> = ["run", "p.so"].iter().chain(args).copied().collect();
        parse(&all).expect_err("a command line with a mistake").to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn later_limits_win_and_the_others_keep_their_defaults() {
        let limits =
            run(&["--limit", "max_threads=2", "--limit", "max_threads=3", "--limit", "call_timeout=2s"])
                .resource_limits();
        let expected = ResourceLimits::default().max_threads(3).call_timeout(Duration::from_secs(2));
        assert_eq!(limits, expected);
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let permission = refusal(&["--grant", "file-reed"]);
        assert!(permission.contains("file-read, file-write, network"), "{permission}");
        let layer = refusal(&["--best-effort", "landlok"]);
        assert!(layer.contains("landlock, landlock-scopes"), "{layer}");
        let limit = refusal(&["--limit", "memory=3"]);
        assert!(limit.contains("max_memory_mb, max_cpu_time_sec"), "{limit}");
        let id = refusal(&["--id", "../x"]);
        assert!(id.contains("1 to 64"), "{id}");
        let module = refusal(&["--allow-module", "/usr/lib/libz.so.1"]);
        assert!(module.contains("libz.so.1"), "{module}");
    }

    #[test]
    fn a_json_object_and_a_raw_result_do_not_share_stdout() {
        assert!(refusal(&["--json", "--call", "a", "--out", "-"]).contains("belongs to the JSON object"));
    }

    #[test]
    fn the_help_names_every_limit_with_its_default() {
        let (_, rest) = RUN_EXAMPLES.split_once("Limits and their defaults; ").expect("a part about limits");
        let (part, _) = rest.split_once("Services of this host").expect("its end");
        let default = ResourceLimits::default();
        let mut named = Vec::new();
        for word in part.split_whitespace().filter(|word| word.contains('=')) {
            let mut limits = default.clone();
            word.parse::<LimitSetting>().unwrap_or_else(|error| panic!("{word}: {error}")).apply(&mut limits);
            assert_eq!(limits, default, "{word}");
            named.extend(word.split_once('=').map(|(name, _)| name));
        }
        named.sort_unstable();
        let mut all = values::limit_names().to_vec();
        all.sort_unstable();
        assert_eq!(named, all);
    }
}
