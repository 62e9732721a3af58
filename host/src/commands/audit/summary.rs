//! Sums: how often what was granted and denied, by plugin and permission, and what most often.
//!
//! Runs in the application's process. Owns the bounds on what is remembered of a log, and says when they were reached.
//!
//! Keys of its JSON object: `first` and `last` time; `counts`, each with `plugin`, `permission`, `granted`, `count`, `only_counted`
//! (those that the log has as a number) and `most`: `object`, `count`; `ends`: `plugin`, `cause`, `count`; `opened`, `dropped`,
//! `lost`; `left_out`: how many were not counted by plugin or object, since there were too many different ones.

use std::collections::BTreeMap;
use std::time::SystemTime;

use comfy_table::Cell;
use sandbox_core::{AuditEvent, AuditRecord};
use serde_json::{Value, json};

use super::list::timestamp;
use crate::output::human::Look;
use crate::output::{escape, human};

/// How much is remembered, in bytes: some hundred thousand different objects.
const MOST_BYTES: usize = 64 << 20;

/// What remembering one thing takes beside its texts.
const ONE_THING: usize = 128;

/// How many objects of one group are shown.
const SHOWN: usize = 3;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Summary {
    first: Option<SystemTime>,
    last: Option<SystemTime>,
    groups: BTreeMap<(String, String, bool), Group>,
    ends: BTreeMap<(String, String), u64>,
    /// How many bytes are remembered.
    bytes: usize,
    opened: u64,
    dropped: u64,
    lost: u64,
    left_out: u64,
}

/// The decisions about one plugin and permission with one verdict.
#[derive(Debug, Default)]
struct Group {
    count: u64,
    only_counted: u64,
    objects: BTreeMap<String, u64>,
}

fn add(to: &mut u64, count: u64) {
    *to = to.saturating_add(count);
}

impl Summary {
    /// Counts a record.
    pub(super) fn add(&mut self, record: &AuditRecord) {
        self.first = Some(self.first.map_or(record.time, |first| first.min(record.time)));
        self.last = Some(self.last.map_or(record.time, |last| last.max(record.time)));
        let plugin = || record.plugin.clone().unwrap_or_default();
        let (event, count) = record.event.counted();
        match event {
            AuditEvent::Opened { .. } => add(&mut self.opened, 1),
            AuditEvent::Dropped { count } => add(&mut self.dropped, *count),
            AuditEvent::Lost { count, .. } => add(&mut self.lost, *count),
            AuditEvent::Ended { cause, .. } => {
                let key = (plugin(), cause.clone());
                if self.ends.contains_key(&key) || self.has_room(key.0.len() + key.1.len()) {
                    add(self.ends.entry(key).or_default(), 1);
                } else {
                    add(&mut self.left_out, 1);
                }
            }
            _ => {}
        }
        let Some((permission, granted)) = event.verdict() else { return };
        let key = (plugin(), permission.unwrap_or("-").to_owned(), granted);
        if !self.groups.contains_key(&key) {
            if !self.has_room(key.0.len() + key.1.len()) {
                return add(&mut self.left_out, count);
            }
            self.groups.insert(key.clone(), Group::default());
        }
        let Some(group) = self.groups.get_mut(&key) else { return };
        add(&mut group.count, count);
        if !matches!(record.event, AuditEvent::Access { .. } | AuditEvent::ServiceCall { .. }) {
            add(&mut group.only_counted, count);
        }
        let object = match event {
            AuditEvent::Access { action, object, resolved, .. } => {
                format!("{action} {}", resolved.as_deref().unwrap_or(object)).trim_end().to_owned()
            }
            AuditEvent::ServiceCall { service, .. } => service.clone(),
            _ => return,
        };
        if let Some(known) = group.objects.get_mut(&object) {
            return add(known, count);
        }
        if !self.has_room(object.len()) {
            return add(&mut self.left_out, count);
        }
        if let Some(group) = self.groups.get_mut(&key) {
            group.objects.insert(object, count);
        }
    }

    /// Whether something more may be remembered, with so many bytes of text; counts it if so.
    fn has_room(&mut self, bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(bytes).saturating_add(ONE_THING);
        let room = bytes <= MOST_BYTES;
        if room {
            self.bytes = bytes;
        }
        room
    }

