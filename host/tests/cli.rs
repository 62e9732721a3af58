//! The program as a person or a script uses it: what it prints where, what it writes, what it exits with.
//!
//! Each test runs the real program on the example plugins, confined for real. What the layers hold is not tried here,
//! but in the integration tests of the workspace.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugin-host");
const LAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../example-plugins/image-thumbnail/assets/lake.jpg");
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The plugins that are run, and those that `prove` tries.
const PACKAGES: [&str; 6] =
    ["hello", "image-thumbnail", "probe", "probe-constructor", "probe-life", "probe-modules"];

/// An example plugin beside the program, built once if nobody did yet.
fn plugin(file: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let folder = Path::new(PROGRAM).parent().expect("the profile's folder");
    BUILD.call_once(|| {
        let library = |package: &str| folder.join(format!("lib{}.so", package.replace('-', "_")));
        if PACKAGES.iter().all(|package| library(package).exists()) {
            return;
        }
        let profile = match folder.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--profile", profile])
            .args(PACKAGES.iter().flat_map(|package| ["-p", package]))
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .arg("--target-dir")
            .arg(folder.parent().expect("the target folder"))
            .status();
        assert!(status.expect("cargo").success(), "the example plugins do not build");
    });
    folder.join(file)
}

fn hello() -> String {
    plugin("libhello.so").display().to_string()
}

fn thumbnail() -> String {
    plugin("libimage_thumbnail.so").display().to_string()
}

fn program(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text on stdout")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text on stderr")
}

#[track_caller]
fn exits(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(output)
    );
}

#[track_caller]
fn object(output: &Output) -> Value {
    assert_eq!(stderr(output), "", "with --json nothing goes to stderr");
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

#[test]
fn a_result_goes_to_stdout_and_the_report_to_stderr() {
    let output = program(&["run", &hello(), "--call", "greet", "--payload", "world"]);
    exits(&output, 0);
    assert_eq!(stdout(&output), "hello, world\n");
    assert!(stderr(&output).contains("seccomp"), "{}", stderr(&output));
    assert!(!stderr(&output).contains('\x1b'), "no colours outside of a terminal");
}

#[test]
fn quiet_leaves_the_results_alone() {
    let output = program(&["run", &hello(), "--quiet", "--call", "greet", "--payload", "world"]);
    exits(&output, 0);
    assert_eq!((stdout(&output), stderr(&output)), ("hello, world\n", ""));
}

#[test]
fn a_picture_becomes_a_thumbnail_in_a_folder_that_was_not_there() {
    let top = tempfile::tempdir().expect("a folder");
    let out = top.path().join("out/thumbnail.png").display().to_string();
    let output =
        program(&["run", &thumbnail(), "--call", "thumbnail", "--payload-file", LAKE, "--out", &out]);
    exits(&output, 0);
    assert_eq!(stdout(&output), format!("{out}\n"));
    assert!(fs::read(&out).expect("the thumbnail").starts_with(PNG));
}

#[test]
fn several_calls_keep_their_own_payloads_and_results() {
    let top = tempfile::tempdir().expect("a folder");
    let second = top.path().join("second").display().to_string();
    let output = program(&[
        "run",
        &hello(),
        "-q",
        "--call",
        "greet",
        "--payload",
        "a",
        "--call",
        "greet",
        "--out",
        &second,
        "--payload",
        "b",
        "--call",
        "greet",
    ]);
    exits(&output, 0);
    assert_eq!(stdout(&output), format!("hello, a\n{second}\nhello, \n"));
    assert_eq!(fs::read_to_string(&second).expect("the second result"), "hello, b");
}

#[test]
fn bytes_go_through_pipes_as_they_are() {
    let args = ["run", &thumbnail(), "-q", "--call", "thumbnail/32", "--payload-file", "-", "--out", "-"];
    let mut child = Command::new(PROGRAM)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let picture = fs::read(LAKE).expect("the picture");
    child.stdin.take().expect("a pipe").write_all(&picture).expect("the program reads its stdin");
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success());
    assert!(output.stdout.starts_with(PNG));
}

#[test]
fn a_result_that_is_no_text_is_described_and_not_shown() {
    let output = program(&["run", &thumbnail(), "-q", "--call", "thumbnail", "--payload-file", LAKE]);
    exits(&output, 0);
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("--out FILE"), "{}", stderr(&output));
}

