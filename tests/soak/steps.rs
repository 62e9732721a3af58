//! What a thread can do next, drawn at random.
//!
//! Pure: a step follows from the generator alone, and never from what earlier ones came to, so that a seed repeats them.

use fastrand::Rng;

/// What the constructor of a library that breaks at once can do.
pub(crate) const CONSTRUCTORS: [&str; 5] = ["segfault", "abort", "panic", "exit", "rubbish"];

/// One thing to do with one of a thread's plugins, and all that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    // ---- calls
    Echo { bytes: usize },
    Big { bytes: usize },
    TooLarge,
    Panic,
    Fail,
    UnknownMethod,
    Service { from_thread: bool },
    ServiceNotGranted,
    Open { count: usize },
    OpenOutside,
    ReadByService,
    Run,
    Message { bytes: usize },
    Handles,
    Memory,
    Neighbour { calls: usize },
    // ---- changes
    RevokeAndGrant,
    RevokeHeld,
    ChangeHandles { most: u64 },
    Modules,
    // ---- lives
    LoadAgain,
    Deactivate,
    Unload,
    Register,
    DropActive,
    Refused(Refused),
    UnloadDuringCall,
    Constructor { act: usize },
    InActivate(Misdeed),
    InDeactivate(Misdeed),
    InDrop(Misdeed),
    // ---- ends
    Crash(Crash),
    ZygoteKilled,
}

/// A file that is no plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Missing,
    Text,
    NotAllowed,
    OtherAbi,
}

/// How a plugin misbehaves where it is called without a method's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misdeed {
    Error,
    Panic,
    Abort,
    Segfault,
    Exit,
    Hang,
}

/// How a plugin ends in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    Segfault,
    Abort,
    Exit { code: i32 },
    ForbiddenCall,
    OutOfMemory,
    Cpu,
    Hang,
    Rubbish,
    EndlessFrame,
    ClosedChannel,
    KilledFromOutside,
    Stopped,
    StoppedAndUnloaded,
    WithProcesses,
}

/// How to draw the rest of a step.
type Make = fn(&mut Rng) -> Step;

/// Each step with its share. What takes long, or a second of a processor, is rare.
const SHARES: [(u32, Make); 46] = [
    (40, |rng| Step::Echo { bytes: rng.usize(0..4096) }),
    (8, |rng| Step::Echo { bytes: rng.usize(0..3 << 20) }),
    (5, |rng| Step::Big { bytes: rng.usize(0..3 << 20) }),
    (3, |_| Step::TooLarge),
    (6, |_| Step::Panic),
    (6, |_| Step::Fail),
    (4, |_| Step::UnknownMethod),
    (20, |_| Step::Service { from_thread: false }),
    (6, |_| Step::Service { from_thread: true }),
    (6, |_| Step::ServiceNotGranted),
    (20, |rng| Step::Open { count: rng.usize(1..30) }),
    (8, |_| Step::OpenOutside),
    (8, |_| Step::ReadByService),
    (4, |_| Step::Run),
    (20, |rng| Step::Message { bytes: rng.usize(0..9000) }),
    (5, |_| Step::Handles),
    (3, |_| Step::Memory),
    (10, |rng| Step::Neighbour { calls: rng.usize(1..20) }),
    (8, |_| Step::RevokeAndGrant),
    (4, |_| Step::RevokeHeld),
    (8, |rng| Step::ChangeHandles { most: rng.u64(1..40) }),
    (6, |_| Step::Modules),
    (5, |_| Step::LoadAgain),
    (8, |_| Step::Deactivate),
    (8, |_| Step::Unload),
    (4, |_| Step::Register),
    (4, |_| Step::DropActive),
    (2, |_| Step::Refused(Refused::Missing)),
    (2, |_| Step::Refused(Refused::Text)),
    (2, |_| Step::Refused(Refused::NotAllowed)),
    (2, |_| Step::Refused(Refused::OtherAbi)),
    (3, |_| Step::UnloadDuringCall),
    (5, |rng| Step::Constructor { act: rng.usize(0..CONSTRUCTORS.len()) }),
    (5, |rng| Step::InActivate(misdeed(rng))),
    (5, |rng| Step::InDeactivate(misdeed(rng))),
    (5, |rng| Step::InDrop(misdeed(rng))),
    (4, |_| Step::Crash(Crash::Segfault)),
    (4, |_| Step::Crash(Crash::Abort)),
    (4, |rng| Step::Crash(Crash::Exit { code: rng.i32(0..256) })),
    (4, |_| Step::Crash(Crash::ForbiddenCall)),
    (3, |_| Step::Crash(Crash::OutOfMemory)),
    (1, |_| Step::Crash(Crash::Cpu)),
    (14, rare_crash),
    (4, |_| Step::Crash(Crash::KilledFromOutside)),
    (2, |_| Step::Crash(Crash::WithProcesses)),
    (1, |_| Step::ZygoteKilled),
];

