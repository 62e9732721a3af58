//! The same steps on real helpers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::causes::short;
use rig::libraries::{compile_c, constructor_that, with_modules};
use rig::plugins::explained;
use rig::wait::{PATIENCE, Watched, until, watch};
use rig::{Scratch, library};
use sandbox_core::{
    App, LibraryError, PERMISSION_FILE_READ, PERMISSION_UI, PluginPermission, PluginPolicy, PluginSandbox,
    PluginSandboxError, PluginSandboxManager, PluginState, ResourceLimits,
};

use super::{
    Act, Library, Limit, Method, Module, Op, Outcome, PERMISSIONS, Permission, Sight, Step, Who, Word,
};

/// Libraries and files that all sequences share.
pub(super) struct Fixture {
    scratch: Scratch,
    modules: PathBuf,
    aborts: PathBuf,
    _aborting: Scratch,
}

/// Plugins of one sequence.
pub(super) struct Real {
    world: Arc<World>,
    processes: Mutex<[Option<(u32, Watched)>; 3]>,
}

/// What services reach too, which must not keep it.
struct World {
    manager: PluginSandboxManager,
    alone: Mutex<Option<PluginSandbox>>,
    paths: Paths,
    /// The steps that the next service takes, and what those taken came to.
    steps: Mutex<Vec<Step>>,
    outcomes: Mutex<Vec<Outcome>>,
}

struct Paths {
    folder: PathBuf,
    modules: PathBuf,
    aborts: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a service is one of the sequence that is told of anyhow.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Limits under which nothing but what is meant to is refused, however busy the machine is.
fn limits() -> ResourceLimits {
    ResourceLimits::default()
        .max_file_handles(20)
        .max_message_bytes(4096)
        .max_cpu_time_sec(None)
        .load_timeout(PATIENCE)
        .activate_timeout(PATIENCE)
        .call_timeout(PATIENCE)
        .deactivate_timeout(PATIENCE)
}

impl Fixture {
    pub(super) fn new() -> Self {
        let (scratch, aborting) = (Scratch::new(), Scratch::new());
        compile_c(&scratch, Module::Deep.name(), "int probe_deep(void) { return 7; }", &[]);
        let more = "int probe_deep(void); int probe_more(void) { return probe_deep(); }";
        compile_c(&scratch, Module::More.name(), more, &["-lprobe_deep"]);
        let modules = with_modules(&scratch);
        for permission in PERMISSIONS {
            scratch.file(&format!("{}/file", folder(permission)), "contents");
        }
        let aborts = constructor_that(&aborting, "abort");
        Self { scratch, modules, aborts, _aborting: aborting }
    }
}

/// Where the files are that a permission is about.
fn folder(permission: Permission) -> &'static str {
    match permission {
        Permission::Ui | Permission::Files => ".",
        Permission::Data => "data",
        Permission::App => "data/app",
        Permission::Inner => "data/app/inner",
    }
}

fn id(who: Who) -> Option<&'static str> {
    match who {
        Who::First => Some("first"),
        Who::Second => Some("second"),
        Who::Alone => None,
    }
}

fn word(word: Word) -> &'static str {
    match word {
        Word::Ok => "ok",
        Word::Error => "error",
        Word::Panic => "panic",
        Word::Abort => "abort",
    }
}

