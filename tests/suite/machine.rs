//! The state machine, driven at random: sequences of calls of the public API on real helpers, each with the outcome that a
//! model of it foretells, and shrunk to the fewest steps that still go wrong.
//!
//! `model.rs` says what is right, from the documentation alone; `real.rs` makes the calls. Every step may be taken in every
//! state, since what is wrong in one has an outcome too: an error. That is what makes any part of a sequence a sequence.
//! Never restarts a plugin and never lets a deadline pass: `supervision.rs` does.

mod model;
mod real;

use std::collections::BTreeSet;
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use sandbox_core::{ErrorKind, Operation, PluginState};

use model::Model;
use real::{Fixture, Real};

/// How many sequences are tried, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 64;
const MOST_PHRASES: usize = 40;

/// The plugins: two of a manager's, and a sandbox that stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    First,
    Second,
    Alone,
}

const EVERYBODY: [Who; 3] = [Who::First, Who::Second, Who::Alone];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Library {
    /// `probe`, which does much.
    Probe,
    /// `probe-life`, which misbehaves while it is activated, deactivated and dropped.
    Life,
    /// `probe-modules`, with all modules but [`Module::Nowhere`] beside it.
    Modules,
    /// One whose constructor aborts.
    Aborts,
    /// No file.
    Missing,
}

/// Libraries that a plugin may be allowed to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Module {
    /// Needs `Far`; `probe-modules` needs it.
    Near,
    Far,
    Deep,
    /// Needs `Deep`.
    More,
    Nowhere,
    /// A path, which no module is.
    Path,
}

/// What is granted and revoked. Each of the files' is a part of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Permission {
    Ui,
    Files,
    Data,
    App,
    Inner,
}

const PERMISSIONS: [Permission; 5] =
    [Permission::Ui, Permission::Files, Permission::Data, Permission::App, Permission::Inner];

/// Limits, as the number of descriptors or the size of messages; far enough apart that the sandbox's own needs, for which
/// there is some room, make no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Handles(u64),
    Message(u64),
    /// Memory that nothing runs in.
    NoMemory,
}

/// What `probe-life` does when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Word {
    #[default]
    Ok,
    Error,
    Panic,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Echo(usize),
    /// Of a file right in the folder that the permission is about.
    Open(Permission),
    Handles,
    Dlopen(Module),
    Notify,
    Fail,
    Panic,
    Unknown,
    Abort,
    Exit,
    Ptrace,
    AtDeactivate(Word),
    AtDrop(Word),
}

/// One call of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Makes the one that stands alone anew, and drops the one before.
    Register,
    /// Drops the one that stands alone.
    Unregister,
    Load(Library),
    Activate(Word),
    Call(Method),
    Deactivate,
    Unload,
    Drain,
    Check,
    Grant(Permission),
    Revoke(Permission),
    RevokeLeavingOpen(Permission),
    Set(Limit),
    Allow(Module),
    Disallow(Module),
    /// Its process, from outside.
    Kill,
}

type Step = (Who, Act);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    Plain(Step),
    /// A call of a service that takes these steps, on the thread that waits for the call.
    InCall(Who, Vec<Step>),
    /// The same in `activate`, which then comes to this.
    InActivate(Who, Word, Vec<Step>),
}

/// What a step came to. Causes and refusals of libraries are a word or two.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    Was(bool),
    Replied(String),
    TooLarge {
        len: u64,
        max: u64,
    },
    WrongState {
        operation: Operation,
        state: PluginState,
        ended: Option<String>,
    },
    Reentrant(Operation),
    Unknown,
    AlreadyRegistered,
    Limit(&'static str),
    Library(String),
    Failed(Operation, ErrorKind),
    Ended(Operation, String),
    /// There is no process that could be killed.
    NoProcess,
    Unexpected(String),
}

