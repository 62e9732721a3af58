//! From one frame to the one that called it, by the unwinding rules of the file that it is of.
//!
//! Pure but for what it is given to read with. The rules are a hostile file's: expressions, which could compute without an end,
//! are not followed, a frame must lie above the one before it, and the caller bounds how many there are.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Pointer, RegisterRule,
    UnwindContext, UnwindSection,
};

use super::registers::Registers;

/// The longest description of one function's frames that is read. The compilers' are hundreds of bytes.
const MOST_RULE_BYTES: usize = 64 << 10;

/// The unwinding tables of one file, and the addresses at which it has them.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) index: Vec<u8>,
    pub(super) index_at: u64,
    pub(super) rules: Vec<u8>,
    pub(super) rules_at: u64,
}

type Bytes<'a> = EndianSlice<'a, NativeEndian>;

impl Tables {
    /// How much of the host's memory they take.
    pub(super) fn bytes(&self) -> u64 {
        (self.index.len() as u64).saturating_add(self.rules.len() as u64)
    }

    /// Where the rules begin, by the index, which the file has at `at`.
    pub(super) fn rules_address(index: &[u8], at: u64) -> Option<u64> {
        let bases = BaseAddresses::default().set_eh_frame_hdr(at);
        let index = EhFrameHdr::new(index, NativeEndian).parse(&bases, 8).ok()?;
        match index.eh_frame_ptr() {
            Pointer::Direct(address) => Some(address),
            Pointer::Indirect(_) => None,
        }
    }

    /// The registers of the caller of the function that runs at `address` of the file with `registers`; `read` reads the stack.
    pub(super) fn step(
        &self,
        address: u64,
        registers: &Registers,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Result<Registers, &'static str> {
        const NO_RULE: &str = "nothing says who called";
        let bases = BaseAddresses::default().set_eh_frame_hdr(self.index_at).set_eh_frame(self.rules_at);
        let index = EhFrameHdr::new(&self.index, NativeEndian).parse(&bases, 8).map_err(|_| NO_RULE)?;
        let table = index.table().ok_or(NO_RULE)?;
        let rule = table.lookup(address, &bases).map_err(|_| NO_RULE)?;
        let offset = table.pointer_to_offset(rule).map_err(|_| NO_RULE)?;
        let mut section: EhFrame<Bytes<'_>> = EhFrame::new(&self.rules, NativeEndian);
        section.set_address_size(8);
        let function =
            section.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).map_err(|_| NO_RULE)?;
        if function.entry_len() > MOST_RULE_BYTES || function.cie().entry_len() > MOST_RULE_BYTES {
            return Err(NO_RULE);
        }
        let mut context = UnwindContext::new();
        let row =
            function.unwind_info_for_address(&section, &bases, &mut context, address).map_err(|_| NO_RULE)?;
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else {
            return Err("its caller is computed, which is not followed");
        };
        let base = registers.get(register.0).ok_or("a register is not known")?;
        let frame = base.wrapping_add_signed(offset);

        let mut caller = registers.clone();
        let mut back = None;
        for number in 0..Registers::COUNT {
            let value = match row.register(gimli::Register(number)) {
                // What no rule names the callee has left as it was; but for the return address, which it has not.
                None | Some(RegisterRule::SameValue) => registers.get(number),
                Some(RegisterRule::Undefined) => None,
                Some(RegisterRule::Offset(offset)) => read(frame.wrapping_add_signed(offset)),
                Some(RegisterRule::ValOffset(offset)) => Some(frame.wrapping_add_signed(offset)),
                Some(RegisterRule::Register(other)) => registers.get(other.0),
                Some(_) => None,
            };
            if number == Registers::RETURN {
                back = value;
            }
            caller.set(number, value);
        }
        caller.set(Registers::STACK, Some(frame));
        // No return address is how the outermost frame says that it is.
        caller.pc = back.unwrap_or(0);
        Ok(caller)
    }
}
