//! Loads the modules and the plugin, by the paths that the host serves with the very bytes it has checked.
//!
//! Runs in the helper, step 10: confined for good. The first constructor of the first library is where trust ends.
#![allow(unsafe_code, reason = "loading foreign code is what this file is for")]

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use plugin_abi::loader::{ENTRY_SYMBOL, LoadError, LoadedPlugin, open};

use crate::shared::wire::control::{LoadFault, shorten};

/// Loads `files` in order, dependencies first, and makes the plugin out of the last one.
pub(crate) fn load(files: &[String]) -> Result<LoadedPlugin, LoadFault> {
    let (plugin, modules) = files.split_last().ok_or(LoadFault::NoEntry)?;
    for module in modules {
        keep(dlopen(module, RTLD_NOW | RTLD_GLOBAL)?);
    }
    let library = dlopen(plugin, RTLD_NOW | RTLD_LOCAL)?;
    // SAFETY: the symbol is only taken as an address here, whatever it is an address of.
    let symbol = unsafe { library.get::<*const ()>(ENTRY_SYMBOL) };
    let entry = symbol.map_err(|_| LoadFault::NoEntry)?.into_raw();
    keep(library);
    // SAFETY: the address is that of the symbol by which plugin-abi exports its root module, in a library that stays
    // mapped for the process's life. `open` checks the header and the layout behind it before it uses either. A library
    // that lies about them gains nothing: its code runs in this process anyway, which is confined.
    let opened = unsafe { open(entry.cast_const().cast()) };
    opened.map_err(|error| match error {
        LoadError::Constructor(error) => LoadFault::Constructor(error.into()),
        LoadError::Layout { summary, full } => {
            LoadFault::Layout { summary: shorten(summary), full: shorten(full) }
        }
        other => {
            let text = shorten(other.to_string());
            LoadFault::Layout { summary: text.clone(), full: text }
        }
    })
}

fn dlopen(file: &str, flags: libc::c_int) -> Result<Library, LoadFault> {
    // SAFETY: runs the library's constructors, which is what this process was confined for.
    let library = unsafe { Library::open(Some(file), flags) };
    library.map_err(|error| LoadFault::Dlopen { file: file.to_owned(), message: shorten(error.to_string()) })
}

/// A Rust library cannot be unloaded soundly: the end of the process is the only unload.
fn keep(library: Library) {
    std::mem::forget(library);
}