fn of_error(error: &PluginSandboxError) -> Outcome {
    match error {
        PluginSandboxError::UnknownPlugin { .. } => Outcome::Unknown,
        PluginSandboxError::AlreadyRegistered { .. } => Outcome::AlreadyRegistered,
        PluginSandboxError::WrongState { operation, state, ended, .. } => {
            Outcome::WrongState { operation: *operation, state: *state, ended: ended.as_ref().map(short) }
        }
        PluginSandboxError::Reentrant { operation, .. } => Outcome::Reentrant(*operation),
        PluginSandboxError::MessageTooLarge { len, max, .. } => Outcome::TooLarge { len: *len, max: *max },
        PluginSandboxError::Limit(error) => Outcome::Limit(error.name),
        PluginSandboxError::PluginFailed { operation, kind, .. } => Outcome::Failed(*operation, *kind),
        PluginSandboxError::Ended { operation, cause, .. } => Outcome::Ended(*operation, short(cause)),
        PluginSandboxError::Library(LibraryError::NotFound { .. }) => Outcome::Library("no file".to_owned()),
        PluginSandboxError::Library(LibraryError::ModuleNotAllowed { module, .. }) => {
            Outcome::Library(format!("not allowed {module}"))
        }
        PluginSandboxError::Library(LibraryError::ModuleNotFound { module, .. }) => {
            Outcome::Library(format!("not found {module}"))
        }
        PluginSandboxError::Library(LibraryError::ModuleName { .. }) => {
            Outcome::Library("no name".to_owned())
        }
        other => Outcome::Unexpected(explained(other)),
    }
}

fn done<T>(result: Result<T, PluginSandboxError>) -> Outcome {
    result.map_or_else(|error| of_error(&error), |_| Outcome::Done)
}

fn was(result: Result<bool, PluginSandboxError>) -> Outcome {
    result.map_or_else(|error| of_error(&error), Outcome::Was)
}

impl World {
    fn path(&self, library_of: Library) -> PathBuf {
        match library_of {
            Library::Probe => library("probe"),
            Library::Life => library("probe-life"),
            Library::Modules => self.paths.modules.clone(),
            Library::Aborts => self.paths.aborts.clone(),
            Library::Missing => self.paths.folder.join("missing.so"),
        }
    }

    fn permission(&self, permission: Permission) -> PluginPermission {
        match permission {
            Permission::Ui => PERMISSION_UI,
            Permission::Files => PERMISSION_FILE_READ,
            part => PERMISSION_FILE_READ
                .scoped_to_path(self.paths.folder.join(folder(part)))
                .expect("an absolute path"),
        }
    }

    fn sandbox(&self, who: Who) -> Result<PluginSandbox, Outcome> {
        match id(who) {
            Some(id) => self.manager.create_sandbox(id).map_err(|error| of_error(&error)),
            None => lock(&self.alone).clone().ok_or(Outcome::Unknown),
        }
    }

    /// A service takes the steps that are to be taken, on whatever thread it runs.
    fn take_steps(self: &Arc<Self>) {
        let steps = std::mem::take(&mut *lock(&self.steps));
        for step in steps {
            let outcome = self.step(step);
            lock(&self.outcomes).push(outcome);
        }
    }

    /// Services; what the one for `activate` answers is what `probe-life` then does.
    fn app(self: &Arc<Self>, at_activate: Word) -> App {
        let take = |world: &Weak<Self>| {
            if let Some(world) = world.upgrade() {
                world.take_steps();
            }
        };
        let (in_call, in_activate) = (Arc::downgrade(self), Arc::downgrade(self));
        App::new()
            .service("ui.notify", |_| Ok(b"shown".to_vec()))
            .service("test.steps", move |_| {
                take(&in_call);
                Ok(b"taken".to_vec())
            })
            .service("test.activate", move |_| {
                take(&in_activate);
                Ok(word(at_activate).into())
            })
    }

