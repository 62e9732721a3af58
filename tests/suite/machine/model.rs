//! What is right: the documented life of a plugin, without processes, threads or time.

use std::collections::{BTreeMap, BTreeSet};

use sandbox_core::{ErrorKind, Operation, PluginState};

use super::{
    Act, Library, Limit, Method, Module, Op, Outcome, PERMISSIONS, Permission, Sight, Step, Who, Word,
};

/// All plugins, as they should be.
#[derive(Debug, Default)]
pub(super) struct Model {
    plugins: [Option<Plugin>; 3],
    /// How many plugins were registered, and how many helpers there were, so far.
    numbers: u64,
    /// How helpers ended.
    ends: BTreeMap<u64, String>,
    /// The plugin that waits for the service that takes the steps at the moment: which of them, since another may have taken
    /// its place.
    inside: Option<u64>,
    /// Each one's helper when last it was looked at.
    seen: [Option<u64>; 3],
}

#[derive(Debug)]
struct Plugin {
    number: u64,
    state: PluginState,
    helper: Option<Helper>,
    last_end: Option<String>,
    grants: Grants,
    handles: u64,
    message: u64,
    modules: BTreeSet<Module>,
}

/// A process that lives.
#[derive(Debug)]
struct Helper {
    number: u64,
    library: Library,
    /// The limits that it was loaded with.
    handles: u64,
    message: u64,
    /// What it may load: looked for and judged.
    served: BTreeSet<Module>,
    mapped: BTreeSet<Module>,
    at_deactivate: Word,
    at_drop: Word,
}

/// What was decided about each permission, if anything was: true is granted.
#[derive(Debug, Default)]
struct Grants(BTreeMap<Permission, bool>);

impl Permission {
    fn wider(self) -> Option<Self> {
        match self {
            Self::Ui | Self::Files => None,
            Self::Data => Some(Self::Files),
            Self::App => Some(Self::Data),
            Self::Inner => Some(Self::App),
        }
    }

    /// Itself and what it is a part of, narrowest first.
    fn upwards(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |one| one.wider())
    }

    fn has_scope(self) -> bool {
        self.wider().is_some()
    }

    /// Itself and its parts.
    fn downwards(self) -> impl Iterator<Item = Self> {
        PERMISSIONS.into_iter().filter(move |one| one.upwards().any(|wide| wide == self))
    }
}

impl Grants {
    fn opens(&self, object: Permission) -> bool {
        object.upwards().find_map(|one| self.0.get(&one)) == Some(&true)
    }

    fn grants(&self, permission: Permission) -> bool {
        self.0.get(&permission) == Some(&true)
    }

    fn holds(&self, permission: Permission) -> bool {
        if !permission.has_scope() {
            return permission.downwards().any(|part| self.grants(part));
        }
        let mut parts = permission.downwards().filter(|part| *part != permission);
        self.opens(permission) && !parts.any(|part| self.0.get(&part) == Some(&false))
    }

    fn grant(&mut self, permission: Permission) {
        self.0.insert(permission, true);
    }

    fn revoke(&mut self, permission: Permission) -> bool {
        let held = self.holds(permission) || permission.downwards().any(|part| self.grants(part));
        permission.downwards().for_each(|part| {
            self.0.remove(&part);
        });
        if permission.upwards().any(|wide| self.grants(wide)) {
            self.0.insert(permission, false);
        }
        held
    }
}

impl Module {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Near => "libprobe_near.so",
            Self::Far => "libprobe_far.so",
            Self::Deep => "libprobe_deep.so",
            Self::More => "libprobe_more.so",
            Self::Nowhere => "libprobe_nowhere.so",
            Self::Path => "../libprobe_deep.so",
        }
    }

    fn needs(self) -> Option<Self> {
        match self {
            Self::Near => Some(Self::Far),
            Self::More => Some(Self::Deep),
            _ => None,
        }
    }

    /// Whether it is beside that library, where that says that its modules are.
    fn is_found_by(self, library: Library) -> bool {
        library == Library::Modules && !matches!(self, Self::Nowhere | Self::Path)
    }
}

