//! What came, as tables: for a terminal, and as README.md and SECURITY.md carry it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::outcome::{Expected, Outcome, RUNS};
use crate::tiers::TIERS;

/// The documents that carry the table, between two marks.
const DOCUMENTS: [&str; 2] = ["README.md", "SECURITY.md"];
const BEGIN: &str = "<!-- tiers: made by tests/kernels/run --markdown -->\n";
const END: &str = "<!-- end of tiers -->";

/// How many layers there are in what came.
fn layers(outcome: &Outcome) -> String {
    format!("{} of {}", outcome.stands.len(), outcome.stands.len() + outcome.missing.len())
}

/// In few words, for a cell.
pub(crate) fn brief(outcome: &Outcome) -> String {
    let loads = match &outcome.weaker {
        None => "runs",
        Some(weaker) if weaker.result == RUNS => "refused; runs weakened",
        Some(_) => "refused",
    };
    let suite = match &outcome.suite {
        None => String::new(),
        Some(suite) => {
            let count = |rows: &[String], what| match rows.len() {
                0 => String::new(),
                number => format!(", {number} {what}"),
            };
            let (not_held, not_shown) =
                (count(&suite.not_held, "not held"), count(&suite.not_shown, "not shown"));
            let rows = match suite.every {
                1 => "all rows".to_owned(),
                every => format!("every {every}th row"),
            };
            match suite.not_held.is_empty() {
                true => format!("; {rows} held{not_shown}"),
                false => format!("; {rows}{not_held}{not_shown}"),
            }
        }
    };
    format!("{}: {loads}{suite}", layers(outcome))
}

/// The table in Markdown: a row for each tier, a column for each kernel.
pub(crate) fn markdown(expected: &Expected) -> String {
    let series = in_order(expected);
    let mut text = String::from("| tier | the host is | given up by name to load |");
    series.iter().for_each(|series| text.push_str(&format!(" {series} |")));
    text.push_str("\n| --- | --- | --- |");
    series.iter().for_each(|_| text.push_str(" --- |"));
    text.push('\n');
    for tier in TIERS {
        let of: Vec<Option<&Outcome>> = series
            .iter()
            .map(|series| expected.get(*series).and_then(|tiers| tiers.get(tier.name)))
            .collect();
        let given_up = of.iter().flatten().find_map(|outcome| outcome.weaker.as_ref());
        let given_up = match given_up {
            None => "nothing".to_owned(),
            Some(weaker) if weaker.result == RUNS => code(&weaker.given_up),
            Some(weaker) => format!("in vain: {}", code(&weaker.given_up)),
        };
        text.push_str(&format!("| `{}` | {} | {given_up} |", tier.name, tier.what));
        for outcome in of {
            text.push_str(&format!(" {} |", outcome.map_or_else(|| "not tried".to_owned(), brief)));
        }
        text.push('\n');
    }
    text
}

fn code(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The kernels, the newest first.
fn in_order(expected: &Expected) -> Vec<&str> {
    let numbers =
        |series: &str| -> Vec<u32> { series.split('.').filter_map(|part| part.parse().ok()).collect() };
    let by_number: BTreeMap<_, _> =
        expected.keys().map(|series| (numbers(series), series.as_str())).collect();
    by_number.into_values().rev().collect()
}

/// Each document with the table in it as it has to be, beside how it is.
fn documents(root: &Path, table: &str) -> Result<Vec<(&'static str, String, String)>> {
    let mut all = Vec::new();
    for name in DOCUMENTS {
        let is = fs::read_to_string(root.join(name)).with_context(|| format!("reading {name}"))?;
        let (before, rest) =
            is.split_once(BEGIN).with_context(|| format!("{name} has no {}", BEGIN.trim()))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("{name} has no {END}"))?;
        let must = format!("{before}{BEGIN}{table}{END}{after}");
        all.push((name, is, must));
    }
    Ok(all)
}

/// The documents in which the table is not as it has to be.
pub(crate) fn outdated(root: &Path, expected: &Expected) -> Result<Vec<&'static str>> {
    let documents = documents(root, &markdown(expected))?;
    Ok(documents.into_iter().filter(|(_, is, must)| is != must).map(|(name, ..)| name).collect())
}

/// Puts the table into them.
pub(crate) fn put(root: &Path, expected: &Expected) -> Result<()> {
    for (name, is, must) in documents(root, &markdown(expected))? {
        if is != must {
            fs::write(root.join(name), must).with_context(|| format!("writing {name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_carry_the_table_of_what_must_come() {
        let root = crate::root();
        let expected = crate::expected(&root).expect("expected.json can be read");
        let outdated = outdated(&root, &expected).expect("the documents can be read");
        assert!(outdated.is_empty(), "tests/kernels/run --markdown prints what belongs into {outdated:?}");
    }
}
