//! What must hold of a line at a monitor's socket, whichever end reads it. See `crate::fuzzing`.

use super::http;
use super::wire::{MonitorAnswer, MonitorReply, MonitorRequest};

/// One line: what is read is written as one line, and read again as the same; no request is also one of HTTP.
pub(crate) fn monitor_line(line: &str) {
    let http = http::request(line);
    if let Some(http::Request::Get(path)) = &http {
        assert!(path.starts_with('/') && !path.contains(' '), "{path:?}");
    }
    if let Ok(request) = line.parse::<MonitorRequest>() {
        assert_eq!(http, None, "{line:?} is both");
        let written = request.line();
        assert!(written.ends_with('\n') && written.matches('\n').count() == 1, "{written:?}");
        assert_eq!(written.parse(), Ok(request));
    }
    if let Ok(reply) = line.parse::<MonitorReply>() {
        let written = reply.line();
        assert!(written.ends_with('\n') && written.matches('\n').count() == 1, "{written:?}");
        assert!(!written.contains('\x1b'), "{written:?}");
        assert_eq!(written.parse().as_ref(), Ok(&reply));
        if let MonitorAnswer::Figures { figures } = reply.answer {
            // What a host is told by another, `plugin-host top` by whoever listens there, it may also look at.
            drop(figures.prometheus());
            for plugin in &figures.plugins {
                let _ = (plugin.limits.check(), plugin.denied(), plugin.latency.quantile(0.99));
            }
        }
    }
}