#[test]
fn json_is_one_object_with_everything_in_it() {
    let output =
        program(&["run", &hello(), "--json", "--call", "greet", "--payload", "world", "--grant", "ui"]);
    exits(&output, 0);
    let object = object(&output);
    assert_eq!(
        (&object["format"], &object["command"], &object["error"]),
        (&2.into(), &"run".into(), &Value::Null)
    );
    assert_eq!(object["plugin"]["metadata"]["id"], "hello");
    assert_eq!(object["policy"]["permissions"], serde_json::json!(["ui"]));
    assert_eq!(object["calls"][0]["text"], "hello, world");
    assert!(object["calls"][0]["took_ms"].is_number(), "{object}");
    assert_eq!(object["policy"]["limits"]["call_timeout_ms"], 5000);
    let layers = object["report"]["layers"].as_array().expect("layers");
    assert!(layers.iter().any(|row| row["layer"] == "seccomp" && row["enforced"] == true), "{layers:?}");
    let states: Vec<_> =
        object["events"].as_array().expect("events").iter().map(|event| &event["to"]).collect();
    assert!(states.contains(&&"active".into()) && states.contains(&&"unloaded".into()), "{states:?}");
}

#[test]
fn a_plugin_that_fails_is_exit_code_1_and_leaves_the_old_file_alone() {
    let top = tempfile::tempdir().expect("a folder");
    let out = top.path().join("kept").display().to_string();
    fs::write(&out, "old").expect("a file");
    let args = ["run", &thumbnail(), "--call", "thumbnail", "--payload", "no picture", "--out", &out];
    let output = program(&args);
    exits(&output, 1);
    assert!(stderr(&output).contains("error: plugin image_thumbnail"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&out).expect("the file"), "old");

    let output = program(&[&args[..], &["--json"]].concat());
    exits(&output, 1);
    let object = object(&output);
    assert_eq!(object["error"]["kind"], "plugin-failed");
    assert_eq!(object["error"]["exit_code"], 1);
    assert!(object["report"]["layers"].is_array(), "what was known by then is told");
}

#[test]
fn a_plugins_message_cannot_move_the_cursor() {
    let hostile = "x\x1b[2J\u{202e}y";
    let output = program(&["run", &thumbnail(), "--call", hostile]);
    exits(&output, 1);
    assert!(stderr(&output).contains("[2J"), "the plugin repeats the method's name: {}", stderr(&output));
    assert!(!stderr(&output).contains(['\x1b', '\u{202e}']), "{:?}", stderr(&output));
    let output = program(&["run", &thumbnail(), "--json", "--call", hostile]);
    assert!(!stdout(&output).contains(['\x1b', '\u{202e}']), "{:?}", stdout(&output));
}

#[test]
fn bad_input_is_exit_code_2_and_says_what_would_be_right() {
    let hello = hello();
    let folder = env!("CARGO_MANIFEST_DIR");
    for (args, hint) in [
        (&["run", "/nonexistent/plugin.so"][..], "help:"),
        (&["run", PROGRAM], "shared library"),
        (&["run", folder], "regular file"),
        (&["inspect", LAKE], "shared library"),
        (&["run", &hello, "--grant", "file-reed"], "file-read, file-write"),
        (&["run", &hello, "--grant", "ui:x"], "takes no scope"),
        (&["run", &hello, "--best-effort", "landlok"], "landlock, landlock-scopes"),
        (&["run", &hello, "--limit", "memory=1"], "max_memory_mb"),
        (&["run", &hello, "--limit", "max_memory_mb=1"], "8 to"),
        (&["run", &hello, "--limit", "call_timeout=5"], "unit"),
        (&["run", &hello, "--id", "../x"], "1 to 64"),
        (&["run", &hello, "--payload", "x"], "--call before it"),
        (&["run", &hello, "--call", "x", "--payload-file", "/nonexistent/payload"], "/nonexistent/payload"),
        (&["run", &hello, "--call", "x", "--payload-file", "/dev/zero"], "max_message_bytes"),
        (&["run"], "PLUGIN.so"),
        (&["walk"], "walk"),
    ] {
        let output = program(args);
        exits(&output, 2);
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(stderr(&output).starts_with("error: "), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(hint), "{args:?}: {}", stderr(&output));
        let output = program(&[args, &["--json"]].concat());
        exits(&output, 2);
        let object = object(&output);
        assert_eq!(object["error"]["exit_code"], 2, "{args:?}");
    }
}

