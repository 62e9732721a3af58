//! Samples by row and round, and the tables made of them.
//!
//! Owns the statistics. A ratio is the median, over the rounds, of the quotient of that round's two medians: what slows
//! the machine down for a second slows both down, and drops out.

use std::time::Duration;

use crate::options::Options;

const WIDTH: usize = 58;

/// One measured thing.
#[derive(Debug)]
struct Row {
    name: String,
    /// Samples of each round, in the panel's unit.
    rounds: Vec<Vec<f64>>,
    /// Of rows whose rounds come as summaries already: their 99th percentiles.
    p99s: Vec<f64>,
    /// The row whose quotient by this one is shown.
    against: Option<String>,
}

/// A panel: rows that were measured in turns.
#[derive(Debug)]
pub(crate) struct Figures {
    title: &'static str,
    unit: &'static str,
    rows: Vec<Row>,
    notes: Vec<String>,
    round: usize,
}

impl Figures {
    /// An empty panel.
    pub(crate) fn new(title: &'static str, unit: &'static str) -> Self {
        Self { title, unit, rows: Vec::new(), notes: Vec::new(), round: 0 }
    }

    /// Announces a row, so that rows stand in this order. `against` names the row that is divided by it.
    pub(crate) fn row(&mut self, name: impl Into<String>, against: Option<&str>) {
        let against = against.map(str::to_owned);
        self.rows.push(Row { name: name.into(), rounds: Vec::new(), p99s: Vec::new(), against });
    }

    /// Says something under the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Runs `round` so many times, and once before to warm up.
    pub(crate) fn rounds(&mut self, rounds: usize, mut round: impl FnMut(&mut Self)) {
        round(self);
        for row in &mut self.rows {
            row.rounds.clear();
            row.p99s.clear();
        }
        for number in 0..rounds {
            self.round = number;
            round(self);
        }
    }

    fn find(&mut self, name: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.name == name).expect("a row that was announced")
    }

    /// Adds a sample to a row.
    pub(crate) fn put(&mut self, name: &str, value: f64) {
        let round = self.round;
        let rounds = &mut self.find(name).rounds;
        rounds.resize_with(rounds.len().max(round + 1), Vec::new);
        rounds[round].push(value);
    }

    /// Adds a time, in microseconds.
    pub(crate) fn put_time(&mut self, name: &str, time: Duration) {
        self.put(name, micros(time));
    }

    /// Adds a whole round's median and 99th percentile, measured by somebody else.
    pub(crate) fn put_summary(&mut self, name: &str, median: f64, p99: f64) {
        self.put(name, median);
        self.find(name).p99s.push(p99);
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!("\n{:WIDTH$} {:>10} {:>10} {:>9}", self.title, "median", "p99", "ratio");
        for row in &self.rows {
            let Some((median, p99)) = row.summary() else {
                println!("  {:1$} {2:>10}", row.name, WIDTH - 2, "-");
                continue;
            };
            let p99 = p99.map_or_else(|| "-".to_owned(), shown);
            let ratio = self.ratio(row).map_or_else(String::new, |ratio| format!("{}x", shown(ratio)));
            println!("  {:1$} {2:>10} {p99:>10} {ratio:>9}", row.name, WIDTH - 2, shown(median));
        }
        for note in &self.notes {
            println!("  {note}");
        }
    }

    /// How many times this row its `against` is.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let against = self.rows.iter().find(|other| Some(&other.name) == row.against.as_ref())?;
        let pairs = against.rounds.iter().zip(&row.rounds);
        quantile(pairs.filter_map(|(theirs, own)| Some(median(theirs)? / median(own)?)).collect(), 0.5)
    }
}

impl Row {
    /// The median, and the 99th percentile where there are samples enough to speak of one.
    fn summary(&self) -> Option<(f64, Option<f64>)> {
        let samples: Vec<f64> = self.rounds.iter().flatten().copied().collect();
        let p99 = match (self.p99s.is_empty(), samples.len()) {
            (false, _) => median(&self.p99s),
            (true, 10..) => quantile(samples.clone(), 0.99),
            _ => None,
        };
        Some((median(&samples)?, p99))
    }
}

/// A time in microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples.to_vec(), 0.5)
}

fn quantile(mut samples: Vec<f64>, at: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().checked_sub(1)?;
    // In range, since `at` is between 0 and 1.
    samples.get((last as f64 * at).round() as usize).copied()
}

/// Three digits that count.
fn shown(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What the tables say, and on which machine.
pub(crate) fn print_head(options: &Options) {
    let kernel = rustix::system::uname();
    let cpus = crate::cpus::allowed().len();
    let user = if rustix::process::geteuid().is_root() { "root" } else { "an ordinary user" };
    println!(
        "Linux {}, {cpus} CPUs, as {user}{}{}",
        kernel.release().to_string_lossy(),
        if options.quick { "; quick, so the 99th percentiles mean little" } else { "" },
        if cfg!(debug_assertions) { "; NOT OPTIMISED" } else { "" },
    );
    println!(
        "Rows of a table were measured in turns. Ratio: how many times this row the row `sandbox` is; where a row\nis of a placement, the row `sandbox` of that placement."
    );
}

/// The same as a JSON document. Names are our own and need no escaping beyond Rust's.
pub(crate) fn json(options: &Options, all: &[Figures]) -> String {
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy();
    let mut rows = Vec::new();
    for figures in all {
        for row in &figures.rows {
            let number =
                |value: Option<f64>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
            let summary = row.summary();
            rows.push(format!(
                "    {{\"panel\": {:?}, \"row\": {:?}, \"unit\": {:?}, \"samples\": {}, \"median\": {}, \"p99\": {}, \
                 \"sandbox_over_this\": {}}}",
                figures.title,
                row.name,
                figures.unit,
                row.rounds.iter().map(Vec::len).sum::<usize>(),
                number(summary.map(|(median, _)| median)),
                number(summary.and_then(|(_, p99)| p99)),
                number(figures.ratio(row)),
            ));
        }
    }
    format!(
        "{{\n  \"kernel\": {kernel:?},\n  \"cpus\": {},\n  \"root\": {},\n  \"quick\": {},\n  \"rows\": [\n{}\n  ]\n}}\n",
        crate::cpus::allowed().len(),
        rustix::process::geteuid().is_root(),
        options.quick,
        rows.join(",\n"),
    )
}
