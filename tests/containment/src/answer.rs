//! What a probe says its attempt came to.

use std::fmt;

/// The answer of one attempt.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// It went well, and this is what was got.
    Got(Vec<u8>),
    /// The kernel, or the sandbox in its place, refused with this errno.
    Errno(i32),
    /// It failed with no errno.
    Failed(String),
}

impl Answer {
    /// Reads what the plugin `probe` replied.
    ///
    /// # Panics
    /// If those bytes are no answer of a probe's.
    pub fn read(reply: &[u8]) -> Self {
        Self::of_probe(reply)
            .unwrap_or_else(|| panic!("no answer of a probe's: {:?}", String::from_utf8_lossy(reply)))
    }

    /// The same, where a plugin that answers in other words has got what it says.
    pub fn of_any(reply: &[u8]) -> Self {
        Self::of_probe(reply).unwrap_or_else(|| Self::Got(reply.to_vec()))
    }

    fn of_probe(reply: &[u8]) -> Option<Self> {
        if let Some(got) = reply.strip_prefix(b"ok ") {
            return Some(Self::Got(got.to_vec()));
        }
        let text = String::from_utf8_lossy(reply);
        match text.strip_prefix("errno ") {
            Some(errno) => errno.parse().ok().map(Self::Errno),
            None => text.strip_prefix("error ").map(|error| Self::Failed(error.to_owned())),
        }
    }

    /// What was got, as text.
    ///
    /// # Panics
    /// If nothing was got.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Self::Got(got) => String::from_utf8_lossy(got).into_owned(),
            other => panic!("refused: {other:?}"),
        }
    }

    /// Whether the attempt went well.
    pub fn got_it(&self) -> bool {
        matches!(self, Self::Got(_))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Each byte counts: `without_long_answers` reads it back.
            Self::Got(got) => {
                f.write_str("got \"")?;
                for chunk in got.utf8_chunks() {
                    write!(f, "{}{}", chunk.valid().escape_debug(), chunk.invalid().escape_ascii())?;
                }
                f.write_str("\"")
            }
            Self::Errno(errno) => write!(f, "{:?}", nix::errno::Errno::from_raw(*errno)),
            Self::Failed(text) => write!(f, "failed: {text}"),
        }
    }
}

/// `text` with only the length of each answer in it that is longer than `most` bytes: what a control reads outside, such as
/// an environment, is nobody's but the user's.
pub fn without_long_answers(text: &str, most: usize) -> String {
    const OPENING: &str = "got \"";
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, answer)) = rest.split_once(OPENING) {
        let (bytes, end) = measured(answer);
        let (answer, after) = answer.split_at(end);
        let answer = if bytes > most { format!("got {bytes} bytes") } else { format!("{OPENING}{answer}") };
        shown.extend([before, &answer]);
        rest = after;
    }
    shown + rest
}

/// How many bytes are meant by what stands before the closing quote, and what comes after it begins where.
fn measured(quoted: &str) -> (usize, usize) {
    let mut bytes = 0;
    let mut left = quoted.char_indices();
    while let Some((at, char)) = left.next() {
        bytes += match char {
            '"' => return (bytes, at + 1),
            '\\' => match left.next().map(|(_, kind)| kind) {
                Some('u') => {
                    let digits =
                        left.by_ref().map(|(_, digit)| digit).skip(1).take_while(|digit| *digit != '}');
                    let code = u32::from_str_radix(&digits.collect::<String>(), 16);
                    code.ok().and_then(char::from_u32).map_or(0, char::len_utf8)
                }
                Some('x') => left.nth(1).map_or(0, |_| 1),
                _ => 1,
            },
            other => other.len_utf8(),
        };
    }
    (bytes, quoted.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_answer_only_its_length_is_shown_and_what_is_beside_it_stays() {
        let odd = b"a\"\\\n\0'\x7f \xc3\xa9\xff\xfe \xe2\x80\xae got \"";
        for (got, most) in [(&odd[..], odd.len() - 1), (b"SECRET=1\0HOME=/root", 4), (b"\xff\xff", 1)] {
            let text = format!("expected EACCES, came to {:?}; and then", Answer::Got(got.to_vec()));
            let shown = format!("expected EACCES, came to got {} bytes; and then", got.len());
            assert_eq!(without_long_answers(&text, most), shown);
            assert_eq!(without_long_answers(&text, got.len()), text);
        }
        for text in ["EACCES", "failed: it is not there", "got \"\""] {
            assert_eq!(without_long_answers(text, 0), text);
        }
        assert_eq!(without_long_answers("got \"cut short", 4), "got 9 bytes");
    }
}