    /// A step, by the manager's method for a plugin of its, and else by the sandbox's.
    fn step(self: &Arc<Self>, (who, act): Step) -> Outcome {
        let sandbox = match (act, self.sandbox(who)) {
            (Act::Register, _) => return self.register(who),
            (_, Err(outcome)) => return outcome,
            (_, Ok(sandbox)) => sandbox,
        };
        let manager = &self.manager;
        match (act, id(who)) {
            (Act::Register, _) => unreachable!("above"),
            (Act::Unregister, Some(id)) => done(manager.unregister_plugin(id)),
            (Act::Unregister, None) => {
                let last = lock(&self.alone).take();
                drop((sandbox, last)); // with no lock held, since its end is waited for
                Outcome::Done
            }
            (Act::Load(library), Some(id)) => done(manager.load_plugin(id, self.path(library))),
            (Act::Load(library), None) => done(sandbox.load_plugin(self.path(library))),
            (Act::Activate(word), Some(id)) => done(manager.activate_plugin(id, self.app(word))),
            (Act::Activate(word), None) => done(sandbox.activate_plugin(self.app(word))),
            (Act::Call(method), _) => self.call(who, &sandbox, method),
            (Act::Deactivate, Some(id)) => done(manager.deactivate_plugin(id)),
            (Act::Deactivate, None) => done(sandbox.deactivate_plugin()),
            (Act::Unload, Some(id)) => done(manager.unload_plugin(id)),
            (Act::Unload, None) => done(sandbox.unload_plugin()),
            (Act::Drain, Some(id)) => done(manager.drain_plugin(id, PATIENCE)),
            (Act::Drain, None) => done(sandbox.drain_plugin(PATIENCE)),
            (Act::Check, Some(id)) => done(manager.check_health(id, PATIENCE)),
            (Act::Check, None) => done(sandbox.check_health(PATIENCE)),
            (Act::Grant(permission), Some(id)) => {
                done(manager.grant_permission(id, self.permission(permission)))
            }
            (Act::Grant(permission), None) => {
                sandbox.grant_permission(self.permission(permission));
                Outcome::Done
            }
            (Act::Revoke(permission), Some(id)) => {
                was(manager.revoke_permission(id, &self.permission(permission)))
            }
            (Act::Revoke(permission), None) => {
                Outcome::Was(sandbox.revoke_permission(&self.permission(permission)))
            }
            (Act::RevokeLeavingOpen(permission), Some(id)) => {
                was(manager.revoke_permission_leaving_open(id, &self.permission(permission)))
            }
            (Act::RevokeLeavingOpen(permission), None) => {
                Outcome::Was(sandbox.revoke_permission_leaving_open(&self.permission(permission)))
            }
            (Act::Set(limit), own) => {
                let limits = sandbox.resource_limits();
                let limits = match limit {
                    Limit::Handles(handles) => limits.max_file_handles(handles),
                    Limit::Message(bytes) => limits.max_message_bytes(bytes),
                    Limit::NoMemory => limits.max_memory_mb(1),
                };
                done(match own {
                    Some(id) => manager.set_resource_limits(id, limits),
                    None => sandbox.set_resource_limits(limits),
                })
            }
            (Act::Allow(module), Some(id)) => was(manager.add_allowed_module(id, module.name())),
            (Act::Allow(module), None) => was(sandbox.add_allowed_module(module.name())),
            (Act::Disallow(module), Some(id)) => was(manager.remove_allowed_module(id, module.name())),
            (Act::Disallow(module), None) => Outcome::Was(sandbox.remove_allowed_module(module.name())),
            (Act::Kill, _) => {
                let Some(pid) = sandbox.process_id() else { return Outcome::NoProcess };
                let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
                kill(pid, Signal::SIGKILL).expect("it lives, or has not been reaped");
                until("the plugin to be told crashed", || {
                    (sandbox.state() == PluginState::Crashed).then_some(())
                });
                Outcome::Done
            }
        }
    }

    fn register(&self, who: Who) -> Outcome {
        let policy = PluginPolicy::new().limits(limits());
        match id(who) {
            Some(id) => done(self.manager.register_plugin(id, policy)),
            None => {
                let before = match PluginSandbox::new("alone", policy) {
                    Ok(new) => lock(&self.alone).replace(new),
                    Err(error) => return of_error(&error),
                };
                drop(before); // with no lock held
                Outcome::Done
            }
        }
    }

    fn call(&self, who: Who, sandbox: &PluginSandbox, method: Method) -> Outcome {
        let (name, payload) = match method {
            Method::Echo(len) => ("echo", "x".repeat(len)),
            Method::Open(part) => {
                ("open", self.paths.folder.join(folder(part)).join("file").display().to_string())
            }
            Method::Handles => ("open_many", "1000".to_owned()),
            Method::Dlopen(module) => ("dlopen", module.name().to_owned()),
            Method::Notify => ("service", "ui.notify\n".to_owned()),
            Method::Fail => ("fail", "its own words".to_owned()),
            Method::Panic => ("panic", "its own words".to_owned()),
            Method::Unknown => ("no-such-method", String::new()),
            Method::Abort => ("abort", String::new()),
            Method::Exit => ("exit", "3".to_owned()),
            Method::Ptrace => ("ptrace", String::new()),
            Method::AtDeactivate(to_do) => ("at_deactivate", word(to_do).to_owned()),
            Method::AtDrop(to_do) => ("at_drop", word(to_do).to_owned()),
        };
        self.call_method(who, sandbox, name, payload.as_bytes())
    }

