//! The picture of `top`.
//!
//! Runs in the application's process. Owns what goes where. What is drawn was escaped before.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph, Row as TableRow, Table, TableState, Wrap};

use super::model::{Asking, Model};
use super::rows::{COLUMNS, Column, Row};
use crate::output::escape;

const KEYS: &str = "d deactivate  k kill  r revoke  ←→ sort  i turn  ? help  q quit";

const HELP: &str = "\
up, down      choose a plugin
left, right   the column to sort by
i             the other order
d             deactivate: once no call is under way, within 5 seconds
k             kill: ends its process at once; asks first
r             revoke one of its permissions; asks first
q, esc        quit

CPU% is of one CPU. MEDIAN and 99% are how long calls took at most, to the
next power of two, since the last look; of all calls where there were none.";

/// Draws all of it.
pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let [head, body, last_end, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(model), head);
    table(frame, body, model);
    let chosen = model.chosen().and_then(|at| model.rows.get(at));
    if let Some(ended) = chosen.and_then(|row| row.last_end.as_ref()) {
        frame.render_widget(Line::from(format!("its last end: {}", escape::line(ended))).dim(), last_end);
    }
    let message = escape::line(&model.message);
    frame.render_widget(
        if message.is_empty() { Line::from(KEYS).dim() } else { Line::from(message).bold() },
        foot,
    );
    match &model.asking {
        Asking::Nothing => {}
        Asking::Help => over(frame, "Help", HELP),
        Asking::Which { plugin, permissions, at } => {
            let line = |(index, permission): (usize, &String)| {
                let mark = if index == *at { "> " } else { "  " };
                format!("{mark}{}", escape::line(permission))
            };
            // The one that is chosen is in sight, however many there are.
            let room = usize::from(frame.area().height.saturating_sub(4)).max(1);
            let first = at.saturating_sub(room.saturating_sub(1));
            let lines: Vec<_> = permissions.iter().enumerate().map(line).skip(first).take(room).collect();
            let title = format!("Revoke what from {}? enter, esc", escape::line(plugin));
            over(frame, &title, &lines.join("\n"));
        }
        Asking::Sure { question, .. } => over(frame, "Sure? y, n", question),
    }
}

fn heading(model: &Model) -> Line<'_> {
    let host = &model.host;
    let active = model.rows.iter().filter(|row| row.state == "active").count();
    let lost =
        if host.events_lost > 0 { format!(", {} events lost", host.events_lost) } else { String::new() };
    let text = format!(
        "host {}, sandbox {}: {}, {active} active{lost}",
        host.process_id,
        escape::line(&host.version),
        match model.rows.len() {
            1 => "1 plugin".to_owned(),
            count => format!("{count} plugins"),
        }
    );
    Line::from(text).bold()
}

/// The columns that there is room for.
fn columns(width: u16) -> Vec<(usize, &'static Column)> {
    static ALL: [Column; COLUMNS.len()] = COLUMNS;
    let mut shown: Vec<_> = ALL.iter().enumerate().collect();
    let needed = |shown: &[(usize, &Column)]| {
        shown.iter().map(|(_, column)| column.width.saturating_add(1)).sum::<u16>()
    };
    while needed(&shown) > width.saturating_add(1) {
        let most = shown.iter().map(|(_, column)| column.dispensable).max().unwrap_or_default();
        if most == 0 {
            break;
        }
        shown.retain(|(_, column)| column.dispensable < most);
    }
    shown
}

fn table(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let columns = columns(area.width);
    let headings = columns.iter().map(|(index, column)| {
        let arrow = match (*index == model.sorted_by, model.reversed) {
            (false, _) => "",
            (true, false) => "▼",
            (true, true) => "▲",
        };
        format!("{}{arrow}", column.heading)
    });
    let widths = columns.iter().map(|(index, column)| match index {
        0 => Constraint::Min(column.width),
        _ => Constraint::Length(column.width),
    });
    let row =
        |row: &Row| TableRow::new(columns.iter().map(|(_, column)| (column.cell)(row)).collect::<Vec<_>>());
    let table = Table::new(model.rows.iter().map(row), widths)
        .header(TableRow::new(headings.collect::<Vec<_>>()).style(Style::new().underlined()))
        .row_highlight_style(Style::new().reversed());
    let mut state = TableState::default().with_selected(model.chosen());
    frame.render_stateful_widget(table, area, &mut state);
}

