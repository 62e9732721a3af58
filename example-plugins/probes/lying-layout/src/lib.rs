//! A library whose metadata section says that it fits, and whose root module does not.
//!
//! Runs in a helper, as far as it gets. It goes behind `export_plugin!`, as a vendor could who forges the section.
//! Owns a root module of a type of its own. Never reaches its own code: the layout is compared before.
#![allow(missing_docs, unused_qualifications, unsafe_code, clippy::all, reason = "derive output")]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, reason = "derive output")]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use plugin_abi::__private::{Declaration, section, section_len};

const DECLARATION: Declaration<'static> =
    Declaration { id: "lying-layout", version: "0.1.0", description: "does not fit", permissions: &[] };

#[used]
#[unsafe(link_section = ".plugin_abi")]
static SECTION: [u8; section_len(&DECLARATION)] = section(&DECLARATION);

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    pub section: extern "C" fn(u64) -> u64,
    #[sabi(last_prefix_field)]
    pub new_instance: extern "C" fn() -> u32,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "plugin_abi";
    const NAME: &'static str = "plugin_abi";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}

extern "C" fn never(_: u64) -> u64 {
    std::process::abort()
}

extern "C" fn never_either() -> u32 {
    std::process::abort()
}

#[abi_stable::export_root_module]
pub fn root() -> PluginModuleRef {
    PluginModule { section: never, new_instance: never_either }.leak_into_prefix()
}
