//! Basic blocks: instructions that are executed together or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use anyhow::{Context as _, Result, bail};

use super::{Span, bytecode::Bytecode};
use crate::instruction::{self, ARGUMENTS, Flow, GENERAL, R0, Registers};

pub(super) struct Blocks {
    /// In the order of the instructions, which they cover.
    pub(super) all: Vec<Block>,
}

pub(super) struct Block {
    pub(super) instructions: Range<usize>,
    /// The blocks that may come next.
    pub(super) next: Vec<usize>,
    /// Those that it may come after.
    pub(super) before: Vec<usize>,
    pub(super) begins_function: bool,
}

impl Blocks {
    pub(super) fn new(code: &Bytecode) -> Self {
        let end = code.instructions.len();
        let functions: BTreeSet<usize> = code
            .functions
            .iter()
            .map(|it| it.insn_off as usize)
            .collect();
        let mut leaders = functions.clone();
        for (at, it) in numbered(code, 0..end) {
            match instruction::flow(at, it) {
                Flow::Next => {}
                Flow::Exit => {
                    leaders.insert(at + 1);
                }
                Flow::Jump(target) | Flow::Branch(target) => {
                    leaders.extend([target, at + 1]);
                }
            }
        }
        leaders.remove(&end);
        let starts: Vec<usize> = leaders.into_iter().collect();
        let ends = starts.iter().skip(1).copied().chain([end]);
        let mut all: Vec<Block> = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| Block {
                instructions: start..end,
                next: Vec::new(),
                before: Vec::new(),
                begins_function: functions.contains(&start),
            })
            .collect();
        for number in 0..all.len() {
            let range = all[number].instructions.clone();
            let mut targets = match numbered(code, range.clone()).last() {
                Some((at, it)) => match instruction::flow(at, it) {
                    Flow::Next => vec![range.end],
                    Flow::Jump(target) => vec![target],
                    Flow::Branch(target) => vec![target, at + 1],
                    Flow::Exit => vec![],
                },
                None => vec![],
            };
            targets.dedup();
            for target in targets {
                if let Ok(next) = starts.binary_search(&target) {
                    all[number].next.push(next);
                    all[next].before.push(number);
                }
            }
        }
        Self { all }
    }

    /// For each block an instruction of it, and two registers that nobody needs
    /// right before it; `None` where all are needed.
    pub(super) fn room(&self, code: &Bytecode) -> Vec<Option<(usize, [u8; 2])>> {
        let needed = self.needed_at_end(code);
        let given = self.given_at_start(code);
        let each = self.all.iter().zip(needed).zip(given);
        each.map(|((block, needed), given)| room(code, block, needed, given))
            .collect()
    }

    /// Finds how often the others were executed: a block is as often as all ways
    /// into it together, and as all ways out of it.
    ///
    /// # Errors
    /// That says nothing of one, or is not so for those that are known.
    pub(super) fn complete(&self, mut times: Vec<Option<u64>>) -> Result<Vec<Span>> {
        let mut edges: BTreeMap<(usize, usize), Option<u64>> = BTreeMap::new();
        for (number, block) in self.all.iter().enumerate() {
            edges.extend(block.next.iter().map(|&next| ((number, next), None)));
        }
        let mut changed = true;
        while changed {
            changed = false;
            for (number, block) in self.all.iter().enumerate() {
                let into: Vec<_> = block.before.iter().map(|&from| (from, number)).collect();
                let out: Vec<_> = block.next.iter().map(|&to| (number, to)).collect();
                if !block.begins_function {
                    changed |= balance(&mut times[number], &mut edges, &into)?;
                }
                // Where it goes on after an exit is not known.
                if !out.is_empty() {
                    changed |= balance(&mut times[number], &mut edges, &out)?;
                }
            }
        }
        let most = self.at_most(&times);
        let span = |(times, most): (Option<u64>, Option<u64>)| match times {
            Some(times) => Some(Span::exactly(times)),
            None => Some(Span {
                least: 0,
                most: most?,
            }),
        };
        let all: Option<Vec<Span>> = times.into_iter().zip(most).map(span).collect();
        all.context("too many blocks that have no room for a counter")
    }

    /// How often each block was executed at most: as often as all before it
    /// together, and as all after it. `None` where nothing says so.
    fn at_most(&self, times: &[Option<u64>]) -> Vec<Option<u64>> {
        let mut most = times.to_vec();
        let mut changed = true;
        while changed {
            changed = false;
            for (number, block) in self.all.iter().enumerate() {
                if times[number].is_some() || block.begins_function {
                    continue;
                }
                let together = |blocks: &[usize]| {
                    let known = !blocks.is_empty();
                    let each = blocks.iter().map(|&one| most[one]);
                    known.then(|| each.sum::<Option<u64>>()).flatten()
                };
                let ways = [together(&block.before), together(&block.next), most[number]];
                let least = ways.into_iter().flatten().min();
                changed |= least != most[number];
                most[number] = least;
            }
        }
        most
    }

    /// Registers whose values are read after each block.
    fn needed_at_end(&self, code: &Bytecode) -> Vec<Registers> {
        let mut at_end = vec![0; self.all.len()];
        let mut at_start = vec![0; self.all.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for (number, block) in self.all.iter().enumerate().rev() {
                at_end[number] = block.next.iter().fold(0, |all, &next| all | at_start[next]);
                let it = numbered(code, block.instructions.clone());
                let it: Vec<_> = it.collect();
                let needed = it.iter().rev().fold(at_end[number], |needed, (_, it)| {
                    let (reads, writes) = instruction::reads_and_writes(it);
                    needed & !writes | reads
                });
                changed |= needed != at_start[number];
                at_start[number] = needed;
            }
        }
        at_end
    }

    /// Registers that may have a value before each block. The verifier lets
    /// nobody read the others, whatever a call is thought to read.
    fn given_at_start(&self, code: &Bytecode) -> Vec<Registers> {
        let mut at_start: Vec<Registers> = self
            .all
            .iter()
            .map(|block| if block.begins_function { ARGUMENTS } else { 0 })
            .collect();
        let mut changed = true;
        while changed {
            changed = false;
            for (number, block) in self.all.iter().enumerate() {
                let it = numbered(code, block.instructions.clone());
                let given = it.fold(at_start[number], |given, (_, it)| given_after(it, given));
                for &next in &block.next {
                    changed |= given & !at_start[next] != 0;
                    at_start[next] |= given;
                }
            }
        }
        at_start
    }
}

