//! Text for people: tables, errors, and lines about what is going on.
//!
//! Runs in the application's process. Owns colours: only where the stream is a terminal that takes them, and NO_COLOR
//! is not set. Never panics when nobody reads, and escapes whatever comes from a plugin.

use std::io::{self, Write};
use std::os::fd::AsFd;

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use sandbox_core::{Cause, Demand, EndReport, EnforcementReport, LayerReport, ResourceUsage};

use super::escape;
use crate::failure::{Exit, Failure};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();

/// How one stream is to be written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    colour: bool,
    /// In columns; `None` where lines are not to be broken, which is wherever a program may read them.
    width: Option<u16>,
}

impl Look {
    /// What suits `stream`.
    pub(crate) fn of(stream: &(impl RawStream + AsFd)) -> Self {
        // Only a terminal has a width.
        let colour = AutoStream::choice(stream) != ColorChoice::Never;
        let width = terminal_size::terminal_size_of(stream).map(|(terminal_size::Width(columns), _)| columns);
        Self { colour, width }
    }

    /// Without colours, and lines as long as they come.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false, width: None };

    fn paint(self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    /// Less important than what stands beside it.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(DIM, text)
    }

    /// Bad news.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(RED, text)
    }

    /// News that may be bad.
    pub(crate) fn doubtful(self, text: &str) -> String {
        self.paint(YELLOW, text)
    }

    /// An empty table under these headings.
    pub(crate) fn table(self, headings: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header(headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Dim)));
        table
    }
}

/// How a layer stands, in a word.
fn standing(layer: &LayerReport, demand: Demand) -> Cell {
    match (layer.enforced, demand) {
        (true, _) => Cell::new("stands").fg(Color::Green),
        (false, Demand::Required) => Cell::new("MISSING").fg(Color::Red),
        (false, _) => Cell::new("missing").fg(Color::Yellow),
    }
}

/// What was asked of a layer, in a word or two.
pub(crate) fn asked(demand: Demand) -> &'static str {
    match demand {
        Demand::Required => "required",
        Demand::WhereAvailable => "if available",
        Demand::BestEffort => "best effort",
        _ => "other",
    }
}

/// The layers as a table, each under what `demand` says was asked of it.
pub(crate) fn layers(
    look: Look,
    report: &EnforcementReport,
    demand: impl Fn(&LayerReport) -> Demand,
) -> String {
    let mut table = look.table(&["layer", "asked", "state", "as read back, or why not"]);
    for layer in &report.layers {
        let demand = demand(layer);
        let why = layer.why_not.as_deref().filter(|_| !layer.enforced).unwrap_or(&layer.evidence);
        table.add_row([
            Cell::new(layer.layer.name()),
            Cell::new(asked(demand)),
            standing(layer, demand),
            Cell::new(escape::line(why)),
        ]);
    }
    rendered(table, 3)
}

/// The enforcement report as a table, with a line that sums it up.
pub(crate) fn report(look: Look, report: &EnforcementReport) -> String {
    let table = layers(look, report, |layer| layer.demand);
    let kernel = escape::line(&report.kernel);
    let missing: Vec<_> = report.missing().map(|layer| layer.layer.name()).collect();
    let count = report.layers.len();
    let sum = if missing.is_empty() {
        format!("all {count} layers stand, on Linux {kernel}")
    } else {
        let stand = count.saturating_sub(missing.len());
        let missing = missing.join(", ");
        look.doubtful(&format!("{stand} of {count} layers stand, on Linux {kernel}; missing: {missing}"))
    };
    format!("{table}\n{sum}")
}

/// What is known of how a plugin's process ended, but for the cause, which the error tells, and for what it printed.
pub(crate) fn end(look: Look, end: &EndReport) -> String {
    let shown = |head: String, text: String| format!("{head} {}", escape::block(&text, "  "));
    let fault = end.fault.as_ref().map(|fault| shown(look.bad("fault:"), fault.to_string()));
    // Of a forbidden call the cause says it all.
    let refused = end.refused.as_ref().filter(|_| !matches!(end.cause, Cause::ForbiddenCall { .. }));
    let refused = refused.map(|refused| shown(look.doubtful("last refused:"), refused.to_string()));
    let usage = look.dim(&used(&end.usage));
    fault.into_iter().chain(refused).chain([usage]).collect::<Vec<_>>().join("\n")
}

/// What a plugin has used, in a line: CPU time, and the most of the rest; of what it need not have used, only what it has.
fn used(usage: &ResourceUsage) -> String {
    let scratch = usage.scratch_bytes.map_or(0, |scratch| scratch.peak);
    let mut parts = vec![
        format!("{:.2} s of CPU time", usage.cpu_time.as_secs_f64()),
        format!("{} of memory at most", size(usage.memory_bytes.peak)),
    ];
    for (bytes, what) in [
        (scratch, "of scratch space at most"),
        (usage.printed_bytes, "printed"),
        (usage.dropped_output_bytes, "of that dropped"),
    ] {
        if bytes > 0 {
            parts.push(format!("{} {what}", size(bytes)));
        }
    }
    for (count, what) in [
        (usage.processes.peak, "processes of its own at most"),
        (usage.network_connections.peak, "connections at most"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    format!("it had used {}", parts.join(", "))
}

/// The table as text. Its first `whole` columns are never broken into lines: they are names.
pub(crate) fn rendered(mut table: Table, whole: usize) -> String {
    for column in table.column_iter_mut().take(whole) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.trim_fmt()
}

/// Writes a line to stderr. Whether anybody reads it does not matter.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes to stdout.
///
/// # Errors
/// That it could not be written; see [`Failure::of_stdout`].
pub(crate) fn result(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::of_stdout(&error))
}

/// Tells what went wrong and what to do about it.
pub(crate) fn print_failure(failure: &Failure) {
    if failure.exit != Exit::NobodyReads {
        note(&self::failure(Look::of(&io::stderr()), failure));
    }
}

/// What went wrong and what to do about it, as text.
pub(crate) fn failure(look: Look, failure: &Failure) -> String {
    let chain: Vec<_> = failure.chain.iter().map(|message| escape::block(message, "  ")).collect();
    let mut text = format!("{} {}", look.bad("error:"), chain.join(": "));
    if let Some(help) = &failure.help {
        text.push_str(&format!("\n{} {}", look.bold("help:"), escape::block(help, "  ")));
    }
    text
}

/// A number of bytes, for a person.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];
    if bytes < 1024 {
        return if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") };
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_sources_and_the_help_another() {
        let mut failure =
            Failure::new(Exit::Usage, "io", "cannot read x".to_owned()).with_help("check\x1b the path");
        failure.chain.push("no such\nhelp: run me".to_owned());
        assert_eq!(
            super::failure(Look::PLAIN, &failure),
            "error: cannot read x: no such\n  help: run me\nhelp: check\\u{1b} the path"
        );
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "1717986918.3 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
