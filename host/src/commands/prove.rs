//! `plugin-host prove`: tries on this machine what no plugin may do, and shows for each attempt what came of it.
//!
//! Runs in the application's process. Owns the score and the exit code. The table is the one that this project's tests run
//! (`tests/containment`); its probes are plugins built from `example-plugins/probes`. Never counts as held what failed outside
//! as well.
//!
//! Keys of its JSON object: `kernel`, `user`, `layers` as in `doctor`, `rows`: `group`, `name`, `held_by`, `expected`,
//! `inside`: `granted` and `outcome`; `control`, `verdict` (`held`, `not-held`, `not-shown`), `took_ms`, `why`; `groups`: `name`, `held`,
//! `not_held`, `not_shown`; `left_behind`; `held`, `not_held`, `not_shown`. Of an answer of more than 40 bytes only the length is
//! shown, here as in the text.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use comfy_table::{Cell, Color};
use containment::answer::without_long_answers;
use containment::inventory::Inventory;
use containment::libraries::missing_in;
use containment::run::{NoStage, Unshown};
use containment::{Group, Judged, Rig, Row, Stage, Verdict, table};
use sandbox_core::{Diagnosis, LayerPolicy};
use serde_json::{Value, json};

use super::doctor;
use crate::cli::{PROVE_CONTROL, ProveArgs};
use crate::failure::{Exit, Failure};
use crate::output::human::Look;
use crate::output::{escape, human, json};

/// A row with what came of it.
type Tried = (Row, Judged);

/// Tries every row that was asked for, and shows what came of it.
pub(crate) fn execute(args: &ProveArgs) -> Result<ExitCode, Failure> {
    let rows = chosen(args)?;
    let rig = rig(args)?;
    let diagnosis =
        sandbox_core::doctor().map_err(|error| Failure { exit: Exit::Sandbox, ..Failure::from(error) })?;
    let before = Inventory::take();
    let tried = attempts(&rig, rows)?;
    let left = before.left();
    let all_held =
        left.is_empty() && tried.iter().all(|(_, judged)| !matches!(judged.verdict, Verdict::NotHeld(_)));
    if args.json {
        json::print("prove", object(&diagnosis, &tried, &left), None)?;
    } else {
        human::result(text(Look::of(&io::stdout()), &diagnosis, &tried, &left).as_bytes())?;
    }
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::from(Exit::Plugin as u8) })
}

/// The part of the program run again: the same attempt where nothing confines it.
pub(crate) fn control() -> Failure {
    Failure::new(Exit::Usage, "usage", containment::control::play())
}

fn chosen(args: &ProveArgs) -> Result<Vec<Row>, Failure> {
    let rows: Vec<Row> = table()
        .into_iter()
        .filter(|row| args.groups.is_empty() || args.groups.contains(&row.group))
        .filter(|row| args.rows.is_empty() || args.rows.iter().any(|name| row.name.contains(name.as_str())))
        .step_by(args.every.get())
        .collect();
    if rows.is_empty() {
        let failure = Failure::new(Exit::Usage, "usage", "no row has such a name in such a group".to_owned());
        return Err(failure.with_help("`plugin-host prove --list` names them"));
    }
    Ok(rows)
}

fn rig(args: &ProveArgs) -> Result<Rig, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Usage, "io", format!("where this program is: {error}")))?;
    let beside = own.parent().map(PathBuf::from).unwrap_or_default();
    let probes = args.probes.clone().unwrap_or(beside);
    let missing = missing_in(&probes);
    if !missing.is_empty() {
        let message = format!("{}: there is no {}", probes.display(), missing.join(", no "));
        let packages: Vec<_> =
            containment::libraries::PACKAGES.iter().map(|package| format!("-p {package}")).collect();
        let help = format!(
            "build the probes (cargo build --release {}), and name their folder with --probes if it is not this program's",
            packages.join(" ")
        );
        return Err(Failure::new(Exit::Usage, "io", message).with_help(help));
    }
    let probes = std::path::absolute(&probes)
        .map_err(|error| Failure::new(Exit::Usage, "io", format!("{}: {error}", probes.display())))?;
    let layers = args.best_effort.iter().copied().fold(LayerPolicy::strict(), LayerPolicy::best_effort);
    Ok(Rig {
        probes,
        starter: Box::new(move || {
            let mut command = Command::new(&own);
            command.arg(PROVE_CONTROL);
            Ok(command)
        }),
        policy: Box::new(move |policy| policy.layers(layers.clone())),
        patience: args.patience,
    })
}

