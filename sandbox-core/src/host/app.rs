//! The services that a host offers to its plugins, and the permission that gates each.
//!
//! Runs in the host. A service's code is the embedder's: it runs on the thread that called the plugin, or on a worker,
//! never on the reactor.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::events::escape;
use crate::shared::policy::{PermissionError, PluginId, PluginPermission};
use crate::shared::wire::control::{Bytes, WireServiceError, shorten};

type Handler = Arc<dyn Fn(&ServiceRequest<'_>) -> Result<Vec<u8>, String> + Send + Sync>;

/// Prefixes that always are gated by the permission of the same name.
const GATED: [&str; 3] = ["ui", "system", "plugin"];

/// The services that a host offers: each has a name and takes and returns bytes.
///
/// A name's part before its first dot is its group: `ui.*`, `system.*` and `plugin.*` need the permission of that name,
/// and so does each group that [`gate`](App::gate) names. Other services need none. `plugin.send` and `plugin.receive` are
/// always there, whatever is offered under these names: by them the plugins of one manager send each other messages
/// ([`plugin_abi::messages`]). So are `file.read`, `file.write` and `file.len`, by which a plugin uses files without holding
/// any ([`plugin_abi::files`]).
///
/// ```
/// use sandbox_core::App;
/// let app = App::new()
///     .service("log.line", |request| { println!("{}: {:?}", request.plugin, request.payload); Ok(vec![]) })
///     .service("ui.notify", |_| Ok(b"shown".to_vec()));
/// # let _ = app;
/// ```
#[derive(Clone, Default)]
pub struct App {
    services: HashMap<String, Handler>,
    gates: HashSet<String>,
}

/// One call of a service by a plugin.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServiceRequest<'a> {
    /// The plugin that calls, as the host knows it.
    pub plugin: &'a PluginId,
    /// The service's name.
    pub service: &'a str,
    /// What the plugin sent. Hostile, like everything from it.
    pub payload: &'a [u8],
}

/// What the gate says of a call, before the service runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) permission: Option<String>,
    pub(crate) open: bool,
}

impl App {
    /// No services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service. An `Err` is what the plugin sees as its error; so is a panic, without its message.
    ///
    /// It runs on the thread that waits for the plugin's answer, or on a worker if the plugin calls it outside any
    /// operation. It should return: when the last sandbox is dropped, workers are waited for.
    #[must_use]
    pub fn service(
        mut self,
        name: impl Into<String>,
        handler: impl Fn(&ServiceRequest<'_>) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        self.services.insert(name.into(), Arc::new(handler));
        self
    }

    /// Lets services of `group` be called only with the host's own permission of that name.
    ///
    /// # Errors
    /// [`PermissionError::Name`] if it cannot be a permission's name.
    pub fn gate(mut self, group: &str) -> Result<Self, PermissionError> {
        PluginPermission::new(group, "")?;
        self.gates.insert(group.to_owned());
        Ok(self)
    }

    /// Whether there is no service.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The permission that `service` needs, and whether `holds` says that it is held.
    pub(crate) fn judge(&self, service: &str, holds: impl FnOnce(&str) -> bool) -> Gate {
        let group = service.split('.').next().unwrap_or_default();
        let gated = GATED.contains(&group) || self.gates.contains(group);
        let permission = gated.then(|| group.to_owned());
        let open = permission.as_deref().is_none_or(holds);
        Gate { permission, open }
    }

    /// Runs the service. Its panic is its failure.
    pub(crate) fn run(&self, request: &ServiceRequest<'_>) -> Result<Bytes, WireServiceError> {
        let Some(handler) = self.services.get(request.service) else {
            return Err(WireServiceError::UnknownService { service: escape(request.service.as_bytes()) });
        };
        match catch_unwind(AssertUnwindSafe(|| handler(request))) {
            Ok(Ok(reply)) => Ok(Bytes(reply)),
            Ok(Err(message)) => Err(WireServiceError::Failed { message: shorten(message) }),
            Err(payload) => {
                // Its text may tell what is none of the plugin's business; and dropping it could panic again.
                std::mem::forget(payload);
                Err(WireServiceError::Failed { message: "the service panicked".to_owned() })
            }
        }
    }
}

impl From<()> for App {
    fn from((): ()) -> Self {
        Self::new()
    }
}

impl From<&Self> for App {
    fn from(app: &Self) -> Self {
        app.clone()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.services.keys().collect();
        names.sort();
        f.debug_struct("App").field("services", &names).field("gates", &self.gates).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gated_groups_need_a_permission() {
        let app = App::new().gate("payments").unwrap();
        for (service, permission) in [
            ("ui.notify", Some("ui")),
            ("ui", Some("ui")),
            ("system.time", Some("system")),
            ("plugin.ask", Some("plugin")),
            ("payments.charge", Some("payments")),
            ("uix.notify", None),
            ("log", None),
            ("", None),
        ] {
            let gate = app.judge(service, |_| false);
            assert_eq!(gate.permission.as_deref(), permission, "{service}");
            assert_eq!(gate.open, permission.is_none(), "{service}");
            assert!(app.judge(service, |_| true).open);
        }
    }

    #[test]
    fn a_service_that_panics_is_a_service_that_failed() {
        let app = App::new().service("bad", |_| panic!("secret"));
        let plugin = PluginId::new("p").unwrap();
        let failed = app.run(&ServiceRequest { plugin: &plugin, service: "bad", payload: &[] });
        assert_eq!(failed, Err(WireServiceError::Failed { message: "the service panicked".into() }));
    }
}
