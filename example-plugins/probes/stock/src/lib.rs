//! A plugin made of libraries that know nothing of a sandbox: SQLite, an HTTP client, the standard library's processes.
//!
//! Runs in a helper, and unconfined in the tests' control processes.

use std::process::Command;

use plugin_abi::{Plugin, PluginError, PluginResult, export_plugin};

struct Stock;

impl Plugin for Stock {
    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        let payload = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
        let done = match method {
            "sqlite" => sqlite(payload),
            "sqlite_read" => sqlite_read(payload),
            "http" => http(payload),
            "command" => command(payload),
            other => return Err(PluginError::unknown_method(other)),
        };
        Ok(match done {
            Ok(got) => format!("ok {got}"),
            Err(error) => format!("error {error}"),
        }
        .into_bytes())
    }
}

type Done = Result<String, Box<dyn std::error::Error>>;

/// Makes a table in the database at `path`, writes to it in transactions, rolls one back, and adds up what is there.
fn sqlite(path: &str) -> Done {
    let mut database = rusqlite::Connection::open(path)?;
    database.execute_batch("CREATE TABLE IF NOT EXISTS numbers (n INTEGER NOT NULL)")?;
    let kept = database.transaction()?;
    for n in 1..=100 {
        kept.execute("INSERT INTO numbers VALUES (?1)", [n])?;
    }
    kept.commit()?;
    let dropped = database.transaction()?;
    dropped.execute("DELETE FROM numbers", [])?;
    dropped.rollback()?;
    drop(database);
    sqlite_read(path)
}

fn sqlite_read(path: &str) -> Done {
    let database = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sum: i64 = database.query_row("SELECT sum(n) FROM numbers", [], |row| row.get(0))?;
    Ok(sum.to_string())
}

fn http(url: &str) -> Done {
    Ok(ureq::get(url).call()?.body_mut().read_to_string()?)
}

/// Runs a program: its path and arguments, one a line. Answers its exit code and what it printed.
fn command(lines: &str) -> Done {
    let mut words = lines.lines();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    let code = output.status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    Ok(format!("{code} {}", String::from_utf8_lossy(&output.stdout)))
}

export_plugin!(Stock, id: "probe-stock", description: "stock libraries at work");
