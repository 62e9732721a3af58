//! Conditions on the arguments of a system call, as the filter compares them and as people read them.
//!
//! Pure. Owns the words in which docs/syscalls.md tells a condition. Both halves of a register count unless a condition says
//! `int`: garbage above an int is not the value that is compared.

use std::fmt;

use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};

/// What an argument is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// A constant of the kernel's headers.
    Named(&'static str, u64),
    /// The helper's own process id.
    OwnPid,
    /// One of the three CPU clocks of the helper's own process, by that id: clock_getcpuclockid(3).
    OwnClock(u32),
}

/// What must hold of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) holds: Holds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holds {
    Is(Value),
    NoneOf(Vec<Value>),
    /// As [`Holds::NoneOf`], where the kernel reads an int and the upper half does not count.
    IntNoneOf(Vec<Value>),
    /// All of these bits are set.
    Has(Value),
    /// None of them is.
    Lacks(Value),
    /// Of the bits in the first, those in the second are set, and no others.
    Masked(u64, u64),
}

/// The constants of the kernel's headers with these names.
macro_rules! named {
    ($($name:ident),* $(,)?) => { [$($crate::shared::plan::seccomp_conditions::Value::Named(
        stringify!($name), $crate::shared::plan::seccomp_conditions::names::$name as u64)),*] };
}
pub(super) use named;

/// What the C library's headers say, and what they lack.
pub(super) mod names {
    pub(in super::super) use libc::*;

    /// asm-generic/socket.h; those that the C library calls so are the old ones on 64 bits.
    pub(in super::super) const SO_RCVTIMEO_NEW: i32 = 66;
    pub(in super::super) const SO_SNDTIMEO_NEW: i32 = 67;
    /// asm/prctl.h
    #[cfg(target_arch = "x86_64")]
    pub(in super::super) const ARCH_SET_FS: i32 = 0x1002;
}

impl Value {
    /// The number, in a helper with this process id.
    pub(super) fn number(self, own_pid: u32) -> u64 {
        match self {
            Self::Number(number) | Self::Named(_, number) => number,
            Self::OwnPid => own_pid.into(),
            Self::OwnClock(which) => cpu_clock(own_pid, which).into(),
        }
    }
}

/// A CPU clock of the process `pid`, 0 being the caller's own: clock_getcpuclockid(3).
pub(super) fn cpu_clock(pid: u32, which: u32) -> u32 {
    (!pid << 3) | which
}

impl Condition {
    pub(super) fn new(argument: u8, holds: Holds) -> Self {
        Self { argument, holds }
    }

    /// The same to the compiler of filters, which knows no list: all that it gets must hold.
    pub(super) fn compiled(&self, own_pid: u32) -> Result<Vec<SeccompCondition>, BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        use SeccompCmpOp::{Eq, MaskedEq, Ne};
        let one = |width, op, value| SeccompCondition::new(self.argument, width, op, value);
        let none_of = |width: SeccompCmpArgLen, values: &[Value]| {
            values.iter().map(|value| one(width.clone(), Ne, value.number(own_pid))).collect()
        };
        match &self.holds {
            Holds::NoneOf(values) => none_of(Qword, values),
            Holds::IntNoneOf(values) => none_of(Dword, values),
            Holds::Is(value) => Ok(vec![one(Qword, Eq, value.number(own_pid))?]),
            Holds::Has(bits) => {
                let bits = bits.number(own_pid);
                Ok(vec![one(Qword, MaskedEq(bits), bits)?])
            }
            Holds::Lacks(bits) => Ok(vec![one(Qword, MaskedEq(bits.number(own_pid)), 0)?]),
            Holds::Masked(mask, value) => Ok(vec![one(Qword, MaskedEq(*mask), *value)?]),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) if *number < 10 => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number:#x}"),
            Self::Named(name, number) => write!(f, "{name}({number:#x})"),
            Self::OwnPid => f.write_str("own-pid"),
            Self::OwnClock(which) => write!(f, "own-clock-{which}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let argument = self.argument;
        let list = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
        match &self.holds {
            Holds::Is(value) => write!(f, "arg{argument} is {value}"),
            Holds::NoneOf(values) if values.len() == 1 => write!(f, "arg{argument} is not {}", list(values)),
            Holds::NoneOf(values) => write!(f, "arg{argument} is none of {}", list(values)),
            Holds::IntNoneOf(values) => write!(f, "int arg{argument} is none of {}", list(values)),
            Holds::Has(bits) => write!(f, "arg{argument} has {bits}"),
            Holds::Lacks(bits) => write!(f, "arg{argument} lacks {bits}"),
            Holds::Masked(mask, value) => write!(f, "arg{argument} & {mask:#x} is {value:#x}"),
        }
    }
}