#[test]
fn inspect_tells_what_a_plugin_needs_and_how_to_run_it() {
    let output = program(&["inspect", &thumbnail()]);
    exits(&output, 0);
    for part in ["image-thumbnail", "0.1.0", "asks for", "libgcc_s.so.1", "plugin-host run "] {
        assert!(stdout(&output).contains(part), "{part}: {}", stdout(&output));
    }
    let object = object(&program(&["inspect", &thumbnail(), "--json"]));
    assert_eq!((&object["loadable"], &object["abi"]["matches"]), (&true.into(), &true.into()));
    assert_eq!(object["run_with"], serde_json::json!(["plugin-host", "run", thumbnail()]));
}

#[test]
fn doctor_and_run_agree_on_what_stands() {
    let output = program(&["doctor", "--json"]);
    let diagnosis = object(&output);
    exits(&output, if diagnosis["healthy"] == true { 0 } else { 1 });
    if diagnosis["healthy"] != true {
        eprintln!("not proven: a required layer is missing on this machine");
        return;
    }
    let run = object(&program(&["run", &hello(), "--json"]));
    let standing = |layers: &Value| -> Vec<(String, bool)> {
        let rows = layers.as_array().expect("layers").iter();
        rows.map(|row| (row["layer"].to_string(), row["enforced"] == true)).collect()
    };
    assert_eq!(standing(&diagnosis["layers"]), standing(&run["report"]["layers"]));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for args in [&["inspect", &hello()][..], &["run", &hello(), "-q", "--call", "greet"], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(PROGRAM).args(args).stdout(writer).output().expect("the program starts");
        exits(&output, 0);
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output =
        Command::new(PROGRAM).args(["inspect", &hello()]).stdout(full).output().expect("the program starts");
    exits(&output, 2);
    assert!(stderr(&output).contains("cannot write to stdout"), "{}", stderr(&output));
}

/// The program at a terminal of its own, which `script` makes, where a person answers each question in turn.
fn at_terminal(args: &[&str], answers: &[&str]) -> String {
    let command = shlex::try_join([PROGRAM].iter().chain(args).copied()).expect("no NUL");
    let mut script = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of bsdutils");
    let (mut keyboard, mut screen) =
        (script.stdin.take().expect("a pipe"), script.stdout.take().expect("a pipe"));
    let (mut seen, mut answered) = (Vec::new(), 0);
    let mut bytes = [0; 4096];
    while let Ok(got) = screen.read(&mut bytes) {
        if got == 0 {
            break;
        }
        seen.extend_from_slice(&bytes[..got]);
        let questions = String::from_utf8_lossy(&seen).matches("[N]o: ").count();
        while answered < questions.min(answers.len()) {
            keyboard.write_all(format!("{}\n", answers[answered]).as_bytes()).expect("it reads");
            answered += 1;
        }
    }
    script.wait().expect("it ends");
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn what_is_not_granted_is_asked_at_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let (yes, no) = (folder.path().join("yes"), folder.path().join("no\u{1b}[2J"));
    for file in [&yes, &no] {
        fs::write(file, "contents").expect("a file");
    }
    let probe = plugin("libprobe.so").display().to_string();
    let (yes, no) = (yes.display().to_string(), no.display().to_string());
    let args =
        ["run", &probe, "--ask", "--call", "open", "--payload", &yes, "--call", "open", "--payload", &no];
    let screen = at_terminal(&args, &["always", "no"]);
    assert!(screen.contains(&format!("allow file-read:{yes}?")), "{screen}");
    assert!(screen.contains("ok contents"), "{screen}");
    assert!(screen.contains("errno 13"), "{screen}");
    assert!(screen.contains(&format!("what was allowed always is --grant file-read:{yes}")), "{screen}");
    assert!(!screen.contains("no\u{1b}[2J"), "what a plugin names moves no cursor: {screen:?}");
}

#[test]
fn asking_without_a_terminal_is_an_error() {
    let output = Command::new("setsid")
        .args(["--wait", PROGRAM, "run", &hello(), "--ask"])
        .stdin(Stdio::null())
        .output()
        .expect("setsid, of util-linux");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--ask has nobody to ask"), "{}", stderr(&output));
}

/// Runs the plugin `probe` with these options; it opens each of `files`, and the log is at `log`.
fn audited(log: &Path, options: &[String], files: &[PathBuf]) -> Output {
    let probe = plugin("libprobe.so").display().to_string();
    let mut args =
        vec!["run".to_owned(), probe, "-q".to_owned(), "--audit".to_owned(), log.display().to_string()];
    args.extend(options.iter().cloned());
    for file in files {
        args.extend(["--call", "open", "--payload"].map(str::to_owned));
        args.push(file.display().to_string());
    }
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let output = program(&args);
    exits(&output, 0);
    output
}

#[test]
fn what_the_audit_log_suggests_opens_what_a_run_needed_when_it_is_pasted() {
    let top = tempfile::tempdir().expect("a folder");
    let top = top.path().canonicalize().expect("it is there");
    let (log, file, beside) = (top.join("log"), top.join("a file"), top.join("a file too"));
    for file in [&file, &beside] {
        fs::write(file, "contents").expect("a file");
    }
    let first = audited(&log, &[], std::slice::from_ref(&file));
    assert_eq!(stdout(&first), "errno 13\n");
    let log_path = log.display().to_string();
    let object = object(&program(&["audit", &log_path, "--suggest", "--json"]));
    let grant = format!("file-read:{}", file.display());
    let suggestion = &object["suggestions"][0];
    assert_eq!(suggestion["plugin"], "probe");
    assert_eq!(suggestion["options"], serde_json::json!(["--grant", grant]));
    let text = program(&["audit", &log_path, "--suggest"]);
    exits(&text, 0);
    assert!(stdout(&text).contains(&format!("--grant '{grant}'")), "{}", stdout(&text));
    assert!(stdout(&text).contains(".permission(PERMISSION_FILE_READ.scoped_to_path("), "{}", stdout(&text));

    let options = suggestion["options"].as_array().expect("words").iter();
    let options: Vec<_> = options.filter_map(Value::as_str).map(str::to_owned).collect();
    let again = audited(&log, &options, &[file, beside]);
    assert_eq!(stdout(&again), "ok contents\nerrno 13\n");
}

#[test]
fn an_audit_log_is_listed_filtered_and_summed_up() {
    let top = tempfile::tempdir().expect("a folder");
    let log = top.path().join("log");
    let hostile = PathBuf::from("/nowhere/\n\x1b[2J\u{202e}");
    audited(&log, &[], &[hostile, "/nowhere/else".into(), "/nowhere/else".into()]);
    let log = log.display().to_string();
    let list = |options: &[&str]| {
        let output = program(&[&["audit", &log], options].concat());
        exits(&output, 0);
        assert_eq!(stderr(&output), "");
        assert!(!stdout(&output).contains(['\x1b', '\u{202e}']), "{:?}", stdout(&output));
        stdout(&output).to_owned()
    };
    let denied = list(&["--denied"]);
    assert_eq!(denied.lines().count(), 3, "{denied}");
    assert!(denied.lines().all(|line| line.contains("probe") && line.contains("denied")), "{denied}");
    assert_eq!(list(&["--denied", "--grep", "else"]).lines().count(), 2);
    assert!(list(&[]).contains("loaded -> unloaded"));
    assert!(list(&["--summary"]).contains("open /nowhere/else (2)"), "{}", list(&["--summary"]));
    let object = object(&program(&["audit", &log, "--json", "--permission", "file-read", "--since", "1h"]));
    assert_eq!((&object["matched"], &object["left_out"]), (&3.into(), &0.into()));
    assert_eq!(object["records"][1]["object"], "/nowhere/else");
}

#[test]
fn a_name_that_no_record_has_is_said_to_match_none() {
    let top = tempfile::tempdir().expect("a folder");
    let log = top.path().join("log");
    let lines = [
        r#"{"v":1,"time":"2026-01-01T00:00:00Z","plugin":"a","kind":"ended","cause":"it was unloaded"}"#,
        r#"{"v":1,"time":"2026-01-05T00:00:00Z","kind":"lost","count":3,"why":"full"}"#,
    ];
    fs::write(&log, lines.join("\n")).expect("a file");
    let log = log.display().to_string();
    for (options, said) in [
        (&["--permission", "file-reed"][..], "no record matches (0 of 2)\n"),
        (&["--plugin", "other"], "no record matches (0 of 2)\n"),
        (&["--plugin", "other", "--suggest"], "no record matches (0 of 2)\n"),
        (&["--plugin", "a"], ""),
        (&["--denied"], ""),
    ] {
        let output = program(&[&["audit", &log], options].concat());
        exits(&output, 0);
        assert_eq!(stderr(&output), said, "{options:?}");
    }
    let object = object(&program(&["audit", &log, "--plugin", "other", "--json"]));
    assert_eq!(object["matched"], 1, "the gap");
}

#[test]
fn what_nothing_can_be_suggested_for_is_not_said_to_need_nothing() {
    let top = tempfile::tempdir().expect("a folder");
    let log = top.path().join("log");
    audited(&log, &[], &["/dev/full".into(), "/dev/full".into()]);
    let output = program(&["audit", &log.display().to_string(), "--suggest"]);
    exits(&output, 0);
    let text = stdout(&output);
    assert!(text.starts_with("nothing can be suggested for probe; 2 attempts remain, see below\n"), "{text}");
    assert!(text.contains("file-read open /dev/full (2 times): no grant reaches"), "{text}");
}

#[test]
fn a_broken_line_is_named_and_the_rest_of_a_log_is_read() {
    let top = tempfile::tempdir().expect("a folder");
    let log = top.path().join("log");
    let line =
        r#"{"v":1,"time":"2026-01-01T00:00:00Z","plugin":"a","kind":"ended","cause":"it was unloaded"}"#;
    fs::write(&log, format!("{line}\nrub\x1bbish\n{line}\n{}", &line[..20])).expect("a file");
    fs::write(top.path().join("log.1"), format!("{line}\n")).expect("a file");
    let log = log.display().to_string();
    let output = program(&["audit", &log]);
    exits(&output, 0);
    assert_eq!(stdout(&output).lines().count(), 2);
    assert!(stderr(&output).contains("line 2: ") && stderr(&output).contains("line 4: cut short"));
    assert!(!stderr(&output).contains('\x1b'));
    let object = object(&program(&["audit", &log, "--rotated", "--json"]));
    assert_eq!((&object["lines"], &object["broken"]["count"]), (&3.into(), &2.into()));
    assert_eq!(object["files"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_log_that_cannot_be_had_is_exit_code_2_before_anything_is_loaded() {
    let top = tempfile::tempdir().expect("a folder");
    let (file, link) = (top.path().join("file"), top.path().join("link").display().to_string());
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let folder = top.path().display().to_string();
    for (args, hint) in [
        (&["run", &hello(), "--audit", &link][..], "cannot write the audit log"),
        (&["audit", &folder], "directory"),
        (&["audit", "/nonexistent/log"], "/nonexistent/log"),
        (&["audit", &link, "--denied", "--granted"], "--granted"),
        (&["audit", &link, "--since", "yesterday"], "10m"),
        (&["audit"], "FILE"),
    ] {
        let output = program(args);
        exits(&output, 2);
        assert!(stderr(&output).contains(hint), "{args:?}: {}", stderr(&output));
    }
    assert!(!file.exists(), "a link is not followed");
}

#[test]
fn a_run_that_learns_names_the_grants_that_it_needed_and_they_suffice() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().canonicalize().expect("it is there").join("file");
    fs::write(&file, "contents").expect("a file");
    let (probe, file) = (plugin("libprobe.so").display().to_string(), file.display().to_string());
    let open = ["run", &probe, "--quiet", "--call", "open", "--payload", &file];
    assert!(stdout(&program(&open)).contains("errno 13"), "not granted");
    let learnt = program(&[&open[..], &["--learn"]].concat());
    assert!(stdout(&learnt).contains("ok contents"), "{}", stderr(&learnt));
    let grant = format!("file-read:{file}");
    assert!(stderr(&learnt).contains(&format!("--grant {grant}")), "{}", stderr(&learnt));
    assert!(stdout(&program(&[&open[..], &["--grant", &grant]].concat())).contains("ok contents"));
}

fn probe() -> String {
    plugin("libprobe.so").display().to_string()
}

#[test]
fn a_plugin_that_crashes_comes_back_for_the_calls_that_are_left() {
    let run = |extra: &[&str]| {
        let probe = probe();
        let all: Vec<_> = ["run", &probe].iter().chain(extra).copied().collect();
        program(&[&all[..], &["--call", "abort", "--call", "echo", "--payload", "still here"]].concat())
    };
    let output = run(&["--restart", "on-crash"]);
    exits(&output, 1);
    assert!(stdout(&output).contains("still here"), "{}", stdout(&output));
    let told = stderr(&output);
    assert!(told.contains("restart 1 in 0.") && told.contains("SIGABRT"), "{told}");
    let output = run(&[]);
    exits(&output, 1);
    assert_eq!(stdout(&output), "", "without it the first end is the last");
}

#[test]
fn what_has_crashed_too_often_is_not_loaded_until_it_is_cleared() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("quarantine.json").display().to_string();
    let run = || {
        let quarantine = format!("--quarantine={file}");
        program(&["run", &probe(), &quarantine, "--json", "--call", "abort"])
    };
    let quarantine = |args: &[&str]| program(&[&["quarantine"], args, &["--file", &file, "--json"]].concat());
    for _ in 0..5 {
        let output = run();
        exits(&output, 1);
        assert_eq!(object(&output)["error"]["kind"], "ended");
    }
    let output = run();
    exits(&output, 1);
    let object_of_run = object(&output);
    let error = &object_of_run["error"];
    assert_eq!(error["kind"], "quarantined", "{error}");
    let listed = object(&quarantine(&["list"]));
    let library = &listed["libraries"][0];
    assert_eq!(library["crashes"].as_array().map(Vec::len), Some(5), "{listed}");
    assert!(library["since"].is_string(), "{listed}");
    let digest = library["digest"].as_str().expect("64 digits");
    let clears = format!("`plugin-host quarantine clear {} --file {file}`", probe());
    assert!(error["help"].as_str().is_some_and(|help| help.contains(&clears)), "{error}");
    let text = program(&["quarantine", "list", "--file", &file]);
    assert!(stdout(&text).contains(digest) && stdout(&text).contains("SIGABRT"), "{}", stdout(&text));

    exits(&quarantine(&["clear", &hello()]), 2);
    assert_eq!(object(&quarantine(&["clear", &probe()]))["cleared"], 1);
    assert_eq!(object(&run())["error"]["kind"], "ended", "it is loaded again");
    assert_eq!(object(&quarantine(&["clear", digest]))["cleared"], 1);
    assert_eq!(object(&quarantine(&["clear", digest]))["error"]["kind"], "not-quarantined");

    fs::write(&file, "rubbish").expect("it is ours");
    let output = run();
    exits(&output, 2);
    assert_eq!(object(&output)["error"]["kind"], "quarantine-file");
    exits(&quarantine(&["list"]), 2);
    exits(&quarantine(&["clear", "--all"]), 0);
    assert_eq!(object(&run())["error"]["kind"], "ended", "and begins anew");
}

#[test]
fn the_quarantine_is_in_the_users_state_folder_by_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("XDG_STATE_HOME", folder.path().join("state")).stdin(Stdio::null());
        command.output().expect("the program starts")
    };
    exits(&at(&["run", &probe(), "--quarantine", "--call", "abort"]), 1);
    assert!(folder.path().join("state/plugin-host/quarantine.json").exists());
    let listed = at(&["quarantine", "list"]);
    exits(&listed, 0);
    assert!(stdout(&listed).contains("libprobe.so"), "{}", stdout(&listed));
    exits(&at(&["quarantine", "clear", "--all"]), 0);
    assert_eq!(stdout(&at(&["quarantine", "list"])), "no library has crashed\n");
}

