//! What reads hostile bytes, and what must hold whatever they are.
//!
//! Compiled for this crate's tests, which try all that is in `tests/fuzz/corpus` and a little around it, and, with the
//! feature `fuzzing`, for the targets in `tests/fuzz`. Each function takes any bytes, and panics if a claim does not hold.
//! Never part of a host.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::{audit, fuzzing as host};
use crate::shared::policy::{Grade, Layer, NetworkScope, PluginId, PluginPermission, Scope};
use crate::shared::wire::control::{FromHelper, ToHelper};
use crate::shared::wire::frame::{self, Assembler};
use crate::shared::wire::zygote::{FromZygote, ToZygote};

/// What tries bytes, and panics if a claim does not hold of them.
pub type Try = fn(&[u8]);

/// Each target: its name, which its folder of the corpus has too, and what it tries.
pub const TARGETS: [(&str, Try); 8] = [
    ("frames", frames),
    ("requests", requests),
    ("policy", policy),
    ("services", services),
    ("audit", audit_log),
    ("elf", elf),
    ("closure", closure),
    ("monitor", monitor),
];

/// A bound on frames that inputs of a few kilobytes can meet and overstep.
const MOST_FRAME_BYTES: usize = 4096;

/// What a helper or a zygote writes into its pipe, cut into pieces as the first byte says.
pub fn frames(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = assemble(std::iter::once(stream));
    let pieces = assemble(stream.chunks(usize::from(*cut).max(1)));
    assert_eq!(whole, pieces, "the same frames and the same end, however they are cut");
    for body in whole.0 {
        assert!(body.len() <= MOST_FRAME_BYTES);
        message::<FromHelper>(&body);
        message::<ToHelper>(&body);
        message::<FromZygote>(&body);
        message::<ToZygote>(&body);
    }
}

type Assembled = (Vec<Vec<u8>>, Option<frame::FrameError>);

fn assemble<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Assembled {
    let mut assembler = Assembler::new(MOST_FRAME_BYTES);
    let mut bodies = Vec::new();
    for piece in pieces {
        let pushed = assembler.push(piece, |body| {
            bodies.push(body);
            true
        });
        if let Err(error) = pushed {
            return (bodies, Some(error));
        }
    }
    (bodies, None)
}

/// What is read is written and read again as the same message, and takes no more memory than its bytes can account for.
fn message<M: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(message) = frame::decode::<M>(body) else { return };
    let written = frame::encode(&message).expect("what was read can be written");
    // Numbers may come in more bytes than they need, never the other way round.
    assert!(written.len() <= body.len() + 4, "{} bytes out of {}", written.len(), body.len());
    let again: M = frame::decode(&written[4..]).expect("what was written can be read");
    assert_eq!(frame::encode(&again).expect("as above"), written);
}

/// What a broker reads in a helper's memory, and what it reads on the sockets of its name server.
pub fn requests(data: &[u8]) {
    host::socket_address(data);
    host::dns_message(data);
    host::in_memory(data);
}

/// The texts in which permissions, scopes, grades, layers and ids are written, one a line.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut scopes: Vec<Scope> = Vec::new();
    for line in text.lines().take(12) {
        if let Ok(permission) = line.parse::<PluginPermission>() {
            assert_eq!(permission.to_string().parse().as_ref(), Ok(&permission), "as it is printed");
            assert!(
                permission.covers(&permission) && permission.unscoped().covers(&permission) || {
                    // A Unix socket is granted by its own scope alone.
                    permission.scope().is_some_and(Scope::is_apart) && permission.covers(&permission)
                }
            );
        }
        if let Ok(scope) = line.parse::<NetworkScope>() {
            assert_eq!(scope.to_string().parse().as_ref(), Ok(&scope), "as it is printed");
        }
        if let Ok(scope) = Scope::name(line) {
            assert_eq!(scope.to_string(), line);
        }
        if let Ok(layer) = line.parse::<Layer>() {
            assert_eq!(layer.to_string().parse(), Ok(layer));
        }
        if let Ok(grade) = line.parse::<Grade>() {
            assert_eq!(grade.to_string().parse().ok(), Some(grade));
        }
        if let Ok(id) = PluginId::new(line) {
            assert_eq!(id.to_string(), line);
        }
        scopes.extend(Scope::path(line));
        scopes.extend(Scope::network(line));
    }
    for path in scopes.iter().filter_map(Scope::place) {
        plain_path(path);
    }
    for a in &scopes {
        assert!(a.covers(a), "{a} covers itself");
        for b in scopes.iter().filter(|b| a.covers(b)) {
            if let (Some(tree), Some(path)) = (a.place(), b.place()) {
                assert!(path.starts_with(tree), "{} is not in {}", path.display(), tree.display());
            }
            for c in scopes.iter().filter(|c| b.covers(c)) {
                assert!(a.covers(c), "{a} covers {b}, which covers {c}");
            }
        }
    }
}

