//! What a run has come to so far, for its JSON object.
//!
//! Runs in the application's process. Owns the keys of that object, which `output::json` describes.

use std::sync::Arc;
use std::time::Duration;

use sandbox_core::{EndReport, EnforcementReport, PluginMetadata};
use serde_json::{Value, json};

use super::services::Said;
use super::watch::Watched;
use crate::cli::{Output, RunArgs};
use crate::output::json;

/// What is known of a run, whether it ended well or not.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) metadata: Option<PluginMetadata>,
    pub(crate) report: Option<EnforcementReport>,
    pub(crate) calls: Vec<Outcome>,
    pub(crate) said: Vec<Said>,
    pub(crate) watched: Watched,
    pub(crate) printed: String,
    /// How it ended, if it did not end because it was let go.
    pub(crate) end: Option<Arc<EndReport>>,
}

/// A call that succeeded.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Which of the calls on the command line.
    pub(crate) call: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) took: Duration,
    pub(crate) result: Vec<u8>,
}

impl Record {
    /// The object, but for what every object has.
    pub(crate) fn object(&self, args: &RunArgs) -> Value {
        let text = |values: &[String]| Value::from(values.to_vec());
        let permissions: Vec<_> = args.grants.iter().map(ToString::to_string).collect();
        let best_effort: Vec<_> = args.best_effort.iter().map(ToString::to_string).collect();
        let said: Vec<_> =
            self.said.iter().map(|said| json!({ "service": said.service, "text": said.text })).collect();
        json!({
            "plugin": {
                "id": self.id,
                "path": args.path.display().to_string(),
                "metadata": self.metadata.as_ref().map(json::metadata),
            },
            "policy": {
                "permissions": text(&permissions),
                "limits": args.resource_limits(),
                "allowed_modules": text(&args.allowed_modules),
                "best_effort": text(&best_effort),
            },
            "report": self.report.as_ref().map(json::report),
            "calls": self.calls.iter().map(|outcome| outcome.object(args)).collect::<Vec<_>>(),
            "services": said,
            "events": self.watched.events.iter().map(json::event).collect::<Vec<_>>(),
            "events_left_out": self.watched.left_out,
            "printed": self.printed,
            "end": self.end.as_deref().map(json::end),
        })
    }
}

impl Outcome {
    fn object(&self, args: &RunArgs) -> Value {
        let call = args.calls.0.get(self.call);
        let mut object = json!({
            "method": call.map(|call| call.method.as_str()),
            "payload_bytes": self.payload_bytes,
            "result_bytes": self.result.len(),
            "took_ms": self.took.as_secs_f64() * 1e3,
        });
        let (key, value) = match call.map(|call| &call.output) {
            Some(Output::File(path)) => ("out", path.display().to_string().into()),
            _ => json::bytes(&self.result),
        };
        if let Value::Object(keys) = &mut object {
            keys.insert(key.to_owned(), value);
        }
        object
    }
}