/// What a plugin is seen to be after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sight {
    state: PluginState,
    lives: bool,
    /// Its process is the one that it had before the step.
    same_process: bool,
    last_end: Option<String>,
    granted: Vec<Permission>,
    held: Vec<Permission>,
    handles: u64,
    message: u64,
    modules: Vec<String>,
}

fn library() -> impl Strategy<Value = Library> {
    prop_oneof![
        5 => Just(Library::Probe),
        4 => Just(Library::Life),
        3 => Just(Library::Modules),
        1 => Just(Library::Aborts),
        1 => Just(Library::Missing),
    ]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![5 => Just(Word::Ok), 1 => Just(Word::Error), 1 => Just(Word::Panic), 1 => Just(Word::Abort)]
}

fn module() -> impl Strategy<Value = Module> {
    prop_oneof![
        3 => Just(Module::Near),
        3 => Just(Module::Far),
        2 => Just(Module::Deep),
        2 => Just(Module::More),
        1 => Just(Module::Nowhere),
        1 => Just(Module::Path),
    ]
}

fn permission() -> impl Strategy<Value = Permission> {
    select(&PERMISSIONS[..])
}

fn limit() -> impl Strategy<Value = Limit> {
    prop_oneof![
        6 => select(vec![3, 20, 70, 700]).prop_map(Limit::Handles),
        2 => select(vec![1024, 4096]).prop_map(Limit::Message),
        1 => Just(Limit::NoMemory),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        4 => select(vec![10, 2000, 5000]).prop_map(Method::Echo),
        4 => permission().prop_map(Method::Open),
        2 => Just(Method::Handles),
        4 => module().prop_map(Method::Dlopen),
        2 => Just(Method::Notify),
        1 => select(vec![Method::Fail, Method::Panic, Method::Unknown]),
        3 => select(vec![Method::Abort, Method::Exit, Method::Ptrace]),
        2 => word().prop_map(Method::AtDeactivate),
        2 => word().prop_map(Method::AtDrop),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Register),
        1 => Just(Act::Unregister),
        4 => library().prop_map(Act::Load),
        5 => word().prop_map(Act::Activate),
        14 => method().prop_map(Act::Call),
        2 => Just(Act::Deactivate),
        2 => Just(Act::Unload),
        1 => Just(Act::Drain),
        1 => Just(Act::Check),
        4 => permission().prop_map(Act::Grant),
        2 => permission().prop_map(Act::Revoke),
        1 => permission().prop_map(Act::RevokeLeavingOpen),
        3 => limit().prop_map(Act::Set),
        4 => module().prop_map(Act::Allow),
        2 => module().prop_map(Act::Disallow),
        1 => Just(Act::Kill),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    select(&EVERYBODY[..])
}

/// What a service does, half of it to the plugin that waits for it.
fn steps(waiting: Who) -> impl Strategy<Value = Vec<Step>> {
    let who = prop_oneof![Just(waiting), who()];
    vec((who, prop_oneof![9 => act(), 1 => Just(Act::Kill)]), 1..5)
}

fn op() -> impl Strategy<Value = Op> {
    let waiting = || who().prop_flat_map(|who| (Just(who), steps(who)));
    prop_oneof![
        16 => (who(), act()).prop_map(Op::Plain),
        3 => waiting().prop_map(|(who, steps)| Op::InCall(who, steps)),
        3 => (waiting(), word()).prop_map(|((who, steps), word)| Op::InActivate(who, word, steps)),
    ]
}

/// What leads from anywhere to a plugin that can be called.
fn way_up() -> impl Strategy<Value = Vec<Act>> {
    let library = select(vec![Library::Probe, Library::Probe, Library::Life, Library::Modules]);
    (library, any::<bool>()).prop_map(|(library, activate)| {
        let mut acts = match library {
            Library::Modules => vec![Act::Allow(Module::Far), Act::Allow(Module::Near)],
            _ => Vec::new(),
        };
        acts.extend([Act::Unload, Act::Load(library)]);
        acts.extend(activate.then_some(Act::Activate(Word::Ok)));
        acts
    })
}