/// Sets the one that is not known, of a sum and its parts.
fn balance(
    sum: &mut Option<u64>,
    edges: &mut BTreeMap<(usize, usize), Option<u64>>,
    parts: &[(usize, usize)],
) -> Result<bool> {
    let known: u64 = parts.iter().filter_map(|part| edges[part]).sum();
    let mut unknown = parts.iter().filter(|part| edges[*part].is_none());
    let rest = sum.map(|sum| sum.checked_sub(known));
    match (rest, unknown.next(), unknown.next()) {
        (None, None, _) => *sum = Some(known),
        (Some(Some(0)), None, _) => return Ok(false),
        // Nothing is left for any of them.
        (Some(Some(0)), Some(_), _) => {
            for part in parts {
                edges
                    .entry(*part)
                    .and_modify(|times| *times = times.or(Some(0)));
            }
        }
        (Some(Some(rest)), Some(part), None) => {
            edges.insert(*part, Some(rest));
        }
        (Some(None), ..) | (Some(Some(_)), None, _) => {
            bail!("a block was executed {sum:?} times, by ways that were taken {known} times")
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn room(
    code: &Bytecode,
    block: &Block,
    needed_at_end: Registers,
    given_at_start: Registers,
) -> Option<(usize, [u8; 2])> {
    let it: Vec<_> = numbered(code, block.instructions.clone()).collect();
    let mut needed = needed_at_end;
    let mut before: Vec<Registers> = it
        .iter()
        .rev()
        .map(|(_, it)| {
            let (reads, writes) = instruction::reads_and_writes(it);
            needed = needed & !writes | reads;
            needed
        })
        .collect();
    before.reverse();
    let mut given = given_at_start;
    for ((at, it), needed) in it.into_iter().zip(before) {
        let free = GENERAL & !(needed & given);
        let mut free = (0..10_u8).filter(|register| free & (1 << register) != 0);
        if let (Some(first), Some(second)) = (free.next(), free.next()) {
            return Some((at, [first, second]));
        }
        given = given_after(it, given);
    }
    None
}

fn given_after(it: &aya_obj::generated::bpf_insn, given: Registers) -> Registers {
    let (_, writes) = instruction::reads_and_writes(it);
    if instruction::call(0, it).is_some() {
        return given & !writes | R0;
    }
    given | writes
}

/// The instructions with their numbers; a wide one is one.
pub(super) fn numbered(
    code: &Bytecode,
    range: Range<usize>,
) -> impl Iterator<Item = (usize, &aya_obj::generated::bpf_insn)> {
    let mut skip = false;
    range.filter_map(move |at| {
        let it = &code.instructions[at];
        let is_second = skip;
        skip = !is_second && instruction::is_wide(it);
        (!is_second).then_some((at, it))
    })
}
