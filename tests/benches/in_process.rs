//! The same library without a sandbox: loaded into this very process and called directly.
#![allow(unsafe_code, reason = "loads a plugin as a library, which is what it is compared to")]

use std::path::Path;

use plugin_abi::ServiceError;
use plugin_abi::loader::{ENTRY_SYMBOL, LoadedPlugin, open};

/// Loads and activates the plugin in `library`, one of this repository's.
pub(crate) fn active(library: &Path) -> LoadedPlugin {
    let mut plugin = load(library);
    let no_services =
        |service: &str, _: &[u8]| Err(ServiceError::UnknownService { service: service.to_owned() });
    plugin.activate(no_services).expect("the benches' plugins activate");
    plugin
}

fn load(path: &Path) -> LoadedPlugin {
    // SAFETY: runs the constructors of a library that was built from this repository, none of which does anything.
    let library = unsafe { libloading::Library::new(path) }.expect("the library loads");
    // SAFETY: whatever the symbol is an address of, nothing but that address is taken.
    let symbol = unsafe { library.get::<*const ()>(ENTRY_SYMBOL) }.expect("plugins have an entry");
    // SAFETY: only reads the address out of the symbol; it is used while the library is open, which is for ever.
    let address = unsafe { symbol.try_as_raw_ptr() }.expect("an address");
    std::mem::forget(library);
    // SAFETY: the address of the symbol by which `export_plugin!` exports the root header that `open` reads, in a library
    // of this build that stays mapped for the process's life.
    unsafe { open(address.cast_const().cast()) }.expect("a plugin of this build")
}
