//! `plugin-host quarantine`: which libraries have crashed too often, and making them loadable again.
//!
//! Runs in the application's process. Owns where the file is by default. Never loads anything.
//!
//! | key of its JSON object | what it is |
//! | --- | --- |
//! | `libraries` | of `list`: `digest`, `path`, `since` (`null`: not quarantined), `crashes`: `time`, `plugin`, `cause` |
//! | `cleared` | of `clear`: how many libraries it was |

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use comfy_table::Cell;
use sandbox_core::{LibraryDigest, QuarantineRecord, QuarantineStore};
use serde_json::json;

use crate::cli::{QuarantineAction, QuarantineArgs};
use crate::failure::{Exit, Failure};
use crate::output::human::Look;
use crate::output::{escape, human, json as objects};

/// Lists or clears.
pub(crate) fn execute(args: &QuarantineArgs) -> Result<(), Failure> {
    let shown = match &args.action {
        QuarantineAction::List => {
            let libraries = open(args.file.as_deref())?.list()?;
            let objects: Vec<_> = libraries.iter().map(object).collect();
            (json!({ "libraries": objects }), table(Look::of(&io::stdout()), &libraries))
        }
        QuarantineAction::Clear { all: true, .. } => {
            let path = file(args.file.as_deref())?;
            // A file that cannot be read cannot be opened as a store either: `clear_all` is for that one too.
            let cleared = QuarantineStore::clear_file(&path)?;
            (json!({ "cleared": cleared }), format!("{}\n", counted(cleared)))
        }
        QuarantineAction::Clear { libraries, .. } => {
            let store = open(args.file.as_deref())?;
            let mut cleared = 0_usize;
            for library in libraries {
                cleared = cleared.saturating_add(clear(&store, library)?);
            }
            (json!({ "cleared": cleared }), format!("{}\n", counted(cleared)))
        }
    };
    match args.json {
        true => objects::print("quarantine", shown.0, None),
        false => human::result(shown.1.as_bytes()),
    }
}

/// The store in `path`, or in the user's state folder.
pub(super) fn open(path: Option<&Path>) -> Result<QuarantineStore, Failure> {
    Ok(QuarantineStore::open(file(path)?)?)
}

/// Where the file is; the folder of the default one is made if need be.
fn file(path: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = path {
        return Ok(path.to_owned());
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let folder = state.map(|state| state.join("plugin-host")).ok_or_else(|| {
        let message = "there is no state folder: neither XDG_STATE_HOME nor HOME is an absolute path";
        Failure::new(Exit::Usage, "usage", message.to_owned()).with_help("name a file")
    })?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|error| Failure::of_file("cannot make", &folder, &error))?;
    Ok(folder.join("quarantine.json"))
}

/// Forgets one library, by its digest, its file, or where it was.
fn clear(store: &QuarantineStore, library: &str) -> Result<usize, Failure> {
    if let Ok(digest) = library.parse::<LibraryDigest>() {
        return match store.clear(&digest)? {
            true => Ok(1),
            false => Err(unknown(library, "no crash of it is known")),
        };
    }
    // What stood there when it crashed may be another library by now: both are meant.
    let was_there = store.clear_path(library)?;
    let is_there = LibraryDigest::of_file(library);
    let also = match &is_there {
        Ok(digest) => usize::from(store.clear(digest)?),
        Err(_) => 0,
    };
    match (was_there.saturating_add(also), is_there) {
        (0, Err(error)) => Err(unknown(library, &error.to_string())),
        (0, Ok(_)) => Err(unknown(library, "no crash of it is known")),
        (count, _) => Ok(count),
    }
}

fn unknown(library: &str, why: &str) -> Failure {
    let failure =
        Failure::new(Exit::Usage, "not-quarantined", format!("nothing to clear for {library}: {why}"));
    failure.with_help("`plugin-host quarantine list` shows what is known")
}

fn counted(cleared: usize) -> String {
    match cleared {
        1 => "1 library is cleared".to_owned(),
        count => format!("{count} libraries are cleared"),
    }
}

fn object(library: &QuarantineRecord) -> serde_json::Value {
    let crashes: Vec<_> = library
        .crashes
        .iter()
        .map(|crash| {
            json!({ "time": objects::timestamp(crash.time), "plugin": crash.plugin, "cause": crash.cause })
        })
        .collect();
    json!({
        "digest": library.digest.to_string(),
        "path": library.path,
        "since": library.since.map(objects::timestamp),
        "crashes": crashes,
    })
}

fn table(look: Look, libraries: &[QuarantineRecord]) -> String {
    if libraries.is_empty() {
        return "no library has crashed\n".to_owned();
    }
    let mut table = look.table(&["digest", "quarantined since", "crashes", "the last", "path"]);
    for library in libraries {
        let since = library.since.map_or_else(|| "-".to_owned(), objects::timestamp);
        let last = library.crashes.last().map(|crash| crash.cause.clone()).unwrap_or_default();
        table.add_row([
            Cell::new(library.digest),
            Cell::new(since),
            Cell::new(library.crashes.len()),
            Cell::new(escape::line(&last)),
            Cell::new(escape::line(&library.path)),
        ]);
    }
    human::rendered(table, 3) + "\n"
}
