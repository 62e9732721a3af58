//! What a plugin prints: how much of it is taken, and how much is kept.
//!
//! Runs in the host. Owns the bounds: what is over is counted and dropped, never waited with, so that neither the plugin nor
//! the host is held up. The last of what was dropped is kept apart: why a plugin has ended it says last.

use std::time::{Duration, Instant};

use crate::host::events::escaped_char;
use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::shared::policy::ResourceLimits;

/// How much of what a plugin prints is kept.
const KEPT_BYTES: usize = 64 << 10;

/// How much of the last of what was dropped is kept.
const KEPT_DROPPED_BYTES: usize = 4 << 10;

/// For how long a rate counts.
const WINDOW: Duration = Duration::from_secs(1);

/// What one plugin has printed.
#[derive(Debug, Default)]
pub(in crate::host) struct Printed {
    kept: Vec<u8>,
    /// The last of what was dropped since anything was taken, and how much that was.
    dropped: Vec<u8>,
    dropped_bytes: u64,
    all_bytes: u64,
    all_dropped_bytes: u64,
    most: Option<u64>,
    most_per_window: Option<u64>,
    window: Option<Instant>,
    in_window: u64,
}

impl Printed {
    fn take(&mut self, bytes: &[u8], now: Instant) {
        if self.window.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.window, self.in_window) = (Some(now), 0);
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let taken = self.all_bytes.saturating_sub(self.all_dropped_bytes);
        let left = |most: Option<u64>, used: u64| most.map_or(u64::MAX, |most| most.saturating_sub(used));
        let room = left(self.most, taken).min(left(self.most_per_window, self.in_window)).min(len);
        self.all_bytes = self.all_bytes.saturating_add(len);
        self.in_window = self.in_window.saturating_add(room);
        let (taken, over) =
            bytes.split_at_checked(usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or((bytes, &[]));
        if !taken.is_empty() {
            let before = self.dropped_text();
            self.kept.extend(before);
            (self.dropped, self.dropped_bytes) = (Vec::new(), 0);
            self.kept.extend_from_slice(taken);
            keep_last(&mut self.kept, KEPT_BYTES);
        }
        let over_len = len.saturating_sub(room);
        self.all_dropped_bytes = self.all_dropped_bytes.saturating_add(over_len);
        self.dropped_bytes = self.dropped_bytes.saturating_add(over_len);
        self.dropped
            .extend_from_slice(over.get(over.len().saturating_sub(KEPT_DROPPED_BYTES)..).unwrap_or(over));
        keep_last(&mut self.dropped, KEPT_DROPPED_BYTES);
    }

    /// What stands in the place of what was dropped last: how much is missing, and the last of it.
    fn dropped_text(&self) -> Vec<u8> {
        let kept = u64::try_from(self.dropped.len()).unwrap_or(u64::MAX);
        match self.dropped_bytes.saturating_sub(kept) {
            0 => self.dropped.clone(),
            missing => [format!("\n[{missing} bytes dropped]\n").as_bytes(), &self.dropped].concat(),
        }
    }

    fn all(&self) -> Vec<u8> {
        [self.kept.as_slice(), &self.dropped_text()].concat()
    }
}

fn keep_last(bytes: &mut Vec<u8>, most: usize) {
    bytes.drain(..bytes.len().saturating_sub(most));
}

impl Instance {
    /// The plugin has printed something.
    pub(crate) fn print(&self, bytes: &[u8]) {
        lock(&self.printed).take(bytes, Instant::now());
    }

    pub(in crate::host) fn set_output_limits(&self, limits: &ResourceLimits) {
        let mut printed = lock(&self.printed);
        printed.most = limits.max_output_bytes;
        printed.most_per_window = limits.max_output_bytes_per_sec;
    }

    /// How many bytes it has printed, and how many of them were dropped.
    pub(in crate::host) fn printed_bytes(&self) -> (u64, u64) {
        let printed = lock(&self.printed);
        (printed.all_bytes, printed.all_dropped_bytes)
    }

    /// The last `most` bytes of what the plugin has printed, as it has.
    pub(in crate::host) fn printed_last(&self, most: usize) -> Vec<u8> {
        let mut all = lock(&self.printed).all();
        keep_last(&mut all, most);
        all
    }

    /// The last of what the plugin has printed, escaped but for line ends and tabs.
    pub(crate) fn printed(&self) -> String {
        let printed = lock(&self.printed).all();
        let escape = |c| {
            let plain = matches!(c, '\n' | '\t');
            plain.then_some(c).into_iter().chain((!plain).then(|| escaped_char(c)).into_iter().flatten())
        };
        String::from_utf8_lossy(&printed).chars().flat_map(escape).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_the_rate_is_taken_and_what_is_over_is_dropped_but_for_its_end() {
        let start = Instant::now();
        let mut printed = Printed { most_per_window: Some(10), ..Printed::default() };
        printed.take(b"0123456789", start);
        assert_eq!((printed.all(), printed.all_dropped_bytes), (b"0123456789".to_vec(), 0), "just as much");
        printed.take(b"x", start + WINDOW / 2);
        assert_eq!((printed.all_bytes, printed.all_dropped_bytes), (11, 1), "and one more");
        assert_eq!(printed.all(), b"0123456789x", "the end of what is dropped is there");
        printed.take(&[b'y'; 8 << 10], start + WINDOW / 2);
        let text = String::from_utf8(printed.all()).unwrap();
        assert!(text.starts_with("0123456789\n[4097 bytes dropped]\nyyy"), "{text}");
        assert_eq!(text.len(), 10 + "\n[4097 bytes dropped]\n".len() + KEPT_DROPPED_BYTES);
        printed.take(b"z", start + WINDOW);
        assert!(printed.all().ends_with(b"yz"), "another second has room again");
        assert_eq!(printed.all_dropped_bytes, 1 + (8 << 10));
    }

    #[test]
    fn what_is_over_all_is_dropped_for_good_and_nothing_grows() {
        let start = Instant::now();
        let mut printed = Printed { most: Some(1 << 20), ..Printed::default() };
        for second in 0..64 {
            printed.take(&[b'x'; 64 << 10], start + WINDOW * second);
        }
        assert_eq!((printed.all_bytes, printed.all_dropped_bytes), (4 << 20, 3 << 20));
        assert!(printed.all().len() <= KEPT_BYTES + KEPT_DROPPED_BYTES + 64);
        let mut none = Printed { most: Some(0), ..Printed::default() };
        none.take(b"last words", start);
        assert_eq!((none.all_dropped_bytes, none.all()), (10, b"last words".to_vec()));
    }
}
