//! What `top` shows and what a key does to it.
//!
//! Runs in the application's process. Pure: figures and keys in, a picture's content and commands out. Nothing is ended or
//! revoked before it was confirmed.

use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use sandbox_core::{HostFigures, MonitorCommand};

use super::rows::{COLUMNS, Row, rows};
use crate::output::escape;

/// Everything that is shown.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) host: HostFigures,
    looked: Option<Instant>,
    /// In the order in which they are shown.
    pub(crate) rows: Vec<Row>,
    /// The plugin that keys are about.
    chosen: Option<String>,
    /// The index of the column that is sorted by.
    pub(crate) sorted_by: usize,
    pub(crate) reversed: bool,
    pub(crate) asking: Asking,
    /// What came of the last command, or is wrong.
    pub(crate) message: String,
}

/// What stands over the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Asking {
    #[default]
    Nothing,
    Help,
    /// Which of a plugin's permissions to revoke.
    Which {
        plugin: String,
        permissions: Vec<String>,
        at: usize,
    },
    /// Whether to do it.
    Sure {
        command: MonitorCommand,
        question: String,
    },
}

/// What a key leads to beside what is shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Nothing,
    Quit,
    Ask(MonitorCommand),
}

impl Model {
    /// The figures as they are now.
    pub(crate) fn take(&mut self, host: HostFigures, now: Instant) {
        let before = self.looked.replace(now).map(|then| (&self.host, now.saturating_duration_since(then)));
        self.rows = rows(&host, before);
        self.host = host;
        self.sort();
    }

    /// The row that keys are about: the first, until one is chosen.
    pub(crate) fn chosen(&self) -> Option<usize> {
        let found = self.rows.iter().position(|row| Some(&row.plugin) == self.chosen.as_ref());
        found.or((!self.rows.is_empty()).then_some(0))
    }

    fn chosen_row(&self) -> Option<&Row> {
        self.rows.get(self.chosen()?)
    }

    fn sort(&mut self) {
        let Some(column) = COLUMNS.get(self.sorted_by) else { return };
        // The largest first, and what is equal by name, so that nothing jumps.
        self.rows.sort_by(|a, b| {
            let order = (column.order)(b, a);
            let order = if self.reversed { order.reverse() } else { order };
            order.then_with(|| a.plugin.cmp(&b.plugin))
        });
    }

