//! The boundary between plugin and helper. The only file that names `abi_stable`.
//!
//! Runs in the helper: the exporting half compiled into the plugin, the loading half outside it.
//! Owns the types that cross, and the translation between them and the plain ones that everybody else sees.
//! Never runs a vendor's or an embedder's code without `export::catch` around it.
#![allow(unsafe_code, reason = "hands a root module over a symbol, which no type system reaches across")]

use abi_stable::{
    StableAbi,
    library::{AbiHeader, LibHeader, RootModule, RootModuleError},
    prefix_type::PrefixTypeTrait,
    sabi_trait::TD_Opaque,
    sabi_types::VersionStrings,
    std_types::{RBox, RResult, RSlice, RStr, RString, RVec},
};

use crate::{
    Host, HostServices, PluginError, ServiceError,
    error::ErrorKind,
    export::{EXPORTED_NAME, Export, Instance, catch},
    metadata::TypeShape,
};

pub(crate) use types::{AbiError, AbiServiceError, PluginModule, PluginModuleRef};
use types::{AbiPlugin, AbiPlugin_TO, AbiServices, AbiServices_TO};

/// What crosses. A module of its own, since what the derives expand to is not ours to lint.
#[allow(
    missing_docs,
    unused_qualifications,
    non_local_definitions,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "derive output"
)]
mod types {
    use super::*;

    #[repr(C)]
    #[derive(StableAbi)]
    pub struct AbiError {
        pub kind: u32,
        pub message: RString,
    }

    #[repr(C)]
    #[derive(StableAbi)]
    pub struct AbiServiceError {
        pub kind: u32,
        pub service: RString,
        pub permission: RString,
        pub message: RString,
    }

    #[abi_stable::sabi_trait]
    pub trait AbiServices: Send + Sync {
        #[sabi(last_prefix_field)]
        fn call(&self, service: RStr<'_>, payload: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiServiceError>;
    }

    #[abi_stable::sabi_trait]
    pub trait AbiPlugin: Send {
        fn activate(&mut self, services: AbiServices_TO<'static, RBox<()>>) -> RResult<(), AbiError>;
        fn deactivate(&mut self) -> RResult<(), AbiError>;
        fn call(&mut self, method: RStr<'_>, payload: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError>;
        #[sabi(last_prefix_field)]
        fn close(&mut self) -> RResult<(), AbiError>;
    }

    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
    #[sabi(missing_field(panic))]
    pub struct PluginModule {
        pub section: extern "C" fn() -> RSlice<'static, u8>,
        #[sabi(last_prefix_field)]
        pub new_instance: extern "C" fn() -> RResult<AbiPlugin_TO<'static, RBox<()>>, AbiError>,
    }

    impl RootModule for PluginModuleRef {
        abi_stable::declare_root_module_statics! {PluginModuleRef}
        const BASE_NAME: &'static str = "plugin_abi";
        const NAME: &'static str = "plugin_abi";
        const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
    }
}

type PluginObject = AbiPlugin_TO<'static, RBox<()>>;
type ServicesObject = AbiServices_TO<'static, RBox<()>>;

/// The library that carries the boundary, and the part of its version that must be equal.
pub(crate) const NAME_AND_VERSION: &str = "abi_stable 0.11";
const _: () =
    assert!(AbiHeader::VALUE.abi_major == 0 && AbiHeader::VALUE.abi_minor == 11, "update the name above");

/// The types that cross the boundary, for the fingerprint. A method added to an object shows in its table.
pub(crate) const BOUNDARY: &[TypeShape] = &[
    TypeShape::of::<LibHeader>("root header"),
    TypeShape::of::<PluginModule>("root module"),
    TypeShape::of::<PluginObject>("plugin object"),
    TypeShape::of::<types::AbiPlugin_trait::VTable<(), RBox<()>>>("plugin methods"),
    TypeShape::of::<ServicesObject>("services object"),
    TypeShape::of::<types::AbiServices_trait::VTable<(), RBox<()>>>("services methods"),
    TypeShape::of::<RVec<u8>>("bytes"),
    TypeShape::of::<RSlice<'static, u8>>("borrowed bytes"),
    TypeShape::of::<AbiError>("plugin error"),
    TypeShape::of::<AbiServiceError>("service error"),
    TypeShape::of::<RResult<RVec<u8>, AbiError>>("plugin result"),
    TypeShape::of::<RResult<RVec<u8>, AbiServiceError>>("service result"),
];

/// What a plugin's library exports.
#[doc(hidden)]
pub type RootHeader = LibHeader;

/// The root header of the plugin that `E` stands for.
#[doc(hidden)]
pub const fn root_header<E: Export>() -> RootHeader {
    // SAFETY: the loader must come from the module type named here. `erased_root::<E>` erases what
    // `__call_root_module_loader` makes of `root::<E>`, whose return type is that very `PluginModuleRef`.
    unsafe {
        LibHeader::from_constructor::<PluginModuleRef>(
            erased_root::<E>,
            abi_stable::library::CheckTypeLayout::Yes,
        )
    }
}

extern "C" fn erased_root<E: Export>() -> abi_stable::library::RootModuleResult {
    abi_stable::library::__call_root_module_loader(root::<E>)
}

// The loader keeps what this returns in a static, so it leaks once per library.
fn root<E: Export>() -> PluginModuleRef {
    PluginModule { section: section::<E>, new_instance: new_instance::<E> }.leak_into_prefix()
}

extern "C" fn section<E: Export>() -> RSlice<'static, u8> {
    RSlice::from_slice(E::section())
}

extern "C" fn new_instance<E: Export>() -> RResult<PluginObject, AbiError> {
    to_abi(Instance::construct::<E>().map(|instance| AbiPlugin_TO::from_value(instance, TD_Opaque)))
}

impl AbiPlugin for Instance {
    fn activate(&mut self, services: ServicesObject) -> RResult<(), AbiError> {
        to_abi(self.activate(Host::new(Remote { services })))
    }

