//! `--call` and the options that belong to it: clap sees them apart, their order says which belongs to which.
//!
//! Runs in the application's process. Owns the pairing. Never opens a file: `commands::run` does.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, ValueHint};

/// All calls of a run, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls(pub(crate) Vec<Call>);

/// One `--call` with what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) payload: Payload,
    pub(crate) output: Output,
}

/// Where a call's bytes come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Empty,
    Text(OsString),
    File(PathBuf),
    Stdin,
}

/// Where a call's result goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Shown, if it can be.
    Shown,
    File(PathBuf),
    /// Sent as it is.
    Stdout,
}

const CALL: &str = "call";
const PAYLOAD: &str = "payload";
const PAYLOAD_FILE: &str = "payload-file";
const OUT: &str = "out";

impl Args for Calls {
    fn augment_args(command: Command) -> Command {
        let option = |id: &'static str, name: &'static str, parser: ValueParser, help: &'static str| {
            let option = Arg::new(id).long(id).value_name(name).value_parser(parser).help(help);
            option.action(ArgAction::Append).help_heading("Calls")
        };
        let path = || clap::value_parser!(PathBuf);
        let text = || clap::value_parser!(OsString);
        command
            .arg(option(CALL, "METHOD", clap::value_parser!(String), "Calls a method, in the order given"))
            .arg(option(PAYLOAD, "TEXT", text(), "What the --call before it sends").allow_hyphen_values(true))
            .arg(
                option(
                    PAYLOAD_FILE,
                    "FILE",
                    path(),
                    "The file that the --call before it sends; `-` is stdin",
                )
                .value_hint(ValueHint::FilePath),
            )
            .arg(
                option(
                    OUT,
                    "FILE",
                    path(),
                    "Where the result of the --call before it goes, whole or not at all; `-` is stdout",
                )
                .value_hint(ValueHint::FilePath),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Calls {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut words = Vec::new();
        collect(matches, CALL, &mut words, Word::Call);
        collect(matches, PAYLOAD, &mut words, |text| Word::Payload(Payload::Text(text)));
        collect(matches, PAYLOAD_FILE, &mut words, |path: PathBuf| {
            Word::Payload(if is_dash(&path) { Payload::Stdin } else { Payload::File(path) })
        });
        collect(matches, OUT, &mut words, |path: PathBuf| {
            Word::Output(if is_dash(&path) { Output::Stdout } else { Output::File(path) })
        });
        words.sort_by_key(|(position, _)| *position);
        let calls = pair(words.into_iter().map(|(_, word)| word)).map_err(conflict)?;
        if calls.iter().filter(|call| call.payload == Payload::Stdin).count() > 1 {
            return Err(conflict("only one call can read stdin".to_owned()));
        }
        let json = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or_default();
        if json && calls.iter().any(|call| call.output == Output::Stdout) {
            return Err(conflict(
                "with --json stdout belongs to the JSON object: --out needs a file".to_owned(),
            ));
        }
        Ok(Self(calls))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What is left of an option once its position is known.
enum Word {
    Call(String),
    Payload(Payload),
    Output(Output),
}

fn collect<T: Clone + Send + Sync + 'static>(
    matches: &ArgMatches,
    id: &str,
    words: &mut Vec<(usize, Word)>,
    word: impl Fn(T) -> Word,
) {
    let positions = matches.indices_of(id).into_iter().flatten();
    let values = matches.get_many::<T>(id).into_iter().flatten();
    words.extend(positions.zip(values.cloned().map(word)));
}

fn pair(words: impl IntoIterator<Item = Word>) -> Result<Vec<Call>, String> {
    let mut calls: Vec<Call> = Vec::new();
    for word in words {
        let lost = |option| format!("{option} belongs to the --call before it, and there is none");
        match word {
            Word::Call(method) => calls.push(Call { method, payload: Payload::Empty, output: Output::Shown }),
            Word::Payload(payload) => {
                let call = calls.last_mut().ok_or_else(|| lost("--payload"))?;
                if call.payload != Payload::Empty {
                    return Err(format!("--call {} has two payloads", call.method));
                }
                call.payload = payload;
            }
            Word::Output(output) => {
                let call = calls.last_mut().ok_or_else(|| lost("--out"))?;
                if call.output != Output::Shown {
                    return Err(format!("--call {} has two --out", call.method));
                }
                call.output = output;
            }
        }
    }
    Ok(calls)
}

fn is_dash(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}

fn conflict(message: String) -> Error {
    Error::raw(ErrorKind::ArgumentConflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        calls: Calls,
        #[arg(long)]
        json: bool,
    }

    fn calls(line: &str) -> Result<Vec<Call>, String> {
        let words = std::iter::once("program").chain(line.split_whitespace());
        let program = <Program as clap::Parser>::try_parse_from(words).map_err(|error| error.to_string())?;
        assert_eq!(program.json, line.split_whitespace().any(|word| word == "--json"));
        Ok(program.calls.0)
    }

    fn call(method: &str, payload: Payload, output: Output) -> Call {
        Call { method: method.to_owned(), payload, output }
    }

    #[test]
    fn each_option_belongs_to_the_call_before_it() {
        let found = calls(
            "--call a --out 1 --payload x --call b --call c --payload-file in --out - --call d --payload-file -",
        );
        let expected = vec![
            call("a", Payload::Text("x".into()), Output::File("1".into())),
            call("b", Payload::Empty, Output::Shown),
            call("c", Payload::File("in".into()), Output::Stdout),
            call("d", Payload::Stdin, Output::Shown),
        ];
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn the_two_kinds_of_payload_keep_their_order_among_each_other() {
        let found = calls(
            "--call a --payload-file 1 --call b --payload 2 --call c --payload-file=3 --call d --payload=4",
        );
        let payloads: Vec<_> = found.expect("four calls").into_iter().map(|call| call.payload).collect();
        let expected = [
            Payload::File("1".into()),
            Payload::Text("2".into()),
            Payload::File("3".into()),
            Payload::Text("4".into()),
        ];
        assert_eq!(payloads, expected);
    }

    #[test]
    fn no_call_is_fine_and_a_payload_may_look_like_an_option() {
        assert_eq!(calls(""), Ok(Vec::new()));
        let found = calls("--call a --payload --json=x").expect("one call");
        assert_eq!(found, [call("a", Payload::Text("--json=x".into()), Output::Shown)]);
    }

    #[test]
    fn what_cannot_be_paired_is_refused() {
        for (line, reason) in [
            ("--payload x --call a", "there is none"),
            ("--out x", "there is none"),
            ("--call a --payload x --payload-file y", "two payloads"),
            ("--call a --out x --out y", "two --out"),
            ("--call a --payload-file - --call b --payload-file -", "only one call"),
            ("--call a --out - --json", "belongs to the JSON object"),
        ] {
            let error = calls(line).expect_err(line);
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
