//! `plugin-host audit`: reads audit logs back, as a list, as sums, or as the grants that would have been needed.
//!
//! Runs in the application's process. Owns which records are meant, and how much of a log is held in memory: a log may be of
//! any size, and anybody may have written to it. Never stops at a line that is broken.
//!
//! | key of its JSON object | what it is |
//! | --- | --- |
//! | `files` | what was read |
//! | `lines`, `matched` | how many records were read, and how many were meant |
//! | `broken` | `count`, and `first`: some of the lines that are no records: `file`, `why` |
//! | `records`, `left_out` | the first records as they stand in the log, and how many more there are |
//! | `summary` | instead: see `summary` |
//! | `suggestions`, `missing` | instead: see `suggest`; and how many events the log itself says it does not have |

mod filter;
mod list;
pub(in crate::commands) mod suggest;
mod summary;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sandbox_core::{AuditReadError, AuditReader, AuditRecord, GrantSuggester};
use serde_json::{Value, json};

use self::filter::Filter;
use self::summary::Summary;
use crate::cli::AuditArgs;
use crate::failure::Failure;
use crate::output::human::{Look, note};
use crate::output::{escape, human, json as objects};

/// How many records a JSON object holds, how many bytes of them, and how many broken lines are named.
const MOST_RECORDS: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;
const MOST_BROKEN: usize = 20;

/// How many old files of one log are looked for: as many as there can be.
const MOST_ROTATED: u32 = 99;

/// What was read beside the records that were asked for.
#[derive(Debug, Default)]
struct Seen {
    lines: u64,
    matched: u64,
    /// Whether one was meant for what it tells, and not as a gap, which is always shown.
    found: bool,
    broken: u64,
    /// File and fault of the first broken lines.
    first_broken: Vec<(PathBuf, String)>,
}

/// Reads, and shows.
pub(crate) fn execute(args: &AuditArgs) -> Result<(), Failure> {
    let files = files(args);
    let filter = Filter::new(args);
    let look = Look::of(&io::stdout());
    let mut seen = Seen::default();
    if args.summary {
        let mut summary = Summary::default();
        read(&files, &filter, &mut seen, |record| {
            summary.add(record);
            Ok(())
        })?;
        if args.json {
            return print(&files, &seen, json!({ "summary": summary.object() }));
        }
        human::result(summary.text(look).as_bytes())?;
    } else if args.suggest {
        let mut suggester = GrantSuggester::new().fold_at(args.fold_at);
        read(&files, &filter, &mut seen, |record| {
            suggester.add(record);
            Ok(())
        })?;
        let missing = suggester.missing();
        let suggestions = suggester.finish();
        if args.json {
            let all: Vec<_> = suggestions.iter().map(suggest::object).collect();
            return print(&files, &seen, json!({ "suggestions": all, "missing": missing }));
        }
        human::result(suggest::text(look, &suggestions, missing).as_bytes())?;
    } else if args.json {
        let (mut records, mut bytes) = (Vec::new(), 0_usize);
        read(&files, &filter, &mut seen, |record| {
            if records.len() < MOST_RECORDS && bytes < MOST_BYTES {
                bytes = bytes.saturating_add(list::what(&record.event).len());
                records.push(serde_json::to_value(record).unwrap_or_default());
            }
            Ok(())
        })?;
        let left_out = seen.matched.saturating_sub(u64::try_from(records.len()).unwrap_or(u64::MAX));
        return print(&files, &seen, json!({ "records": records, "left_out": left_out }));
    } else {
        let mut out = BufWriter::new(io::stdout().lock());
        read(&files, &filter, &mut seen, |record| {
            writeln!(out, "{}", list::line(look, record)).map_err(|error| Failure::of_stdout(&error))
        })?;
        out.flush().map_err(|error| Failure::of_stdout(&error))?;
    }
    seen.tell();
    // A name that is misspelt finds nothing either.
    if !seen.found && (!args.plugins.is_empty() || !args.permissions.is_empty()) {
        note(&format!("no record matches (0 of {})", seen.lines));
    }
    Ok(())
}

fn print(files: &[PathBuf], seen: &Seen, found: Value) -> Result<(), Failure> {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let first: Vec<_> = seen
        .first_broken
        .iter()
        .map(|(file, why)| json!({ "file": file.display().to_string(), "why": why }))
        .collect();
    let mut object = json!({
        "files": files, "lines": seen.lines, "matched": seen.matched,
        "broken": { "count": seen.broken, "first": first },
    });
    if let (Value::Object(object), Value::Object(found)) = (&mut object, found) {
        object.extend(found);
    }
    objects::print("audit", object, None)
}

/// The files in the order in which they are read.
fn files(args: &AuditArgs) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for file in &args.files {
        if args.rotated {
            let old = (1..=MOST_ROTATED).rev().map(|number| {
                let mut name = file.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            });
            files.extend(old.filter(|old| old.exists()));
        }
        files.push(file.clone());
    }
    files
}

/// Hands every record that is meant to `each`.
fn read(
    files: &[PathBuf],
    filter: &Filter<'_>,
    seen: &mut Seen,
    mut each: impl FnMut(&AuditRecord) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for file in files {
        let unreadable = |error: &io::Error| Failure::of_file("cannot read", file, error);
        let from: Box<dyn Read> = if file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(file).map_err(|error| unreadable(&error))?)
        };
        for record in AuditReader::new(BufReader::with_capacity(64 << 10, from)) {
            match record {
                Ok(record) => {
                    seen.lines = seen.lines.saturating_add(1);
                    if filter.means(&record) {
                        seen.matched = seen.matched.saturating_add(1);
                        seen.found |= !filter::is_gap(&record.event);
                        each(&record)?;
                    }
                }
                Err(AuditReadError::Io { source, .. }) => return Err(unreadable(&source)),
                Err(broken) => {
                    seen.broken = seen.broken.saturating_add(1);
                    if seen.first_broken.len() < MOST_BROKEN {
                        seen.first_broken.push((file.clone(), broken.to_string()));
                    }
                }
            }
        }
    }
    Ok(())
}

impl Seen {
    /// Names the lines that are no records.
    fn tell(&self) {
        let look = Look::of(&io::stderr());
        for (file, why) in &self.first_broken {
            let text = escape::line(&format!("{}: {why}", file.display()));
            note(&format!("{} {text}", look.doubtful("no record:")));
        }
        let more = self.broken.saturating_sub(u64::try_from(self.first_broken.len()).unwrap_or(u64::MAX));
        if more > 0 {
            note(&format!("{} {more} more lines", look.doubtful("no record:")));
        }
    }
}