    fn deactivate(&mut self) -> RResult<(), AbiError> {
        to_abi(self.deactivate())
    }

    fn call(&mut self, method: RStr<'_>, payload: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiError> {
        to_abi(self.call(method.as_str(), payload.as_slice()).map(RVec::from))
    }

    fn close(&mut self) -> RResult<(), AbiError> {
        to_abi(self.close())
    }
}

/// The host's services, seen from inside the plugin.
struct Remote {
    services: ServicesObject,
}

impl HostServices for Remote {
    fn call(&self, service: &str, payload: &[u8]) -> Result<Vec<u8>, ServiceError> {
        match self.services.call(service.into(), payload.into()) {
            RResult::ROk(answer) => Ok(answer.into_vec()),
            RResult::RErr(error) => Err(error.into()),
        }
    }
}

/// The host's services, seen from outside the plugin. Gone once they panicked while being dropped.
struct Local<S: HostServices> {
    services: Option<S>,
}

impl<S: HostServices> AbiServices for Local<S> {
    fn call(&self, service: RStr<'_>, payload: RSlice<'_, u8>) -> RResult<RVec<u8>, AbiServiceError> {
        let Some(services) = &self.services else {
            return RResult::RErr(ServiceError::Disconnected.into());
        };
        // An embedder's panic must not unwind into the plugin either.
        match catch(|| services.call(service.as_str(), payload.as_slice())) {
            Ok(Ok(answer)) => RResult::ROk(answer.into()),
            Ok(Err(error)) => RResult::RErr(error.into()),
            Err(panic) => {
                let message = format!("the host's service panicked: {}", panic.message);
                RResult::RErr(ServiceError::Failed { message }.into())
            }
        }
    }
}

impl<S: HostServices> Drop for Local<S> {
    fn drop(&mut self) {
        // The plugin drops this object, and has no use for how the host's own drop went.
        let services = self.services.take();
        let _ = catch(move || drop(services));
    }
}

fn to_abi<T>(result: Result<T, PluginError>) -> RResult<T, AbiError> {
    match result {
        Ok(value) => RResult::ROk(value),
        Err(error) => RResult::RErr(AbiError { kind: error.kind.code(), message: error.message.into() }),
    }
}

fn from_abi<T>(result: RResult<T, AbiError>) -> Result<T, PluginError> {
    match result {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(error) => {
            Err(PluginError::new(ErrorKind::from_code(error.kind), error.message.into_string()))
        }
    }
}

const SERVICE_FAILED: u32 = 0;
const SERVICE_DENIED: u32 = 1;
const SERVICE_UNKNOWN: u32 = 2;
const SERVICE_DISCONNECTED: u32 = 3;

impl From<ServiceError> for AbiServiceError {
    fn from(error: ServiceError) -> Self {
        let (kind, service, permission, message) = match error {
            ServiceError::Failed { message } => (SERVICE_FAILED, String::new(), String::new(), message),
            ServiceError::PermissionDenied { permission, service } => {
                (SERVICE_DENIED, service, permission, String::new())
            }
            ServiceError::UnknownService { service } => {
                (SERVICE_UNKNOWN, service, String::new(), String::new())
            }
            ServiceError::Disconnected => (SERVICE_DISCONNECTED, String::new(), String::new(), String::new()),
        };
        Self { kind, service: service.into(), permission: permission.into(), message: message.into() }
    }
}

impl From<AbiServiceError> for ServiceError {
    fn from(error: AbiServiceError) -> Self {
        match error.kind {
            SERVICE_DENIED => Self::PermissionDenied {
                permission: error.permission.into_string(),
                service: error.service.into_string(),
            },
            SERVICE_UNKNOWN => Self::UnknownService { service: error.service.into_string() },
            SERVICE_DISCONNECTED => Self::Disconnected,
            // A later version's kind; its message is the best there is.
            _ => Self::Failed { message: error.message.into_string() },
        }
    }
}

/// The helper's side: from the address of a symbol to a plugin that can be called.
pub mod loader {
    use std::{
        cmp::Reverse,
        panic::{self, AssertUnwindSafe},
    };