/// Acts of which each only matters because of the one before: what comes at random seldom has them.
fn phrase() -> impl Strategy<Value = Vec<Act>> {
    let misbehaves = (word(), word(), select(vec![Act::Deactivate, Act::Unload, Act::Drain]));
    prop_oneof![
        3 => way_up(),
        1 => misbehaves.prop_map(|(at_deactivate, at_drop, last)| vec![
            Act::Unload,
            Act::Load(Library::Life),
            Act::Activate(Word::Ok),
            Act::Call(Method::AtDrop(at_drop)),
            Act::Call(Method::AtDeactivate(at_deactivate)),
            last,
        ]),
        1 => (limit(), method()).prop_map(|(limit, method)| vec![
            Act::Unload,
            Act::Set(limit),
            Act::Load(Library::Probe),
            Act::Activate(Word::Ok),
            Act::Call(Method::Handles),
            Act::Call(Method::Echo(2000)),
            Act::Call(method),
        ]),
        1 => (permission(), permission()).prop_map(|(object, part)| vec![
            Act::Grant(object),
            Act::Call(Method::Open(object)),
            Act::Revoke(part),
            Act::Call(Method::Open(object)),
            Act::Call(Method::Notify),
        ]),
        1 => (module(), module()).prop_map(|(first, second)| vec![
            Act::Allow(Module::Deep),
            Act::Allow(Module::More),
            Act::Disallow(first),
            Act::Call(Method::Dlopen(Module::More)),
            Act::Disallow(second),
            Act::Call(Method::Dlopen(Module::More)),
        ]),
    ]
}

fn phrase_of_one() -> impl Strategy<Value = Vec<Op>> {
    let plain = |who, acts: Vec<Act>| acts.into_iter().map(move |act| Op::Plain((who, act)));
    let waiting = || who().prop_flat_map(|who| (Just(who), steps(who)));
    prop_oneof![
        6 => (who(), phrase()).prop_map(move |(who, acts)| plain(who, acts).collect()),
        1 => waiting().prop_map(move |(who, steps)| {
            let up = plain(who, vec![Act::Unload, Act::Load(Library::Probe), Act::Activate(Word::Ok)]);
            up.chain([Op::InCall(who, steps)]).collect()
        }),
        1 => (waiting(), word()).prop_map(move |((who, steps), word)| {
            let up = plain(who, vec![Act::Unload, Act::Load(Library::Life)]);
            up.chain([Op::InActivate(who, word, steps)]).collect()
        }),
    ]
}

/// A step on each line, as it is to be read when it has gone wrong.
#[derive(Clone)]
struct Sequence(Vec<Op>);

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, op)| write!(f, "\n  {number}: {op:?}"))
    }
}

/// All three registered, and then whatever comes.
fn sequence() -> impl Strategy<Value = Sequence> {
    let registered = EVERYBODY.map(|who| Op::Plain((who, Act::Register))).to_vec();
    let phrases = vec(prop_oneof![4 => op().prop_map(|op| vec![op]), 1 => phrase_of_one()], 1..MOST_PHRASES);
    (vec(phrase_of_one(), 0..4), phrases)
        .prop_map(move |(first, then)| Sequence([vec![registered.clone()], first, then].concat().concat()))
}