fn attempts(rig: &Rig, rows: Vec<Row>) -> Result<Vec<Tried>, Failure> {
    let stage = Stage::new(rig).map_err(|error| match error {
        NoStage::Sandbox(error) => Failure::from(error),
        NoStage::Io(error) => Failure::new(Exit::Sandbox, "io", format!("nothing to try it on: {error}")),
    })?;
    let all = rows.len();
    let progress = io::stderr().is_terminal();
    let tried = rows
        .into_iter()
        .enumerate()
        .map(|(at, row)| {
            if progress {
                // Whether somebody sees it does not matter.
                let _ = write!(io::stderr().lock(), "\r\x1b[K{}/{all} {}: {}", at + 1, row.group, row.name);
            }
            let judged = fit_to_show(stage.judge(&row));
            (row, judged)
        })
        .collect();
    if progress {
        let _ = write!(io::stderr().lock(), "\r\x1b[K");
    }
    Ok(tried)
}

/// The same, with no more than the length of what is long: people paste this into reports, and a control reads what is theirs.
fn fit_to_show(mut judged: Judged) -> Judged {
    /// Enough for what rows expect and compare.
    const MOST_BYTES: usize = 40;
    let inside = judged.inside.iter_mut().map(|(_, outcome)| outcome);
    let why = match &mut judged.verdict {
        Verdict::NotHeld(why) => why.as_mut_slice(),
        Verdict::NotShown(Unshown::Otherwise(why)) => std::slice::from_mut(why),
        _ => &mut [],
    };
    for text in inside.chain([&mut judged.control]).chain(why) {
        *text = without_long_answers(text, MOST_BYTES);
    }
    judged
}

/// How many held, did not, and were not shown.
fn count<'a>(tried: impl Iterator<Item = &'a Tried>) -> (usize, usize, usize) {
    tried.fold((0, 0, 0), |(held, not_held, not_shown), (_, judged)| match judged.verdict {
        Verdict::Held => (held + 1, not_held, not_shown),
        Verdict::NotHeld(_) => (held, not_held + 1, not_shown),
        Verdict::NotShown(_) => (held, not_held, not_shown + 1),
    })
}

fn verdict(judged: &Judged) -> (&'static str, Option<String>) {
    match &judged.verdict {
        Verdict::Held => ("held", None),
        Verdict::NotHeld(why) => ("not-held", Some(why.join("; "))),
        Verdict::NotShown(why) => ("not-shown", Some(why.to_string())),
    }
}

fn object(diagnosis: &Diagnosis, tried: &[Tried], left: &[String]) -> Value {
    /// An attempt may come to megabytes.
    const MOST: usize = 2000;
    let rows: Vec<_> = tried
        .iter()
        .map(|(row, judged)| {
            let (verdict, why) = verdict(judged);
            let inside: Vec<_> = judged
                .inside
                .iter()
                .map(|(granted, outcome)| json!({ "granted": granted, "outcome": cut(outcome, MOST) }))
                .collect();
            json!({
                "group": row.group.name(),
                "name": row.name,
                "held_by": row.held_by.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "expected": judged.expected.to_string(),
                "inside": inside,
                "control": cut(&judged.control, MOST),
                "verdict": verdict,
                "took_ms": u64::try_from(judged.took.as_millis()).unwrap_or(u64::MAX),
                "why": why.map(|why| cut(&why, MOST)),
            })
        })
        .collect();
    let groups: Vec<_> = groups(tried)
        .map(|(group, (held, not_held, not_shown))| {
            json!({ "name": group.name(), "held": held, "not_held": not_held, "not_shown": not_shown })
        })
        .collect();
    let (held, not_held, not_shown) = count(tried.iter());
    json!({
        "kernel": diagnosis.kernel, "user": diagnosis.user, "layers": doctor::layers(diagnosis), "rows": rows,
        "groups": groups, "left_behind": left, "held": held, "not_held": not_held, "not_shown": not_shown,
    })
}

fn groups(tried: &[Tried]) -> impl Iterator<Item = (Group, (usize, usize, usize))> {
    Group::ALL.into_iter().filter_map(|group| {
        let mut of = tried.iter().filter(|(row, _)| row.group == group).peekable();
        of.peek()?;
        Some((group, count(of)))
    })
}

