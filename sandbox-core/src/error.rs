//! Every error that the public API returns: what was denied, what failed, what has ended.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use plugin_abi::{ErrorKind, MetadataError};

use crate::host::library::{LibraryDigest, LibraryError};
use crate::host::{Cause, Operation, PluginState, QuarantineError};
use crate::shared::policy::{Layer, LimitError, PermissionError, PluginId, PluginIdError, PluginPermission};
use crate::shared::wire::report::Step;

/// The policy says no: the plugin does not hold the permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin} may not {}: it does not hold {permission}", permission.description())]
#[non_exhaustive]
pub struct PermissionDeniedError {
    /// The plugin.
    pub plugin: PluginId,
    /// What would have to be granted.
    pub permission: PluginPermission,
}

impl PermissionDeniedError {
    /// The grant that would open it.
    pub fn help(&self) -> String {
        format!("grant it `{}`", self.permission)
    }
}

/// Something that a host asked for could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginSandboxError {
    /// A text that cannot be a plugin's id.
    #[error(transparent)]
    PluginId(#[from] PluginIdError),
    /// A permission that cannot be.
    #[error(transparent)]
    Permission(#[from] PermissionError),
    /// A limit that is out of its range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The policy says no.
    #[error(transparent)]
    Denied(#[from] PermissionDeniedError),
    /// A plugin with this id is registered already.
    #[error("plugin {plugin} is registered already")]
    AlreadyRegistered {
        /// The id.
        plugin: PluginId,
    },
    /// No plugin with this id is registered.
    #[error("no plugin is registered as {plugin:?}")]
    UnknownPlugin {
        /// The id that was asked for, shortened.
        plugin: String,
        /// The registered id that is most like it.
        nearest: Option<PluginId>,
    },
    /// The plugin is in a state from which this cannot be done.
    #[error("plugin {plugin}: cannot {operation} it while it is {state}{}{}: it must be {allowed}",
        restarts_in.as_ref().map(|left| format!(" in {:.1} s", left.as_secs_f64())).unwrap_or_default(),
        ended.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default())]
    WrongState {
        /// The plugin.
        plugin: PluginId,
        /// What was asked.
        operation: Operation,
        /// The state it is in.
        state: PluginState,
        /// The states it could be done from.
        allowed: &'static str,
        /// Why its helper ended, if that was not by an unload.
        ended: Option<Cause>,
        /// In how long it is loaded again by itself, if it is.
        restarts_in: Option<Duration>,
    },
    /// The library has crashed too often, and is not loaded.
    #[error("plugin {plugin}: {} is quarantined since {}: it crashed {crashes} times, the last time because {last}",
        path.display(), humantime::format_rfc3339_seconds(*since))]
    Quarantined {
        /// The plugin.
        plugin: PluginId,
        /// The library.
        path: PathBuf,
        /// Which that is.
        digest: LibraryDigest,
        /// Since when.
        since: SystemTime,
        /// How many crashes are known of it.
        crashes: usize,
        /// Why it ended the last time.
        last: String,
    },
    /// The file that says what is quarantined cannot be used.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    /// The plugin, or the whole manager, is being shut down, or was: nothing new begins.
    #[error("plugin {plugin}: cannot {operation} it: it is being shut down")]
    ShuttingDown {
        /// The plugin.
        plugin: PluginId,
        /// What was asked.
        operation: Operation,
    },
    /// A service that a plugin called asked for that plugin again, on the thread that waits for the service.
    #[error("plugin {plugin}: cannot {operation} it from a service that it is calling")]
    Reentrant {
        /// The plugin.
        plugin: PluginId,
        /// What was asked.
        operation: Operation,
    },
    /// The file is no library that could be loaded, or needs modules that it may not load.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The library says nothing of being a plugin.
    #[error("{path}: it is a library, but no plugin: it has no section {section}", section = plugin_abi::metadata::SECTION_NAME)]
    NotAPlugin {
        /// The file.
        path: PathBuf,
    },
    /// The library's section about itself cannot be read.
    #[error("{path}: what it says of itself cannot be read")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MetadataError,
    },
    /// The plugin was built against another layout of the plugin interface.
    #[error("{path}: it was built against another plugin interface: {difference}")]
    Abi {
        /// The file.
        path: PathBuf,
        /// What differs, in at most three lines.
        difference: String,
    },
    /// A layer that is insisted on cannot be had here.
    #[error("plugin {plugin}: nothing was loaded, since the layer {layer} does not stand: {why}")]
    LayerMissing {
        /// The plugin.
        plugin: PluginId,
        /// The layer.
        layer: Layer,
        /// Why it does not stand.
        why: String,
    },
    /// A limit that was asked for can be held by nothing here.
    #[error("plugin {plugin}: nothing was loaded, since nothing here holds {limit}: {why}")]
    LimitNotHeld {
        /// The plugin.
        plugin: PluginId,
        /// The field of [`ResourceLimits`](crate::ResourceLimits).
        limit: &'static str,
        /// What is lacking.
        why: String,
    },
    /// A step of the confinement did not work.
    #[error("plugin {plugin}: step {step}: {call}: {errno}")]
    Confine {
        /// The plugin.
        plugin: PluginId,
        /// The step.
        step: Step,
        /// The system call, or what else failed.
        call: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// The process that makes the helpers could not be had.
    #[error("the zygote: {what}: {errno}")]
    Zygote {
        /// What failed.
        what: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// The program that is to become zygote and helpers could not be started.
    #[error("starting the helper program {program}")]
    HelperProgram {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The library had been checked, and the loader in the helper refused it all the same.
    #[error("plugin {plugin}: its library did not load: {message}")]
    LoadFailed {
        /// The plugin.
        plugin: PluginId,
        /// What the helper says, escaped.
        message: String,
    },
    /// The plugin itself answered with an error, or panicked.
    #[error("plugin {plugin}: {operation} {}: {message}", if matches!(kind, ErrorKind::Panicked) { "panicked" } else { "failed" })]
    PluginFailed {
        /// The plugin.
        plugin: PluginId,
        /// What it was asked to do.
        operation: Operation,
        /// The kind of error; a panic is one.
        kind: ErrorKind,
        /// The plugin's own words, escaped.
        message: String,
    },
    /// The plugin's helper ended meanwhile.
    #[error("plugin {plugin} ended during {operation}: {cause}")]
    Ended {
        /// The plugin.
        plugin: PluginId,
        /// What it was asked to do.
        operation: Operation,
        /// Why it ended.
        cause: Cause,
    },
    /// A payload over the plugin's limit.
    #[error("plugin {plugin}: a payload of {len} bytes, where at most {max} are allowed")]
    MessageTooLarge {
        /// The plugin.
        plugin: PluginId,
        /// Its bytes.
        len: u64,
        /// The limit, `max_message_bytes`.
        max: u64,
    },
    /// Files cannot be served here, so that nothing can be granted as [`Grade::Mediated`](crate::Grade::Mediated).
    #[error("no file can be mediated here: {why}")]
    NoMediation {
        /// Why not.
        why: String,
    },
    /// Something of the host's own went wrong.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

impl PluginSandboxError {
    /// A system call of the host's own that failed while it was doing `what`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io { what, source: errno.into() }
    }

    /// What to do about it, where something can be done.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Denied(denied) => denied.help(),
            Self::UnknownPlugin { nearest: Some(nearest), .. } => format!("did you mean {nearest:?}?"),
            Self::UnknownPlugin { .. } => "register it first".to_owned(),
            Self::Library(error) => return error.help(),
            Self::Quarantined { digest, .. } => format!(
                "find out why, then clear it: QuarantineStore::clear, or `plugin-host quarantine clear {digest}`"
            ),
            Self::Quarantine(error) => return error.help(),
            Self::NotAPlugin { .. } => "a plugin is made with plugin_abi::export_plugin!".to_owned(),
            Self::Abi { .. } => "build the plugin against the plugin-abi of this host".to_owned(),
            // Its library reaches a helper through the broker: to give this up would get nothing loaded.
            Self::LayerMissing { layer: Layer::Seccomp, .. } => {
                "see `plugin-host doctor`; there is no doing without it".to_owned()
            }
            Self::LayerMissing { layer, .. } => format!(
                "see `plugin-host doctor`; without it {}: to accept that, use .best_effort(Layer::{layer:?})",
                layer.matters_because().trim_start_matches("without it ")
            ),
            Self::LimitNotHeld { limit, .. } => {
                format!(
                    "see `plugin-host doctor`; to load it without that limit, leave {limit} at its default"
                )
            }
            Self::WrongState { restarts_in: Some(_), .. } => {
                "it comes back by itself: wait_until_active waits for it".to_owned()
            }
            Self::WrongState { ended: Some(cause), .. } => match cause.help() {
                Some(help) => format!("load it again; {help}"),
                None => "load it again".to_owned(),
            },
            Self::Ended { cause, .. } => return cause.help(),
            Self::MessageTooLarge { .. } => "raise max_message_bytes, or send it in pieces".to_owned(),
            Self::NoMediation { .. } => {
                "see `plugin-host doctor`; a descriptor can be granted, which a revoke takes with the plugin"
                    .to_owned()
            }
            Self::Zygote { .. } => "see `plugin-host doctor`".to_owned(),
            Self::HelperProgram { program, source }
                if program.starts_with("/proc") && source.kind() == io::ErrorKind::NotFound =>
            {
                "mount /proc where this process sees it: helpers are found, made and checked by it".to_owned()
            }
            Self::HelperProgram { .. } => {
                "name a program that links sandbox-core, such as plugin-sandbox-helper".to_owned()
            }
            Self::PluginFailed { kind: ErrorKind::UnknownMethod, .. } => {
                "see the plugin's documentation".to_owned()
            }
            _ => return None,
        })
    }
}
