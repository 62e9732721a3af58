//! The audit log: what was decided about plugins, as lines of JSON in a file that does not grow without bound.
//!
//! Runs in the host: the log on a thread of its own, the reader and the suggestions wherever they are used.

mod file;
mod log;
mod reader;
mod record;
mod suggest;

pub use log::{AuditLog, AuditOptions};
pub use reader::{AuditReadError, AuditReader};
pub(super) use record::timestamp;
pub use record::{AUDIT_VERSION, AuditEvent, AuditRecord};
pub(crate) use suggest::opener;
pub use suggest::{GrantSuggester, GrantSuggestion, NotSuggested};