fn text(look: Look, diagnosis: &Diagnosis, tried: &[Tried], left: &[String]) -> String {
    let mut rows = look.table(&["group", "a plugin that", "expected", "inside", "control", "verdict"]);
    for (row, judged) in tried {
        let inside = judged.inside.last().map(|(_, outcome)| outcome.as_str()).unwrap_or_default();
        let (verdict, colour) = match judged.verdict {
            Verdict::Held => ("held", Color::Green),
            Verdict::NotHeld(_) => ("NOT HELD", Color::Red),
            Verdict::NotShown(_) => ("not shown", Color::Yellow),
        };
        rows.add_row([
            Cell::new(row.group.name()),
            Cell::new(row.name),
            Cell::new(escape::line(&judged.expected.to_string())),
            Cell::new(short(inside)),
            Cell::new(short(&judged.control)),
            Cell::new(verdict).fg(colour),
        ]);
    }
    let mut text = format!("{}\n\n", human::rendered(rows, 5));
    let mut scores = look.table(&["group", "held", "not held", "not shown"]);
    for (group, (held, not_held, not_shown)) in groups(tried) {
        scores.add_row([
            group.name().to_owned(),
            held.to_string(),
            not_held.to_string(),
            not_shown.to_string(),
        ]);
    }
    text.push_str(&format!("{}\n\n", human::rendered(scores, 3)));
    for (row, judged) in tried {
        match &judged.verdict {
            Verdict::Held => {}
            Verdict::NotHeld(why) => {
                for why in why {
                    let said = format!("{}: {}: {}\n", look.bad("NOT HELD"), row.name, escape::line(why));
                    text.push_str(&said);
                }
            }
            Verdict::NotShown(why) => {
                let why = escape::line(&why.to_string());
                text.push_str(&format!("{}: {}: {why}\n", look.doubtful("not shown"), row.name));
            }
        }
    }
    for what in left {
        text.push_str(&format!("{}: {}\n", look.bad("left behind"), escape::line(what)));
    }
    let (held, not_held, not_shown) = count(tried.iter());
    let title = format!("Linux {}, as {}", escape::line(&diagnosis.kernel), escape::line(&diagnosis.user));
    let standing = diagnosis.report.layers.iter().filter(|layer| layer.enforced).count();
    let missing: Vec<_> = diagnosis.report.missing().map(|layer| layer.layer.name()).collect();
    let missing =
        if missing.is_empty() { String::new() } else { format!(", without {}", missing.join(", ")) };
    let score = format!("{held} of {} held, {not_held} not held, {not_shown} not shown", tried.len());
    text.push_str(&format!(
        "\n{}: {standing} of {} layers stand{missing}\n{}\n",
        look.bold(&title),
        diagnosis.report.layers.len(),
        if not_held == 0 { look.bold(&score) } else { look.bad(&score) },
    ));
    text
}

/// What fits into a column.
fn short(text: &str) -> String {
    cut(&escape::line(text), 60)
}

/// The first `most` characters.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Names the rows, and what holds them.
pub(crate) fn list(args: &ProveArgs) -> Result<(), Failure> {
    let mut rows = Look::of(&io::stdout()).table(&["group", "a plugin that", "expected", "held by"]);
    for row in chosen(args)? {
        let held_by: Vec<_> = row.held_by.iter().map(ToString::to_string).collect();
        rows.add_row([row.group.name(), row.name, &row.expected.to_string(), &held_by.join(", ")]);
    }
    human::result(format!("{}\n", human::rendered(rows, 3)).as_bytes())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn chosen_by(arguments: &[&str]) -> Vec<Row> {
        let line = ["plugin-host", "prove"].iter().chain(arguments);
        let Ok(Command::Prove(args)) = Cli::try_parse_from(line).map(|cli| cli.command) else {
            panic!("{arguments:?} are understood");
        };
        chosen(&args).expect("there are such rows")
    }

    #[test]
    fn every_twenty_fourth_row_is_few_and_from_every_group() {
        let (all, few) = (chosen_by(&[]), chosen_by(&["--every", "24"]));
        assert_eq!(few.len(), all.len().div_ceil(24));
        let from = |group| few.iter().any(|row| row.group == group);
        assert!(Group::ALL.into_iter().all(from));
    }

    #[test]
    fn what_is_too_long_to_show_is_cut_between_characters() {
        assert_eq!(cut("größe", 3), "grö…");
        assert_eq!(cut("größe", 5), "größe");
    }
}
