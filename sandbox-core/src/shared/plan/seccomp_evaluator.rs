//! Classic BPF programs over a `struct seccomp_data`, judged in user space: seccomp(2).
//!
//! For tests. Owns the kernel's meaning of the instructions that our filters are made of, and which of several answers counts.
//! Panics at anything else, so that no filter is judged by half.

use crate::shared::sys::seccomp::sock_filter;

/// This machine's mark in a call: linux/audit.h.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCH: u32 = 0xc000_00b7;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const JUMP_IF_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// What `program` returns for this call.
///
/// # Panics
/// If the program is not one that the kernel would take, or has an instruction that ours do not have.
pub(crate) fn evaluate(program: &[sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    // nr, arch, the instruction pointer's two halves (nobody of ours looks at it), the arguments' halves, the lower first.
    let mut data = vec![nr, arch, 0, 0];
    data.extend(args.iter().flat_map(|arg| [*arg as u32, (*arg >> 32) as u32]));
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match u32::from(code) {
            LOAD_WORD => {
                assert_eq!(k % 4, 0, "a load that the kernel refuses");
                accumulator = data[k as usize / 4];
            }
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_IF_EQUAL => at += jump(accumulator == k),
            JUMP_IF_GREATER => at += jump(accumulator > k),
            JUMP_IF_NOT_LESS => at += jump(accumulator >= k),
            JUMP_IF_ANY_BIT => at += jump(accumulator & k != 0),
            RETURN => return k,
            code => panic!("an instruction that no filter of ours has: {code:#x}"),
        }
    }
}

/// Of the answers of all filters the one that counts: the least as a signed number, whatever its data.
pub(crate) fn strictest(answers: impl Iterator<Item = u32>) -> u32 {
    let action = |answer: &u32| (answer & libc::SECCOMP_RET_ACTION_FULL).cast_signed();
    answers.min_by_key(action).unwrap_or(libc::SECCOMP_RET_ALLOW)
}
