//! What an instruction reads and writes, and where it leads (RFC 9669).

use aya_obj::generated::{bpf_func_id, bpf_insn};

/// One bit for each register.
pub(crate) type Registers = u16;

pub(crate) const R0: Registers = 1;
/// The arguments of a call.
pub(crate) const ARGUMENTS: Registers = 0b11_1110;
/// Those that a call leaves without a value.
pub(crate) const SCRATCH: Registers = R0 | ARGUMENTS;
/// All but the frame pointer.
pub(crate) const GENERAL: Registers = 0b11_1111_1111;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Jump(usize),
    /// There, or to the next one.
    Branch(usize),
    Exit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Helper(i32),
    /// The instruction that the function begins with.
    Function(usize),
    /// One of the kernel's own, by its BTF id.
    Kernel(i32),
}

const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const JMP: u8 = 5;
const JMP32: u8 = 6;

const LOAD_IMMEDIATE: u8 = 0x18;
const MOV: u8 = 0xb0;
const COPY: u8 = 0xbf;
const ADD_IMMEDIATE: u8 = 0x07;
const JUMP_ALWAYS: u8 = 0x00;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const SOURCE_IS_REGISTER: u8 = 0x08;
const MODE: u8 = 0xe0;
const ATOMIC: u8 = 0xc0;
const FETCH: i32 = 0x01;
const COMPARE_EXCHANGE: i32 = 0xf1;
const LOAD_ACQUIRE: i32 = 0x100;

const FRAME_POINTER: u8 = 10;

/// What src_reg says of a call, or of a wide load.
const PSEUDO_CALL: u8 = 1;
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;
const PSEUDO_FUNC: u8 = 4;

pub(crate) const fn is_wide(it: &bpf_insn) -> bool {
    it.code == LOAD_IMMEDIATE
}

/// A jump with a distance of 32 bits.
pub(crate) const fn is_far(it: &bpf_insn) -> bool {
    it.code & 7 == JMP32
}

/// The descriptor of the map that a wide load takes the address of.
pub(crate) fn map(it: &bpf_insn) -> Option<i32> {
    (is_wide(it) && it.src_reg() == PSEUDO_MAP_FD).then_some(it.imm)
}

pub(crate) fn flow(at: usize, it: &bpf_insn) -> Flow {
    let to = |distance: i32| (at + 1).wrapping_add_signed(distance as isize);
    match (it.code & 7, it.code & 0xf0) {
        _ if it.code == EXIT => Flow::Exit,
        _ if it.code == CALL => Flow::Next,
        (JMP, JUMP_ALWAYS) => Flow::Jump(to(it.off.into())),
        (JMP32, JUMP_ALWAYS) => Flow::Jump(to(it.imm)),
        (JMP | JMP32, _) => Flow::Branch(to(it.off.into())),
        _ => Flow::Next,
    }
}

pub(crate) fn call(at: usize, it: &bpf_insn) -> Option<Call> {
    if it.code != CALL {
        return None;
    }
    Some(match it.src_reg() {
        0 => Call::Helper(it.imm),
        PSEUDO_CALL => Call::Function((at + 1).wrapping_add_signed(it.imm as isize)),
        _ => Call::Kernel(it.imm),
    })
}

/// The function that it calls, or takes the address of.
pub(crate) fn function(at: usize, it: &bpf_insn) -> Option<usize> {
    if let Some(Call::Function(target)) = call(at, it) {
        return Some(target);
    }
    let is_callback = is_wide(it) && it.src_reg() == PSEUDO_FUNC;
    is_callback.then(|| (at + 1).wrapping_add_signed(it.imm as isize))
}

/// Bytes of stack that a function's instructions reach, in whole words, by way
/// of the frame pointer or of a copy that is moved down right away.
pub(crate) fn stack(function: &[bpf_insn]) -> u32 {
    let offsets = function.windows(2).map(|pair| {
        let (it, next) = (&pair[0], &pair[1]);
        match it.code & 7 {
            LDX if it.src_reg() == FRAME_POINTER => it.off.into(),
            ST | STX if it.dst_reg() == FRAME_POINTER => it.off.into(),
            _ if it.code == COPY
                && it.src_reg() == FRAME_POINTER
                && next.code == ADD_IMMEDIATE
                && next.dst_reg() == it.dst_reg() =>
            {
                next.imm
            }
            _ => 0,
        }
    });
    let lowest = offsets.min().unwrap_or_default().min(0);
    lowest.unsigned_abs().next_multiple_of(8)
}