/// The first of it and what it needs that is not allowed.
fn lacking(module: Module, allowed: &BTreeSet<Module>) -> Option<Module> {
    [Some(module), module.needs()].into_iter().flatten().find(|one| !allowed.contains(one))
}

fn not_allowed(module: Module) -> String {
    format!("not allowed {}", module.name())
}

impl Word {
    /// What an operation comes to that does this; none if the process ends.
    fn outcome(self, operation: Operation) -> Option<Outcome> {
        match self {
            Self::Ok => Some(Outcome::Done),
            Self::Error => Some(Outcome::Failed(operation, ErrorKind::Failed)),
            Self::Panic => Some(Outcome::Failed(operation, ErrorKind::Panicked)),
            Self::Abort => None,
        }
    }
}

impl Plugin {
    fn new(number: u64) -> Self {
        Self {
            number,
            state: PluginState::Registered,
            helper: None,
            last_end: None,
            grants: Grants::default(),
            handles: 20,
            message: 4096,
            modules: BTreeSet::new(),
        }
    }
}

impl Model {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn plugin(&mut self, who: Who) -> &mut Plugin {
        self.plugins[who as usize].as_mut().expect("asked only about one that is there")
    }

    pub(super) fn sight(&mut self, who: Who) -> Option<Sight> {
        let plugin = self.plugins[who as usize].as_ref();
        let helper = plugin.and_then(|plugin| plugin.helper.as_ref()).map(|helper| helper.number);
        let same_process = std::mem::replace(&mut self.seen[who as usize], helper) == helper;
        let plugin = plugin?;
        Some(Sight {
            state: plugin.state,
            lives: helper.is_some(),
            same_process,
            last_end: plugin.last_end.clone(),
            granted: PERMISSIONS.into_iter().filter(|one| plugin.grants.grants(*one)).collect(),
            held: PERMISSIONS.into_iter().filter(|one| plugin.grants.holds(*one)).collect(),
            handles: plugin.handles,
            message: plugin.message,
            modules: {
                let mut names: Vec<_> = plugin.modules.iter().map(|one| one.name().to_owned()).collect();
                names.sort();
                names
            },
        })
    }

    pub(super) fn take(&mut self, op: &Op) -> Vec<Outcome> {
        match op {
            Op::Plain(step) => vec![self.step(*step)],
            Op::InCall(who, steps) => self.in_call(*who, steps),
            Op::InActivate(who, word, steps) => self.activate(*who, *word, steps),
        }
    }

    /// The steps of a service for which the plugin waits.
    fn inside(&mut self, who: Who, steps: &[Step]) -> Vec<Outcome> {
        let number = self.plugin(who).number;
        let outside = self.inside.replace(number);
        let outcomes = steps.iter().map(|step| self.step(*step)).collect();
        self.inside = outside;
        outcomes
    }

    /// Whether the plugin waits for the service that takes the steps at the moment.
    fn is_inside(&self, who: Who) -> bool {
        self.inside.is_some_and(|number| {
            self.plugins[who as usize].as_ref().is_some_and(|plugin| plugin.number == number)
        })
    }

    /// Whether an operation may begin at all.
    fn begins(&self, who: Who, operation: Operation) -> Result<(), Outcome> {
        let Some(plugin) = &self.plugins[who as usize] else { return Err(Outcome::Unknown) };
        let state = plugin.state;
        if self.is_inside(who) && operation != Operation::Unload {
            return Err(Outcome::Reentrant(operation));
        }
        use PluginState::{Activating, Active, Crashed, Loaded, Registered, Unloaded};
        let right = match operation {
            Operation::Load => matches!(state, Registered | Unloaded | Crashed),
            Operation::Activate => state == Loaded,
            Operation::Call | Operation::Deactivate => state == Active,
            Operation::Unload => matches!(state, Loaded | Activating | Active),
            _ => matches!(state, Loaded | Active),
        };
        // By itself; or on its way out, when it was unloaded.
        let tells = |cause: &String| state == Crashed || state == Unloaded && cause != "unloaded";
        let ended = plugin.last_end.clone().filter(tells);
        if right { Ok(()) } else { Err(Outcome::WrongState { operation, state, ended }) }
    }