    use abi_stable::{
        abi_stability::abi_checking::{
            AbiInstability, AbiInstabilityErrors, ExpectedFound, check_layout_compatibility,
        },
        library::{AbiHeaderRef, LibraryError, ROOT_MODULE_LOADER_NAME, ROOT_MODULE_LOADER_NAME_WITH_NUL},
        type_layout::TLFieldOrFunction,
    };

    use super::*;
    use crate::{MetadataError, PluginMetadata, PluginResult, metadata};

    /// The symbol whose address [`open`] takes, with its terminating NUL.
    pub const ENTRY_SYMBOL: &[u8] = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();

    // The macro must write the name as a literal; this is what keeps the two equal.
    const _: () = {
        let (ours, theirs) = (EXPORTED_NAME.as_bytes(), ROOT_MODULE_LOADER_NAME.as_bytes());
        assert!(ours.len() == theirs.len());
        let mut i = 0;
        while i < ours.len() {
            assert!(ours[i] == theirs[i]);
            i += 1;
        }
    };

    /// Why a library that is open already gave no plugin.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum LoadError {
        /// The symbol does not lead to a root header that this build can read.
        #[error("not a plugin that this program can load: expected {expected}, found {found}")]
        AbiHeader {
            /// What this build reads.
            expected: String,
            /// What is there.
            found: String,
        },
        /// The types that cross the boundary differ.
        #[error("the plugin was built against another layout: {summary}")]
        Layout {
            /// What differs, in at most three lines.
            summary: String,
            /// All that the checker has to say, which can be hundreds of lines.
            full: String,
        },
        /// The metadata that the library carries could not be read.
        #[error("the plugin's metadata cannot be read")]
        Metadata {
            /// Why.
            #[source]
            error: MetadataError,
        },
        /// The plugin's constructor failed.
        #[error("the plugin's constructor failed: {0}")]
        Constructor(PluginError),
        /// The library's root module could not be had, or the check of it panicked.
        #[error("the plugin's root module could not be read: {message}")]
        RootModule {
            /// What was said.
            message: String,
        },
    }

    /// A plugin, made and ready to be activated. Dropping it drops the plugin; the library stays loaded.
    pub struct LoadedPlugin {
        object: PluginObject,
        metadata: PluginMetadata,
    }

    /// Checks the root header at `symbol_address` and makes an instance of its plugin.
    ///
    /// Nothing of the plugin's own code runs before its layout has been found equal to ours. A panic in the
    /// plugin's constructor is [`LoadError::Constructor`].
    ///
    /// # Safety
    /// `symbol_address` is null or the address that the dynamic loader gave for [`ENTRY_SYMBOL`], in a library that
    /// stays open until the process ends. The library's code is trusted with this whole process: what it exports is
    /// checked for honest mistakes, and nothing can check it for malice.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub unsafe fn open(symbol_address: *const ()) -> Result<LoadedPlugin, LoadError> {
        // SAFETY: passed on to our caller, word for word.
        match catch(|| unsafe { open_or_panic(symbol_address) }) {
            Ok(result) => result,
            Err(panic) => Err(LoadError::RootModule { message: panic.message }),
        }
    }

