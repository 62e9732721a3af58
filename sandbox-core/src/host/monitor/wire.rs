//! What is said at a monitor's socket: one JSON object a line, each request answered with one line.
//!
//! Runs in the host and in whoever asks. Owns the format: [`MONITOR_VERSION`] grows when a key changes its meaning or goes, not
//! when a key, a command or an answer is added.

use serde::{Deserialize, Serialize};

use crate::host::figures::HostFigures;

/// The version of the format, which every line has as its `v`.
pub const MONITOR_VERSION: u32 = 2;

/// One line to a monitor.
///
/// ```
/// use sandbox_core::{MonitorCommand, MonitorRequest};
/// let request = MonitorRequest::new(MonitorCommand::Kill { plugin: "thumbs".to_owned() });
/// assert_eq!(request.line(), "{\"v\":2,\"command\":\"kill\",\"plugin\":\"thumbs\"}\n");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitorRequest {
    /// The version of the format.
    pub v: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub command: MonitorCommand,
}

/// What a monitor can be asked for: its `command`, and the keys that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MonitorCommand {
    /// The figures of all plugins.
    Snapshot,
    /// The same as text for Prometheus.
    Metrics,
    /// [`deactivate_plugin`](crate::PluginSandboxManager::deactivate_plugin), once the plugin is free; an error if it is not
    /// within 5 seconds.
    Deactivate {
        /// Which.
        plugin: String,
    },
    /// Ends the helper at once, whatever it does, with [`Cause::ByOperator`](crate::Cause::ByOperator).
    Kill {
        /// Which.
        plugin: String,
    },
    /// [`revoke_permission`](crate::PluginSandboxManager::revoke_permission).
    Revoke {
        /// Of which.
        plugin: String,
        /// What, as `name` or `name:scope`.
        permission: String,
    },
}

/// One line from a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonitorReply {
    /// The version of the format.
    pub v: u32,
    /// What came of the request.
    #[serde(flatten)]
    pub answer: MonitorAnswer,
}

/// What comes of a request: its `answer`, and the keys that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MonitorAnswer {
    /// To a snapshot.
    Figures {
        /// The figures.
        figures: HostFigures,
    },
    /// To a request for metrics.
    Metrics {
        /// The text, as it is exposed.
        text: String,
    },
    /// It was done.
    Done {
        /// What was done, in words. Not to be trusted more than the host.
        message: String,
    },
    /// It was not done, or not understood.
    Failed {
        /// Why, in words.
        message: String,
    },
}

impl MonitorRequest {
    /// A request of this version.
    pub fn new(command: MonitorCommand) -> Self {
        Self { v: MONITOR_VERSION, command }
    }

    /// The line, with its end.
    pub fn line(&self) -> String {
        line(self)
    }
}

impl MonitorReply {
    pub(super) fn new(answer: MonitorAnswer) -> Self {
        Self { v: MONITOR_VERSION, answer }
    }

    pub(super) fn line(&self) -> String {
        line(self)
    }
}

fn line(of: &impl Serialize) -> String {
    // Strings, numbers and maps of both always are JSON.
    let mut line = serde_json::to_string(of).unwrap_or_default();
    line.push('\n');
    line
}

/// The version first: a line of another may have any other keys.
fn versioned<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if v != MONITOR_VERSION {
        return Err(format!("version {v} of the monitor's format, of which {MONITOR_VERSION} is known"));
    }
    serde_json::from_str(line).map_err(|error| error.to_string())
}

impl std::str::FromStr for MonitorRequest {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        versioned(line)
    }
}

impl std::str::FromStr for MonitorReply {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        versioned(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_reads_back_as_it_was_written() {
        let plugin = || "p".to_owned();
        for command in [
            MonitorCommand::Snapshot,
            MonitorCommand::Metrics,
            MonitorCommand::Deactivate { plugin: plugin() },
            MonitorCommand::Kill { plugin: "a\nb\"".to_owned() },
            MonitorCommand::Revoke { plugin: plugin(), permission: "file-read:/a b".to_owned() },
        ] {
            let request = MonitorRequest::new(command);
            assert_eq!(request.line().matches('\n').count(), 1);
            assert_eq!(request.line().parse(), Ok(request));
        }
        for answer in [
            MonitorAnswer::Figures { figures: HostFigures::default() },
            MonitorAnswer::Metrics { text: "a 1\nb 2\n".to_owned() },
            MonitorAnswer::Done { message: "done".to_owned() },
            MonitorAnswer::Failed { message: "\u{1b}[2J".to_owned() },
        ] {
            let reply = MonitorReply::new(answer);
            assert_eq!(reply.line().matches('\n').count(), 1);
            assert!(!reply.line().contains('\x1b'));
            assert_eq!(reply.line().parse(), Ok(reply));
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, said) in [
            ("", "EOF"),
            ("{}", "missing field `v`"),
            (r#"{"v":1,"command":"kill"}"#, "version 1 of the monitor's format, of which 2 is known"),
            (r#"{"v":2,"command":"reboot"}"#, "unknown variant `reboot`"),
            (r#"{"v":2,"command":"kill"}"#, "missing field `plugin`"),
            ("snapshot", "expected value"),
            (r#"[1]"#, ""),
        ] {
            let error = line.parse::<MonitorRequest>().unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn figures_with_more_or_fewer_keys_than_are_known_are_read() {
        let line = r#"{"v":2,"answer":"figures","figures":{"process_id":7,"later":1,"plugins":[{"plugin":"p","later":{}}]}}"#;
        let reply: MonitorReply = line.parse().unwrap();
        let MonitorAnswer::Figures { figures } = reply.answer else { panic!("{reply:?}") };
        assert_eq!((figures.process_id, figures.plugins[0].plugin.as_str()), (7, "p"));
    }
}
