//! Reads an audit log back, line by line.
//!
//! Runs wherever a log is read. Owns the bound on a line. Never stops at a line that is broken, and never holds more than
//! one.

use std::io::{self, BufRead};

use super::record::AuditRecord;

/// The longest line that is read: a few times the longest that is written.
const MOST_BYTES: usize = 256 << 10;

/// The records of an audit log, in their order. Lines that are none are errors between them; empty lines count as nothing.
///
/// ```
/// use sandbox_core::AuditReader;
/// let log = "{\"v\":1,\"time\":\"2026-01-01T12:00:00Z\",\"plugin\":\"a\",\"kind\":\"ended\",\"cause\":\"x\"}\n{\"v\":1,\"ti";
/// let mut reader = AuditReader::new(log.as_bytes());
/// assert!(reader.next().is_some_and(|record| record.is_ok()));
/// let broken = reader.next().and_then(Result::err);
/// assert!(broken.is_some_and(|error| error.to_string().starts_with("line 2: cut short")));
/// assert!(reader.next().is_none());
/// ```
#[derive(Debug)]
pub struct AuditReader<R> {
    from: R,
    line: u64,
    ended: bool,
}

/// A line that is no record, or a file that could not be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditReadError {
    /// This line is no record; the next may be one.
    #[error("line {line}: {why}")]
    Broken {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing more can be read.
    #[error("line {line} could not be read")]
    Io {
        /// The number of the line that was wanted, from 1.
        line: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl<R: BufRead> AuditReader<R> {
    /// Reads from the start of `from`.
    pub fn new(from: R) -> Self {
        Self { from, line: 0, ended: false }
    }

    /// The number of the line that was read last.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// One line without its end, or as much of it as is worth keeping; whether it had an end.
    fn next_line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = Vec::new();
        let mut any = false;
        loop {
            let piece = match self.from.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                return Ok(any.then_some((line, false)));
            }
            any = true;
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            // One byte more than may be is enough to know that it is too long.
            let room = (MOST_BYTES + 1).saturating_sub(line.len());
            line.extend(taken.iter().take(room));
            let used = end.map_or(piece.len(), |end| end + 1);
            self.from.consume(used);
            if end.is_some() {
                return Ok(Some((line, true)));
            }
        }
    }
}

impl<R: BufRead> Iterator for AuditReader<R> {
    type Item = Result<AuditRecord, AuditReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let line = match self.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(source) => {
                    self.ended = true;
                    return Some(Err(AuditReadError::Io { line: self.line + 1, source }));
                }
            };
            self.line += 1;
            let (bytes, whole) = line;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let record = if bytes.len() > MOST_BYTES {
                Err(format!("longer than {MOST_BYTES} bytes"))
            } else {
                let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
                text.and_then(str::parse)
            };
            let broken = |why: String| {
                let why = if whole { why } else { format!("cut short: {why}") };
                AuditReadError::Broken { line: self.line, why }
            };
            return Some(record.map_err(broken));
        }
        self.ended = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"time":"2026-01-01T12:00:00Z","plugin":"a","kind":"ended","cause":"x"}"#;

    fn read(bytes: &[u8]) -> Vec<Result<String, (u64, String)>> {
        AuditReader::new(io::BufReader::with_capacity(7, bytes))
            .map(|read| match read {
                Ok(record) => Ok(record.plugin.unwrap_or_default()),
                Err(AuditReadError::Broken { line, why }) => Err((line, why)),
                Err(other) => panic!("{other}"),
            })
            .collect()
    }

    #[test]
    fn a_broken_line_is_named_and_the_rest_is_read() {
        let mut log = format!("{GOOD}\n\nrubbish\n").into_bytes();
        log.extend(b"\xff\xfe\n");
        log.extend(format!("{}\n{GOOD}\r\n{}", "x".repeat(MOST_BYTES * 3), &GOOD[..30]).into_bytes());
        let read = read(&log);
        let lines: Vec<_> = read.iter().map(|read| read.as_ref().map_err(|(line, _)| *line)).collect();
        let good = "a".to_owned();
        assert_eq!(lines, [Ok(&good), Err(3), Err(4), Err(5), Ok(&good), Err(7)]);
        let why = |index: usize| read[index].as_ref().unwrap_err().1.as_str();
        assert!(why(3).starts_with("longer than"), "{}", why(3));
        assert!(why(5).starts_with("cut short"), "{}", why(5));
    }

    #[test]
    fn a_last_line_without_its_end_that_is_whole_is_read() {
        assert_eq!(read(GOOD.as_bytes()), [Ok("a".to_owned())]);
        assert_eq!(read(b""), []);
    }
}