    /// # Safety
    /// As for [`open`].
    unsafe fn open_or_panic(symbol_address: *const ()) -> Result<LoadedPlugin, LoadError> {
        let header_address = symbol_address.cast::<AbiHeader>();
        if header_address.is_null() || !header_address.is_aligned() {
            return Err(foreign_header("no header at all"));
        }
        // SAFETY: `AbiHeaderRef` is a transparent wrapper of a never null reference to an `AbiHeader`. The address
        // is not null and aligned, and the symbol's own static has at least a header's size, for as long as the
        // library stays open: until the process ends, says our caller.
        let header_ref = unsafe { std::mem::transmute::<*const AbiHeader, AbiHeaderRef>(header_address) };
        let header = header_ref.upgrade().map_err(from_library_error)?;

        // Done here and not by `init_root_module`, whose checker sits behind a C function that answers a panic with
        // `exit(1)`, and which keeps of all its findings only the text.
        let expected = <PluginModuleRef as StableAbi>::LAYOUT;
        let Some(found) = header.layout() else {
            let summary = String::from("the library carries no layout");
            return Err(LoadError::Layout { full: summary.clone(), summary });
        };
        check_layout_compatibility(expected, found).map_err(|errors| LoadError::Layout {
            summary: summary_of(&errors),
            full: panic::catch_unwind(AssertUnwindSafe(|| errors.to_string()))
                .unwrap_or_else(|_| String::from("the layouts could not be printed")),
        })?;
        // SAFETY: the module's layout was found equal to ours just above, from this same header.
        let module = unsafe { header.init_root_module_with_unchecked_layout::<PluginModuleRef>() }
            .map_err(from_library_error)?;

        let section = module.section()();
        let metadata = metadata::decode(section.as_slice()).map_err(|error| LoadError::Metadata { error })?;
        let object = from_abi(module.new_instance()()).map_err(LoadError::Constructor)?;
        Ok(LoadedPlugin { object, metadata })
    }

    impl LoadedPlugin {
        /// What the plugin says about itself.
        pub fn metadata(&self) -> &PluginMetadata {
            &self.metadata
        }

        /// Activates the plugin and hands it `services`, which it may call from any of its threads, and keep.
        ///
        /// # Errors
        /// What the plugin answered, or its panic.
        pub fn activate(&mut self, services: impl HostServices) -> Result<(), PluginError> {
            let local = Local { services: Some(services) };
            from_abi(self.object.activate(AbiServices_TO::from_value(local, TD_Opaque)))
        }

        /// Deactivates the plugin.
        ///
        /// # Errors
        /// What the plugin answered, or its panic.
        pub fn deactivate(&mut self) -> Result<(), PluginError> {
            from_abi(self.object.deactivate())
        }

        /// Calls a method. The answer is copied out of the plugin's memory; see [`call_with`](Self::call_with).
        ///
        /// # Errors
        /// What the plugin answered, or its panic.
        pub fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
            self.call_with(method, payload, <[u8]>::to_vec)
        }

        /// Calls a method and shows the answer to `read` where the plugin left it, uncopied.
        ///
        /// # Errors
        /// What the plugin answered, or its panic; `read` does not run then.
        pub fn call_with<T>(
            &mut self,
            method: &str,
            payload: &[u8],
            read: impl FnOnce(&[u8]) -> T,
        ) -> Result<T, PluginError> {
            from_abi(self.object.call(method.into(), payload.into())).map(|answer| read(answer.as_slice()))
        }

