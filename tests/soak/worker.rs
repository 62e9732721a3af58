//! A thread's plugins, and each step with the answers that must come.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::inventory::{descendants, parent_of};
use rig::plugins::explained;
use rig::wait::{PATIENCE, until, watch, watch_if_alive};
use rig::{Answer, Scratch, library};
use sandbox_core::{
    App, Cause, ErrorKind, LibraryError, Operation, PERMISSION_FILE_READ, PERMISSION_PLUGIN,
    PERMISSION_PROCESS, PluginPermission, PluginPolicy, PluginSandbox, PluginSandboxError,
    PluginSandboxManager, PluginState, ResourceLimits, Step as HelperStep,
};

use crate::NEIGHBOUR;
use crate::steps::{CONSTRUCTORS, Crash, Misdeed, Refused, Step, draw};
use crate::tally::{Outcome, Tally};
use crate::weather::Weather;

/// The library that a plugin may load for some of the time. What needs no permission it has from the start.
pub(crate) const MORE: &str = "libprobe_more.so";
const MODULES: [&str; 2] = ["libprobe_near.so", "libprobe_far.so"];

/// A deadline that is meant to pass.
const SHORT: Duration = Duration::from_millis(100);
const MEMORY_MB: u64 = 64;
const MESSAGE_BYTES: usize = 4 << 20;
/// A program that prints what it reads.
const CAT: &str = "/bin/cat";

/// Files that the plugins of all threads share.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) granted: String,
    pub(crate) folder: String,
    pub(crate) outside: String,
    pub(crate) text: String,
    pub(crate) modules: PathBuf,
    pub(crate) breaking: Vec<(&'static str, PathBuf, Scratch)>,
    pub(crate) _scratch: Scratch,
}

/// What is wrong with an answer.
#[derive(Debug)]
struct Wrong {
    what: String,
    /// It is the error of a zygote that has ended.
    lost: bool,
}

/// How a step ended, if it ended as it must.
enum Good {
    Right,
    Crashed(&'static str),
}

type Stepped = Result<Good, Wrong>;

/// A thread's plugins: two that may do much and talk to each other, one that misbehaves, one with modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    First,
    Second,
    Life,
    Modules,
}

const KINDS: [Kind; 4] = [Kind::First, Kind::Second, Kind::Life, Kind::Modules];

/// A thread that takes steps.
pub(crate) struct Worker {
    number: usize,
    rng: Rng,
    /// What the step under way sends. Apart, since a step that is cut short takes less of it.
    contents: Rng,
    steps: u64,
    manager: Arc<PluginSandboxManager>,
    files: Arc<Files>,
    weather: Arc<Weather>,
    tally: Arc<Tally>,
}

/// Limits under which only what is meant to does not come in time.
pub(crate) fn lenient() -> ResourceLimits {
    ResourceLimits::default()
        .max_memory_mb(MEMORY_MB)
        .max_cpu_time_sec(None)
        .max_message_bytes(MESSAGE_BYTES as u64)
        .load_timeout(PATIENCE)
        .activate_timeout(PATIENCE)
        .call_timeout(PATIENCE)
        .deactivate_timeout(PATIENCE)
}

/// Fails with what was seen unless it holds.
macro_rules! want {
    ($holds:expr, $($said:tt)+) => {
        if !$holds { return Err(wrong(format!($($said)+))); }
    };
}

fn wrong(what: impl Into<String>) -> Wrong {
    Wrong { what: what.into(), lost: false }
}

fn failed(what: &str) -> impl FnOnce(PluginSandboxError) -> Wrong {
    move |error| {
        // A helper that went between its clone and the first look at it is an error of that look.
        let lost = lost_with_zygote(&error)
            || matches!(
                error,
                PluginSandboxError::Zygote { .. }
                    | PluginSandboxError::Confine { step: HelperStep::Spawn, .. }
            );
        Wrong { what: format!("{what}: {}", explained(&error)), lost }
    }
}