/// A scope's path is absolute, and goes neither up nor through anything that a kernel would skip.
fn plain_path(path: &Path) {
    assert!(path.is_absolute());
    let rebuilt: PathBuf = path.components().collect();
    assert_eq!(rebuilt.as_os_str(), path.as_os_str(), "normalised");
    assert!(!path.components().any(|part| part.as_os_str() == ".."));
    assert_eq!(
        Scope::of_object(path).ok(),
        Scope::path(path).ok(),
        "found by the kernel it is the same scope"
    );
}

/// What a plugin sends to built-in services, and what its file says of itself.
pub fn services(data: &[u8]) {
    if let Some(part) = plugin_abi::files::ReadPart::decode(data) {
        assert_eq!(part.encode(), data);
    }
    if let Some(part) = plugin_abi::files::WritePart::decode(data) {
        assert_eq!(part.encode().as_deref(), Some(data));
    }
    if let Some((id, message)) = plugin_abi::messages::split_address(data) {
        assert_eq!(plugin_abi::messages::address(id, message).as_deref(), Some(data));
    }
    if let Some(wait) = plugin_abi::messages::decode_wait(data) {
        assert!(wait <= plugin_abi::messages::MAX_RECEIVE_WAIT);
        let again = plugin_abi::messages::encode_wait(wait);
        assert_eq!(plugin_abi::messages::decode_wait(&again), Some(wait));
    }
    let again = plugin_abi::metadata::decode(data).map(|metadata| metadata.id);
    assert_eq!(again.ok(), plugin_abi::metadata::decode(data).map(|metadata| metadata.id).ok());
}

/// An audit log.
pub fn audit_log(data: &[u8]) {
    let mut records = 0;
    for record in audit::AuditReader::new(data).flatten() {
        records += 1;
        let line = record.line().expect("what was read can be written");
        assert!(!line.contains(['\n', '\x1b']), "one line, which moves no cursor: {line:?}");
        let again: audit::AuditRecord = line.parse().expect("what was written can be read");
        assert_eq!(again, record);
        let mut suggester = audit::GrantSuggester::new();
        suggester.add(&record);
        drop(suggester.finish());
    }
    assert!(records <= data.split(|byte| *byte == b'\n').count());
}

/// A library.
pub fn elf(data: &[u8]) {
    host::library(data);
}

/// A plugin's library and those that it needs.
pub fn closure(data: &[u8]) {
    host::libraries(data);
}