/// A box in the middle, as large as its text.
fn over(frame: &mut Frame<'_>, title: &str, text: &str) {
    let area = frame.area();
    let longest = text.lines().chain([title]).map(|line| line.chars().count()).max().unwrap_or_default();
    let width = u16::try_from(longest.saturating_add(4)).unwrap_or(u16::MAX).min(area.width);
    let inside = usize::from(width.saturating_sub(4)).max(1);
    let lines: usize = text.lines().map(|line| line.chars().count().div_ceil(inside).max(1)).sum();
    let height = u16::try_from(lines.saturating_add(2)).unwrap_or(u16::MAX).min(area.height);
    let (x, y) = ((area.width - width) / 2, (area.height - height) / 2);
    let place = Rect::new(area.x.saturating_add(x), area.y.saturating_add(y), width, height);
    let block = Block::bordered().title(title.to_owned()).padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text.to_owned()).wrap(Wrap { trim: false }).block(block), place);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};
    use sandbox_core::HostFigures;
    use serde_json::json;

    use super::*;

    fn picture(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, model)).expect("it is drawn");
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width));
        lines
            .map(|line| {
                line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
            })
            .collect()
    }

    fn known() -> Model {
        let figures = |calls: u64, cpu: u64| -> HostFigures {
            serde_json::from_value(json!({ "version": "0.1.0", "process_id": 4711, "plugins": [
                {
                    "plugin": "index", "state": "active", "process_id": 4720, "calls": calls, "restarts": 1,
                    "limits": { "max_memory_mb": 100, "max_file_handles": 10, "max_network_connections": 5 },
                    "latency": { "buckets": [0, 0, 0, 0, 0, calls, 0, 0, 0, 0, 0, 0, 0, 0, 1], "sum_ms": 0 },
                    "denials": { "file-read": 2, "network": 1 }, "permissions": ["file-read:/srv/\u{1b}[2J"],
                    "usage": { "cpu_time_ms": cpu * 1000, "memory_bytes": { "now": 12_000_000, "peak": 0 },
                        "file_handles": { "now": 3, "peak": 3 }, "network_connections": { "now": 2, "peak": 2 } },
                },
                { "plugin": "thumbs", "state": "crashed", "last_end": "it was ended by SIGSEGV\u{1b}[0m" },
            ] }))
            .expect("figures")
        };
        let (mut model, start) = (Model::default(), Instant::now());
        model.take(figures(100, 1), start);
        model.take(figures(350, 2), start + Duration::from_secs(2));
        model
    }

    #[test]
    fn a_known_host_is_drawn_as_it_always_was() {
        assert_eq!(
            picture(&known(), 120, 6),
            [
                "host 4711, sandbox 0.1.0: 2 plugins, 1 active",
                "PLUGIN▼            STATE        PID      CPU%   MEMORY MiB   FILES   CONNS   CALLS/s  MEDIAN   99%      DENIED  RESTARTS",
                "index              active       4720     50.0   12/100       3/10    2/5     125.0    32µs     32µs     3       1",
                "thumbs             crashed      -        -      -            -       -       0.0      -        -        0       0",
                "",
                KEYS,
            ]
        );
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out_and_nothing_else() {
        assert_eq!(
            picture(&known(), 80, 6)[1..3],
            [
                "PLUGIN▼               STATE        CPU%   MEMORY MiB   CALLS/s  99%      DENIED",
                "index                 active       50.0   12/100       125.0    32µs     3",
            ]
        );
        for (width, height) in [(1, 1), (3, 40), (40, 2), (300, 100)] {
            picture(&known(), width, height);
        }
    }

    #[test]
    fn no_text_of_a_plugins_reaches_the_terminal_as_it_is() {
        let mut model = known();
        model.press(KeyEvent::from(KeyCode::Char('r')));
        let asked = picture(&model, 80, 12).join("\n");
        assert!(asked.contains("> file-read:/srv/\\u{1b}[2J"), "{asked}");
        model.press(KeyEvent::from(KeyCode::Enter));
        let sure = picture(&model, 60, 12).join("\n");
        assert!(
            sure.contains("Sure? y, n") && sure.contains("Revoke file-read:/srv/\\u{1b}[2J from index?"),
            "{sure}"
        );
        model.press(KeyEvent::from(KeyCode::Esc));
        model.press(KeyEvent::from(KeyCode::Down));
        let ended = picture(&model, 80, 12).join("\n");
        assert!(ended.contains("its last end: it was ended by SIGSEGV\\u{1b}[0m"), "{ended}");
        assert!(!(asked + &sure + &ended).contains('\u{1b}'));
    }

    #[test]
    fn every_key_of_the_help_is_in_sight() {
        let mut model = known();
        model.press(KeyEvent::from(KeyCode::Char('?')));
        let help = picture(&model, 80, 24).join("\n");
        assert!(help.contains("asks first") && help.contains("where there were none."), "{help}");
    }
}