impl Worker {
    pub(crate) fn new(
        number: usize,
        seed: u64,
        manager: Arc<PluginSandboxManager>,
        files: Arc<Files>,
        weather: Arc<Weather>,
        tally: Arc<Tally>,
    ) -> Self {
        // Threads must not do the same, nor those of the next seed.
        let rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64));
        let worker =
            Self { number, contents: Rng::with_seed(0), rng, steps: 0, manager, files, weather, tally };
        KINDS.iter().for_each(|kind| worker.register(*kind).expect("these ids are new"));
        worker
    }

    /// Takes the next step.
    pub(crate) fn step(&mut self) {
        let first = self.rng.bool();
        let step = draw(&mut self.rng);
        self.contents = self.rng.fork();
        self.steps += 1;
        let kind = match &step {
            Step::InActivate(_) | Step::InDeactivate(_) | Step::InDrop(_) => Kind::Life,
            Step::Modules => Kind::Modules,
            _ if first => Kind::First,
            _ => Kind::Second,
        };
        self.tally.begins(self.number, format!("{step:?} of {}", self.id(kind)));
        let began = self.weather.now();
        let outcome = match self.do_step(kind, &step) {
            Ok(Good::Right) => Outcome::Right,
            Ok(Good::Crashed(cause)) => Outcome::Crashed(cause),
            Err(Wrong { lost, .. }) if self.weather.was_stormy(began) && (lost || self.is_lost(kind)) => {
                Outcome::Storm
            }
            Err(Wrong { what, .. }) => Outcome::Wrong(what),
        };
        if matches!(outcome, Outcome::Storm | Outcome::Wrong(_)) {
            // What state they are in is anybody's guess: they begin anew.
            for kind in KINDS {
                let _ = self.manager.unregister_plugin(&self.id(kind));
                self.register(kind).expect("it was unregistered");
            }
        }
        self.tally.ends(self.number, step.name(), self.steps, outcome);
    }

    /// Unregisters its plugins.
    pub(crate) fn leave(self) {
        for kind in KINDS {
            self.manager.unregister_plugin(&self.id(kind)).expect("it is registered");
        }
    }

    fn id(&self, kind: Kind) -> String {
        format!("thread-{}-{}", self.number, format!("{kind:?}").to_lowercase())
    }

    fn other(kind: Kind) -> Kind {
        if kind == Kind::First { Kind::Second } else { Kind::First }
    }

    fn register(&self, kind: Kind) -> Result<(), PluginSandboxError> {
        let policy = PluginPolicy::new().limits(lenient());
        let policy = match kind {
            Kind::First | Kind::Second => policy.permissions([
                self.reading(),
                PERMISSION_PROCESS.scoped_to_path(CAT)?,
                PERMISSION_PLUGIN.scoped(&self.id(Self::other(kind)))?,
            ]),
            Kind::Life => policy,
            Kind::Modules => policy.allow_modules(MODULES),
        };
        self.manager.register_plugin(&self.id(kind), policy)
    }

    fn reading(&self) -> PluginPermission {
        PERMISSION_FILE_READ.scoped_to_path(&self.files.folder).expect("an absolute path")
    }

    fn library(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::First | Kind::Second => library("probe"),
            Kind::Life => library("probe-life"),
            Kind::Modules => self.files.modules.clone(),
        }
    }

    /// Whether the plugin, or the one that it talks to, ended with a zygote.
    fn is_lost(&self, kind: Kind) -> bool {
        [kind, Self::other(kind)].into_iter().any(|kind| {
            self.sandbox(kind)
                .is_ok_and(|sandbox| sandbox.call("echo", b"").is_err_and(|error| lost_with_zygote(&error)))
        })
    }

    fn sandbox(&self, kind: Kind) -> Result<PluginSandbox, Wrong> {
        let sandbox = self.manager.create_sandbox(&self.id(kind)).map_err(failed("its sandbox"))?;
        // One whose helper a storm has taken along may not have been told so yet.
        if let Some(pid) = sandbox.process_id()
            && parent_of(pid).is_none_or(|zygote| self.weather.has_killed(zygote))
        {
            until("a plugin to be told of its zygote's end", || {
                (sandbox.process_id() != Some(pid)).then_some(())
            });
        }
        Ok(sandbox)
    }

    /// Loads a plugin if need be.
    fn loaded(&self, kind: Kind) -> Result<PluginSandbox, Wrong> {
        let sandbox = self.sandbox(kind)?;
        if matches!(sandbox.state(), PluginState::Registered | PluginState::Unloaded | PluginState::Crashed) {
            sandbox.load_plugin(self.library(kind)).map_err(failed("its load"))?;
        }
        Ok(sandbox)
    }

    /// Loads and activates a plugin as far as need be.
    fn active(&self, kind: Kind) -> Result<PluginSandbox, Wrong> {
        let sandbox = self.loaded(kind)?;
        if sandbox.state() == PluginState::Loaded {
            sandbox.activate_plugin(app("ok")).map_err(failed("its activation"))?;
        }
        self.in_state(&sandbox, PluginState::Active)?;
        Ok(sandbox)
    }

    /// The same, in a helper of its own.
    fn active_anew(&self, kind: Kind) -> Result<PluginSandbox, Wrong> {
        let sandbox = self.sandbox(kind)?;
        if matches!(sandbox.state(), PluginState::Loaded | PluginState::Active) {
            sandbox.unload_plugin().map_err(failed("its unload"))?;
        }
        self.active(kind)
    }

    fn in_state(&self, sandbox: &PluginSandbox, state: PluginState) -> Result<(), Wrong> {
        let (now, pid) = (sandbox.state(), sandbox.process_id());
        want!(now == state, "it is {now}, where it must be {state}");
        let lives = matches!(state, PluginState::Loaded | PluginState::Active);
        want!(pid.is_some() == lives, "it is {now}, and its process is {pid:?}");
        Ok(())
    }

    fn do_step(&mut self, kind: Kind, step: &Step) -> Stepped {
        match step {
            Step::Echo { bytes } => self.echo(kind, *bytes)?,
            Step::Big { bytes } => {
                let answer = got(&self.active(kind)?, "big", bytes.to_string())?;
                want!(answer == vec![b'x'; *bytes], "{} bytes came", answer.len());
            }
            Step::TooLarge => self.too_large(kind)?,
            Step::Panic => self.refused_by_itself(kind, "panic", ErrorKind::Panicked)?,
            Step::Fail => self.refused_by_itself(kind, "fail", ErrorKind::Failed)?,
            Step::UnknownMethod => {
                self.refused_by_itself(kind, "no-such-method", ErrorKind::UnknownMethod)?
            }
            Step::Service { from_thread } => {
                let method = if *from_thread { "service_from_thread" } else { "service" };
                let word = self.contents.u64(..).to_string();
                said(&self.active(kind)?, method, format!("echo\n{word}"), &format!("replied {word}"))?;
            }
            Step::ServiceNotGranted => {
                let sandbox = self.active(kind)?;
                said(&sandbox, "service", "ui.notify\nx", "denied ui ui.notify")?;
                said(&sandbox, "service", "nothing\nx", "unknown nothing")?;
            }
            Step::Open { count } => {
                let sandbox = self.active(kind)?;
                (0..*count).try_for_each(|_| said(&sandbox, "open", &self.files.granted, "contents"))?;
            }
            Step::OpenOutside => self.open_outside(kind)?,
            Step::ReadByService => {
                let payload = format!("3 4\n{}", self.files.granted);
                said(&self.active(kind)?, "service_read_file", payload, "replied tent")?;
            }
            Step::Run => {
                said(&self.active(kind)?, "run", format!("{CAT}\n\nsome text"), "exit 0\nsome text")?
            }
            Step::Message { bytes } => self.message(kind, *bytes)?,
            Step::Handles => {
                let sandbox = self.active(kind)?;
                check_handles(&sandbox, sandbox.resource_limits().max_file_handles.unwrap_or(0))?;
            }
            Step::Memory => {
                let sandbox = self.active(kind)?;
                got(&sandbox, "alloc", "24")?;
                got(&sandbox, "free", "")?;
            }
            Step::Neighbour { calls } => return self.neighbour(*calls),
            Step::RevokeAndGrant => self.revoke_and_grant(kind)?,
            Step::RevokeHeld => return self.revoke_held(kind),
            Step::ChangeHandles { most } => {
                let sandbox = self.active(kind)?;
                let limits = sandbox.resource_limits().max_file_handles(*most);
                sandbox.set_resource_limits(limits).map_err(failed("within eight times ten"))?;
                check_handles(&sandbox, *most)?;
                // Other steps want some.
                sandbox.set_resource_limits(lenient()).map_err(failed("as it was loaded with"))?;
            }
            Step::Modules => self.change_modules(kind)?,
            Step::LoadAgain => {
                let sandbox = self.active(kind)?;
                let error = sandbox.load_plugin(self.library(kind)).map(drop);
                wrong_state(error, Operation::Load, PluginState::Active)?;
                wrong_state(sandbox.activate_plugin(()), Operation::Activate, PluginState::Active)?;
            }
            Step::Deactivate => {
                let sandbox = self.active(kind)?;
                sandbox.deactivate_plugin().map_err(failed("its deactivation"))?;
                self.in_state(&sandbox, PluginState::Loaded)?;
                wrong_state(sandbox.call("echo", b"").map(drop), Operation::Call, PluginState::Loaded)?;
                self.echo(kind, 1)?;
            }
            Step::Unload => {
                let sandbox = self.active(kind)?;
                let helper = helper_of(&sandbox)?;
                sandbox.unload_plugin().map_err(failed("its unload"))?;
                self.in_state(&sandbox, PluginState::Unloaded)?;
                want!(!descendants(std::process::id()).contains_key(&helper), "its helper is still there");
                wrong_state(sandbox.unload_plugin(), Operation::Unload, PluginState::Unloaded)?;
                self.echo(kind, 1)?;
            }
            Step::Register => self.register_anew(kind)?,
            Step::DropActive => {
                let sandbox = PluginSandbox::new("alone", PluginPolicy::new().limits(lenient()))
                    .map_err(failed("a sandbox that stands alone"))?;
                sandbox.load_plugin(library("probe")).map_err(failed("its load"))?;
                sandbox.activate_plugin(()).map_err(failed("its activation"))?;
                let helper = watch_helper(&sandbox)?;
                drop(sandbox);
                helper.ended();
            }
            Step::Refused(refused) => self.refused_library(kind, *refused)?,
            Step::UnloadDuringCall => return self.unload_during_call(kind),
            Step::Constructor { act } => return self.constructor(kind, *act),
            Step::InActivate(misdeed) => return self.in_activate(kind, *misdeed),
            Step::InDeactivate(misdeed) => return self.in_deactivate(kind, *misdeed),
            Step::InDrop(misdeed) => return self.in_drop(kind, *misdeed),
            Step::Crash(crash) => return self.crash(kind, *crash),
            Step::ZygoteKilled => return self.kill_zygote(kind),
        }
        Ok(Good::Right)
    }

    fn echo(&mut self, kind: Kind, bytes: usize) -> Result<(), Wrong> {
        let mut payload = vec![0; bytes];
        self.contents.fill(&mut payload);
        let answer = got(&self.active(kind)?, "echo", &payload)?;
        want!(answer == payload, "{} other bytes came", answer.len());
        Ok(())
    }

    fn too_large(&self, kind: Kind) -> Result<(), Wrong> {
        match self.active(kind)?.call("echo", &vec![0; MESSAGE_BYTES + 1]) {
            Err(PluginSandboxError::MessageTooLarge { len, max, .. }) => {
                want!((len, max) == (MESSAGE_BYTES as u64 + 1, MESSAGE_BYTES as u64), "{len} of {max} bytes");
                Ok(())
            }
            Err(error) => Err(failed("not the error of a size")(error)),
            Ok(_) => Err(wrong("it was answered")),
        }
    }

    fn refused_by_itself(&self, kind: Kind, method: &str, wanted: ErrorKind) -> Result<(), Wrong> {
        let sandbox = self.active(kind)?;
        match sandbox.call(method, b"its own words") {
            Err(PluginSandboxError::PluginFailed { kind, message, .. }) => {
                want!(kind == wanted, "{kind:?}: {message}");
                let told = wanted == ErrorKind::UnknownMethod || message.contains("its own words");
                want!(told, "it says {message:?}");
            }
            Err(error) => return Err(failed("not the plugin's own error")(error)),
            Ok(_) => return Err(wrong("it was answered")),
        }
        self.in_state(&sandbox, PluginState::Active)
    }

    fn open_outside(&self, kind: Kind) -> Result<(), Wrong> {
        let sandbox = self.active(kind)?;
        for path in [&self.files.outside, "/etc/passwd", "/nowhere/at/all"] {
            let answer = answered(&sandbox, "open", path)?;
            want!(answer == Answer::Errno(libc::EACCES), "{path}: {answer:?}");
        }
        Ok(())
    }

    fn message(&self, kind: Kind, bytes: usize) -> Result<(), Wrong> {
        let (from, to) = (self.active(kind)?, self.active(Self::other(kind))?);
        let text = "m".repeat(bytes);
        said(&from, "send", format!("{}\n{text}", self.id(Self::other(kind))), "taken")?;
        let wait = PATIENCE.as_millis().to_string();
        said(&to, "receive", wait, &format!("{}: {text}", self.id(kind)))?;
        said(&to, "receive", "0", "none")
    }

    /// Calls of a plugin that other threads call at the same time. Whoever finds it ended by a storm loads it again.
    fn neighbour(&mut self, calls: usize) -> Stepped {
        for _ in 0..calls {
            let word = self.contents.u64(..).to_string();
            let answer = match self.manager.call(NEIGHBOUR, "echo", word.as_bytes()) {
                Ok(reply) => reply,
                Err(error) => {
                    let lost = lost_with_zygote(&error);
                    let also = matches!(
                        &error,
                        PluginSandboxError::WrongState {
                            state: PluginState::Loading | PluginState::Loaded | PluginState::Activating,
                            ..
                        }
                    );
                    want!(lost || also, "{}", explained(&error));
                    if lost {
                        // The others find it loaded, or on its way.
                        let _ = self.manager.load_plugin(NEIGHBOUR, library("probe"));
                        let _ = self.manager.activate_plugin(NEIGHBOUR, App::new());
                    }
                    return Ok(Good::Crashed("zygote lost"));
                }
            };
            want!(answer == format!("ok {word}").as_bytes(), "another's answer came");
        }
        Ok(Good::Right)
    }

    fn revoke_and_grant(&self, kind: Kind) -> Result<(), Wrong> {
        let sandbox = self.active(kind)?;
        let id = self.id(kind);
        said(&sandbox, "open", &self.files.granted, "contents")?;
        let held = self.manager.revoke_permission(&id, &self.reading()).map_err(failed("the revoke"))?;
        want!(held, "it did not hold what it was granted");
        want!(!sandbox.has_permission(&self.reading()), "it has it after the revoke");
        let answer = answered(&sandbox, "open", &self.files.granted)?;
        want!(answer == Answer::Errno(libc::EACCES), "after the revoke: {answer:?}");
        let again = self.manager.revoke_permission(&id, &self.reading()).map_err(failed("the revoke"))?;
        want!(!again, "it held it after the revoke");
        self.manager.grant_permission(&id, self.reading()).map_err(failed("the grant"))?;
        want!(sandbox.has_permission(&self.reading()), "it does not have it after the grant");
        said(&sandbox, "open", &self.files.granted, "contents")
    }

    fn revoke_held(&self, kind: Kind) -> Stepped {
        let sandbox = self.active_anew(kind)?;
        let helper = watch_helper(&sandbox)?;
        got(&sandbox, "held_open", format!("r\n{}", self.files.granted))?;
        let held = sandbox.revoke_permission(&self.reading());
        sandbox.grant_permission(self.reading());
        want!(held, "it did not hold what it was granted");
        helper.ended();
        until("the plugin to be told crashed", || (sandbox.state() == PluginState::Crashed).then_some(()));
        match sandbox.call("echo", b"") {
            Err(PluginSandboxError::WrongState { ended: Some(Cause::Revoked { .. }), .. }) => {
                Ok(Good::Crashed("revoked"))
            }
            Err(error) => Err(failed("not ended by the revoke")(error)),
            Ok(_) => Err(wrong("it lives, with the file in its hands")),
        }
    }

    fn change_modules(&self, kind: Kind) -> Result<(), Wrong> {
        // A library that was loaded once stays loaded.
        let sandbox = self.active_anew(kind)?;
        let sum = sandbox.call("sum", b"5").map_err(failed("a call into its modules"))?;
        want!(sum == b"16", "the sum is {:?}", String::from_utf8_lossy(&sum));
        let load = || match sandbox.call("dlopen", MORE.as_bytes()) {
            Ok(returned) => Ok(Some(returned)),
            Err(PluginSandboxError::PluginFailed { kind: ErrorKind::Failed, .. }) => Ok(None),
            Err(error) => Err(failed("dlopen")(error)),
        };
        want!(load()?.is_none(), "a module was loaded that is not allowed");
        want!(sandbox.add_allowed_module(MORE).map_err(failed("allowing a module"))?, "it was allowed");
        let removed = if self.number.is_multiple_of(2) {
            let removed = sandbox.remove_allowed_module(MORE);
            want!(load()?.is_none(), "a module was loaded that is not allowed any more");
            removed
        } else {
            let returned = load()?;
            let removed = sandbox.remove_allowed_module(MORE);
            want!(returned.as_deref() == Some(b"7"), "the allowed module gave {returned:?}");
            removed
        };
        want!(removed, "it was not allowed");
        Ok(())
    }

    fn register_anew(&mut self, kind: Kind) -> Result<(), Wrong> {
        let (id, sandbox) = (self.id(kind), self.active(kind)?);
        let helper = watch_helper(&sandbox)?;
        match self.register(kind) {
            Err(PluginSandboxError::AlreadyRegistered { .. }) => {}
            other => return Err(wrong(format!("registered twice: {other:?}"))),
        }
        self.manager.unregister_plugin(&id).map_err(failed("unregistering it"))?;
        helper.ended();
        match self.manager.call(&id, "echo", b"") {
            Err(PluginSandboxError::UnknownPlugin { .. }) => {}
            other => return Err(wrong(format!("called though it is unregistered: {other:?}"))),
        }
        self.register(kind).map_err(failed("registering it again"))?;
        self.echo(kind, 1)
    }

    fn refused_library(&self, kind: Kind, refused: Refused) -> Result<(), Wrong> {
        let sandbox = self.sandbox(kind)?;
        if matches!(sandbox.state(), PluginState::Loaded | PluginState::Active) {
            sandbox.unload_plugin().map_err(failed("its unload"))?;
        }
        let before = sandbox.state();
        let path = match refused {
            Refused::Missing => PathBuf::from("/nowhere/library.so"),
            Refused::Text => PathBuf::from(&self.files.text),
            Refused::NotAllowed => self.files.modules.clone(),
            Refused::OtherAbi => library("probe-lying-layout"),
        };
        let error = match sandbox.load_plugin(path) {
            Ok(_) => return Err(wrong("it was loaded")),
            Err(error) => error,
        };
        let right = match refused {
            Refused::Missing | Refused::Text => matches!(error, PluginSandboxError::Library(_)),
            Refused::NotAllowed => {
                matches!(error, PluginSandboxError::Library(LibraryError::ModuleNotAllowed { .. }))
            }
            Refused::OtherAbi if lost_with_zygote(&error) => return Err(failed("another cause")(error)),
            Refused::OtherAbi => true,
        };
        want!(right, "{}", explained(&error));
        // Where the library's own code has said it, there was a helper.
        let states = [before, PluginState::Unloaded];
        want!(states.contains(&sandbox.state()), "it is {}, and was {before}", sandbox.state());
        Ok(())
    }

    fn unload_during_call(&self, kind: Kind) -> Stepped {
        let sandbox = self.active_anew(kind)?;
        let helper = watch_helper(&sandbox)?;
        let called = std::thread::scope(|scope| {
            let calling = scope.spawn(|| sandbox.call("sleep_forever", b""));
            until("the call to be under way", || {
                if calling.is_finished() {
                    return Some(());
                }
                // The plugin's thread sleeps in `park`; before the call it sleeps in a read of its pipe.
                let pid = sandbox.process_id()?;
                let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
                let parked = call.split(' ').next() == Some(&libc::SYS_futex.to_string());
                (parked || call.is_empty()).then_some(())
            });
            let unloaded = sandbox.unload_plugin();
            (unloaded, calling.join())
        });
        let (unloaded, called) = called;
        unloaded.map_err(failed("its unload"))?;
        let called = called.map_err(|_| wrong("the caller panicked"))?;
        helper.ended();
        self.in_state(&sandbox, PluginState::Unloaded)?;
        match called {
            Err(PluginSandboxError::Ended { cause: Cause::Unloaded, .. }) => Ok(Good::Crashed("unloaded")),
            // Unloaded before it began.
            Err(PluginSandboxError::WrongState { state: PluginState::Unloaded, .. }) => {
                Ok(Good::Crashed("unloaded"))
            }
            Err(error) => Err(failed("not ended by the unload")(error)),
            Ok(_) => Err(wrong("it was answered")),
        }
    }

    fn constructor(&self, kind: Kind, act: usize) -> Stepped {
        let sandbox = self.sandbox(kind)?;
        if matches!(sandbox.state(), PluginState::Loaded | PluginState::Active) {
            sandbox.unload_plugin().map_err(failed("its unload"))?;
        }
        let (act, library, _) = &self.files.breaking[act];
        debug_assert!(CONSTRUCTORS.contains(act));
        let cause = ended(sandbox.load_plugin(library).map(drop), Operation::Load)?;
        let (right, name) = match *act {
            "segfault" => (is_signal(&cause, libc::SIGSEGV), "SIGSEGV"),
            "abort" | "panic" => (is_signal(&cause, libc::SIGABRT), "SIGABRT"),
            "exit" => (matches!(cause, Cause::Exited { code: 3, .. }), "exit"),
            _ => (matches!(cause, Cause::Protocol { .. }), "protocol"),
        };
        want!(right, "{act}: {cause}");
        self.in_state(&sandbox, PluginState::Crashed)?;
        Ok(Good::Crashed(name))
    }

    /// A plugin of this kind, loaded anew, with short deadlines if it is going to hang.
    fn about_to(&self, kind: Kind, misdeed: Misdeed) -> Result<PluginSandbox, Wrong> {
        let sandbox = self.sandbox(kind)?;
        if matches!(sandbox.state(), PluginState::Loaded | PluginState::Active) {
            sandbox.unload_plugin().map_err(failed("its unload"))?;
        }
        let limits = match misdeed {
            Misdeed::Hang => lenient().activate_timeout(SHORT).deactivate_timeout(SHORT),
            _ => lenient(),
        };
        sandbox.set_resource_limits(limits).map_err(failed("limits in range"))?;
        self.loaded(kind)
    }

    fn in_activate(&self, kind: Kind, misdeed: Misdeed) -> Stepped {
        let sandbox = self.about_to(kind, misdeed)?;
        let result = sandbox.activate_plugin(app(misdeed.word()));
        self.misbehaved(&sandbox, result, Operation::Activate, misdeed)
    }

    fn in_deactivate(&self, kind: Kind, misdeed: Misdeed) -> Stepped {
        let sandbox = self.about_to(kind, misdeed)?;
        self.activate_with_patience(&sandbox, misdeed)?;
        sandbox.call("at_deactivate", misdeed.word().as_bytes()).map_err(failed("telling it"))?;
        let result = sandbox.deactivate_plugin();
        self.misbehaved(&sandbox, result, Operation::Deactivate, misdeed)
    }

    fn activate_with_patience(&self, sandbox: &PluginSandbox, misdeed: Misdeed) -> Result<(), Wrong> {
        if misdeed == Misdeed::Hang {
            let limits = lenient().deactivate_timeout(SHORT);
            sandbox.set_resource_limits(limits).map_err(failed("limits in range"))?;
        }
        sandbox.activate_plugin(app("ok")).map_err(failed("its activation"))
    }

    fn misbehaved(
        &self,
        sandbox: &PluginSandbox,
        result: Result<(), PluginSandboxError>,
        operation: Operation,
        misdeed: Misdeed,
    ) -> Stepped {
        if let Misdeed::Error | Misdeed::Panic = misdeed {
            let wanted = if misdeed == Misdeed::Error { ErrorKind::Failed } else { ErrorKind::Panicked };
            match result {
                Err(PluginSandboxError::PluginFailed { kind, .. }) => want!(kind == wanted, "{kind:?}"),
                Err(error) => return Err(failed("not the plugin's own error")(error)),
                Ok(()) => return Err(wrong("it went well")),
            }
            self.in_state(sandbox, PluginState::Loaded)?;
            return Ok(Good::Right);
        }
        let cause = ended(result, operation)?;
        let name = misdeed.cause(&cause, operation).ok_or_else(|| wrong(format!("{misdeed:?}: {cause}")))?;
        self.in_state(sandbox, PluginState::Crashed)?;
        Ok(Good::Crashed(name))
    }

    fn in_drop(&self, kind: Kind, misdeed: Misdeed) -> Stepped {
        let sandbox = self.about_to(kind, misdeed)?;
        self.activate_with_patience(&sandbox, misdeed)?;
        let helper = watch_helper(&sandbox)?;
        sandbox.call("at_drop", misdeed.word().as_bytes()).map_err(failed("telling it"))?;
        // A hang shorter than what a busy machine needs for the deactivation would end in another operation's deadline.
        if misdeed == Misdeed::Hang {
            sandbox.set_resource_limits(lenient()).map_err(failed("limits in range"))?;
            sandbox.deactivate_plugin().map_err(failed("its deactivation"))?;
            let limits = lenient().deactivate_timeout(SHORT);
            sandbox.set_resource_limits(limits).map_err(failed("limits in range"))?;
        }
        let result = sandbox.unload_plugin();
        helper.ended();
        match result {
            // An error has nobody to be told to, and a plugin that exits while it is unloaded has ended as it was asked to.
            Ok(()) if matches!(misdeed, Misdeed::Error | Misdeed::Panic | Misdeed::Exit) => {
                self.in_state(&sandbox, PluginState::Unloaded)?;
                Ok(Good::Right)
            }
            Ok(()) => Err(unloaded_all_the_same()),
            Err(PluginSandboxError::Ended { cause, operation: Operation::Unload, .. }) => {
                let name = misdeed.cause(&cause, Operation::Unload);
                let name = name.ok_or_else(|| wrong(format!("{misdeed:?}: {cause}")))?;
                want!(sandbox.process_id().is_none(), "its helper lives");
                Ok(Good::Crashed(name))
            }
            Err(error) => Err(failed("not an end")(error)),
        }
    }

    fn crash(&self, kind: Kind, crash: Crash) -> Stepped {
        let sandbox = self.active_anew(kind)?;
        let helper = watch_helper(&sandbox)?;
        let pid = Pid::from_raw(i32::try_from(helper_of(&sandbox)?).unwrap_or(0));
        let limits = match crash {
            Crash::Cpu => sandbox.resource_limits().max_cpu_time_sec(1),
            Crash::Hang | Crash::EndlessFrame | Crash::Stopped => {
                sandbox.resource_limits().call_timeout(SHORT)
            }
            _ => sandbox.resource_limits(),
        };
        let before = sandbox.resource_limits();
        sandbox.set_resource_limits(limits).map_err(failed("limits in range"))?;
        let send = |signal| kill(pid, signal).map_err(|errno| wrong(format!("{signal} to it: {errno}")));
        let call =
            |method: &str, payload: &[u8]| ended(sandbox.call(method, payload).map(drop), Operation::Call);
        let cause = match crash {
            Crash::Segfault => call("segfault", b""),
            Crash::Abort => call("abort", b""),
            Crash::Exit { code } => call("exit", code.to_string().as_bytes()),
            Crash::ForbiddenCall => call("ptrace", b""),
            Crash::OutOfMemory => call("alloc_abort", (2 * MEMORY_MB).to_string().as_bytes()),
            Crash::Cpu => call("spin_forever", b""),
            Crash::Hang => call("sleep_forever", b""),
            Crash::Rubbish => {
                call("write_channel", &[16, 0, 0, 0].iter().chain(&[0xff; 16]).copied().collect::<Vec<_>>())
            }
            Crash::EndlessFrame => call("write_channel", &1000_u32.to_le_bytes()),
            Crash::ClosedChannel => call("close_channel", b""),
            Crash::KilledFromOutside => {
                send(Signal::SIGKILL)?;
                helper.ended();
                until("the plugin to be told crashed", || {
                    (sandbox.state() == PluginState::Crashed).then_some(())
                });
                match sandbox.call("echo", b"") {
                    Err(PluginSandboxError::WrongState { ended: Some(cause), .. }) => Ok(cause),
                    other => Err(wrong(format!("it was killed, and answered {other:?}"))),
                }
            }
            Crash::Stopped => {
                send(Signal::SIGSTOP)?;
                call("echo", b"x")
            }
            Crash::StoppedAndUnloaded => {
                sandbox.deactivate_plugin().map_err(failed("its deactivation"))?;
                let limits = sandbox.resource_limits().deactivate_timeout(SHORT);
                sandbox.set_resource_limits(limits).map_err(failed("limits in range"))?;
                send(Signal::SIGSTOP)?;
                ended(sandbox.unload_plugin(), Operation::Unload)
            }
            Crash::WithProcesses => {
                sandbox.grant_permission(PERMISSION_PROCESS);
                let left = got(&sandbox, "sleepers", "2").and_then(|_| call("abort", b""));
                sandbox.revoke_permission(&PERMISSION_PROCESS);
                sandbox.grant_permission(PERMISSION_PROCESS.scoped_to_path(CAT).expect("an absolute path"));
                left
            }
        };
        let cause = cause?;
        helper.ended();
        sandbox.set_resource_limits(before).map_err(failed("limits in range"))?;
        let deadline = |operation| matches!(&cause, Cause::Deadline { operation: of, timeout: SHORT, .. } if *of == operation);
        let (right, name) = match crash {
            Crash::Segfault => (is_signal(&cause, libc::SIGSEGV), "SIGSEGV"),
            Crash::Abort | Crash::WithProcesses => (is_signal(&cause, libc::SIGABRT), "SIGABRT"),
            Crash::Exit { code } => (matches!(cause, Cause::Exited { code: of, .. } if of == code), "exit"),
            Crash::ForbiddenCall => (matches!(cause, Cause::ForbiddenCall { .. }), "forbidden call"),
            Crash::OutOfMemory => (matches!(cause, Cause::Memory { .. }), "memory"),
            Crash::Cpu => (matches!(cause, Cause::CpuTime { .. }), "CPU time"),
            Crash::Hang | Crash::EndlessFrame | Crash::Stopped => (deadline(Operation::Call), "deadline"),
            Crash::StoppedAndUnloaded => (deadline(Operation::Unload), "deadline"),
            Crash::Rubbish => (matches!(cause, Cause::Protocol { .. }), "protocol"),
            Crash::ClosedChannel => (matches!(cause, Cause::ChannelClosed), "channel closed"),
            Crash::KilledFromOutside => (is_signal(&cause, libc::SIGKILL), "SIGKILL"),
        };
        want!(right, "{crash:?}: {cause}");
        want!(sandbox.process_id().is_none(), "its helper lives");
        Ok(Good::Crashed(name))
    }

    /// Kills the zygote, with every thread in the middle of something. The very next load must work.
    fn kill_zygote(&self, kind: Kind) -> Stepped {
        let weather = Arc::clone(&self.weather);
        let sandbox = self.active_anew(kind)?;
        let Some(zygote) = parent_of(helper_of(&sandbox)?) else {
            return Err(wrong("its helper has no parent"));
        };
        let Some(mut storm) = weather.storm() else { return Ok(Good::Right) };
        let helper = watch_helper(&sandbox)?;
        let zygote_ended = watch(zygote);
        storm.kills(zygote);
        let raw = Pid::from_raw(i32::try_from(zygote).unwrap_or(0));
        kill(raw, Signal::SIGKILL).map_err(|errno| wrong(format!("killing the zygote: {errno}")))?;
        zygote_ended.ended();
        helper.ended();
        until("the plugin to be told crashed", || (sandbox.state() == PluginState::Crashed).then_some(()));
        let cause = match sandbox.call("echo", b"") {
            Err(PluginSandboxError::WrongState { ended: Some(cause), .. }) => cause,
            other => return Err(wrong(format!("its zygote was killed, and it answered {other:?}"))),
        };
        let loaded = sandbox.load_plugin(self.library(kind)).map(drop);
        drop(storm);
        // Not excused: this is what must hold in a storm.
        match (cause, loaded) {
            (Cause::ZygoteLost, Ok(())) => Ok(Good::Crashed("zygote lost")),
            (cause, Ok(())) => {
                self.in_spite_of_the_storm(kind, format!("its zygote was killed, and it ended: {cause}"))
            }
            (_, Err(error)) => self.in_spite_of_the_storm(
                kind,
                format!("the load after the zygote's end: {}", explained(&error)),
            ),
        }
    }

    /// Tells of something that no storm excuses.
    fn in_spite_of_the_storm(&self, kind: Kind, what: String) -> Stepped {
        self.tally.wrong_in_a_storm(self.number, &format!("{}: {what}", self.id(kind)));
        Err(wrong(what))
    }
}

