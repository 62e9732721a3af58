//! Loads native plugins that a host does not have to trust, each in a confined process of its own.
//!
//! A plugin is a shared library made with `plugin_abi::export_plugin!`. It is loaded by a *helper*: a process that has
//! given up every authority before the first line of the library runs. What the plugin may reach afterwards goes through
//! the *broker* in the host, which decides by the permissions of that moment.
//!
//! ```no_run
//! use sandbox_core::{App, PERMISSION_FILE_READ, PluginPolicy, PluginSandboxManager, ResourceLimits};
//! use std::time::Duration;
//!
//! let manager = PluginSandboxManager::new();
//! let policy = PluginPolicy::new()
//!     .permission(PERMISSION_FILE_READ.scoped_to_path("/srv/photos")?)
//!     .limits(ResourceLimits::default().max_memory_mb(64).call_timeout(Duration::from_secs(2)));
//! manager.register_plugin("thumbs", policy)?;
//! let plugin = manager.load_plugin("thumbs", "libthumbs.so")?;
//! println!("{}", plugin.report());
//! manager.activate_plugin("thumbs", App::new())?;
//! let picture = plugin.call("thumbnail", b"...")?;
//! # let _ = picture;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Linux 5.15 and newer, x86-64 and aarch64. What is promised, and what is not, stands in SECURITY.md; what this machine
//! can enforce, [`doctor`] tells.

mod entry;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod helper;
mod host;
mod shared;
#[cfg(feature = "test-support")]
pub mod test_support;
mod zygote;

pub use entry::become_helper_if_asked;
pub use error::{PermissionDeniedError, PluginSandboxError};
pub use host::audit::{
    AUDIT_VERSION, AuditEvent, AuditLog, AuditOptions, AuditReadError, AuditReader, AuditRecord,
    GrantSuggester, GrantSuggestion, NotSuggested,
};
pub use host::library::{ExplainedModule, LibraryDigest, LibraryError};
pub use host::{
    AccessRequest, Answer, App, CallLatency, Cause, CrashRecord, Diagnosis, EndReport, EnforcementReport,
    EventKind, Fact, FaultReport, Health, HostFigures, Inspection, LayerReport, LimitReport, MONITOR_VERSION,
    MemoryMeter, MonitorAnswer, MonitorCommand, MonitorReply, MonitorRequest, MonitorSocket, Operation,
    PluginEnding, PluginFigures, PluginHandle, PluginPolicy, PluginSandbox, PluginSandboxManager,
    PluginState, ProcessHealth, QuarantineError, QuarantineRecord, QuarantineStore, Refusal, ResourceUsage,
    Ruling, SandboxEvent, ServiceRequest, ShutdownReport, StackFrame, Used, doctor, inspect, inspect_with,
    run,
};
pub use plugin_abi::{ErrorKind, PluginMetadata};
pub use shared::policy::{
    Backoff, Demand, Grade, GradeError, Layer, LayerPolicy, LimitError, NetworkScope, PERMISSION_FILE_READ,
    PERMISSION_FILE_WRITE, PERMISSION_NETWORK, PERMISSION_PLUGIN, PERMISSION_PROCESS, PERMISSION_SYSTEM,
    PERMISSION_UI, PermissionError, PluginId, PluginIdError, PluginPermission, ResourceLimits, RestartPolicy,
    RestartWhen, STANDARD_PERMISSIONS, Scope, ScopeError,
};
pub use shared::wire::report::Step;