/// Registers whose values it needs, and those that it gives others.
pub(crate) fn reads_and_writes(it: &bpf_insn) -> (Registers, Registers) {
    let (to, from) = (1 << it.dst_reg(), 1 << it.src_reg());
    let if_register = |registers| match it.code & SOURCE_IS_REGISTER {
        0 => 0,
        _ => registers,
    };
    match it.code & 7 {
        LD if is_wide(it) => (0, to),
        // From the packet, whose context is in R6.
        LD => (1 << 6 | from, SCRATCH),
        LDX => (from, to),
        ST => (to, 0),
        STX if it.code & MODE == ATOMIC => match it.imm {
            COMPARE_EXCHANGE => (to | from | R0, R0),
            LOAD_ACQUIRE => (from, to),
            fetch if fetch & FETCH != 0 => (to | from, from),
            _ => (to | from, 0),
        },
        STX => (to | from, 0),
        JMP | JMP32 if it.code == CALL => (arguments(it), SCRATCH),
        JMP | JMP32 if it.code == EXIT => (R0, 0),
        JMP | JMP32 => (to | if_register(from), 0),
        _ if it.code & 0xf0 == MOV => (if_register(from), to),
        _ => (to | if_register(from), to),
    }
}

/// All of them, where it is not told how many there are.
fn arguments(it: &bpf_insn) -> Registers {
    const LOOKUP: i32 = bpf_func_id::BPF_FUNC_map_lookup_elem as i32;
    const UPDATE: i32 = bpf_func_id::BPF_FUNC_map_update_elem as i32;
    const DELETE: i32 = bpf_func_id::BPF_FUNC_map_delete_elem as i32;
    const RANDOM: i32 = bpf_func_id::BPF_FUNC_get_prandom_u32 as i32;
    const JIFFIES: i32 = bpf_func_id::BPF_FUNC_jiffies64 as i32;
    const COARSE: i32 = bpf_func_id::BPF_FUNC_ktime_get_coarse_ns as i32;
    match (it.src_reg(), it.imm) {
        (0, LOOKUP | DELETE) => 0b00_0110,
        (0, UPDATE) => 0b01_1110,
        (0, RANDOM | JIFFIES | COARSE) => 0,
        _ => ARGUMENTS,
    }
}

/// Adds 1 to the word at `offset` of the only element of the map, by way of two
/// registers.
pub(crate) fn count(map: i32, offset: u32, through: [u8; 2]) -> [bpf_insn; 4] {
    let [at, one] = through;
    [
        new(LOAD_IMMEDIATE, at, PSEUDO_MAP_VALUE, map),
        new(0, 0, 0, offset.cast_signed()),
        new(0xb7, one, 0, 1),
        // lock *(u64 *)(at + 0) += one
        new(0xdb, at, one, 0),
    ]
}

fn new(code: u8, to: u8, from: u8, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off: 0,
        imm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_reach_is_the_stack() {
        let exit = new(EXIT, 0, 0, 0);
        let at = |offset, it| bpf_insn { off: offset, ..it };
        let load = at(-8, new(0x79, 1, FRAME_POINTER, 0));
        let store = at(-16, new(0x7b, FRAME_POINTER, 1, 0));
        let zero = at(-4, new(0x62, FRAME_POINTER, 0, 0));
        let elsewhere = at(-64, new(0x7b, 1, FRAME_POINTER, 0));
        let copy = new(COPY, 2, FRAME_POINTER, 0);
        let down = new(ADD_IMMEDIATE, 2, 0, -40);
        let other = new(ADD_IMMEDIATE, 3, 0, -48);
        for (function, bytes) in [
            (&[exit][..], 0),
            (&[zero, exit], 8),
            (&[load, store, zero, exit], 16),
            (&[elsewhere, exit], 0),
            (&[store, copy, down, exit], 40),
            (&[copy, other, exit], 0),
        ] {
            assert_eq!(stack(function), bytes, "{function:?}");
        }
    }
}
