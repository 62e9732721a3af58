//! The little of HTTP that a monitor speaks: the first line of a request in, one answer out.
//!
//! Runs in the host, on a connection's thread. Owns which line is HTTP at all, and each answer's text. Never reads a body, and
//! never keeps a connection open.

use crate::host::metrics::CONTENT_TYPE;

/// A request, by its first line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// For what is at this path.
    Get(&'a str),
    /// By another method.
    Other,
    /// One that is not as it should be.
    Malformed,
}

/// What a line asks for, if it is one of HTTP's: JSON never is, since its lines begin with a brace.
pub(super) fn request(line: &str) -> Option<Request<'_>> {
    if line.starts_with('{') {
        return None;
    }
    let words: Vec<&str> = line.splitn(5, ' ').collect();
    let is_method = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_version = |word: &&str| word.starts_with("HTTP/");
    let begins_so = words.len() > 1 && words.first().is_some_and(is_method);
    if !begins_so && !words.iter().skip(1).any(is_version) {
        return None;
    }
    Some(match words[..] {
        [method, target, "HTTP/1.0" | "HTTP/1.1"] if is_method(&method) && target.starts_with('/') => {
            if method == "GET" {
                Request::Get(target)
            } else {
                Request::Other
            }
        }
        _ => Request::Malformed,
    })
}

fn answer(status: &str, more: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn metrics(text: &str) -> String {
    answer("200 OK", "", CONTENT_TYPE, text)
}

pub(super) fn malformed() -> String {
    answer("400 Bad Request", "", TEXT, "want GET /metrics HTTP/1.1, and at most 64 headers\n")
}

pub(super) fn not_found() -> String {
    answer("404 Not Found", "", TEXT, "only /metrics is here\n")
}

pub(super) fn not_allowed() -> String {
    answer("405 Method Not Allowed", "Allow: GET\r\n", TEXT, "/metrics can be read, by GET, and no more\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_it_asks_for() {
        for (line, wanted) in [
            ("GET /metrics HTTP/1.1", Some(Request::Get("/metrics"))),
            ("GET / HTTP/1.0", Some(Request::Get("/"))),
            ("POST /metrics HTTP/1.1", Some(Request::Other)),
            ("HEAD /metrics HTTP/1.1", Some(Request::Other)),
            ("GET /metrics", Some(Request::Malformed)),
            ("GET metrics HTTP/1.1", Some(Request::Malformed)),
            ("GET  /metrics HTTP/1.1", Some(Request::Malformed)),
            ("GET /metrics HTTP/1.1 ", Some(Request::Malformed)),
            ("GET /metrics HTTP/2", Some(Request::Malformed)),
            ("get /metrics HTTP/1.1", Some(Request::Malformed)),
            (" /metrics HTTP/1.1", Some(Request::Malformed)),
            ("GET /a b c d e f HTTP/1.1", Some(Request::Malformed)),
            ("PRI * HTTP/2.0", Some(Request::Malformed)),
            ("{\"v\":2,\"command\":\"snapshot\"}", None),
            ("{\"v\":2,\"command\":\"kill\",\"plugin\":\"a HTTP/1.1\"}", None),
            ("snapshot", None),
            ("SNAPSHOT", None),
            ("", None),
        ] {
            assert_eq!(request(line), wanted, "{line:?}");
        }
    }
}
