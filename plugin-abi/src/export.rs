//! The export macro, and the wall that no panic of a plugin's passes.
//!
//! Runs in the helper, compiled into the plugin; `catch` also guards the host's services, outside the plugin.
//! Owns the plugin's instance, so that making, calling and dropping it all happen behind the wall.
//! Never lets a panic reach the binding, whose own answer to one is to end the process with status 1.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use crate::{ErrorKind, Host, Plugin, PluginError, PluginResult};

/// What [`export_plugin!`](crate::export_plugin) implements in the vendor's crate.
#[doc(hidden)]
pub trait Export: 'static {
    /// Evaluates the vendor's expression. May panic.
    fn construct() -> Box<dyn Plugin>;

    /// The contents of the metadata section.
    fn section() -> &'static [u8];
}

/// Exports a plugin: `export_plugin!(EXPR, id: "..", version: "..", description: "..", permissions: ["..", ..]);`
///
/// `EXPR` makes a value of a type that implements [`Plugin`](trait@crate::Plugin); it is evaluated once per
/// instance. The rest may be left out, but what is given stands in this order. `id`, `version` and `description`
/// default to what the plugin's own `Cargo.toml` says. `permissions` are what the plugin wants; what it gets is
/// decided by the host. Values that the sandbox would refuse do not compile:
///
/// ```compile_fail
/// # struct Hello;
/// # impl plugin_abi::Plugin for Hello {
/// #     fn call(&mut self, _: &str, _: &[u8]) -> plugin_abi::PluginResult { Ok(Vec::new()) }
/// # }
/// plugin_abi::export_plugin!(Hello, id: "Not An Id");
/// ```
///
/// A library exports one plugin; a second export in it does not link.
#[macro_export]
macro_rules! export_plugin {
    (
        $plugin:expr
        $(, id: $id:expr)?
        $(, version: $version:expr)?
        $(, description: $description:expr)?
        $(, permissions: [$($permission:expr),* $(,)?])?
        $(,)?
    ) => {
        const _: () = {
            struct __PluginExport;

            // `env!` is expanded where the macro is used, so these are the vendor's own.
            const __DECLARATION: $crate::__private::Declaration<'static> = $crate::__private::Declaration {
                id: $crate::__given_or!($($id)?; ::core::env!("CARGO_PKG_NAME")),
                version: $crate::__given_or!($($version)?; ::core::env!("CARGO_PKG_VERSION")),
                description: $crate::__given_or!($($description)?; ::core::env!("CARGO_PKG_DESCRIPTION")),
                permissions: &[$($($permission),*)?],
            };

            // A section that a scanner reads without running anything. The root module refers to it, which keeps
            // it through `--gc-sections`; as a loaded section it outlives `strip`.
            #[used]
            #[unsafe(link_section = ".plugin_abi")]
            static __SECTION: [u8; $crate::__private::section_len(&__DECLARATION)] =
                $crate::__private::section(&__DECLARATION);

            impl $crate::__private::Export for __PluginExport {
                fn construct() -> ::std::boxed::Box<dyn $crate::Plugin> {
                    ::std::boxed::Box::new($plugin)
                }

                fn section() -> &'static [u8] {
                    &__SECTION
                }
            }

            // The name is checked against the loader's in binding.rs.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static __ROOT: $crate::__private::RootHeader = $crate::__private::root_header::<__PluginExport>();
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __given_or {
    ($given:expr; $default:expr) => {
        $given
    };
    (; $default:expr) => {
        $default
    };
}

/// The symbol under which `export_plugin!` exports the root module: an attribute takes only a literal.
pub(crate) const EXPORTED_NAME: &str = "_1as_0lib_1header_0root_bmodule_bloader";

/// A plugin's instance behind the wall. None of its methods panics, and neither does its drop.
pub(crate) struct Instance {
    plugin: Option<Box<dyn Plugin>>,
}

impl Instance {
    pub(crate) fn construct<E: Export>() -> Result<Self, PluginError> {
        remember_panic_locations();
        catch(E::construct).map(|plugin| Self { plugin: Some(plugin) })
    }

    pub(crate) fn activate(&mut self, host: Host) -> Result<(), PluginError> {
        self.with(|plugin| plugin.activate(host))
    }

    pub(crate) fn deactivate(&mut self) -> Result<(), PluginError> {
        self.with(|plugin| plugin.deactivate())
    }

    pub(crate) fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        self.with(|plugin| plugin.call(method, payload))
    }

    /// Drops the plugin, and says if that panicked. Afterwards every method fails.
    pub(crate) fn close(&mut self) -> Result<(), PluginError> {
        let plugin = self.plugin.take();
        catch(move || drop(plugin))
    }

    fn with<T>(
        &mut self,
        act: impl FnOnce(&mut dyn Plugin) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        match self.plugin.as_deref_mut() {
            Some(plugin) => catch(|| act(plugin))?,
            None => Err(PluginError::new(ErrorKind::Failed, "the plugin was already closed")),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.close();
    }
}

thread_local! {
    static LAST_PANIC_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Notes where each panic happens, before whatever hook is there already runs as ever.
///
/// Once per library, before any of the vendor's code: a hook that the vendor sets later replaces this one, and
/// messages then lack their location.
fn remember_panic_locations() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A thread that is ending has no slot any more; its panic is reported without a location.
            let _ = LAST_PANIC_AT
                .try_with(|slot| slot.set(info.location().map(|at| format!("{}:{}", at.file(), at.line()))));
            previous(info);
        }));
    });
}

