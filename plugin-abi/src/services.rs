//! The host's services, as a plugin calls them and as a host offers them.
//!
//! Runs in the helper on both sides of the boundary: the handle in the plugin, the implementation outside it.
//! Owns the handle and the error of a service call.
//! Never decides who may call what: the host does, at the moment of each call.

use std::{fmt, sync::Arc};

/// Named services that a plugin can call with bytes. Any matching closure is one.
pub trait HostServices: Send + Sync + 'static {
    /// Calls `service` with `payload`. A panic in here reaches the plugin as [`ServiceError::Failed`].
    ///
    /// # Errors
    /// See [`ServiceError`].
    fn call(&self, service: &str, payload: &[u8]) -> Result<Vec<u8>, ServiceError>;
}

impl<F> HostServices for F
where
    F: Fn(&str, &[u8]) -> Result<Vec<u8>, ServiceError> + Send + Sync + 'static,
{
    fn call(&self, service: &str, payload: &[u8]) -> Result<Vec<u8>, ServiceError> {
        self(service, payload)
    }
}

/// A plugin's handle to the services of its host. Cheap to clone, and usable from any thread of the plugin.
#[derive(Clone)]
pub struct Host {
    services: Arc<dyn HostServices>,
}

impl Host {
    /// A handle to `services`. Plugins are given theirs; this is for trying a plugin without a host.
    pub fn new(services: impl HostServices) -> Self {
        Self { services: Arc::new(services) }
    }

    /// Calls the host's service of this name and waits for the answer.
    ///
    /// # Errors
    /// See [`ServiceError`]. The host judges each call anew: one that was allowed may be refused the next time.
    pub fn call(&self, service: &str, payload: &[u8]) -> Result<Vec<u8>, ServiceError> {
        self.services.call(service, payload)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// Why a service call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The plugin does not hold the permission that gates this service.
    #[error("service {service} needs permission {permission}")]
    PermissionDenied {
        /// The permission that would have opened it.
        permission: String,
        /// The service that was called.
        service: String,
    },
    /// The host offers no service of this name.
    #[error("the host offers no service {service}")]
    UnknownService {
        /// The service that was called.
        service: String,
    },
    /// The service ran and failed.
    #[error("{message}")]
    Failed {
        /// What the service said.
        message: String,
    },
    /// The host is no longer there to answer.
    #[error("the host is not connected")]
    Disconnected,
}

impl ServiceError {
    /// A failure of the service itself.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into() }
    }
}