/// The program in the background, ended when the test is over.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host that calls its plugin until it is ended, and its monitor's socket.
fn monitored(folder: &Path) -> (Background, String) {
    let socket = folder.join("monitor").display().to_string();
    let hello = hello();
    let args = ["run", &hello, "--quiet", "--id", "greeter", "--grant", "ui", "--monitor", &socket];
    let calls = ["--call", "greet", "--payload", "world", "--times", "1000000", "--pause", "10ms"];
    let mut host = Command::new(PROGRAM)
        .args(args)
        .args(calls)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Background)
        .expect("the program starts");
    // The first result: by then there is all that is looked at.
    let mut first = [0; 13];
    host.0.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("it greets");
    assert_eq!(&first, b"hello, world\n");
    // What comes next is for nobody, and must not fill the pipe.
    let mut rest = host.0.stdout.take().expect("a pipe");
    std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
    (host, socket)
}

#[test]
fn the_figures_of_a_host_are_printed_for_a_program_for_a_person_and_for_prometheus() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_host, socket) = monitored(folder.path());
    let output = program(&["top", &socket, "--once", "--json"]);
    exits(&output, 0);
    let seen = object(&output);
    let plugin = &seen["plugins"][0];
    assert_eq!(
        (&seen["command"], &plugin["plugin"], &plugin["state"]),
        (&"top".into(), &"greeter".into(), &"active".into())
    );
    assert!(plugin["calls"].as_u64().is_some_and(|calls| calls > 0), "{seen}");
    assert!(plugin["usage"]["memory_bytes"]["now"].as_u64().is_some_and(|bytes| bytes > 0), "{seen}");
    let output = program(&["top", &socket, "--once"]);
    exits(&output, 0);
    let row = stdout(&output).lines().nth(1).expect("a row").trim_start();
    assert!(row.starts_with("greeter") && row.contains("active") && row.contains("/100"), "{row}");
    let output = program(&["metrics", &socket]);
    exits(&output, 0);
    assert!(
        stdout(&output).contains("plugin_sandbox_state{plugin=\"greeter\",state=\"active\"} 1\n"),
        "{output:?}"
    );
}

