//! Calls the plugin as the host orders, one call after another, all on this one thread.
//!
//! Runs in the helper, step 11: the plugin's code has run, and nothing here is trusted any more.

use std::sync::Arc;

use plugin_abi::PluginError;
use plugin_abi::loader::LoadedPlugin;

use super::link::Link;
use crate::shared::sys::inherited;
use crate::shared::wire::control::{Bytes, Fault, FaultKind, FromHelper, ToHelper};

/// Serves until the host lets go.
pub(crate) fn serve(link: &Arc<Link>, mut plugin: LoadedPlugin) -> ! {
    while let Some(order) = link.next_order() {
        let answer = match order {
            ToHelper::Activate => {
                let services = Arc::clone(link);
                let call = move |service: &str, payload: &[u8]| services.call_service(service, payload);
                FromHelper::Activated(operate(link, || plugin.activate(call)).map_err(Fault::from))
            }
            ToHelper::Deactivate => {
                FromHelper::Deactivated(operate(link, || plugin.deactivate()).map_err(Fault::from))
            }
            ToHelper::Call { id, method, payload } => {
                let result = operate(link, || plugin.call(&method, &payload));
                FromHelper::Returned { id, result: fits(link, result) }
            }
            ToHelper::Ping { id } => FromHelper::Pong { id },
            ToHelper::Unload => {
                // Drop, exit handlers and the libraries' destructors run: the host waits for the end, with a deadline.
                let _ = plugin.close();
                std::process::exit(0);
            }
            // The host never says these to a plugin that is served.
            ToHelper::Confine(_) | ToHelper::Load { .. } | ToHelper::ServiceReply { .. } => continue,
        };
        link.send(&answer);
    }
    inherited::exit_at_once(0)
}

fn operate<T>(link: &Link, operation: impl FnOnce() -> T) -> T {
    link.in_operation(true);
    let result = operation();
    link.in_operation(false);
    result
}

fn fits(link: &Link, result: Result<Vec<u8>, PluginError>) -> Result<Bytes, Fault> {
    match result {
        Ok(reply) if reply.len() as u64 > link.max_message() => {
            let message = format!(
                "a result of {} bytes, where at most {} are allowed",
                reply.len(),
                link.max_message()
            );
            Err(Fault { kind: FaultKind::TooLarge, message })
        }
        Ok(reply) => Ok(Bytes(reply)),
        Err(error) => Err(error.into()),
    }
}