    /// Its process ends.
    fn end(&mut self, who: Who, cause: &str, state: PluginState) {
        let plugin = self.plugin(who);
        plugin.state = state;
        let Some(helper) = plugin.helper.take() else { return };
        plugin.last_end = Some(cause.to_owned());
        self.ends.insert(helper.number, cause.to_owned());
    }

    fn crash(&mut self, who: Who, operation: Operation, cause: &str) -> Outcome {
        self.end(who, cause, PluginState::Crashed);
        Outcome::Ended(operation, cause.to_owned())
    }

    fn step(&mut self, (who, act): Step) -> Outcome {
        match act {
            Act::Register => self.register(who),
            _ if self.plugins[who as usize].is_none() => Outcome::Unknown,
            Act::Unregister => self.unregister(who),
            Act::Load(library) => self.load(who, library),
            Act::Activate(word) => self.activate(who, word, &[]).remove(0),
            Act::Call(method) => self.call(who, method),
            Act::Deactivate => self.deactivate(who),
            Act::Unload => self.unload(who),
            Act::Drain if self.is_inside(who) => Outcome::Reentrant(Operation::Unload),
            Act::Drain => self.unload(who),
            Act::Check => self.begins(who, Operation::Check).err().unwrap_or(Outcome::Done),
            Act::Grant(permission) => {
                self.plugin(who).grants.grant(permission);
                Outcome::Done
            }
            Act::Revoke(permission) | Act::RevokeLeavingOpen(permission) => {
                Outcome::Was(self.plugin(who).grants.revoke(permission))
            }
            Act::Set(limit) => self.set(who, limit),
            Act::Allow(module) => self.allow(who, module),
            Act::Disallow(module) => {
                let plugin = self.plugin(who);
                if let Some(helper) = &mut plugin.helper {
                    helper.served.remove(&module);
                }
                Outcome::Was(plugin.modules.remove(&module))
            }
            Act::Kill if self.plugin(who).helper.is_none() => Outcome::NoProcess,
            Act::Kill => {
                self.end(who, "SIGKILL", PluginState::Crashed);
                Outcome::Done
            }
        }
    }

    fn register(&mut self, who: Who) -> Outcome {
        if who != Who::Alone && self.plugins[who as usize].is_some() {
            return Outcome::AlreadyRegistered;
        }
        let number = self.number();
        self.plugins[who as usize] = Some(Plugin::new(number));
        Outcome::Done
    }

    fn unregister(&mut self, who: Who) -> Outcome {
        // To drop a sandbox that waits for the very service that does so leaves it to whoever called it.
        if who != Who::Alone || !self.is_inside(who) {
            self.end(who, "unloaded", PluginState::Unloaded);
        }
        self.plugins[who as usize] = None;
        Outcome::Done
    }

    fn load(&mut self, who: Who, library: Library) -> Outcome {
        if let Err(outcome) = self.begins(who, Operation::Load) {
            return outcome;
        }
        let number = self.number();
        let plugin = self.plugin(who);
        let allowed = &plugin.modules;
        if library == Library::Missing {
            return Outcome::Library("no file".to_owned());
        }
        let needed = (library == Library::Modules).then_some(Module::Near);
        let served: BTreeSet<_> = allowed.iter().copied().filter(|one| one.is_found_by(library)).collect();
        if let Some(module) = needed.iter().chain(&served).find_map(|module| lacking(*module, allowed)) {
            return Outcome::Library(not_allowed(module));
        }
        let mapped = if library == Library::Modules { vec![Module::Near, Module::Far] } else { Vec::new() };
        let (at_deactivate, at_drop) = (Word::Ok, Word::Ok);
        let (handles, message, mapped) = (plugin.handles, plugin.message, mapped.into_iter().collect());
        plugin.helper =
            Some(Helper { number, library, handles, message, served, mapped, at_deactivate, at_drop });
        plugin.state = PluginState::Loaded;
        if library == Library::Aborts {
            return self.crash(who, Operation::Load, "SIGABRT");
        }
        Outcome::Done
    }

