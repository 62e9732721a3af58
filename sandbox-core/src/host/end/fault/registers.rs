//! The registers of an interrupted thread, by DWARF's numbers, out of a `ucontext_t`'s bytes.
//!
//! Pure. Owns where each is, by architecture, as the C library's types say.

use std::mem::offset_of;

/// How many registers are followed: those that a function of another could keep.
const COUNT: usize = 32;

#[cfg(target_arch = "x86_64")]
mod arch {
    /// The stack pointer's number, and the one that stands for the return address.
    pub(super) const STACK: usize = 7;
    pub(super) const RETURN: usize = 16;
    /// `gregs` in DWARF's order: rax rdx rcx rbx rsi rdi rbp rsp r8 to r15, and rip.
    pub(super) const ORDER: [i32; 17] = [
        libc::REG_RAX,
        libc::REG_RDX,
        libc::REG_RCX,
        libc::REG_RBX,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_RBP,
        libc::REG_RSP,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
        libc::REG_RIP,
    ];
}

#[cfg(target_arch = "aarch64")]
mod arch {
    pub(super) const STACK: usize = 31;
    pub(super) const RETURN: usize = 30;
}

/// How many bytes of a `ucontext_t` are read.
pub(super) const CONTEXT_BYTES: usize = size_of::<libc::ucontext_t>();

/// The registers of one frame, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registers {
    values: [Option<u64>; COUNT],
    /// Where it runs.
    pub(super) pc: u64,
}

impl Registers {
    /// Those of `context`, the bytes of a `ucontext_t`.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of(context: &[u8]) -> Option<Self> {
        let gregs = offset_of!(libc::ucontext_t, uc_mcontext) + offset_of!(libc::mcontext_t, gregs);
        let mut values = [None; COUNT];
        for (place, register) in values.iter_mut().zip(arch::ORDER) {
            *place = Some(word(context, gregs + 8 * usize::try_from(register).ok()?)?);
        }
        let pc = values.get_mut(arch::RETURN)?.take()?;
        Some(Self { values, pc })
    }

    #[cfg(target_arch = "aarch64")]
    pub(super) fn of(context: &[u8]) -> Option<Self> {
        let machine = offset_of!(libc::ucontext_t, uc_mcontext);
        let regs = machine + offset_of!(libc::mcontext_t, regs);
        let mut values = [None; COUNT];
        for (index, place) in values.iter_mut().take(31).enumerate() {
            *place = Some(word(context, regs + 8 * index)?);
        }
        let sp = word(context, machine + offset_of!(libc::mcontext_t, sp))?;
        *values.get_mut(arch::STACK)? = Some(sp);
        let pc = word(context, machine + offset_of!(libc::mcontext_t, pc))?;
        Some(Self { values, pc })
    }

    pub(super) fn get(&self, number: u16) -> Option<u64> {
        *self.values.get(usize::from(number))?
    }

    pub(super) fn set(&mut self, number: u16, value: Option<u64>) {
        if let Some(place) = self.values.get_mut(usize::from(number)) {
            *place = value;
        }
    }

    pub(super) fn stack(&self) -> Option<u64> {
        *self.values.get(arch::STACK)?
    }

    /// The number of the register, or what stands for one, that holds the return address.
    pub(super) const RETURN: u16 = arch::RETURN as u16;
    pub(super) const STACK: u16 = arch::STACK as u16;
    pub(super) const COUNT: u16 = COUNT as u16;
}

/// The eight bytes at `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// The four bytes at `at`.
pub(super) fn half(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_that_is_cut_short_has_no_registers() {
        let context = [0x41; CONTEXT_BYTES];
        let whole = Registers::of(&context).unwrap();
        assert_eq!((whole.pc, whole.stack()), (0x4141_4141_4141_4141, Some(0x4141_4141_4141_4141)));
        assert_eq!((whole.get(3), whole.get(u16::MAX)), (Some(0x4141_4141_4141_4141), None));
        for len in [0, 1, 40, 100] {
            assert_eq!(Registers::of(&context[..len]), None, "{len}");
        }
    }
}