    /// A key was pressed.
    pub(crate) fn press(&mut self, key: KeyEvent) -> Reaction {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Reaction::Quit } else { Reaction::Nothing };
        }
        match std::mem::take(&mut self.asking) {
            Asking::Nothing => return self.press_in_table(key.code),
            Asking::Help => {}
            Asking::Which { plugin, permissions, at } => {
                self.press_in_list(key.code, plugin, permissions, at)
            }
            Asking::Sure { command, .. } => {
                if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                    return Reaction::Ask(command);
                }
                "nothing was done".clone_into(&mut self.message);
            }
        }
        Reaction::Nothing
    }

    fn press_in_table(&mut self, key: KeyCode) -> Reaction {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Reaction::Quit,
            KeyCode::Char('?' | 'h') => self.asking = Asking::Help,
            KeyCode::Up => self.choose(|at, _| at.saturating_sub(1)),
            KeyCode::Down => self.choose(|at, last| last.min(at.saturating_add(1))),
            KeyCode::Home => self.choose(|_, _| 0),
            KeyCode::End => self.choose(|_, last| last),
            KeyCode::Left => self.sort_by(self.sorted_by.saturating_sub(1)),
            KeyCode::Right => self.sort_by(self.sorted_by.saturating_add(1).min(COLUMNS.len() - 1)),
            KeyCode::Char('i') => {
                self.reversed = !self.reversed;
                self.sort();
            }
            KeyCode::Char('d') => {
                if let Some(row) = self.chosen_row() {
                    return Reaction::Ask(MonitorCommand::Deactivate { plugin: row.plugin.clone() });
                }
            }
            KeyCode::Char('k') => {
                if let Some(row) = self.chosen_row() {
                    let question = format!("Kill {}, whatever it is doing?", escape::line(&row.plugin));
                    let command = MonitorCommand::Kill { plugin: row.plugin.clone() };
                    self.asking = Asking::Sure { command, question };
                }
            }
            KeyCode::Char('r') => self.ask_which(),
            _ => {}
        }
        Reaction::Nothing
    }

    fn ask_which(&mut self) {
        let Some(row) = self.chosen_row() else { return };
        if row.permissions.is_empty() {
            self.message = format!("{} holds no permission", escape::line(&row.plugin));
            return;
        }
        let (plugin, permissions) = (row.plugin.clone(), row.permissions.clone());
        self.asking = Asking::Which { plugin, permissions, at: 0 };
    }

    fn press_in_list(&mut self, key: KeyCode, plugin: String, permissions: Vec<String>, at: usize) {
        let last = permissions.len().saturating_sub(1);
        let at = match key {
            KeyCode::Up => at.saturating_sub(1),
            KeyCode::Down => at.saturating_add(1).min(last),
            KeyCode::Esc | KeyCode::Char('q') => return,
            _ => at,
        };
        self.asking = match permissions.get(at).filter(|_| key == KeyCode::Enter) {
            Some(permission) => {
                let (shown, from) = (escape::line(permission), escape::line(&plugin));
                let question = format!(
                    "Revoke {shown} from {from}? It is ended if it still has what that opened in its hands."
                );
                Asking::Sure {
                    command: MonitorCommand::Revoke { plugin, permission: permission.clone() },
                    question,
                }
            }
            None => Asking::Which { plugin, permissions, at },
        };
    }

    fn choose(&mut self, go: impl FnOnce(usize, usize) -> usize) {
        let (Some(at), last) = (self.chosen(), self.rows.len().saturating_sub(1)) else { return };
        self.chosen = self.rows.get(go(at, last)).map(|row| row.plugin.clone());
    }

    fn sort_by(&mut self, column: usize) {
        self.sorted_by = column;
        self.sort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn host(plugins: &serde_json::Value) -> HostFigures {
        serde_json::from_value(json!({ "version": "1.0", "process_id": 7, "plugins": plugins }))
            .expect("figures")
    }

    fn model() -> Model {
        let mut model = Model::default();
        let plugins = json!([
            { "plugin": "a", "state": "active", "permissions": ["ui", "file-read:/x"] },
            { "plugin": "b", "state": "active", "denials": { "network": 3 } },
            { "plugin": "c", "state": "crashed", "denials": { "network": 1 } },
        ]);
        model.take(host(&plugins), Instant::now());
        model
    }

    fn press(model: &mut Model, keys: &[KeyCode]) -> Reaction {
        keys.iter().fold(Reaction::Nothing, |_, key| model.press(KeyEvent::from(*key)))
    }

    fn order(model: &Model) -> String {
        model.rows.iter().map(|row| row.plugin.as_str()).collect()
    }

    #[test]
    fn keys_become_the_commands_that_they_say() {
        use KeyCode::{Char, Down, End, Enter, Esc, Home, Up};
        let kill = |plugin: &str| Reaction::Ask(MonitorCommand::Kill { plugin: plugin.to_owned() });
        let deactivate =
            |plugin: &str| Reaction::Ask(MonitorCommand::Deactivate { plugin: plugin.to_owned() });
        let revoke = |permission: &str| {
            let (plugin, permission) = ("a".to_owned(), permission.to_owned());
            Reaction::Ask(MonitorCommand::Revoke { plugin, permission })
        };
        for (keys, reaction) in [
            (&[Char('d')][..], deactivate("a")),
            (&[Down, Char('d')], deactivate("b")),
            (&[Down, Down, Down, Up, Char('d')], deactivate("b")),
            (&[End, Char('d')], deactivate("c")),
            (&[End, Home, Char('d')], deactivate("a")),
            (&[Char('k')], Reaction::Nothing),
            (&[Char('k'), Char('y')], kill("a")),
            (&[Down, Char('k'), Char('y')], kill("b")),
            (&[Char('k'), Char('n')], Reaction::Nothing),
            (&[Char('k'), Enter], Reaction::Nothing),
            (&[Char('k'), Esc, Char('y')], Reaction::Nothing),
            (&[Char('r'), Enter], Reaction::Nothing),
            (&[Char('r'), Enter, Char('y')], revoke("ui")),
            (&[Char('r'), Down, Down, Enter, Char('y')], revoke("file-read:/x")),
            (&[Char('r'), Esc, Enter, Char('y')], Reaction::Nothing),
            (&[Down, Char('r'), Enter, Char('y')], Reaction::Nothing),
            (&[Char('?'), Char('q')], Reaction::Nothing),
            (&[Char('q')], Reaction::Quit),
            (&[Esc], Reaction::Quit),
        ] {
            assert_eq!(press(&mut model(), keys), reaction, "{keys:?}");
        }
        let control_c = KeyEvent::new(Char('c'), KeyModifiers::CONTROL);
        assert_eq!(model().press(control_c), Reaction::Quit);
    }

    #[test]
    fn a_column_sorts_the_largest_first_and_i_turns_it() {
        let mut model = model();
        assert_eq!(order(&model), "abc");
        press(&mut model, &[KeyCode::Char('i')]);
        assert_eq!(order(&model), "cba");
        press(&mut model, &[KeyCode::Char('i')]);
        let denied = COLUMNS.iter().position(|column| column.heading == "DENIED").expect("it is there");
        press(&mut model, &vec![KeyCode::Right; denied]);
        assert_eq!(order(&model), "bca");
        press(&mut model, &[KeyCode::Right; 99]);
        assert_eq!(model.sorted_by, COLUMNS.len() - 1);
        press(&mut model, &[KeyCode::Left; 99]);
        assert_eq!((model.sorted_by, order(&model).as_str()), (0, "abc"));
    }

    #[test]
    fn what_is_chosen_stays_chosen_when_the_order_changes_and_is_not_another_when_it_goes() {
        let mut model = model();
        press(&mut model, &[KeyCode::Down]);
        press(&mut model, &[KeyCode::Char('i')]);
        assert_eq!(model.chosen(), Some(1));
        press(&mut model, &[KeyCode::Down]);
        assert_eq!(model.chosen_row().map(|row| row.plugin.as_str()), Some("a"));
        // A question is about the plugin that it names, whatever is shown by then.
        press(&mut model, &[KeyCode::Char('k')]);
        model.take(host(&json!([{ "plugin": "z" }])), Instant::now());
        let asked = press(&mut model, &[KeyCode::Char('y')]);
        assert_eq!(asked, Reaction::Ask(MonitorCommand::Kill { plugin: "a".to_owned() }));
        model.take(host(&json!([])), Instant::now());
        assert_eq!((model.chosen(), press(&mut model, &[KeyCode::Char('d')])), (None, Reaction::Nothing));
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let plugin = |pid: u32, calls: u64, secs: u64| {
            let usage = json!({ "cpu_time_ms": secs * 1000 + 500 });
            let buckets = [vec![0; 4], vec![calls]].concat();
            json!([{ "plugin": "a", "process_id": pid, "calls": calls, "usage": usage,
                "latency": { "buckets": buckets, "sum_ms": calls } }])
        };
        let cells = |model: &Model| COLUMNS.map(|column| (column.cell)(&model.rows[0]));
        let (mut model, start) = (Model::default(), Instant::now());
        model.take(host(&plugin(5, 10, 1)), start);
        let at =
            |heading: &str| COLUMNS.iter().position(|column| column.heading == heading).expect("a column");
        assert_eq!(cells(&model)[at("CALLS/s")], "-", "nothing is known of a single moment");
        model.take(host(&plugin(5, 30, 2)), start + Duration::from_secs(2));
        for (heading, cell) in [("CALLS/s", "10.0"), ("CPU%", "50.0"), ("MEDIAN", "16µs"), ("99%", "16µs")]
        {
            assert_eq!(cells(&model)[at(heading)], cell, "{heading}");
        }
        model.take(host(&plugin(6, 30, 0)), start + Duration::from_secs(3));
        assert_eq!(cells(&model)[at("CPU%")], "-", "another process has used another time");
        assert_eq!(cells(&model)[at("CALLS/s")], "0.0");
    }
}
