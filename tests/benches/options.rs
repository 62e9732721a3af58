//! The command line of the benches.

use std::path::PathBuf;

/// What is said to whoever got it wrong.
pub(crate) const USAGE: &str =
    "usage: cargo bench -- [--quick] [--json FILE] [spawn] [call] [open] [read] [revoke] [memory]";

/// A table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panel {
    Spawn,
    Call,
    Open,
    Read,
    Revoke,
    Memory,
}

impl Panel {
    const ALL: [(&str, Self); 6] = [
        ("spawn", Self::Spawn),
        ("call", Self::Call),
        ("open", Self::Open),
        ("read", Self::Read),
        ("revoke", Self::Revoke),
        ("memory", Self::Memory),
    ];
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) panels: Vec<Panel>,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { quick: false, json: None, panels: Vec::new() };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {} // cargo's own
                "--quick" => options.quick = true,
                "--json" => options.json = Some(arguments.next().ok_or("--json wants a file")?.into()),
                name => {
                    let known = Panel::ALL.into_iter().find(|(known, _)| *known == name);
                    let (_, panel) = known.ok_or_else(|| format!("unknown argument {name:?}"))?;
                    options.panels.push(panel);
                }
            }
        }
        if options.panels.is_empty() {
            options.panels.extend(Panel::ALL.map(|(_, panel)| panel));
        }
        Ok(options)
    }

    /// How many rounds to measure, of so many in a full run.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }
}