    fn call_method(&self, who: Who, sandbox: &PluginSandbox, name: &str, payload: &[u8]) -> Outcome {
        let reply = match id(who) {
            Some(id) => self.manager.call(id, name, payload),
            None => sandbox.call(name, payload),
        };
        match reply.map(|reply| String::from_utf8_lossy(&reply).into_owned()) {
            // The loader's own words.
            Ok(text) if text.starts_with("error ") => Outcome::Replied("error".to_owned()),
            Ok(text) => Outcome::Replied(text),
            Err(error) => of_error(&error),
        }
    }
}

impl Real {
    pub(super) fn new(fixture: &Fixture) -> Self {
        let paths = Paths {
            folder: fixture.scratch.path().to_owned(),
            modules: fixture.modules.clone(),
            aborts: fixture.aborts.clone(),
        };
        let world = World {
            manager: PluginSandboxManager::new(),
            alone: Mutex::default(),
            paths,
            steps: Mutex::default(),
            outcomes: Mutex::default(),
        };
        Self { world: Arc::new(world), processes: Mutex::default() }
    }

    pub(super) fn take(&self, op: &Op) -> Vec<Outcome> {
        let world = &self.world;
        let outcome = match op {
            Op::Plain(step) => world.step(*step),
            Op::InCall(who, steps) => {
                *lock(&world.steps) = steps.clone();
                match world.sandbox(*who) {
                    Ok(sandbox) => world.call_method(*who, &sandbox, "service", b"test.steps\n"),
                    Err(outcome) => outcome,
                }
            }
            Op::InActivate(who, word, steps) => {
                *lock(&world.steps) = steps.clone();
                world.step((*who, Act::Activate(*word)))
            }
        };
        lock(&world.steps).clear();
        let mut outcomes = std::mem::take(&mut *lock(&world.outcomes));
        outcomes.push(outcome);
        outcomes
    }

    /// What a plugin is now. Waits for the end of a process that it has no more.
    pub(super) fn sight(&self, who: Who) -> Option<Sight> {
        let sandbox = self.world.sandbox(who).ok();
        let process = sandbox.as_ref().and_then(PluginSandbox::process_id);
        let known = &mut lock(&self.processes)[who as usize];
        let same_process = known.as_ref().map(|(pid, _)| *pid) == process;
        if !same_process
            && let Some((_, before)) = std::mem::replace(known, process.map(|pid| (pid, watch(pid))))
        {
            before.ended();
        }
        let sandbox = sandbox?;
        let limits = sandbox.resource_limits();
        let (granted, as_granted) = (sandbox.permissions(), |one: &Permission| self.world.permission(*one));
        Some(Sight {
            state: sandbox.state(),
            lives: process.is_some(),
            same_process,
            last_end: sandbox.last_end().map(|end| short(&end.cause)),
            granted: PERMISSIONS.into_iter().filter(|one| granted.contains(&as_granted(one))).collect(),
            held: PERMISSIONS.into_iter().filter(|one| sandbox.has_permission(&as_granted(one))).collect(),
            handles: limits.max_file_handles.unwrap_or(0),
            message: limits.max_message_bytes,
            modules: sandbox.allowed_modules(),
        })
    }

    /// With the manager and the last sandbox everything goes that runs.
    pub(super) fn leaves_nothing_behind(self) {
        drop(self.world);
        let processes = self.processes.into_inner().unwrap_or_else(PoisonError::into_inner);
        processes.into_iter().flatten().for_each(|(_, watched)| watched.ended());
    }
}
