//! Libraries that know nothing of a sandbox, doing what they do everywhere: SQLite, an HTTP client, `std::process`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread::JoinHandle;

use rig::plugins::Attempts;
use rig::unconfined;
use rig::{Answer, Scratch, active, library};
use sandbox_core::{
    PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK, PERMISSION_PROCESS, PluginPermission,
    PluginPolicy, PluginSandbox,
};

fn stock(permissions: impl IntoIterator<Item = PluginPermission>) -> PluginSandbox {
    let policy = PluginPolicy::new().permissions(permissions);
    active("probe-stock", policy, library("probe-stock"), ())
}

/// The same in a process that nothing confines: a refusal proves something only if this works.
#[track_caller]
fn unconfined(method: &str, payload: &str) {
    let outcome = unconfined::attempt_of(&library("probe-stock"), method, payload);
    assert!(outcome.reached(), "{method} outside: {outcome:?}");
}

fn got(text: &str) -> Answer {
    Answer::Got(text.into())
}

#[test]
fn sqlite_works_on_a_granted_folder_with_its_journal() {
    let scratch = Scratch::new();
    let folder = scratch.folder("data");
    let database = scratch.at("data/numbers.db");
    let grants = [PERMISSION_FILE_READ, PERMISSION_FILE_WRITE]
        .map(|permission| permission.scoped_to_path(&folder).expect("absolute"));
    assert_eq!(stock(grants.clone()).attempt("sqlite", &database), got("5050"));
    // What one plugin has written another finds, and so does the world outside.
    assert_eq!(stock(grants.clone()).attempt("sqlite_read", &database), got("5050"));
    unconfined("sqlite_read", &database);

    assert!(!stock([]).attempt("sqlite_read", &database).got_it(), "nothing granted");
    let [read, _] = grants;
    let reader = stock([read]);
    assert_eq!(reader.attempt("sqlite_read", &database), got("5050"));
    assert!(!reader.attempt("sqlite", &database).got_it(), "reading granted, and no writing");
    unconfined("sqlite", &database);
}

#[test]
fn sqlite_works_on_a_granted_file_whose_journal_is_granted_too() {
    let scratch = Scratch::new();
    let database = scratch.file("numbers.db", "");
    let journal = format!("{database}-journal");
    let grants = [&database, &journal].into_iter().flat_map(|path| {
        [PERMISSION_FILE_READ, PERMISSION_FILE_WRITE]
            .map(|permission| permission.scoped_to_path(path).expect("absolute"))
    });
    assert_eq!(stock(grants).attempt("sqlite", &database), got("5050"));
}

/// Answers one request on a port of its own; whoever drops it without one having come ends the test.
fn http_server() -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut head = String::new();
        let mut lines = BufReader::new(stream.try_clone().expect("a clone"));
        while lines.read_line(&mut head).expect("a request") > 2 {}
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            .expect("it reads");
        head
    });
    (port, server)
}

#[test]
fn an_http_client_reaches_a_granted_server_by_address_and_by_name() {
    for host in ["127.0.0.1", "localhost"] {
        let (port, server) = http_server();
        let url = format!("http://{host}:{port}/path");
        let grant = PERMISSION_NETWORK.scoped(&format!("{host}:{port}")).expect("a scope");
        assert!(!stock([]).attempt("http", &url).got_it(), "{host}: nothing granted");
        let other = PERMISSION_NETWORK.scoped(&format!("{host}:1")).expect("a scope");
        assert!(!stock([other]).attempt("http", &url).got_it(), "{host}: another port granted");
        assert_eq!(stock([grant]).attempt("http", &url), got("hello"), "{host}");
        assert!(server.join().expect("no panic").starts_with("GET /path "), "{host}");
    }
    let (port, _server) = http_server();
    unconfined("http", &format!("http://127.0.0.1:{port}/"));
}

#[test]
fn std_process_runs_a_granted_program_of_the_system() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "contents");
    let program = ["/usr/bin/cat", "/bin/cat"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("every system has a cat");
    let lines = format!("{program}\n{file}");
    let run = PERMISSION_PROCESS.scoped_to_path(program).expect("absolute");
    let read = PERMISSION_FILE_READ.scoped_to_path(&file).expect("absolute");
    unconfined("command", &lines);
    assert!(!stock([read.clone()]).attempt("command", &lines).got_it(), "no program granted");
    assert_eq!(stock([run.clone()]).attempt("command", &lines), got("1 "), "the program may read no more");
    assert_eq!(stock([run, read]).attempt("command", &lines), got("0 contents"));
}
