//! The README's table of tiers, tried for real: Debian's kernels under qemu, and this machine as it is.
//!
//! Runs as the one who asks; as the first process of each guest (`guest.rs`); and as what becomes a host of a tier
//! (`enter.rs`). Owns how what came is held against `expected.json`. Uses the release programs, and builds nothing.

mod enter;
mod filters;
mod guest;
mod initramfs;
mod jobs;
mod machine;
mod outcome;
mod tables;
mod tiers;

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};

use jobs::{Job, Ran};
use outcome::{Expected, Outcome, Suite};
use tiers::{TIERS, Tier};

const HELP: &str = "\
Examples:
  tests/kernels/run --short                  three tiers, both kernels, a few rows: what .ci/run does
  tests/kernels/run                          every tier on both kernels, every row: hours
  tests/kernels/run --kernel 6.1 --tier user --verbose
  tests/kernels/run --kernel here            this machine, without qemu; as root
  tests/kernels/run --markdown               the table of README.md and SECURITY.md

Tiers are set up by tests/kernels/src/tiers.rs; what must come of each stands in
tests/kernels/expected.json, and is compared exactly; of `here` there stands
nothing, and what is not held fails. Kernels are Debian's
(linux-image-*-cloud-amd64, by apt), kept in target/kernels. qemu is installed
by apt where it is missing and this is root. Under TCG a boot takes seconds.

Exit codes:
  0  everything came as expected
  1  something else came
  2  bad usage
  3  qemu, a kernel or a program could not be had: nothing was tried";

/// What the containment suite loads.
const PROBES: [&str; 4] =
    ["libprobe.so", "libprobe_constructor.so", "libprobe_life.so", "libprobe_modules.so"];
/// How much of its table the short form runs: a few rows of each group.
const FEW: NonZeroUsize = NonZeroUsize::new(24).unwrap();