/// Runs `code`; a panic in it becomes an error with the panic's message, and its location where that is known.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, PluginError> {
    let _ = LAST_PANIC_AT.try_with(Cell::take);
    // What the closure borrows may be left half changed. It is the plugin's own state, and the plugin's to judge.
    let payload = match panic::catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => return Ok(value),
        Err(payload) => payload,
    };
    let mut message = match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => String::from(*text),
            Err(payload) => {
                // Some type of the vendor's, whose drop may panic in turn. A leak is the lesser evil.
                std::mem::forget(payload);
                String::from("a value that is not text")
            }
        },
    };
    if let Ok(Some(location)) = LAST_PANIC_AT.try_with(Cell::take) {
        message = format!("{message} ({location})");
    }
    Err(PluginError::new(ErrorKind::Panicked, message))
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    struct Bad(&'static str);

    impl Plugin for Bad {
        fn activate(&mut self, _host: Host) -> Result<(), PluginError> {
            match self.0 {
                "activate" => panic!("in activate"),
                _ => Ok(()),
            }
        }

        fn deactivate(&mut self) -> Result<(), PluginError> {
            match self.0 {
                "deactivate" => panic!("in deactivate"),
                _ => Ok(()),
            }
        }

        fn call(&mut self, method: &str, _payload: &[u8]) -> PluginResult {
            match self.0 {
                "call" => panic!("in call of {method}"),
                _ => Ok(Vec::new()),
            }
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            if self.0 == "drop" {
                panic!("in drop");
            }
        }
    }

    fn bad(place: &'static str) -> Instance {
        remember_panic_locations();
        Instance { plugin: Some(Box::new(Bad(place))) }
    }

    #[track_caller]
    fn check_panicked(result: Result<impl std::fmt::Debug, PluginError>, message: &str) {
        let error = result.expect_err("it panicked");
        assert_eq!(error.kind, ErrorKind::Panicked);
        assert!(error.message.starts_with(message), "{error}");
        assert!(error.message.contains("export.rs:"), "{error}");
    }

    #[test]
    fn a_panic_in_any_method_is_an_error_with_its_message_and_place() {
        let host = || Host::new(|_: &str, _: &[u8]| Ok(Vec::new()));
        check_panicked(bad("activate").activate(host()), "in activate");
        check_panicked(bad("deactivate").deactivate(), "in deactivate");
        check_panicked(bad("call").call("paint", b""), "in call of paint");
        check_panicked(bad("drop").close(), "in drop");
    }

    #[test]
    fn a_panic_while_dropping_an_instance_is_swallowed() {
        drop(bad("drop"));
    }

    #[test]
    fn a_panic_in_the_constructor_is_an_error() {
        struct Unmakeable;
        impl Export for Unmakeable {
            fn construct() -> Box<dyn Plugin> {
                panic!("no such luck")
            }
            fn section() -> &'static [u8] {
                &[]
            }
        }
        check_panicked(Instance::construct::<Unmakeable>().map(|_| ()), "no such luck");
    }

    #[test]
    fn a_plugin_can_be_called_again_after_a_panic_but_not_after_its_end() {
        let mut instance = bad("deactivate");
        check_panicked(instance.deactivate(), "in deactivate");
        assert_eq!(instance.call("x", b""), Ok(Vec::new()));
        assert_eq!(instance.close(), Ok(()));
        assert_eq!(instance.call("x", b"").map_err(|error| error.kind), Err(ErrorKind::Failed));
    }

    #[test]
    fn a_payload_whose_drop_panics_does_no_harm() {
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("payload dropped");
            }
        }
        let error = catch(|| panic_any(Grenade)).expect_err("it panicked");
        assert!(error.message.starts_with("a value that is not text"), "{error}");
    }
}