    pub(super) fn object(&self) -> Value {
        let groups = self.groups.iter().map(|((plugin, permission, granted), group)| {
            let most: Vec<_> =
                group.most().map(|(object, count)| json!({ "object": object, "count": count })).collect();
            json!({
                "plugin": plugin, "permission": permission, "granted": granted, "count": group.count,
                "only_counted": group.only_counted, "most": most,
            })
        });
        let ends = self
            .ends
            .iter()
            .map(|((plugin, cause), count)| json!({ "plugin": plugin, "cause": cause, "count": count }));
        json!({
            "first": self.first.map(timestamp), "last": self.last.map(timestamp),
            "counts": groups.collect::<Vec<_>>(), "ends": ends.collect::<Vec<_>>(),
            "opened": self.opened, "dropped": self.dropped, "lost": self.lost, "left_out": self.left_out,
        })
    }

    pub(super) fn text(&self, look: Look) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else { return "no records\n".to_owned() };
        let mut text = format!("{} to {}\n", timestamp(first), timestamp(last));
        if !self.groups.is_empty() {
            let mut table = look.table(&["plugin", "permission", "verdict", "count", "most often"]);
            for ((plugin, permission, granted), group) in &self.groups {
                let most: Vec<_> = group
                    .most()
                    .map(|(object, count)| format!("{} ({count})", escape::line(object)))
                    .collect();
                let more = group.objects.len().saturating_sub(SHOWN);
                let more = if more > 0 { format!(", {more} more") } else { String::new() };
                table.add_row([
                    Cell::new(escape::line(plugin)),
                    Cell::new(escape::line(permission)),
                    Cell::new(if *granted { "granted" } else { "denied" }),
                    Cell::new(group.count),
                    Cell::new(most.join(", ") + &more),
                ]);
            }
            text.push_str(&format!("\n{}\n", human::rendered(table, 4)));
        }
        if !self.ends.is_empty() {
            let mut table = look.table(&["plugin", "ended", "count"]);
            for ((plugin, cause), count) in &self.ends {
                let (plugin, cause) = (escape::line(plugin), escape::line(cause));
                table.add_row([Cell::new(plugin), Cell::new(cause), Cell::new(count)]);
            }
            text.push_str(&format!("\n{}\n", human::rendered(table, 1)));
        }
        let only_counted =
            self.groups.values().fold(0_u64, |sum, group| sum.saturating_add(group.only_counted));
        let notes = [
            (only_counted, "were repeated or came too fast, and are in the log as a number"),
            (self.dropped, "events came too fast for the log, and are missing"),
            (self.lost, "lines could not be written, and are missing"),
            (self.left_out, "were too many different ones to be told apart here"),
        ];
        let notes: Vec<_> = notes
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, note)| look.doubtful(&format!("{count} {note}\n")))
            .collect();
        if !notes.is_empty() {
            text.push_str(&format!("\n{}", notes.concat()));
        }
        text
    }
}

impl Group {
    /// The most frequent objects.
    fn most(&self) -> impl Iterator<Item = (&String, u64)> {
        let mut objects: Vec<_> = self.objects.iter().map(|(object, count)| (object, *count)).collect();
        objects.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        objects.into_iter().take(SHOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_repeated_counts_as_often_as_it_came_and_gaps_are_named() {
        let mut summary = Summary::default();
        for line in [
            r#"{"v":1,"time":"2026-01-02T00:00:00Z","plugin":"a","kind":"access","permission":"file-read","action":"open","object":"/x","granted":false,"rule":"not granted"}"#,
            r#"{"v":1,"time":"2026-01-02T00:00:01Z","plugin":"a","kind":"repeated","count":40,"since":"2026-01-02T00:00:00Z","event":{"kind":"access","permission":"file-read","action":"open","object":"/x","granted":false,"rule":"not granted"}}"#,
            r#"{"v":1,"time":"2026-01-02T00:00:01Z","plugin":"a","kind":"folded","count":500,"since":"2026-01-02T00:00:00Z","permission":"file-read","granted":false}"#,
            r#"{"v":1,"time":"2026-01-02T00:00:02Z","kind":"dropped","count":7}"#,
            r#"{"v":1,"time":"2026-01-02T00:00:02Z","plugin":"a","kind":"ended","cause":"it was unloaded"}"#,
        ] {
            summary.add(&line.parse().expect("a record"));
        }
        let object = summary.object();
        let counts = &object["counts"][0];
        assert_eq!((&counts["count"], &counts["only_counted"]), (&541.into(), &540.into()));
        assert_eq!(counts["most"][0], json!({ "object": "open /x", "count": 41 }));
        assert_eq!((&object["dropped"], &object["ends"][0]["count"]), (&7.into(), &1.into()));
        let text = summary.text(Look::PLAIN);
        for part in ["541", "open /x (41)", "7 events came too fast", "540 were repeated", "it was unloaded"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
