//! Controls: the very code of a probe, in a child process that nothing confines.
//!
//! A refusal in the sandbox proves something only if the same attempt succeeds outside it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use plugin_abi::ServiceError;
use plugin_abi::loader::{ENTRY_SYMBOL, LoadedPlugin, open};

use crate::{Answer, child, library};

/// The name of the part that a test program must offer its children for this.
pub const PART: &str = "unconfined";

/// What an unconfined attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The probe answered.
    Answered(Answer),
    /// The process ended by itself: it became another program, for example.
    Exited(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Outcome {
    /// Whether the attempt went well: an answer of success, or a program that ended well.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Answered(Answer::Got(_)) | Self::Exited(0))
    }
}

/// Tries `method` of the plugin `probe` outside any sandbox.
#[track_caller]
pub fn attempt(method: &str, payload: &str) -> Outcome {
    attempt_of(&library("probe"), method, payload)
}

/// Tries a method of the plugin in `library` outside any sandbox.
#[track_caller]
pub fn attempt_of(library: &Path, method: &str, payload: &str) -> Outcome {
    let path = library.to_str().expect("libraries have plain names");
    let ended = child::start(PART, &[path, method, payload]).end();
    match (ended.report, ended.status.code(), ended.status.signal()) {
        (Some(report), Some(0), _) => Outcome::Answered(Answer::read(&report)),
        (Some(report), ..) => {
            panic!("the control did not work: {}\n{}", String::from_utf8_lossy(&report), ended.errors)
        }
        (None, Some(code), _) => Outcome::Exited(code),
        (None, None, signal) => Outcome::Signal(signal.unwrap_or(0)),
    }
}

/// The part: loads the library into this very process and calls it.
pub fn part(arguments: &[String]) -> Vec<u8> {
    let [path, method, payload] = arguments else { panic!("a library, a method and a payload") };
    let mut plugin = load(Path::new(path));
    let no_services =
        |service: &str, _: &[u8]| Err(ServiceError::UnknownService { service: service.to_owned() });
    plugin.activate(no_services).expect("the probes activate");
    let reply = plugin.call(method, payload.as_bytes()).expect("the probes answer");
    // Probes answer in their own words; other plugins are made to look as if they did.
    if ["ok ", "errno ", "error "].iter().any(|word| reply.starts_with(word.as_bytes())) {
        reply
    } else {
        [b"ok ", reply.as_slice()].concat()
    }
}

fn load(path: &Path) -> LoadedPlugin {
    // SAFETY: runs the constructors of a library of this repository's, in a process made for it.
    let library = unsafe { libloading::Library::new(path) }.expect("the library loads");
    // SAFETY: only its address is taken.
    let symbol = unsafe { library.get::<*const ()>(ENTRY_SYMBOL) }.expect("plugins have an entry");
    // SAFETY: the address of the symbol by which plugin-abi exports its root module.
    let address = unsafe { symbol.try_as_raw_ptr() }.expect("an address");
    std::mem::forget(library);
    // SAFETY: that address, in a library that stays open for the process's life.
    unsafe { open(address.cast_const().cast()) }.expect("a plugin of this build")
}
