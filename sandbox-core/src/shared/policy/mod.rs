//! What was decided about a plugin, as plain values that are checked when they are built.
//!
//! Runs in any process. Never asks the kernel anything: `shared::plan` turns a policy into what the kernel is told.

mod grade;
mod grants;
mod layers;
mod limits;
pub(crate) mod milliseconds;
mod network;
mod permission;
mod plugin_id;
mod restart;
mod sabotage;
mod scope;

pub use grade::{Grade, GradeError};
pub(crate) use grants::{Grants, Verdict};
pub use layers::{Demand, Layer, LayerPolicy};
pub use limits::{LimitError, ResourceLimits};
pub use network::NetworkScope;
pub(crate) use network::host_name;
pub use permission::{
    PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PERMISSION_NETWORK, PERMISSION_PLUGIN, PERMISSION_PROCESS,
    PERMISSION_SYSTEM, PERMISSION_UI, PermissionError, PluginPermission, STANDARD_PERMISSIONS,
};
pub use plugin_id::{PluginId, PluginIdError};
pub(crate) use restart::MOST_CRASHES;
pub use restart::{Backoff, RestartPolicy, RestartWhen};
pub(crate) use sabotage::Sabotage;
pub use scope::{Scope, ScopeError};
