//! Makes text that others wrote safe to show.
//!
//! Runs in the application's process. Owns which characters a terminal may see: none that moves the cursor, changes
//! colours, reorders what stands beside it, or takes no room. Never shortens or translates anything else.

/// On one line: line ends are escaped too.
pub(crate) fn line(text: &str) -> String {
    escape(text, |_| false)
}

/// On several lines. The lines after the first are indented by `indent`, so that they cannot pass for lines of ours.
pub(crate) fn block(text: &str, indent: &str) -> String {
    let lines: Vec<_> = text.trim_end().split('\n').map(|line| escape(line, |c| c == '\t')).collect();
    lines.join(&format!("\n{indent}"))
}

/// The bytes as text, if showing them as they are does no harm.
pub(crate) fn printable(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let harmless = |c: char| matches!(c, '\n' | '\t') || !is_deceptive(c);
    text.chars().all(harmless).then_some(text)
}

/// JSON with every character escaped that JSON itself would let through and a terminal obeys.
///
/// Such characters stand inside strings only, where this escape means the same.
pub(crate) fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_deceptive(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_deceptive(c) && !keep(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Controls of C0 and C1, and format characters that reorder text or take no room. The two joiners are not among
/// them: scripts and emoji need them.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let hostile = "a\x1b[2Jb\rc\nd\u{9b}31me\u{202e}f\u{7f}g\u{200b}h\x07";
        let safe = line(hostile);
        assert_eq!(safe, "a\\u{1b}[2Jb\\rc\\nd\\u{9b}31me\\u{202e}f\\u{7f}g\\u{200b}h\\u{7}");
        assert!(printable(hostile.as_bytes()).is_none());
    }

    #[test]
    fn ordinary_text_of_any_script_stays_as_it_is() {
        for text in ["hello, wörld", "日本語", "می‌خواهم", "👩‍🔬", "a\\b \"c\""] {
            assert_eq!(line(text), text);
            assert_eq!(printable(text.as_bytes()), Some(text));
        }
    }

    #[test]
    fn a_second_line_cannot_pass_for_one_of_ours() {
        assert_eq!(block("no\nhelp: run me\x1b\n", "  "), "no\n  help: run me\\u{1b}");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let text = "c1 \u{9b} bidi \u{202e} tag \u{e0041} del \u{7f} plain é";
        let safe = json(&serde_json::to_string_pretty(&[text]).expect("text is JSON"));
        assert!(safe.chars().all(|c| c == '\n' || !is_deceptive(c)), "{safe}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).expect("still JSON"), [text]);
    }
}
