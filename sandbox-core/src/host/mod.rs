//! The application's process: trusted, threaded.
//!
//! Never loads a plugin's library, and reaches zygote and helpers by exec and by `shared::wire` only.

mod app;
pub(crate) mod audit;
mod broker;
mod cause;
mod cgroup;
mod cpu;
mod decider;
mod doctor;
mod end;
mod entry;
mod events;
mod family;
mod fault;
mod figures;
mod folding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod inspect;
mod instance;
pub(crate) mod library;
mod lifecycle;
mod links;
mod load;
mod lock;
mod manager;
mod mediated;
mod messages;
mod metrics;
mod monitor;
mod outbox;
mod output;
mod policy;
mod procfs;
mod protected;
mod quarantine;
mod reactor;
mod real_scope;
mod report;
mod runtime;
mod sandbox;
mod service_calls;
mod service_pool;
mod shutdown;
mod stop;
mod subject;
mod supervise;
mod usage;
mod verify;
mod wide;
mod zygote;

pub use app::{App, ServiceRequest};
pub use cause::Cause;
pub use decider::{AccessRequest, Ruling};
pub use doctor::{Diagnosis, Fact, doctor};
pub use end::{EndReport, FaultReport, Refusal, StackFrame};
pub use events::{EventKind, SandboxEvent};
pub use figures::{CallLatency, HostFigures, PluginFigures};
pub use health::{Answer, Health, ProcessHealth};
pub use inspect::{Inspection, inspect, inspect_with};
pub use lifecycle::{Operation, PluginState};
pub use manager::PluginSandboxManager;
pub use monitor::{
    MONITOR_VERSION, MonitorAnswer, MonitorCommand, MonitorReply, MonitorRequest, MonitorSocket,
};
pub use policy::PluginPolicy;
pub use quarantine::{CrashRecord, QuarantineError, QuarantineRecord, QuarantineStore};
pub use report::{EnforcementReport, LayerReport, LimitReport};
pub use sandbox::{PluginHandle, PluginSandbox, run};
pub use shutdown::{PluginEnding, ShutdownReport};
pub use usage::{MemoryMeter, ResourceUsage, Used};
