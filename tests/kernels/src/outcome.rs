//! What comes of a tier, as it was this time and as it must be: `expected.json`, held against it exactly.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jobs::{Job, Ran, given_up};

/// What came, or must come, of one tier on one kernel. Texts are those of the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outcome {
    /// The layers that `doctor` finds standing, in the order in which they are put up.
    pub(crate) stands: Vec<String>,
    /// Those that it does not, and why.
    pub(crate) missing: BTreeMap<String, String>,
    /// What comes of the main job with every required layer: `runs`, or why it is refused.
    pub(crate) strict: String,
    /// Where that is refused: with what is missing given up by name.
    pub(crate) weaker: Option<Weaker>,
    /// What comes of the containment suite, where plugins load at all; not there either, where nobody has put it down yet: every
    /// row must hold then.
    pub(crate) suite: Option<Suite>,
}

/// What the containment suite shows: every row that was tried and is not named here held, and its control did what it must
/// not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    /// Every so manieth row of the table was tried, from the first on: 1 for all of them.
    pub(crate) every: usize,
    pub(crate) not_held: Vec<String>,
    pub(crate) not_shown: Vec<String>,
    /// Which were tried, and why one of them did not hold or was not shown. Not put down: the table grows.
    #[serde(skip)]
    tried: BTreeMap<String, Option<String>>,
}

/// Why a control may show nothing, in the words of `plugin-host prove`.
const EXPLAINED: [&str; 3] = [
    "only root may do this outside",
    "this kernel does not have this",
    "a filter around this host refuses it outside too",
];

impl Suite {
    /// Why rows did not hold, or were not shown, a line each.
    pub(crate) fn why(&self) -> impl Iterator<Item = String> {
        let row = |(name, why): (&String, &Option<String>)| Some(format!("{name}: {}", why.as_ref()?));
        self.tried.iter().filter_map(row)
    }

    /// Rows that were not shown, and not because only root may or because this kernel does not have it.
    fn unexplained(&self) -> Vec<&str> {
        let of = |name: &&String| self.tried.get(*name).and_then(Option::as_deref);
        let is_unexplained = |name: &&String| of(name).is_none_or(|why| !EXPLAINED.contains(&why));
        self.not_shown.iter().filter(is_unexplained).map(String::as_str).collect()
    }

    /// How many rows were tried.
    pub(crate) fn tried(&self) -> usize {
        self.tried.len()
    }

    /// Those of `rows` that were tried here.
    fn among<'a>(&self, rows: &'a [String]) -> Vec<&'a str> {
        rows.iter().map(String::as_str).filter(|name| self.tried.contains_key(*name)).collect()
    }
}

/// The opted-in weaker mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Weaker {
    /// What was given up: as asked for, and as the report shows it.
    pub(crate) given_up: Vec<String>,
    /// `runs`, or why it is refused.
    pub(crate) result: String,
}

/// By kernel series, then by tier.
pub(crate) type Expected = BTreeMap<String, BTreeMap<String, Outcome>>;

/// `runs`, of a job that has made its picture.
pub(crate) const RUNS: &str = "runs";

/// Of what the programs said.
pub(crate) fn outcome(ran: &[Ran], every: Option<NonZeroUsize>) -> Result<Outcome> {
    let of = |job| ran.iter().find(|ran| ran.job == job);
    if let Some(broken) = of(Job::Broken) {
        anyhow::bail!("the tier could not be set up: {}", broken.stderr);
    }
    let doctor = of(Job::Doctor).context("the doctor was not heard")?;
    let diagnosis: Value = serde_json::from_str(&doctor.stdout).with_context(|| {
        format!("the doctor ended with {:?} and said {}{}", doctor.code, doctor.stdout, doctor.stderr)
    })?;
    let layers = layers(&diagnosis)?;
    let is_healthy = given_up(&doctor.stdout).is_empty();
    ensure!(
        doctor.code == Some(i32::from(!is_healthy)),
        "the doctor ended with {:?}, which does not fit what it said",
        doctor.code
    );
    let stands: Vec<String> =
        layers.iter().filter(|(_, why)| why.is_none()).map(|(layer, _)| layer.clone()).collect();
    let missing: BTreeMap<String, String> =
        layers.into_iter().filter_map(|(layer, why)| Some((layer, why?))).collect();
    let strict = main_job(of(Job::Strict).context("the main job was not heard of")?, &stands, &[])?;
    let weaker = match of(Job::Weaker) {
        None => None,
        Some(ran) => {
            let given_up = given_up(&doctor.stdout);
            let result = main_job(ran, &stands, &given_up)?;
            Some(Weaker { given_up, result })
        }
    };
    let suite = of(Job::Suite).map(|ran| suite(ran, every.map_or(1, NonZeroUsize::get))).transpose()?;
    Ok(Outcome { stands, missing, strict, weaker, suite })
}