/// Tries the README's tiers: boots Debian's kernels under qemu, and runs `plugin-host doctor`, the README's thumbnail and the
/// containment suite as each kind of host.
#[derive(Debug, Parser)]
#[command(name = "tests/kernels/run", after_help = HELP, max_term_width = 110, args_conflicts_with_subcommands = true)]
struct Cli {
    /// `6.12`, `6.1`, `all` for both, or `here` for this machine.
    #[arg(long, default_value = "all")]
    kernel: String,
    /// A tier's name, or `all`.
    #[arg(long, default_value = "all")]
    tier: String,
    /// Three tiers instead of all, and a few rows of the containment suite.
    #[arg(long)]
    short: bool,
    /// Of the containment suite only every Nth row [default: 1; 24 with --short].
    #[arg(long, value_name = "N")]
    every: Option<NonZeroUsize>,
    /// Prints the table of README.md and SECURITY.md, and tries nothing.
    #[arg(long)]
    markdown: bool,
    /// Makes what came what must come: writes it to expected.json and the table into the documents. Look at the difference.
    #[arg(long)]
    accept: bool,
    /// Shows what the programs said.
    #[arg(long, short)]
    verbose: bool,
    /// Runs this test program of `integration-tests` too, with the libraries in a folder beside it named `probes`. It is shown,
    /// not compared: some of its tests want more of a system than a guest has.
    #[arg(long, value_name = "PROGRAM")]
    tests: Option<PathBuf>,
    /// Leaves the containment suite out, and what must come of it.
    #[arg(long, conflicts_with = "accept")]
    without_suite: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

impl Cli {
    /// How much of the containment suite is run: every so manieth row, or nothing of it.
    fn every(&self) -> Option<NonZeroUsize> {
        let usual = if self.short { FEW } else { NonZeroUsize::MIN };
        (!self.without_suite).then(|| self.every.unwrap_or(usual))
    }
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Becomes a host of this tier.
    #[command(hide = true)]
    Enter {
        tier: String,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::main();
    }
    let cli = Cli::parse();
    let done = match &cli.role {
        Some(Role::Enter { tier, command }) => {
            Tier::named(tier).context("no such tier").and_then(|tier| enter::enter(&tier, command))
        }
        None => run(&cli),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(3)
    })
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

fn expected_file(root: &Path) -> PathBuf {
    root.join("tests/kernels/expected.json")
}

/// What must come.
pub(crate) fn expected(root: &Path) -> Result<Expected> {
    let file = expected_file(root);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let root = root();
    let mut expected = expected(&root)?;
    if cli.markdown {
        print!("{}", tables::markdown(&expected));
        return Ok(ExitCode::SUCCESS);
    }
    let tiers = match chosen(cli) {
        Ok(tiers) => tiers,
        Err(error) => {
            eprintln!("{error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut came: Vec<(String, Tier, Result<Outcome>)> = Vec::new();
    let programs = Programs::find(&root, cli.tests.as_deref())?;
    match cli.kernel.as_str() {
        "here" => here(cli, &programs, &tiers, &mut came)?,
        kernel => {
            let series: Vec<&str> =
                machine::SERIES.into_iter().filter(|series| kernel == "all" || kernel == *series).collect();
            if series.is_empty() {
                eprintln!("--kernel: {kernel} is none of {}, all, here", machine::SERIES.join(", "));
                return Ok(ExitCode::from(2));
            }
            machine::have_qemu()?;
            for series in series {
                emulated(cli, &programs, series, &tiers, &mut came)?;
            }
        }
    }
    if cli.without_suite {
        expected.values_mut().flat_map(|tiers| tiers.values_mut()).for_each(|outcome| outcome.suite = None);
    }
    let unexpected = judge(&expected, &came, cli.kernel == "here");
    if cli.accept {
        ensure!(cli.kernel != "here", "what comes on this machine is no other machine's");
        // As it is by now: another run may have put down other tiers.
        let mut expected = self::expected(&root)?;
        for (series, tier, outcome) in came {
            expected.entry(series).or_default().insert(tier.name.to_owned(), outcome?);
        }
        fs::write(expected_file(&root), serde_json::to_string_pretty(&expected)? + "\n")?;
        tables::put(&root, &expected)?;
        println!("written to tests/kernels/expected.json and the documents");
        return Ok(ExitCode::SUCCESS);
    }
    let outdated = tables::outdated(&root, &self::expected(&root)?)?;
    if !outdated.is_empty() {
        println!("the table is another in {}: see --markdown", outdated.join(", "));
    }
    Ok(ExitCode::from(u8::from(unexpected || !outdated.is_empty())))
}

fn chosen(cli: &Cli) -> Result<Vec<Tier>> {
    let chosen: Vec<Tier> = TIERS
        .into_iter()
        .filter(|tier| (cli.tier == "all" || tier.name == cli.tier) && (tier.short || !cli.short))
        .collect();
    let names: Vec<_> = TIERS.iter().map(|tier| tier.name).collect();
    ensure!(!chosen.is_empty(), "--tier: {} is none of {}, all", cli.tier, names.join(", "));
    Ok(chosen)
}

const EXPECTED: &str = "as expected";
/// What a machine is that nobody has said anything of.
const HERE: &str = "as it is here";

/// Shows what came, and whether that is what must come.
fn judge(expected: &Expected, came: &[(String, Tier, Result<Outcome>)], here: bool) -> bool {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).force_no_tty().set_header(["kernel", "tier", "came", ""]);
    let (mut notes, mut unexpected) = (Vec::new(), false);
    for (series, tier, outcome) in came {
        let must = expected.get(series).and_then(|tiers| tiers.get(tier.name));
        let (brief, verdict) = match (outcome, must) {
            (Err(error), _) => {
                notes.push(format!("{series} {}: {error:#}", tier.name));
                ("nothing that could be judged".to_owned(), "FAILED")
            }
            (Ok(came), _) if here => {
                let held = came.suite.as_ref().is_none_or(|suite| suite.not_held.is_empty());
                (tables::brief(came), if held { HERE } else { "NOT HELD" })
            }
            (Ok(came), None) => (tables::brief(came), "NOT EXPECTED: there is nothing to hold it against"),
            (Ok(came), Some(must)) => {
                let differences = outcome::differences(must, came);
                notes.extend(differences.iter().map(|line| format!("{series} {}: {line}", tier.name)));
                (tables::brief(came), if differences.is_empty() { EXPECTED } else { "DIFFERS" })
            }
        };
        if verdict != EXPECTED {
            let why = outcome.iter().filter_map(|came| came.suite.as_ref()).flat_map(Suite::why);
            notes.extend(why.map(|line| format!("{series} {}: {line}", tier.name)));
        }
        unexpected |= ![EXPECTED, HERE].contains(&verdict);
        table.add_row([series.as_str(), tier.name, brief.as_str(), verdict]);
    }
    println!("{table}");
    notes.iter().for_each(|note| println!("{note}"));
    unexpected
}

/// What is run, and with what.
struct Programs {
    own: PathBuf,
    files: Vec<initramfs::Extra>,
    cache: PathBuf,
}

impl Programs {
    /// The release programs beside this one.
    fn find(root: &Path, tests: Option<&Path>) -> Result<Self> {
        let own = std::env::current_exe()?;
        let beside = own.parent().context("a program is in a folder")?;
        let mut files = Vec::new();
        let mut add = |from: PathBuf, at: String| {
            ensure!(from.exists(), "{} is not there: cargo build --release --workspace", from.display());
            files.push(initramfs::Extra {
                from,
                at: format!("{}/{at}", guest::FOLDER.trim_start_matches('/')),
            });
            Ok(())
        };
        for name in [jobs::PROGRAM, jobs::PLUGIN] {
            add(beside.join(name), name.to_owned())?;
        }
        let picture = root.join("example-plugins/image-thumbnail/assets").join(jobs::PICTURE);
        add(picture, jobs::PICTURE.to_owned())?;
        for name in PROBES {
            add(beside.join(name), format!("{}/{name}", jobs::PROBES))?;
        }
        if let Some(tests) = tests {
            add(tests.to_owned(), jobs::TESTS.to_owned())?;
            let probes = tests.parent().context("a program is in a folder")?.join(jobs::PROBES);
            for probe in fs::read_dir(&probes).with_context(|| format!("reading {}", probes.display()))? {
                let probe = probe?;
                add(probe.path(), format!("{}/{}", jobs::PROBES, probe.file_name().to_string_lossy()))?;
            }
        }
        let cache = beside.parent().context("target/release")?.join("kernels");
        Ok(Self { own, files, cache })
    }
}

fn emulated(
    cli: &Cli,
    programs: &Programs,
    series: &str,
    tiers: &[Tier],
    came: &mut Vec<(String, Tier, Result<Outcome>)>,
) -> Result<()> {
    let kernel = machine::kernel(series, &programs.cache)?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("initramfs");
    let modules = kernel.modules.iter().map(|from| {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        initramfs::Extra {
            from: from.clone(),
            at: format!("{}/{name}", guest::MODULES.trim_start_matches('/')),
        }
    });
    let files: Vec<_> = programs
        .files
        .iter()
        .map(|file| initramfs::Extra { from: file.from.clone(), at: file.at.clone() })
        .chain(modules)
        .collect();
    initramfs::write(&image, &programs.own, &files)?;
    // Only so that a hang ends: a loaded machine emulates slowly.
    let timeout = Duration::from_secs(if cli.short { 900 } else { 4 * 3600 });
    for tier in tiers {
        let began = Instant::now();
        let ran = machine::boot(&kernel, &image, tier, cli.every(), timeout);
        heard(cli, series, tier, began, ran, came);
    }
    Ok(())
}

/// Tells that a tier was tried, and puts down what came.
fn heard(
    cli: &Cli,
    series: &str,
    tier: &Tier,
    began: Instant,
    ran: Result<Vec<Ran>>,
    came: &mut Vec<(String, Tier, Result<Outcome>)>,
) {
    for ran in ran.iter().flatten().filter(|ran| cli.verbose || ran.job == Job::Tests) {
        eprintln!("--- {:?}: {:?}\n{}{}", ran.job, ran.code, ran.stdout, ran.stderr);
    }
    let outcome = ran.and_then(|ran| outcome::outcome(&ran, cli.every()));
    let suite = outcome.as_ref().ok().and_then(|outcome| outcome.suite.as_ref());
    let rows = suite.map_or_else(String::new, |suite| format!(", {} rows tried", suite.tried()));
    eprintln!("{series} {}: {} s{rows}", tier.name, began.elapsed().as_secs());
    came.push((series.to_owned(), *tier, outcome));
}

/// The tiers that need nothing changed, on this very machine.
fn here(
    cli: &Cli,
    programs: &Programs,
    tiers: &[Tier],
    came: &mut Vec<(String, Tier, Result<Outcome>)>,
) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let series = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let uid = nix::unistd::geteuid();
    // Where an ordinary user reaches it.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
    let below = guest::FOLDER.trim_start_matches('/');
    for file in &programs.files {
        let to = folder.path().join(file.at.strip_prefix(below).unwrap_or(&file.at).trim_start_matches('/'));
        if let Some(above) = to.parent() {
            fs::create_dir_all(above)?;
        }
        fs::copy(&file.from, &to).with_context(|| format!("copying {}", file.from.display()))?;
    }
    for tier in tiers {
        if !tier.changes_nothing() {
            println!("{series} {}: not here, since it would change the machine", tier.name);
            continue;
        }
        if !uid.is_root() {
            println!("{series} {}: not tried, since only root becomes anybody", tier.name);
            continue;
        }
        let (mut ran, began) = (Vec::new(), Instant::now());
        let done = jobs::run_all(tier, folder.path(), cli.every(), |job| {
            ran.push(job);
            Ok(())
        });
        heard(cli, &series, tier, began, done.map(|()| ran), came);
    }
    if came.is_empty() {
        bail!("nothing could be tried here");
    }
    Ok(())
}