    fn activate(&mut self, who: Who, word: Word, steps: &[Step]) -> Vec<Outcome> {
        if let Err(outcome) = self.begins(who, Operation::Activate) {
            return vec![outcome];
        }
        let plugin = self.plugin(who);
        let helper = plugin.helper.as_ref().expect("loaded");
        let (number, own, is_life) = (plugin.number, helper.number, helper.library == Library::Life);
        if !is_life {
            // It asks no service.
            plugin.state = PluginState::Active;
            return vec![Outcome::Done];
        }
        plugin.state = PluginState::Activating;
        let mut outcomes = self.inside(who, steps);
        let operation = Operation::Activate;
        let is_there = self.plugins[who as usize].as_ref().is_some_and(|plugin| plugin.number == number);
        outcomes.push(match (self.ends.get(&own), word.outcome(operation)) {
            (Some(cause), _) => Outcome::Ended(operation, cause.clone()),
            (None, None) if is_there => self.crash(who, operation, "SIGABRT"),
            (None, None) => Outcome::Ended(operation, "SIGABRT".to_owned()),
            (None, Some(outcome)) => {
                if is_there {
                    let active = outcome == Outcome::Done;
                    self.plugin(who).state = if active { PluginState::Active } else { PluginState::Loaded };
                }
                outcome
            }
        });
        outcomes
    }

    fn deactivate(&mut self, who: Who) -> Outcome {
        if let Err(outcome) = self.begins(who, Operation::Deactivate) {
            return outcome;
        }
        let plugin = self.plugin(who);
        let word = std::mem::take(&mut plugin.helper.as_mut().expect("active").at_deactivate);
        plugin.state = PluginState::Loaded;
        match word.outcome(Operation::Deactivate) {
            Some(outcome) => outcome,
            None => self.crash(who, Operation::Deactivate, "SIGABRT"),
        }
    }

    fn unload(&mut self, who: Who) -> Outcome {
        if let Err(outcome) = self.begins(who, Operation::Unload) {
            return outcome;
        }
        let inside = self.is_inside(who);
        let plugin = self.plugin(who);
        let helper = plugin.helper.as_ref().expect("it lives");
        // Whoever is in the middle of something is killed.
        let deactivated = plugin.state == PluginState::Active && helper.at_deactivate == Word::Abort;
        let aborts = !inside && (deactivated || helper.at_drop == Word::Abort);
        let cause = if aborts { "SIGABRT" } else { "unloaded" };
        self.end(who, cause, PluginState::Unloaded);
        if aborts { Outcome::Ended(Operation::Unload, cause.to_owned()) } else { Outcome::Done }
    }

    fn set(&mut self, who: Who, limit: Limit) -> Outcome {
        let plugin = self.plugin(who);
        match limit {
            Limit::NoMemory => return Outcome::Limit("max_memory_mb"),
            Limit::Handles(handles)
                if plugin.helper.as_ref().is_some_and(|helper| handles > 8 * helper.handles) =>
            {
                return Outcome::Limit("max_file_handles");
            }
            Limit::Handles(handles) => plugin.handles = handles,
            Limit::Message(bytes) => plugin.message = bytes,
        }
        Outcome::Done
    }

    fn allow(&mut self, who: Who, module: Module) -> Outcome {
        let plugin = self.plugin(who);
        if module == Module::Path {
            return Outcome::Library("no name".to_owned());
        }
        // One that is served already is not judged again.
        if let Some(helper) = plugin.helper.as_mut().filter(|helper| !helper.served.contains(&module)) {
            let mut allowed = plugin.modules.clone();
            allowed.insert(module);
            if !module.is_found_by(helper.library) {
                return Outcome::Library(format!("not found {}", module.name()));
            }
            if let Some(lacking) = lacking(module, &allowed) {
                return Outcome::Library(not_allowed(lacking));
            }
            helper.served.extend([Some(module), module.needs()].into_iter().flatten());
        }
        Outcome::Was(plugin.modules.insert(module))
    }