/// What the containment suite said.
fn suite(ran: &Ran, every: usize) -> Result<Suite> {
    let said: Value = serde_json::from_str(&ran.stdout).with_context(|| {
        format!("the suite ended with {:?} and said {}{}", ran.code, ran.stdout, ran.stderr)
    })?;
    let rows = said["rows"].as_array().with_context(|| format!("a suite without rows: {}", ran.stdout))?;
    ensure!(!rows.is_empty(), "the suite has no rows");
    let mut suite = Suite { every, not_held: Vec::new(), not_shown: Vec::new(), tried: BTreeMap::new() };
    for row in rows {
        let name = row["name"].as_str().context("a row without a name")?.to_owned();
        suite.tried.insert(name.clone(), row["why"].as_str().map(str::to_owned));
        match row["verdict"].as_str() {
            Some("held") => {}
            Some("not-held") => suite.not_held.push(name),
            Some("not-shown") => suite.not_shown.push(name),
            other => anyhow::bail!("{name}: the verdict is {other:?}"),
        }
    }
    let left = said["left_behind"].as_array().context("nothing is said of what is left behind")?;
    ensure!(left.is_empty(), "the suite left behind {left:?}");
    let fits = ran.code == Some(i32::from(!suite.not_held.is_empty()));
    ensure!(fits, "the suite ended with {:?}, which does not fit what it said", ran.code);
    Ok(suite)
}

/// Each layer's name, and why it does not stand.
fn layers(report: &Value) -> Result<Vec<(String, Option<String>)>> {
    let layers = report["layers"].as_array().context("a report without layers")?;
    let row = |layer: &Value| {
        let name = layer["layer"].as_str()?.to_owned();
        match layer["enforced"].as_bool()? {
            true => Some((name, None)),
            false => Some((name, Some(layer["why_not"].as_str()?.to_owned()))),
        }
    };
    layers.iter().map(|layer| row(layer).context("a layer without a state")).collect()
}

