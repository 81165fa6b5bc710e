//! Machine instructions that each instruction of a program has become.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context as _, Result, ensure};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use super::{Span, bytecode::Bytecode, kernel::Image};
use crate::instruction::{self, Flow};

/// One for each instruction of the program, none for what the kernel removed.
pub(super) fn spans(code: &Bytecode, image: &Image) -> Result<Vec<Span>> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "machine code is read on x86_64 only"
    );
    let mut spans = vec![Span::default(); code.instructions.len()];
    let mut offset = 0;
    for (&start, &length) in image.functions.iter().zip(&image.lengths) {
        let bytes = image.code.get(offset..offset + length as usize);
        let function = Function::decode(start, bytes.context("machine code is cut off")?)?;
        offset += length as usize;
        let end = start + u64::from(length);
        let own: Vec<(u64, usize)> = image
            .addresses
            .iter()
            .zip(&image.lines)
            .filter(|(address, _)| (start..end).contains(address))
            .map(|(&address, line)| (address, line.line_col as usize))
            .collect();
        for (index, &(address, number)) in own.iter().enumerate() {
            let next = own.get(index + 1).map_or(end, |&(next, _)| next);
            ensure!(
                address <= next && number < spans.len(),
                "lines of machine code are not in order"
            );
            let it = &code.instructions[number];
            spans[number] = match instruction::flow(number, it) {
                Flow::Exit => function.until_return(address..next),
                _ => function.span(address..next),
            };
        }
    }
    Ok(spans)
}

struct Function {
    instructions: BTreeMap<u64, Instruction>,
    end: u64,
}

impl Function {
    fn decode(start: u64, bytes: &[u8]) -> Result<Self> {
        let decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        let instructions: BTreeMap<u64, Instruction> =
            decoder.into_iter().map(|it| (it.ip(), it)).collect();
        let strange = instructions.values().find(|it| it.is_invalid());
        ensure!(
            strange.is_none(),
            "machine code that is none, at {:#x}",
            strange.map_or(0, Instruction::ip)
        );
        let end = start + bytes.len() as u64;
        Ok(Self { instructions, end })
    }

    /// From the first of the range until it is left. A jump backward, that tries
    /// an atomic operation again, is not taken.
    fn span(&self, range: Range<u64>) -> Span {
        let mut after: BTreeMap<u64, Span> = BTreeMap::new();
        let at =
            |after: &BTreeMap<u64, Span>, address| after.get(&address).copied().unwrap_or_default();
        for (&address, it) in self.instructions.range(range.clone()).rev() {
            let next = at(&after, it.next_ip());
            let target = at(&after, it.near_branch_target());
            let is_forward = it.near_branch_target() > address;
            let rest = match it.flow_control() {
                FlowControl::UnconditionalBranch => target,
                FlowControl::ConditionalBranch if is_forward && it.next_ip() < range.end => {
                    next.or(target)
                }
                FlowControl::Return => Span::default(),
                _ => next,
            };
            after.insert(address, rest + Span::exactly(1));
        }
        at(&after, range.start)
    }

    /// As [`Self::span`], and on to the end that all exits share.
    fn until_return(&self, range: Range<u64>) -> Span {
        let own = self.span(range.clone());
        let last = self.instructions.range(range.clone()).next_back();
        let Some((_, last)) = last else {
            return own;
        };
        let target = last.near_branch_target();
        let is_shared = last.flow_control() == FlowControl::UnconditionalBranch
            && !range.contains(&target)
            && self.instructions.contains_key(&target);
        if !is_shared {
            return own;
        }
        let returns = |it: &Instruction| {
            let leaves = it.flow_control() == FlowControl::UnconditionalBranch
                && !self.instructions.contains_key(&it.near_branch_target());
            leaves || it.flow_control() == FlowControl::Return
        };
        let mut rest = self.instructions.range(target..self.end);
        let length = rest.position(|(_, it)| returns(it)).unwrap_or_default() + 1;
        own + Span::exactly(length as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_through_machine_code() {
        let check = |bytes: &[u8], expect: (u64, u64)| {
            let end = 0x1000 + bytes.len() as u64;
            let function = Function::decode(0x1000, bytes).unwrap();
            let found = function.span(0x1000..end);
            assert_eq!((found.least, found.most), expect, "{bytes:x?}");
        };
        check(&[], (0, 0));
        // push rbp; mov rbp, rsp; leave; ret
        check(&[0x55, 0x48, 0x89, 0xe5, 0xc9, 0xc3], (4, 4));
        // call; test rax, rax; je over the next; add rax, 8
        let lookup = [
            0xe8, 0, 0, 0, 0, 0x48, 0x85, 0xc0, 0x74, 4, 0x48, 0x83, 0xc0, 8,
        ];
        check(&lookup, (3, 4));
        // cmp; jne to somewhere else: either way both
        check(&[0x48, 0x85, 0xc0, 0x75, 0x40], (2, 2));
        // lock cmpxchg; jne back: once
        check(&[0xf0, 0x48, 0x0f, 0xb1, 0x0f, 0x75, 0xf9], (2, 2));
        assert!(Function::decode(0, &[0x06]).is_err());
    }

    #[test]
    fn later_exits_share_the_first() {
        // xor eax, eax; leave; ret; jmp to the leave
        let function = Function::decode(0, &[0x31, 0xc0, 0xc9, 0xc3, 0xeb, 0xfc]).unwrap();
        assert_eq!(function.until_return(2..4), Span::exactly(2));
        assert_eq!(function.until_return(4..6), Span::exactly(3));
    }
}