#[test]
fn every_sequence_of_calls_comes_to_what_the_model_says() {
    let fixture = Fixture::new();
    let mut config = Config::default(); // reads PROPTEST_CASES and the like
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    // What went wrong is printed, as the shortest sequence that was found; a file beside the sources would say no more.
    config.failure_persistence = None;
    config.max_shrink_time = 120_000;
    let checked = TestRunner::new(config).run(&sequence(), |Sequence(ops)| {
        let (mut model, real) = (Model::default(), Real::new(&fixture));
        for (number, op) in ops.iter().enumerate() {
            let (right, outcome) = (model.take(op), real.take(op));
            prop_assert_eq!(
                &outcome,
                &right,
                "step {}, {:?}, came to the left, not to the right",
                number,
                op
            );
            for who in EVERYBODY {
                let (right, seen) = (model.sight(who), real.sight(who));
                prop_assert_eq!(&seen, &right, "{:?} after step {}, {:?}", who, number, op);
            }
        }
        real.leaves_nothing_behind();
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

/// What the model is asked about is worth asking only if sequences get there.
#[test]
fn the_sequences_that_are_tried_lead_everywhere() {
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    for _ in 0..600 {
        let sequence = sequence().new_tree(&mut runner).expect("no strategy here rejects anything").current();
        let mut model = Model::default();
        for op in &sequence.0 {
            let within = if matches!(op, Op::Plain(_)) { "" } else { "in a service: " };
            met.extend(model.take(op).into_iter().map(|outcome| match outcome {
                Outcome::WrongState { operation, state, .. } => format!("{within}{operation} while {state}"),
                Outcome::Replied(text) if text.len() > 100 => format!("{within}much"),
                other => format!("{within}{other:?}"),
            }));
            met.extend(EVERYBODY.into_iter().filter_map(|who| Some(model.sight(who)?.state.to_string())));
        }
    }
    let missed: Vec<&str> = EVERYWHERE.iter().copied().filter(|place| !met.contains(*place)).collect();
    assert!(missed.is_empty(), "never met: {missed:#?}\nmet: {met:#?}");
}

const EVERYWHERE: [&str; 62] = [
    "registered",
    "loaded",
    "active",
    "unloaded",
    "crashed",
    "Done",
    "Unknown",
    "AlreadyRegistered",
    "NoProcess",
    "Was(false)",
    "Was(true)",
    "much",
    "Replied(\"\")",
    "Replied(\"7\")",
    "Replied(\"1011\")",
    "Replied(\"errno 13\")",
    "Replied(\"error\")",
    "Replied(\"ok 3 24\")",
    "Replied(\"ok 20 24\")",
    "Replied(\"ok 70 24\")",
    "Replied(\"ok contents\")",
    "Replied(\"ok denied ui ui.notify\")",
    "Replied(\"ok replied shown\")",
    "TooLarge { len: 2000, max: 1024 }",
    "TooLarge { len: 5000, max: 4096 }",
    "Limit(\"max_file_handles\")",
    "Limit(\"max_memory_mb\")",
    "Library(\"no file\")",
    "Library(\"no name\")",
    "Library(\"not allowed libprobe_near.so\")",
    "Library(\"not allowed libprobe_far.so\")",
    "Library(\"not allowed libprobe_deep.so\")",
    "Library(\"not found libprobe_nowhere.so\")",
    "Ended(Load, \"SIGABRT\")",
    "Ended(Activate, \"SIGABRT\")",
    "Ended(Deactivate, \"SIGABRT\")",
    "Ended(Unload, \"SIGABRT\")",
    "Ended(Call, \"SIGABRT\")",
    "Ended(Call, \"exit 3\")",
    "Ended(Call, \"forbidden ptrace\")",
    "Failed(Activate, Failed)",
    "Failed(Activate, Panicked)",
    "Failed(Deactivate, Failed)",
    "Failed(Deactivate, Panicked)",
    "Failed(Call, Failed)",
    "Failed(Call, Panicked)",
    "Failed(Call, UnknownMethod)",
    "load while active",
    "activate while registered",
    "call while crashed",
    "deactivate while loaded",
    "unload while unloaded",
    "in a service: Reentrant(Load)",
    "in a service: Reentrant(Activate)",
    "in a service: Reentrant(Call)",
    "in a service: Reentrant(Deactivate)",
    "in a service: Reentrant(Unload)",
    "in a service: Reentrant(Check)",
    "in a service: Replied(\"ok replied taken\")",
    "in a service: Ended(Call, \"unloaded\")",
    "in a service: Ended(Call, \"SIGKILL\")",
    "in a service: Ended(Activate, \"unloaded\")",
];