/// What is sent to a monitor, and what comes from one, one line each.
pub fn monitor(data: &[u8]) {
    String::from_utf8_lossy(data).lines().take(12).for_each(host::monitor_line);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                (path, bytes)
            })
            .collect();
        files.sort();
        files
    }

    /// Tries an input, and names it if it panics.
    fn attempt(try_it: Try, what: &str, input: &[u8]) {
        if let Err(panic) = std::panic::catch_unwind(|| try_it(input)) {
            let shown = input[..input.len().min(2000)].escape_ascii();
            eprintln!("{what}, {} bytes: \"{shown}\"", input.len());
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn every_input_of_the_corpus_holds() {
        for (target, try_it) in TARGETS {
            let corpus = corpus(target);
            assert!(corpus.len() >= 3, "{target} has {} inputs", corpus.len());
            for (path, input) in corpus {
                attempt(try_it, &path.display().to_string(), &input);
            }
        }
    }

    /// So many changed inputs for each target, or as many as `FUZZ_ROUNDS` says.
    const ROUNDS: usize = 3000;

    #[test]
    fn so_does_what_is_like_them() {
        let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
        for (number, (target, try_it)) in TARGETS.into_iter().enumerate() {
            let inputs: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
            let mut rng = fastrand::Rng::with_seed(number as u64 + rounds as u64 / ROUNDS as u64);
            for _ in 0..rounds {
                let mut input = rng.choice(&inputs).unwrap().clone();
                for _ in 0..rng.usize(1..6) {
                    change(&mut input, &inputs, &mut rng);
                }
                attempt(try_it, target, &input);
            }
        }
    }

    /// One change of those that break parsers: numbers at their edges, parts that are missing, twice there, or another's.
    fn change(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut fastrand::Rng) {
        let at = rng.usize(0..=input.len());
        let some = at..(at + rng.usize(0..=16)).min(input.len());
        match rng.u8(0..8) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(0..8),
            1 if at < input.len() => {
                input[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b':']).unwrap()
            }
            2 => {
                let bytes = rng.choice([0_u64, 1, 0xffff, 0x7fff_ffff, u64::MAX]).unwrap().to_le_bytes();
                let width = *rng.choice(&[2, 4, 8]).unwrap();
                let end = (at + width).min(input.len());
                input[at..end].copy_from_slice(&bytes[..end - at]);
            }
            3 => drop(input.drain(some)),
            4 => {
                let copy = input[some].to_vec();
                input.splice(at..at, copy);
            }
            5 => input.truncate(at),
            6 => {
                let other = rng.choice(others).unwrap();
                let from = rng.usize(0..=other.len());
                let piece = other[from..].iter().copied().take(rng.usize(0..64)).collect::<Vec<_>>();
                input.splice(at..at, piece);
            }
            _ => input.insert(at, rng.u8(..)),
        }
    }

    fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }

    /// Makes the part of the corpus that is not an input which once failed:
    /// `cargo test -p sandbox-core --lib seeds_are_written -- --ignored`.
    #[test]
    #[ignore = "writes into the sources"]
    fn seeds_are_written() {
        use crate::shared::wire::control::{Bytes, CallId, Fault, FaultKind, LoadFault, ServiceCallId};
        let bytes = || Bytes(b"some bytes".to_vec());
        let fault = || Fault { kind: FaultKind::Failed, message: "a message".to_owned() };
        let from_helper = [
            ("loaded", FromHelper::Loaded(Ok(()))),
            ("not-loaded", FromHelper::Loaded(Err(LoadFault::NoEntry))),
            ("activated", FromHelper::Activated(Err(fault()))),
            ("returned", FromHelper::Returned { id: CallId(7), result: Ok(bytes()) }),
            (
                "service",
                FromHelper::Service {
                    id: ServiceCallId(300),
                    during_operation: true,
                    service: "file.read".to_owned(),
                    payload: b"payload".to_vec(),
                },
            ),
        ];
        let mut all = vec![5];
        for (name, message) in from_helper {
            let frame = frame::encode(&message).unwrap();
            write("frames", name, [&[1], &frame[..]].concat());
            all.extend(frame);
        }
        let call = ToHelper::Call { id: CallId(1), method: "echo".to_owned(), payload: b"x".to_vec() };
        all.extend(frame::encode(&call).unwrap());
        write("frames", "several", &all);
        write("frames", "too-long", [7, 0xff, 0xff, 0xff, 0xff, 0]);

        for (name, bytes) in host::request_seeds() {
            write("requests", name, bytes);
        }
        for (name, text) in [
            ("permissions", "file-read:/srv/photos\nnetwork:example.org:443\nplugin:other\nui\nfile-read"),
            ("paths", "/\n/a\n/a/b/\n/a//b/.\n/a2\n/a/../b\na"),
            (
                "network",
                "example.org:443\n*.example.org\n10.0.0.0/8:80\n10.1.0.0/16\n[::1]:8080\nlisten:8080\nunix:/run/app.sock\nlocalhost",
            ),
            ("others", "seccomp\nlandlock\nmediated\nrelay\ndescriptor\na-plugin.of_mine"),
        ] {
            write("policy", name, text);
        }
        let part = plugin_abi::files::ReadPart { path: b"/a/b", offset: 3, len: 4 };
        write("services", "read", part.encode());
        let part = plugin_abi::files::WritePart { path: b"/a/b", offset: 3, bytes: b"new" };
        write("services", "write", part.encode().unwrap());
        write("services", "message", plugin_abi::messages::address("other", b"hello").unwrap());
        write("services", "wait", 1000_u32.to_le_bytes());
        for (name, line) in [
            ("ended", r#"{"v":1,"time":"2026-01-01T12:00:00Z","plugin":"a","kind":"ended","cause":"x"}"#),
            (
                "access",
                r#"{"v":1,"time":"2026-01-01T12:00:00.5Z","plugin":"a","kind":"access","permission":"file-read","action":"open","object":"/a","resolved":"/b","granted":true,"rule":"granted: file-read"}"#,
            ),
            (
                "repeated",
                r#"{"v":1,"time":"2026-01-01T12:00:00Z","plugin":"a","kind":"repeated","count":3,"since":"2026-01-01T12:00:00Z","event":{"kind":"ended","cause":"x"}}"#,
            ),
        ] {
            write("audit", name, format!("{line}\n\nrubbish\n{line}"));
        }
        for (name, lines) in [
            (
                "commands",
                "{\"v\":2,\"command\":\"snapshot\"}\n{\"v\":2,\"command\":\"kill\",\"plugin\":\"a\"}\n{\"v\":2,\"command\":\"revoke\",\"plugin\":\"a\",\"permission\":\"file-read:/a\"}",
            ),
            (
                "http",
                "GET /metrics HTTP/1.1\nPOST /metrics HTTP/1.1\nGET /\nGET /a b HTTP/1.0\n{\"v\":2,\"command\":\"kill\",\"plugin\":\"a HTTP/1.1\"}",
            ),
            (
                "answers",
                "{\"v\":2,\"answer\":\"done\",\"message\":\"a\\u001b[2J\"}\n{\"v\":2,\"answer\":\"metrics\",\"text\":\"a 1\\n\"}\n{\"v\":1,\"answer\":\"failed\",\"message\":\"a\"}",
            ),
            (
                "figures",
                r#"{"v":2,"answer":"figures","figures":{"version":"0.1.0","process_id":7,"plugins":[{"plugin":"a","state":"active","limits":{"max_memory_mb":100,"call_timeout_ms":5000.5},"usage":{"cpu_time_ms":1.5,"memory_bytes":{"now":1,"peak":2}},"calls":3,"latency":{"buckets":[1,2],"sum_ms":0.003},"denials":{"ui":1}}]}}"#,
            ),
        ] {
            write("monitor", name, lines);
        }
        for (name, arguments) in [
            ("plain", &["-Wl,-soname,libplain.so.1", "-nostdlib"][..]),
            ("needs", &["-Wl,-rpath,$ORIGIN/x:/y", "-Wl,--no-as-needed"][..]),
            ("rpath", &["-Wl,--disable-new-dtags,-rpath,/z", "-nostdlib"][..]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (source, library) = (folder.path().join("x.c"), folder.path().join("x.so"));
            fs::write(
                &source,
                "__attribute__((section(\".plugin_abi\"), used)) static const char m[] = \"no metadata\"; int f(void) { return 1; }",
            )
            .unwrap();
            let status = std::process::Command::new("cc")
                .args(["-shared", "-fPIC", "-s", "-Wl,-z,noseparate-code", "-Wl,--build-id=none", "-o"])
                .args([&library, &source])
                .args(arguments)
                .status()
                .unwrap();
            assert!(status.success(), "{name}");
            write("elf", name, fs::read(&library).unwrap());
        }
        // Each library, and which of the others it needs.
        type Needs<'a> = &'a [(&'a str, &'a [&'a str])];
        let closures: [(&str, Needs<'_>); 5] = [
            ("alone", &[("plugin.so", &[])]),
            ("chain", &[("plugin.so", &["liba.so"]), ("liba.so", &["libb.so"]), ("libb.so", &[])]),
            ("cycle", &[("plugin.so", &["liba.so"]), ("liba.so", &["libb.so"]), ("libb.so", &["liba.so"])]),
            ("missing", &[("plugin.so", &["liba.so"]), ("liba.so", &["libmissing.so"])]),
            (
                "forbidden",
                &[
                    ("plugin.so", &["liba.so", "libb.so"]),
                    ("liba.so", &["libc.so.6"]),
                    ("libb.so", &["other.so"]),
                ],
            ),
        ];
        for (name, libraries) in closures {
            let folder = tempfile::tempdir().unwrap();
            let mut all = Vec::new();
            for (library, needs) in libraries {
                // An empty library stands for each that is needed: only its name goes into the file.
                let compile = |at: &Path, soname: &str, needs: &[PathBuf]| {
                    let status = std::process::Command::new("cc")
                        .args([
                            "-shared",
                            "-s",
                            "-nostdlib",
                            "-xc",
                            "/dev/null",
                            "-xnone",
                            "-Wl,--no-as-needed",
                        ])
                        .args(["-Wl,-z,noseparate-code", "-Wl,--build-id=none", "-Wl,--hash-style=gnu"])
                        .args([format!("-Wl,-soname,{soname}"), "-o".to_owned()])
                        .arg(at)
                        .args(needs)
                        .status()
                        .unwrap();
                    assert!(status.success(), "{name} {soname}");
                };
                let empty: Vec<_> = needs
                    .iter()
                    .map(|need| {
                        let at = folder.path().join(format!("empty-{need}"));
                        compile(&at, need, &[]);
                        at
                    })
                    .collect();
                let at = folder.path().join(library);
                compile(&at, library, &empty);
                let bytes = fs::read(&at).unwrap();
                all.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
                all.extend(bytes);
            }
            write("closure", name, all);
        }
    }
}
