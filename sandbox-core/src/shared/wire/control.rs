//! The messages between the host and one helper, over its pair of pipes.
//!
//! Read on both ends. Owns what a helper may say at all; what it says at the wrong moment is the host's to judge.

use plugin_abi::{ErrorKind, PluginError, ServiceError};
use serde::{Deserialize, Serialize};

use super::report::HelperReport;
use crate::shared::plan::HelperPlan;

/// Names a call into the plugin, or a ping; never used twice for one helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct CallId(pub(crate) u64);

/// Names a plugin's call of a host service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ServiceCallId(pub(crate) u64);

/// What the host says to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToHelper {
    /// First of all: confine yourself like this, then report.
    Confine(Box<HelperPlan>),
    /// The layers stand: load these files, in this order, the last one being the plugin.
    Load {
        files: Vec<String>,
    },
    Activate,
    Deactivate,
    Call {
        id: CallId,
        method: String,
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    ServiceReply {
        id: ServiceCallId,
        reply: Result<Bytes, WireServiceError>,
    },
    /// Drop the plugin and end.
    Unload,
    /// Say that you are there.
    Ping {
        id: CallId,
    },
}

/// What a helper says to the host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromHelper {
    Report(Box<HelperReport>),
    Loaded(Result<(), LoadFault>),
    Activated(Result<(), Fault>),
    Deactivated(Result<(), Fault>),
    Returned {
        id: CallId,
        result: Result<Bytes, Fault>,
    },
    /// The plugin calls a service; `during` names the call in which it does so, if it does so on that call's thread.
    Service {
        id: ServiceCallId,
        during_operation: bool,
        service: String,
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// It is there, to serve: the answer to that ping.
    Pong {
        id: CallId,
    },
}

/// Bytes that are copied as one piece instead of element by element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytes(#[serde(with = "serde_bytes")] pub(crate) Vec<u8>);

/// An error of the plugin's own, or a panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FaultKind {
    Failed,
    UnknownMethod,
    InvalidPayload,
    Panicked,
    /// The result is larger than the limit on messages.
    TooLarge,
}

/// Why a library that the host had checked could not be loaded after all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LoadFault {
    /// `dlopen` refused it.
    Dlopen { file: String, message: String },
    /// It has no plugin entry.
    NoEntry,
    /// Its root module has another layout than this program's.
    Layout { summary: String, full: String },
    /// Making the plugin failed.
    Constructor(Fault),
}

/// A service's refusal as it goes to the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireServiceError {
    PermissionDenied { permission: String, service: String },
    UnknownService { service: String },
    Failed { message: String },
}

/// The longest error text that travels; longer ones are cut.
pub(crate) const MAX_TEXT_BYTES: usize = 16 << 10;

/// At most [`MAX_TEXT_BYTES`] of `text`, cut between characters.
pub(crate) fn shorten(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let cut = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

impl From<PluginError> for Fault {
    fn from(error: PluginError) -> Self {
        let kind = match error.kind {
            ErrorKind::UnknownMethod => FaultKind::UnknownMethod,
            ErrorKind::InvalidPayload => FaultKind::InvalidPayload,
            ErrorKind::Panicked => FaultKind::Panicked,
            _ => FaultKind::Failed,
        };
        Self { kind, message: shorten(error.message) }
    }
}

impl From<WireServiceError> for ServiceError {
    fn from(error: WireServiceError) -> Self {
        match error {
            WireServiceError::PermissionDenied { permission, service } => {
                Self::PermissionDenied { permission, service }
            }
            WireServiceError::UnknownService { service } => Self::UnknownService { service },
            WireServiceError::Failed { message } => Self::Failed { message },
        }
    }
}