    fn in_call(&mut self, who: Who, steps: &[Step]) -> Vec<Outcome> {
        let operation = Operation::Call;
        if let Err(outcome) = self.begins(who, operation) {
            return vec![outcome];
        }
        let helper = self.plugin(who).helper.as_ref().expect("active");
        if helper.library != Library::Probe {
            // It has no such service, or no such method.
            return vec![Outcome::Failed(operation, ErrorKind::Failed)];
        }
        let own = helper.number;
        let mut outcomes = self.inside(who, steps);
        outcomes.push(match self.ends.get(&own) {
            Some(cause) => Outcome::Ended(operation, cause.clone()),
            None => Outcome::Replied("ok replied taken".to_owned()),
        });
        outcomes
    }

    fn call(&mut self, who: Who, method: Method) -> Outcome {
        let operation = Operation::Call;
        if let Err(outcome) = self.begins(who, operation) {
            return outcome;
        }
        let plugin = self.plugin(who);
        let helper = plugin.helper.as_mut().expect("active");
        let failed = |kind| Outcome::Failed(operation, kind);
        let replied = |text: &str| Outcome::Replied(text.to_owned());
        if let Method::Echo(len) = method
            && len as u64 > helper.message
        {
            return Outcome::TooLarge { len: len as u64, max: helper.message };
        }
        match (helper.library, method) {
            (Library::Probe, Method::Echo(len)) => replied(&format!("ok {}", "x".repeat(len))),
            (Library::Probe, Method::Open(at)) => {
                let object = if at == Permission::Ui { Permission::Files } else { at };
                replied(if plugin.grants.opens(object) { "ok contents" } else { "errno 13" })
            }
            (Library::Probe, Method::Handles) => replied(&format!("ok {} 24", plugin.handles)),
            (Library::Probe, Method::Dlopen(_)) => replied("error"),
            (Library::Probe, Method::Notify) if plugin.grants.opens(Permission::Ui) => {
                replied("ok replied shown")
            }
            (Library::Probe, Method::Notify) => replied("ok denied ui ui.notify"),
            (Library::Probe, Method::Abort) => self.crash(who, operation, "SIGABRT"),
            (Library::Probe, Method::Exit) => self.crash(who, operation, "exit 3"),
            (Library::Probe, Method::Ptrace) => self.crash(who, operation, "forbidden ptrace"),
            (Library::Probe, Method::Fail) => failed(ErrorKind::Failed),
            (Library::Probe, Method::Panic) => failed(ErrorKind::Panicked),
            (Library::Life, Method::AtDeactivate(word)) => {
                helper.at_deactivate = word;
                replied("")
            }
            (Library::Life, Method::AtDrop(word)) => {
                helper.at_drop = word;
                replied("")
            }
            // It takes the whole payload for the service's name.
            (Library::Life, Method::Notify) => failed(ErrorKind::Failed),
            (Library::Modules, Method::Dlopen(module)) => {
                let needed = [Some(module), module.needs()].into_iter().flatten();
                // What is mapped already is its own code.
                if !helper.mapped.contains(&module) {
                    let comes = |one| helper.served.contains(&one) || helper.mapped.contains(&one);
                    if !needed.clone().all(comes) {
                        return failed(ErrorKind::Failed);
                    }
                    helper.mapped.extend(needed);
                }
                replied(if module == Module::More { "7" } else { "" })
            }
            // It adds eleven to a number, whatever the method.
            (Library::Modules, Method::Handles) => replied("1011"),
            (Library::Modules, Method::Exit) => replied("14"),
            (Library::Modules, _) => failed(ErrorKind::Failed),
            _ => failed(ErrorKind::UnknownMethod),
        }
    }
}
