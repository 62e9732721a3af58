//! `--learn`: lets through what is not granted, and says at the end which grants the run needed.
//!
//! Runs in the application's process. Keeps an audit log of its own while the plugin runs: what is suggested here is what
//! `plugin-host audit --suggest` would say of it.

use std::fs::File;
use std::io::BufReader;

use sandbox_core::{AuditLog, AuditReader, GrantSuggester, PluginSandbox};
use tempfile::TempDir;

use crate::commands::audit::suggest;
use crate::failure::Failure;
use crate::output::human::{Look, note};

/// What is learnt while a plugin runs.
pub(crate) struct Lesson {
    log: AuditLog,
    folder: TempDir,
}

impl Lesson {
    /// From now on everything is let through once, and written down.
    pub(crate) fn start(sandbox: &PluginSandbox) -> Result<Self, Failure> {
        let failed = |error| Failure::of_file("cannot write to", &std::env::temp_dir(), &error);
        let folder = tempfile::tempdir().map_err(failed)?;
        let log = AuditLog::open(folder.path().join("audit.jsonl")).map_err(failed)?;
        sandbox.audit_to(&log);
        sandbox.learn();
        Ok(Self { log, folder })
    }

    /// Says what was needed.
    pub(crate) fn tell(self) -> Result<(), Failure> {
        let Self { log, folder } = self;
        log.flush();
        let look = Look::of(&std::io::stderr());
        let mut suggester = GrantSuggester::new();
        // The oldest first.
        for path in log.paths().iter().rev().filter(|path| path.exists()) {
            let file = File::open(path).map_err(|error| Failure::of_file("cannot read", path, &error))?;
            AuditReader::new(BufReader::new(file)).flatten().for_each(|record| suggester.add(&record));
        }
        let missing = suggester.missing();
        note(&look.doubtful("what this run needed"));
        note(suggest::text(look, &suggester.finish(), missing).trim_end());
        drop((log, folder));
        Ok(())
    }
}