impl Misdeed {
    /// As the plugin `probe-life` knows it.
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Abort => "abort",
            Self::Segfault => "segfault",
            Self::Exit => "exit",
            Self::Hang => "hang",
        }
    }

    /// The name of a cause, if it is what this must end in.
    fn cause(self, cause: &Cause, during: Operation) -> Option<&'static str> {
        match self {
            Self::Abort if is_signal(cause, libc::SIGABRT) => Some("SIGABRT"),
            Self::Segfault if is_signal(cause, libc::SIGSEGV) => Some("SIGSEGV"),
            Self::Exit if matches!(cause, Cause::Exited { code: 3, .. }) => Some("exit"),
            Self::Hang => match cause {
                Cause::Deadline { operation, timeout: SHORT, .. } if *operation == during => Some("deadline"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The services of these plugins; one of them says what to do in `activate`.
fn app(at_activate: &'static str) -> App {
    App::new()
        .service("echo", |request| Ok(request.payload.to_vec()))
        .service("ui.notify", |_| Ok(b"shown".to_vec()))
        .service("test.activate", move |_| Ok(at_activate.into()))
}

fn answered(sandbox: &PluginSandbox, method: &str, payload: impl AsRef<[u8]>) -> Result<Answer, Wrong> {
    let reply = sandbox.call(method, payload.as_ref()).map_err(failed(method))?;
    Ok(Answer::read(&reply))
}

fn got(sandbox: &PluginSandbox, method: &str, payload: impl AsRef<[u8]>) -> Result<Vec<u8>, Wrong> {
    match answered(sandbox, method, payload)? {
        Answer::Got(got) => Ok(got),
        other => Err(wrong(format!("{method}: {other:?}"))),
    }
}

fn said(sandbox: &PluginSandbox, method: &str, payload: impl AsRef<[u8]>, wanted: &str) -> Result<(), Wrong> {
    let got = got(sandbox, method, payload)?;
    let shown = String::from_utf8_lossy(&got[..got.len().min(200)]);
    want!(
        got == wanted.as_bytes(),
        "{method}: it said {shown:?}, not {:?}",
        &wanted[..wanted.len().min(200)]
    );
    Ok(())
}

fn check_handles(sandbox: &PluginSandbox, most: u64) -> Result<(), Wrong> {
    said(sandbox, "open_many", "60", &format!("{most} {}", libc::EMFILE))
}

fn wrong_state(
    result: Result<(), PluginSandboxError>,
    operation: Operation,
    state: PluginState,
) -> Result<(), Wrong> {
    match result {
        Err(PluginSandboxError::WrongState { operation: of, state: is, .. }) => {
            want!((of, is) == (operation, state), "{of} while it is {is}");
            Ok(())
        }
        Err(error) => Err(failed("not the error of a state")(error)),
        Ok(()) => Err(wrong(format!("{operation} while it is {state} went well"))),
    }
}

/// An unload that was to fail went well. A zygote's end is what an unload asks for: who is taken along by it is unloaded.
fn unloaded_all_the_same() -> Wrong {
    Wrong { lost: true, ..wrong("its unload went well") }
}

/// The cause for which an operation did not come to its end.
fn ended(result: Result<(), PluginSandboxError>, operation: Operation) -> Result<Cause, Wrong> {
    match result {
        // Also of a helper that was never the plugin's: then nothing but this error tells of it.
        Err(error) if lost_with_zygote(&error) => Err(failed("not an end of its own")(error)),
        Err(PluginSandboxError::Ended { cause, operation: of, .. }) => {
            want!(of == operation, "ended during {of}: {cause}");
            Ok(cause)
        }
        Err(error) => Err(failed("not an end")(error)),
        Ok(()) if operation == Operation::Unload => Err(unloaded_all_the_same()),
        Ok(()) => Err(wrong("it went well")),
    }
}

fn is_signal(cause: &Cause, wanted: i32) -> bool {
    matches!(cause, Cause::Signal { signal, .. } if *signal == wanted)
}

fn lost_with_zygote(error: &PluginSandboxError) -> bool {
    matches!(
        error,
        PluginSandboxError::Ended { cause: Cause::ZygoteLost, .. }
            | PluginSandboxError::WrongState { ended: Some(Cause::ZygoteLost), .. }
            | PluginSandboxError::Zygote { .. }
    )
}

fn helper_of(sandbox: &PluginSandbox) -> Result<u32, Wrong> {
    sandbox.process_id().ok_or_else(|| wrong("it has no process"))
}

fn watch_helper(sandbox: &PluginSandbox) -> Result<rig::wait::Watched, Wrong> {
    let gone = || Wrong { lost: true, ..wrong("it has ended before it was looked at") };
    watch_if_alive(helper_of(sandbox)?).ok_or_else(gone)
}
