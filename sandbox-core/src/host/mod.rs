//! The application's process: trusted, threaded.
//!
//! Never loads a plugin's library, and reaches zygote and helpers by exec and by `shared::wire` only.

mod app;
pub(crate) mod audit;
mod broker;
mod decider;
mod doctor;
mod end;
mod entry;
mod events;
mod family;
mod figures;
mod folding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hand_over;
mod inspect;
mod instance;
pub(crate) mod library;
mod lifecycle;
mod limits;
mod links;
mod load;
mod lock;
mod manager;
mod mediated;
mod metrics;
mod monitor;
mod outbox;
mod policy;
mod procfs;
mod protected;
mod reactor;
mod real_scope;
mod report;
mod runtime;
mod sandbox;
mod services;
mod stop;
mod subject;
mod supervise;
mod verify;
mod wide;
mod zygote;

pub use app::{App, ServiceRequest};
pub use decider::{AccessRequest, Ruling};
pub use doctor::{Diagnosis, Fact, doctor};
pub use end::cause::Cause;
pub use end::report::{EndReport, FaultReport, Refusal, StackFrame};
pub use events::{EventKind, SandboxEvent};
pub use figures::{CallLatency, HostFigures, PluginFigures};
pub use inspect::{Inspection, inspect, inspect_with};
pub use lifecycle::{Operation, PluginState};
pub use limits::usage::{MemoryMeter, ResourceUsage, Used};
pub use manager::PluginSandboxManager;
pub use monitor::{
    MONITOR_VERSION, MonitorAnswer, MonitorCommand, MonitorReply, MonitorRequest, MonitorSocket,
};
pub use policy::PluginPolicy;
pub use report::{EnforcementReport, LayerReport, LimitReport};
pub use sandbox::{PluginHandle, PluginSandbox, run};
pub use supervise::health::{Answer, Health, ProcessHealth};
pub use supervise::quarantine::{CrashRecord, QuarantineError, QuarantineRecord, QuarantineStore};
pub use supervise::shutdown::{PluginEnding, ShutdownReport};