fn misdeed(rng: &mut Rng) -> Misdeed {
    use Misdeed::{Abort, Error, Exit, Hang, Panic, Segfault};
    [Error, Panic, Abort, Segfault, Exit, Hang][rng.usize(0..6)]
}

fn rare_crash(rng: &mut Rng) -> Step {
    use Crash::{ClosedChannel, EndlessFrame, Hang, Rubbish, Stopped, StoppedAndUnloaded};
    Step::Crash([Hang, Rubbish, EndlessFrame, ClosedChannel, Stopped, StoppedAndUnloaded][rng.usize(0..6)])
}

/// The next step.
pub(crate) fn draw(rng: &mut Rng) -> Step {
    let all = SHARES.iter().map(|(share, _)| share).sum();
    let mut at = rng.u32(0..all);
    for (share, make) in SHARES {
        if at < share {
            return make(rng);
        }
        at -= share;
    }
    unreachable!("`at` was less than all shares together");
}

impl Step {
    /// What it is counted as.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Echo { bytes: 4096.. } => "call, large",
            Self::Echo { .. } => "call",
            Self::Big { .. } => "call, large answer",
            Self::TooLarge => "call, too large",
            Self::Panic => "call that panics",
            Self::Fail => "call that fails",
            Self::UnknownMethod => "call, unknown method",
            Self::Service { from_thread: false } => "service",
            Self::Service { from_thread: true } => "service from a thread",
            Self::ServiceNotGranted => "service, not granted",
            Self::Open { .. } => "brokered opens",
            Self::OpenOutside => "brokered open, not granted",
            Self::ReadByService => "file by a service",
            Self::Run => "program",
            Self::Message { .. } => "message to another plugin",
            Self::Handles => "descriptors to the limit",
            Self::Memory => "memory below the limit",
            Self::Neighbour { .. } => "calls of a shared plugin",
            Self::RevokeAndGrant => "revoke and grant",
            Self::RevokeHeld => "revoke of an open file",
            Self::ChangeHandles { .. } => "change of limits",
            Self::Modules => "change of modules",
            Self::LoadAgain => "load of what is loaded",
            Self::Deactivate => "deactivate and activate",
            Self::Unload => "unload and load",
            Self::Register => "unregister and register",
            Self::DropActive => "sandbox dropped",
            Self::Refused(_) => "load of no plugin",
            Self::UnloadDuringCall => "unload during a call",
            Self::Constructor { .. } => "constructor that breaks",
            Self::InActivate(_) => "activate that breaks",
            Self::InDeactivate(_) => "deactivate that breaks",
            Self::InDrop(_) => "destructor that breaks",
            Self::Crash(crash) => match crash {
                Crash::Segfault => "crash: segfault",
                Crash::Abort => "crash: abort",
                Crash::Exit { .. } => "crash: exit",
                Crash::ForbiddenCall => "crash: forbidden call",
                Crash::OutOfMemory => "crash: out of memory",
                Crash::Cpu => "crash: CPU time",
                Crash::Hang => "crash: hang",
                Crash::Rubbish => "crash: rubbish in channel",
                Crash::EndlessFrame => "crash: endless frame",
                Crash::ClosedChannel => "crash: channel closed",
                Crash::KilledFromOutside => "crash: killed from outside",
                Crash::Stopped => "crash: stopped",
                Crash::StoppedAndUnloaded => "crash: stopped, unloaded",
                Crash::WithProcesses => "crash: with processes",
            },
            Self::ZygoteKilled => "zygote killed",
        }
    }
}