#[test]
fn where_no_host_is_top_and_metrics_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("none").display().to_string();
    for args in [&["top", &none, "--once"][..], &["metrics", &none]] {
        let output = program(args);
        exits(&output, 2);
        assert!(
            stderr(&output).contains("there is no socket at") && stderr(&output).contains("--monitor"),
            "{output:?}"
        );
    }
    let output = program(&["top", &none, "--once", "--json"]);
    exits(&output, 2);
    assert_eq!(object(&output)["error"]["kind"], "monitor");
    let output = program(&["top", &none]);
    exits(&output, 2);
    assert!(stderr(&output).contains("--once"), "{}", stderr(&output));
}

#[test]
fn a_plugin_is_killed_by_a_key_and_top_ends_with_its_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut host, socket) = monitored(folder.path());
    let top = shlex::try_join([PROGRAM, "top", &socket]).expect("no NUL");
    let command = format!("stty cols 120 rows 30; {top}; echo ended with $?; stty -a");
    let mut script = Command::new("script")
        .args(["-qfc", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of bsdutils");
    let mut keyboard = script.stdin.take().expect("a pipe");
    let mut screen = script.stdout.take().expect("a pipe");
    let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
    // Each key once what it is an answer to is on the screen.
    let mut keys = [("greeter", &b"k"[..]), ("Sure?", b"y")].into_iter().peekable();
    while let Ok(got @ 1..) = screen.read(&mut bytes) {
        seen.extend_from_slice(&bytes[..got]);
        while let Some((_, key)) = keys.next_if(|(shown, _)| String::from_utf8_lossy(&seen).contains(shown)) {
            keyboard.write_all(key).expect("it reads");
        }
    }
    script.wait().expect("it ends");
    let screen = String::from_utf8_lossy(&seen);
    let status = host.0.wait().expect("it ends");
    let mut errors = String::new();
    host.0.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
    assert_eq!(status.code(), Some(1), "{errors}\n{screen}");
    assert!(errors.contains("ended it through the monitor"), "{errors}");
    // The host is gone with its only plugin, and the terminal is what it was.
    assert!(
        screen.contains("has gone, or has closed its monitor") && screen.contains("ended with 1"),
        "{screen}"
    );
    let behind = screen.split("ended with").nth(1).expect("it was printed");
    assert!(behind.contains(" icanon") && behind.contains(" echo "), "{behind}");
    assert!(screen.contains("\x1b[?1049l"), "the other screen was left");
}

#[test]
fn a_signal_ends_top_and_leaves_the_terminal_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_host, socket) = monitored(folder.path());
    let top = shlex::try_join([PROGRAM, "top", &socket]).expect("no NUL");
    let mut script = Command::new("script")
        .args([
            "-qfc",
            &format!("stty cols 120 rows 30; sh -c 'echo $$ >&2; exec {top}'; echo ended with $?; stty -a"),
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of bsdutils");
    let keyboard = script.stdin.take().expect("a pipe");
    let mut screen = script.stdout.take().expect("a pipe");
    let (mut seen, mut bytes, mut told) = (Vec::new(), [0; 4096], false);
    while let Ok(got @ 1..) = screen.read(&mut bytes) {
        seen.extend_from_slice(&bytes[..got]);
        let text = String::from_utf8_lossy(&seen);
        if !told && text.contains("greeter") {
            told = true;
            let pid = text.lines().next().expect("its number").trim().to_owned();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        }
    }
    drop(keyboard);
    script.wait().expect("it ends");
    let screen = String::from_utf8_lossy(&seen);
    assert!(screen.contains("ended with 143"), "{screen}");
    let behind = screen.split("ended with").nth(1).expect("it was printed");
    assert!(behind.contains(" icanon") && behind.contains(" echo "), "{behind}");
}

/// `prove` with the probes in place.
fn prove(args: &[&str]) -> Output {
    probe();
    program(&[&["prove"], args].concat())
}

#[test]
fn rows_that_hold_are_shown_with_their_controls_and_are_exit_code_0() {
    let output = prove(&["--group", "information", "--row", "its environment", "--row", "its variables"]);
    exits(&output, 0);
    let text = stdout(&output);
    for line in ["reads its environment", "counts its variables", "2 of 2 held, 0 not held, 0 not shown"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(stderr(&output), "", "no progress outside of a terminal");
}

#[test]
fn with_json_a_row_tells_what_was_tried_what_came_of_it_and_what_the_control_did() {
    let output = prove(&["--json", "--group", "information", "--row", "counts its variables"]);
    exits(&output, 0);
    let proof = object(&output);
    assert_eq!((&proof["held"], &proof["not_held"], &proof["not_shown"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!(proof["left_behind"], serde_json::json!([]));
    assert!(proof["layers"].as_array().is_some_and(|layers| !layers.is_empty()));
    let rows = proof["rows"].as_array().expect("rows");
    let [row] = rows.as_slice() else { panic!("one row: {rows:?}") };
    assert_eq!((&row["group"], &row["verdict"]), (&"information".into(), &"held".into()));
    let inside = row["inside"].as_array().expect("one outcome for each set of grants");
    assert!(inside.len() > 1 && inside.iter().all(|one| one["outcome"] == "got \"0\""), "{inside:?}");
    assert_ne!(row["control"], inside[0]["outcome"], "outside there are some");
}

#[test]
fn what_a_control_reads_of_the_users_is_told_by_its_length_only() {
    const SECRET: &str = "a-token-that-nobody-else-is-to-see";
    probe();
    for format in [&[][..], &["--json"]] {
        let output = Command::new(PROGRAM)
            .args(["prove", "--group", "information", "--row", "reads its environment"])
            .args(format)
            .env("TOKEN", SECRET.repeat(2))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        exits(&output, 0);
        let text = stdout(&output);
        assert!(text.contains(" bytes") && !text.contains(&SECRET[..8]), "{text}");
    }
}

#[test]
fn what_there_is_no_row_for_or_no_probe_is_exit_code_2() {
    let output = prove(&["--row", "does as it is told"]);
    exits(&output, 2);
    assert!(stderr(&output).contains("prove --list"), "{}", stderr(&output));
    let empty = tempfile::tempdir().expect("a folder");
    let output = prove(&["--probes", &empty.path().display().to_string()]);
    exits(&output, 2);
    for said in ["there is no libprobe.so", "cargo build --release -p probe -p probe-constructor", "--probes"]
    {
        assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
    }
    assert_eq!(stdout(&output), "", "nothing was tried");
}

#[test]
fn the_rows_are_listed_with_what_holds_them_and_not_tried() {
    let output = prove(&["--list", "--group", "protocol", "--probes", "/nowhere"]);
    exits(&output, 0);
    assert!(stdout(&output).contains("closes its channel"), "{}", stdout(&output));
    assert!(!stdout(&output).contains("verdict"), "{}", stdout(&output));
}

/// `prove` of who a plugin is, where no namespace of users can be made: its user is the host's.
fn prove_without_users(args: &[&str]) -> Output {
    probe();
    // The limit is that of the namespace made for it, and goes with it.
    Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-ec"])
        .arg("echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"")
        .args(["sh", PROGRAM, "prove", "--row", "asks who it is"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("unshare(1), of util-linux")
}

#[test]
fn what_does_not_hold_without_a_layer_is_exit_code_1_and_a_layer_that_is_missed_3() {
    let output = prove_without_users(&[]);
    exits(&output, 3);
    assert!(stderr(&output).contains("ids"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "", "nothing was tried");

    let output = prove_without_users(&["--best-effort", "ids"]);
    exits(&output, 1);
    for said in ["NOT HELD: asks who it is", "without user-namespace", "0 of 1 held, 1 not held"] {
        assert!(stdout(&output).contains(said), "{said}: {}", stdout(&output));
    }

    let output = prove_without_users(&["--best-effort", "ids", "--json"]);
    exits(&output, 1);
    let proof = object(&output);
    assert_eq!(proof["rows"][0]["verdict"], "not-held");
    assert!(proof["rows"][0]["why"].as_str().is_some_and(|why| why.contains("told the same as outside")));
}

#[test]
fn nobody_but_the_program_itself_is_played_a_control() {
    let output = program(&["prove-control"]);
    exits(&output, 2);
}