        /// Drops the plugin and says how that went.
        ///
        /// # Errors
        /// The panic of the plugin's own drop.
        pub fn close(mut self) -> Result<(), PluginError> {
            from_abi(self.object.close())
        }
    }

    impl std::fmt::Debug for LoadedPlugin {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("LoadedPlugin").field("metadata", &self.metadata).finish_non_exhaustive()
        }
    }

    fn foreign_header(found: impl Into<String>) -> LoadError {
        LoadError::AbiHeader { expected: NAME_AND_VERSION.to_owned(), found: found.into() }
    }

    fn from_library_error(error: LibraryError) -> LoadError {
        match error {
            LibraryError::InvalidAbiHeader(header)
                if header.magic_string == AbiHeader::VALUE.magic_string =>
            {
                foreign_header(format!("abi_stable {}.{}", header.abi_major, header.abi_minor))
            }
            LibraryError::InvalidAbiHeader(_) => foreign_header("another kind of header"),
            LibraryError::InvalidCAbi { expected, found } => LoadError::AbiHeader {
                expected: one_line(&format!("C functions that answer {expected}")),
                found: one_line(&found.to_string()),
            },
            LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
                let summary = format!("plugin-abi: expected {expected_version}, found {actual_version}");
                LoadError::Layout { full: summary.clone(), summary }
            }
            LibraryError::RootModule { err: RootModuleError::Returned(error), .. } => {
                LoadError::RootModule { message: one_line(&error.to_string()) }
            }
            other => LoadError::RootModule { message: one_line(&other.to_string()) },
        }
    }

    /// At most three lines out of what can be hundreds: a difference of versions, which explains the rest, then the
    /// innermost findings, from which the outer ones follow.
    fn summary_of(errors: &AbiInstabilityErrors) -> String {
        const MAX_LINES: usize = 3;
        let mut ranked: Vec<(usize, String)> = Vec::new();
        for error in &errors.errors {
            for finding in &error.errs {
                ranked.push(match finding {
                    AbiInstability::PackageVersion(v) => {
                        (usize::MAX, one_line(&differs("package version", v)))
                    }
                    other => (
                        error.stack_trace.len(),
                        one_line(&format!("{}: {}", place_of(&error.stack_trace), describe(other))),
                    ),
                });
            }
        }
        ranked.sort_by_key(|(rank, _)| Reverse(*rank));
        let mut lines: Vec<String> = Vec::new();
        for (_, line) in ranked {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        if lines.len() > MAX_LINES {
            let more = lines.len() - (MAX_LINES - 1);
            lines.truncate(MAX_LINES - 1);
            lines.push(format!("and {more} more differences"));
        }
        if lines.is_empty() { String::from("the layouts differ") } else { lines.join("\n") }
    }

    /// Where a finding is, such as `new_instance.answer.activate`.
    fn place_of(steps: &[ExpectedFound<TLFieldOrFunction>]) -> String {
        let names: Vec<&str> = steps
            .iter()
            .filter_map(|step| match &step.expected {
                TLFieldOrFunction::Field(field) => Some(field.name()),
                TLFieldOrFunction::Function(_) => None,
            })
            .filter_map(|name| match name {
                "__returns" => Some("answer"),
                // Steps through the binding's own wrappers, which tell a reader nothing.
                "obj" | "vtable" | "field_0" => None,
                name if name.starts_with("_sabi") => None,
                name if name.bytes().all(|byte| byte.is_ascii_digit()) => None,
                name => Some(name),
            })
            .collect();
        if names.is_empty() { String::from("root module") } else { names.join(".") }
    }

    fn describe(finding: &AbiInstability) -> String {
        use AbiInstability as Ai;
        match finding {
            Ai::Name(v) => differs("type", v),
            Ai::Package(v) => differs("package", v),
            Ai::Size(v) => differs("size in bytes", v),
            Ai::Alignment(v) => differs("alignment in bytes", v),
            Ai::FieldCountMismatch(v) => differs("number of fields", v),
            Ai::MismatchedPrefixSize(v) => differs("number of first fields", v),
            Ai::GenericParamCount(v) => differs("type parameters", v),
            Ai::TooManyVariants(v) => differs("number of variants", v),
            Ai::UnexpectedVariant(v) => differs("variant", v),
            Ai::NonZeroness(v) => differs("never zero", v),
            Ai::UnexpectedField(v) => {
                format!("field: expected {}, found {}", v.expected.name(), v.found.name())
            }
            // The rest prints whole layouts: its name has to do.
            other => {
                let text = format!("{other:?}");
                text.chars().take_while(|c| c.is_alphanumeric()).collect()
            }
        }
    }

    fn differs<T: std::fmt::Display>(what: &str, v: &ExpectedFound<T>) -> String {
        format!("{what}: expected {}, found {}", v.expected, v.found)
    }

    fn one_line(text: &str) -> String {
        const MAX_CHARS: usize = 160;
        let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((cut, _)) = line.char_indices().nth(MAX_CHARS) {
            line.truncate(cut);
            line.push_str("...");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{
        loader::{ENTRY_SYMBOL, LoadError, LoadedPlugin},
        *,
    };
    use crate::{
        Plugin, PluginResult,
        metadata::{AbiFingerprint, Declaration, section, section_len},
    };

    const DECLARATION: Declaration<'static> =
        Declaration { id: "probe", version: "1", description: "", permissions: &["ui"] };
    static SECTION: [u8; section_len(&DECLARATION)] = section(&DECLARATION);

    #[derive(Default)]
    struct Probe {
        host: Option<Host>,
    }

    impl Plugin for Probe {
        fn activate(&mut self, host: Host) -> Result<(), PluginError> {
            self.host = Some(host);
            Ok(())
        }

        fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
            match method {
                "service" => {
                    let name = std::str::from_utf8(payload)?;
                    match self.host.as_ref().ok_or("not active")?.call(name, b"from the plugin") {
                        Ok(answer) => Ok(answer),
                        Err(error) => Ok(format!("{error:?}").into_bytes()),
                    }
                }
                "forget" => {
                    self.host = None;
                    Ok(Vec::new())
                }
                "panic" => panic!("with {} bytes", payload.len()),
                _ => Err(PluginError::unknown_method(method)),
            }
        }
    }

    struct Sound;

    impl Export for Sound {
        fn construct() -> Box<dyn Plugin> {
            Box::new(Probe::default())
        }
        fn section() -> &'static [u8] {
            &SECTION
        }
    }

    struct Unmakeable;

    impl Export for Unmakeable {
        fn construct() -> Box<dyn Plugin> {
            panic!("cannot be made")
        }
        fn section() -> &'static [u8] {
            &SECTION
        }
    }

    struct Mislabelled;

    impl Export for Mislabelled {
        fn construct() -> Box<dyn Plugin> {
            Box::new(Probe::default())
        }
        fn section() -> &'static [u8] {
            b"no metadata"
        }
    }

    /// The same module as some other build of the contract might have it.
    #[allow(
        dead_code,
        missing_docs,
        unused_qualifications,
        non_local_definitions,
        clippy::all,
        reason = "derive output"
    )]
    mod other_build {
        use super::*;

        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
        #[sabi(missing_field(panic))]
        pub struct PluginModule {
            pub section: extern "C" fn(u32) -> RSlice<'static, u16>,
            #[sabi(last_prefix_field)]
            pub make: extern "C" fn() -> RResult<PluginObject, AbiError>,
        }

        impl RootModule for PluginModuleRef {
            abi_stable::declare_root_module_statics! {PluginModuleRef}
            const BASE_NAME: &'static str = "plugin_abi";
            const NAME: &'static str = "plugin_abi";
            const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
        }

        pub extern "C" fn refuse() -> abi_stable::library::RootModuleResult {
            unreachable!("the layout is checked before this is called")
        }
    }

    static SOUND: RootHeader = root_header::<Sound>();
    static UNMAKEABLE: RootHeader = root_header::<Unmakeable>();
    static MISLABELLED: RootHeader = root_header::<Mislabelled>();
    // SAFETY: the function never returns, so that nothing of another type is ever erased.
    static OTHER_BUILD: RootHeader = unsafe {
        LibHeader::from_constructor::<other_build::PluginModuleRef>(
            other_build::refuse,
            abi_stable::library::CheckTypeLayout::Yes,
        )
    };

    fn open(header: &'static RootHeader) -> Result<LoadedPlugin, LoadError> {
        // SAFETY: a root header made by `root_header`, or one that is refused by its layout, in a static.
        unsafe { loader::open(std::ptr::from_ref(header).cast()) }
    }

    fn sound() -> LoadedPlugin {
        open(&SOUND).expect("built with this very crate")
    }

    fn text(result: PluginResult) -> String {
        String::from_utf8(result.expect("the probe answers")).expect("in text")
    }

    #[test]
    fn a_plugin_tells_its_metadata_and_answers_calls() {
        let mut plugin = sound();
        assert_eq!(plugin.metadata().id, "probe");
        assert_eq!(plugin.metadata().permissions, ["ui"]);
        assert_eq!(plugin.metadata().abi, AbiFingerprint::current());
        let error = plugin.call("paint", b"").expect_err("no such method");
        assert_eq!(error, PluginError::unknown_method("paint"));
        let error = plugin.call("panic", b"four").expect_err("it panics");
        assert_eq!(error.kind, ErrorKind::Panicked);
        assert!(error.message.starts_with("with 4 bytes"), "{error}");
        assert_eq!(plugin.deactivate(), Ok(()));
        assert_eq!(plugin.close(), Ok(()));
    }

    #[test]
    fn every_service_error_reaches_the_plugin_as_it_was() {
        let mut plugin = sound();
        let services = |service: &str, payload: &[u8]| match service {
            "echo" => Ok(payload.to_vec()),
            "ui.show" => {
                Err(ServiceError::PermissionDenied { permission: "ui".into(), service: service.into() })
            }
            "gone" => Err(ServiceError::Disconnected),
            "broken" => Err(ServiceError::failed("out of paper")),
            "panics" => panic!("host bug"),
            _ => Err(ServiceError::UnknownService { service: service.into() }),
        };
        plugin.activate(services).expect("the probe takes any host");
        let cases = [
            ("echo", "from the plugin"),
            ("ui.show", r#"PermissionDenied { permission: "ui", service: "ui.show" }"#),
            ("gone", "Disconnected"),
            ("broken", r#"Failed { message: "out of paper" }"#),
            ("other", r#"UnknownService { service: "other" }"#),
        ];
        for (service, answer) in cases {
            assert_eq!(text(plugin.call("service", service.as_bytes())), answer);
        }
        let answer = text(plugin.call("service", b"panics"));
        assert!(
            answer.starts_with(r#"Failed { message: "the host's service panicked: host bug"#),
            "{answer}"
        );
    }

    #[test]
    fn services_that_panic_when_dropped_do_not_take_the_plugin_along() {
        struct Grenade(Mutex<()>);
        impl HostServices for Grenade {
            fn call(&self, _service: &str, _payload: &[u8]) -> Result<Vec<u8>, ServiceError> {
                drop(self.0.lock());
                Ok(Vec::new())
            }
        }
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("services dropped");
            }
        }
        let mut plugin = sound();
        plugin.activate(Grenade(Mutex::new(()))).expect("the probe takes any host");
        assert_eq!(plugin.call("forget", b""), Ok(Vec::new()));
    }

    #[test]
    fn a_constructor_that_panics_is_a_load_error() {
        match open(&UNMAKEABLE) {
            Err(LoadError::Constructor(error)) => {
                assert_eq!(error.kind, ErrorKind::Panicked);
                assert!(error.message.starts_with("cannot be made"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unreadable_metadata_is_a_load_error() {
        let result = open(&MISLABELLED);
        assert!(matches!(result, Err(LoadError::Metadata { .. })), "{result:?}");
    }

    #[test]
    fn another_layout_is_told_in_three_lines() {
        match open(&OTHER_BUILD) {
            Err(LoadError::Layout { summary, full }) => {
                assert!(summary.lines().count() <= 3, "{summary}");
                assert!(summary.contains("field: expected new_instance, found make"), "{summary}");
                assert!(full.lines().count() > 10, "{full}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_root_header_is_refused() {
        #[repr(align(16))]
        struct Aligned([u8; 256]);
        static ZEROS: Aligned = Aligned([0; 256]);
        let zeros: *const () = std::ptr::from_ref(&ZEROS.0).cast();
        for address in [std::ptr::null(), zeros, zeros.wrapping_byte_add(1)] {
            // SAFETY: null, or 256 bytes of a static, of which a header's magic string is read and found wrong.
            let result = unsafe { loader::open(address) };
            assert!(matches!(result, Err(LoadError::AbiHeader { .. })), "{result:?}");
        }
    }

    #[test]
    fn the_entry_symbol_ends_with_a_nul() {
        assert_eq!(ENTRY_SYMBOL.last(), Some(&0));
    }

    #[test]
    fn a_loaded_plugin_can_move_to_another_thread() {
        fn check<T: Send>() {}
        check::<LoadedPlugin>();
    }
}