/// What came of the main job. One that runs has made a picture under the very layers that the doctor has found, and its report
/// shows what was given up.
fn main_job(ran: &Ran, stands: &[String], given_up: &[String]) -> Result<String> {
    let said: Value = serde_json::from_str(&ran.stdout)
        .with_context(|| format!("it ended with {:?} and said {}{}", ran.code, ran.stdout, ran.stderr))?;
    if ran.code == Some(0) {
        ensure!(ran.png, "it ended well and made no picture");
        let under: Vec<String> = layers(&said["report"])?
            .into_iter()
            .filter(|(_, why)| why.is_none())
            .map(|(layer, _)| layer)
            .collect();
        ensure!(under == stands, "it ran under {under:?}, and the doctor found {stands:?}");
        let rows = said["report"]["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shown: Vec<_> = rows.iter().filter(|row| row["demand"] == "best-effort").collect();
        let shown: Vec<_> = shown.iter().filter_map(|row| row["layer"].as_str()).collect();
        ensure!(shown == given_up, "the report shows {shown:?} as given up, and it was {given_up:?}");
        return Ok(RUNS.to_owned());
    }
    ensure!(!ran.png, "it has failed, and made a picture");
    let (kind, message) = (said["error"]["kind"].as_str(), said["error"]["message"].as_str());
    Ok(format!(
        "{}: {}",
        kind.context("an error of no kind")?,
        message.context("an error without a message")?
    ))
}

/// What differs, a line each.
pub(crate) fn differences(expected: &Outcome, came: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |what: &str, expected: &str, came: &str| {
        if expected != came {
            lines.push(format!("{what}: expected {expected:?}, came {came:?}"));
        }
    };
    line("layers that stand", &expected.stands.join(" "), &came.stands.join(" "));
    for layer in expected.missing.keys().chain(came.missing.keys()) {
        let of = |outcome: &Outcome| outcome.missing.get(layer).cloned().unwrap_or_default();
        line(&format!("why {layer} is missing"), &of(expected), &of(came));
    }
    line("strict", &expected.strict, &came.strict);
    let text = |weaker: &Option<Weaker>, of: fn(&Weaker) -> String| {
        weaker.as_ref().map_or_else(|| "not tried".to_owned(), of)
    };
    let given_up = |weaker: &Weaker| weaker.given_up.join(" ");
    line("given up by name", &text(&expected.weaker, given_up), &text(&came.weaker, given_up));
    let result = |weaker: &Weaker| weaker.result.clone();
    line("weaker", &text(&expected.weaker, result), &text(&came.weaker, result));
    match (&expected.suite, &came.suite) {
        (Some(must), Some(came)) => {
            // What must come of a part is what must come of those rows.
            let rows = |rows: &[String]| came.among(rows).join("; ");
            line("rows that do not hold", &rows(&must.not_held), &rows(&came.not_held));
            line("rows not shown", &rows(&must.not_shown), &rows(&came.not_shown));
        }
        // Nobody has put down what must come of it there: that every row holds, and that a control shows it or says why not.
        (None, Some(came)) => {
            line("rows that do not hold", "", &came.not_held.join("; "));
            line("rows not shown", "", &came.unexplained().join("; "));
        }
        (Some(_), None) => line("the containment suite", "tried", "not tried"),
        (None, None) => {}
    }
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(job: Job, code: i32, said: Value, png: bool) -> Ran {
        Ran { job, code: Some(code), stdout: said.to_string(), stderr: String::new(), png }
    }

    fn layer(name: &str, demand: &str, why_not: Option<&str>) -> Value {
        serde_json::json!({ "layer": name, "demand": demand, "enforced": why_not.is_none(), "why_not": why_not })
    }

    fn doctor(code: i32) -> Ran {
        let layers = [layer("seccomp", "required", None), layer("empty-root", "required", Some("EPERM"))];
        ran(Job::Doctor, code, serde_json::json!({ "layers": layers }), false)
    }

    fn refused() -> Ran {
        let error = serde_json::json!({ "kind": "layer-missing", "message": "no empty-root" });
        ran(Job::Strict, 3, serde_json::json!({ "error": error }), false)
    }

    fn weaker(demand: &str, png: bool) -> Ran {
        let layers = [layer("seccomp", "required", None), layer("empty-root", demand, Some("EPERM"))];
        ran(Job::Weaker, 0, serde_json::json!({ "report": { "layers": layers } }), png)
    }

    #[test]
    fn a_refusal_and_the_weaker_mode_are_put_down_in_the_programs_words() {
        let outcome =
            outcome(&[doctor(1), refused(), weaker("best-effort", true)], None).expect("all was said");
        assert_eq!(outcome.stands, ["seccomp"]);
        assert_eq!(outcome.missing["empty-root"], "EPERM");
        assert_eq!(outcome.strict, "layer-missing: no empty-root");
        let expected = Weaker { given_up: vec!["empty-root".to_owned()], result: RUNS.to_owned() };
        assert_eq!(outcome.weaker, Some(expected));
    }

    #[test]
    fn what_does_not_fit_together_is_no_outcome() {
        for (wrong, ran) in [
            ("a doctor that calls it healthy", [doctor(0), refused(), weaker("best-effort", true)]),
            ("a report that hides what was given up", [doctor(1), refused(), weaker("required", true)]),
            ("a job without a picture", [doctor(1), refused(), weaker("best-effort", false)]),
        ] {
            assert!(outcome(&ran, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_row_of_the_suite_that_turns_is_a_difference() {
        let row = |verdict: &str| serde_json::json!({ "name": "reads a file", "verdict": verdict });
        let said = |verdict: &str| serde_json::json!({ "rows": [row(verdict)], "left_behind": [] });
        let of = |verdict: &str, code| {
            let suite = ran(Job::Suite, code, said(verdict), false);
            outcome(&[doctor(1), refused(), weaker("best-effort", true), suite], None).expect("all was said")
        };
        let (held, not_held) = (of("held", 0), of("not-held", 1));
        assert_eq!(differences(&held, &held), Vec::<String>::new());
        assert_eq!(
            differences(&held, &not_held),
            [r#"rows that do not hold: expected "", came "reads a file""#]
        );
    }

    #[test]
    fn a_part_of_the_suite_is_held_against_what_must_come_of_those_rows() {
        let row =
            |name: &str, verdict: &str| serde_json::json!({ "name": name, "verdict": verdict, "why": "so" });
        let of = |rows: &[Value], every| {
            let said = serde_json::json!({ "rows": rows, "left_behind": [] });
            let suite = ran(Job::Suite, 0, said, false);
            let ran = [doctor(1), refused(), weaker("best-effort", true), suite];
            outcome(&ran, NonZeroUsize::new(every)).expect("all was said")
        };
        let all = of(&[row("first", "held"), row("second", "not-shown")], 1);
        let part = of(&[row("first", "held")], 2);
        let worse = of(&[row("first", "not-shown")], 2);
        assert_eq!(differences(&all, &part), Vec::<String>::new());
        assert_eq!(differences(&all, &worse), [r#"rows not shown: expected "", came "first""#]);
    }

    #[test]
    fn where_nothing_is_put_down_of_the_suite_every_row_must_hold_and_be_shown_or_say_why_not() {
        let of = |verdict: &str, why: Option<&str>| {
            let row = serde_json::json!({ "name": "a row", "verdict": verdict, "why": why });
            let said = serde_json::json!({ "rows": [row], "left_behind": [] });
            let suite = ran(Job::Suite, i32::from(verdict == "not-held"), said, false);
            let ran = [doctor(1), refused(), weaker("best-effort", true), suite];
            outcome(&ran, Some(NonZeroUsize::MIN)).expect("all was said")
        };
        let nothing =
            outcome(&[doctor(1), refused(), weaker("best-effort", true)], None).expect("all was said");
        for (verdict, why, is_well) in [
            ("held", None, true),
            ("not-shown", Some("only root may do this outside"), true),
            ("not-shown", Some("this kernel does not have this"), true),
            ("not-shown", Some("outside it came to: EIO"), false),
            ("not-held", Some("expected EPERM, came to got it"), false),
        ] {
            let differences = differences(&nothing, &of(verdict, why));
            assert_eq!(differences.is_empty(), is_well, "{verdict} {why:?}: {differences:?}");
        }
        assert_eq!(differences(&of("held", None), &nothing).len(), 1, "a suite that is left out");
    }
}
