//! The command line of the soak.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is said to whoever got it wrong.
pub(crate) const USAGE: &str = "usage: soak [--minutes M | --seconds S] [--threads N] [--seed S]
  --minutes, --seconds   how long, beside a tenth of it for warming up (one minute)
  --threads              how many threads work at the same time (4)
  --seed                 what each thread's steps follow from (the time; it is printed)";

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) time: Duration,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut options = Self { time: Duration::from_secs(60), threads: 4, seed: now.as_secs() };
        while let Some(name) = arguments.next() {
            let mut number = |least: u64, most: u64| {
                let value = arguments.next().ok_or_else(|| format!("{name} wants a number"))?;
                let number = value.parse().ok().filter(|number| (least..=most).contains(number));
                number.ok_or_else(|| format!("{name} is {value:?}: want {least} to {most}"))
            };
            match name.as_str() {
                "--minutes" => options.time = Duration::from_secs(number(1, 7 * 24 * 60)? * 60),
                "--seconds" => options.time = Duration::from_secs(number(1, 7 * 24 * 3600)?),
                "--threads" => options.threads = number(1, 64)? as usize,
                "--seed" => options.seed = number(0, u64::MAX)?,
                _ => return Err(format!("unknown argument {name:?}")),
            }
        }
        Ok(options)
    }
}
