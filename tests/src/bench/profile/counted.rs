//! A program that counts how often each of its blocks is executed.

use std::{collections::BTreeMap, io, os::fd::OwnedFd};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{Program, ProgramFd};
use aya_obj::generated::{bpf_func_info, bpf_insn};
use nix::libc::E2BIG;

use super::{
    Profile, Span,
    blocks::Blocks,
    bytecode::{Bytecode, known_to_aya},
    call::{self, Call},
    kernel::Counters,
    machine,
};
use crate::instruction::{self, Flow};

/// One program, loaded once for each part of its blocks: the verifier has a
/// limit that counting takes from.
pub(crate) struct Counted {
    blocks: Blocks,
    /// What each block costs, and what it calls.
    costs: Vec<(Span, Vec<Call>)>,
    parts: Vec<Part>,
    counters: Counters,
}

struct Part {
    program: ProgramFd,
    /// Which counters it has.
    counted: Vec<usize>,
    _loaded: OwnedFd,
}

impl Counted {
    /// # Errors
    /// The kernel refuses it, or does not show machine code.
    pub(crate) fn new(object: &[u8], name: &str, loaded: &Program) -> Result<Self> {
        let code = Bytecode::new(object, name, loaded)?;
        let image = code.load_with_lines()?;
        let jited = loaded.info()?.size_jitted() as usize;
        ensure!(
            image.code.len() == jited,
            "{name} became {} bytes of machine code, but {jited} where it is at work",
            image.code.len()
        );
        let spans = machine::spans(&code, &image)?;
        let blocks = Blocks::new(&code);
        let costs = blocks.all.iter().map(|block| {
            let spans = &spans[block.instructions.clone()];
            let span = spans.iter().fold(Span::default(), |all, &one| all + one);
            (span, call::calls(&code, block))
        });
        let costs = costs.collect();
        let counters = Counters::new(blocks.all.len())?;
        let room: Vec<Place> = blocks
            .room(&code)
            .into_iter()
            .enumerate()
            .filter_map(|(block, room)| {
                let (at, through) = room?;
                Some(Place { block, at, through })
            })
            .collect();
        let mut parts = Vec::new();
        load(&code, &counters, &room, &mut parts).with_context(|| format!("counting in {name}"))?;
        Ok(Self {
            blocks,
            costs,
            parts,
            counters,
        })
    }

    /// Has `run` send so many packets through each part of the program.
    pub(crate) fn profile(
        &self,
        name: &str,
        packets: u32,
        mut run: impl FnMut(&ProgramFd) -> Result<()>,
    ) -> Result<Profile> {
        let mut times = vec![None; self.blocks.all.len()];
        for part in &self.parts {
            self.counters.reset()?;
            run(&part.program)?;
            let read = self.counters.read()?;
            for &block in &part.counted {
                times[block] = Some(read[block]);
            }
        }
        let times = self.blocks.complete(times)?;
        ensure!(
            times.first() == Some(&Span::exactly(packets.into())),
            "{name}: the program was entered {:?} times by {packets} packets",
            times.first()
        );
        let mut instructions = Span::default();
        let mut calls: BTreeMap<Call, u64> = BTreeMap::new();
        for (&times, (span, own)) in times.iter().zip(&self.costs) {
            instructions = instructions + *span * times;
            ensure!(
                own.is_empty() || times.least == times.most,
                "{name}: a block that calls has no room for a counter"
            );
            for call in own.iter().filter(|_| times.least > 0) {
                *calls.entry(call.clone()).or_default() += times.least;
            }
        }
        Ok(Profile {
            name: name.to_owned(),
            packets,
            instructions,
            calls: calls.into_iter().collect(),
        })
    }
}

struct Place {
    block: usize,
    /// The instruction before which is counted.
    at: usize,
    through: [u8; 2],
}

fn load(
    code: &Bytecode,
    counters: &Counters,
    places: &[Place],
    parts: &mut Vec<Part>,
) -> Result<()> {
    let loaded = match rewrite(code, counters.descriptor(), places) {
        Some((instructions, functions)) => code.load(&instructions, &functions, &[]),
        None => Err(io::Error::from_raw_os_error(E2BIG)),
    };
    match loaded {
        Ok(loaded) => {
            parts.push(Part {
                program: known_to_aya(&loaded)?,
                counted: places.iter().map(|place| place.block).collect(),
                _loaded: loaded,
            });
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(E2BIG) && places.len() > 1 => {
            let (first, second) = places.split_at(places.len() / 2);
            load(code, counters, first, parts)?;
            load(code, counters, second, parts)
        }
        Err(error) => Err(error.into()),
    }
}

/// The program with counters at these places; `None` if a jump became too far.
fn rewrite(
    code: &Bytecode,
    map: i32,
    places: &[Place],
) -> Option<(Vec<bpf_insn>, Vec<bpf_func_info>)> {
    let mut counted = places.iter().peekable();
    let mut instructions = Vec::new();
    // Where each instruction went, and where its counter begins.
    let (mut at, mut starts) = (Vec::new(), Vec::new());
    for (number, it) in code.instructions.iter().enumerate() {
        starts.push(instructions.len());
        if let Some(place) = counted.next_if(|place| place.at == number) {
            let offset = (place.block * size_of::<u64>()) as u32;
            instructions.extend(instruction::count(map, offset, place.through));
        }
        at.push(instructions.len());
        instructions.push(*it);
    }
    let distance = |from: usize, to: usize| {
        let (from, to) = (at[from] + 1, *starts.get(to)?);
        i32::try_from(to as i64 - from as i64).ok()
    };
    for (number, it) in super::blocks::numbered(code, 0..code.instructions.len()) {
        let new = &mut instructions[at[number]];
        if let Some(target) = instruction::function(number, it) {
            new.imm = distance(number, target)?;
        }
        match instruction::flow(number, it) {
            Flow::Jump(target) if instruction::is_far(it) => new.imm = distance(number, target)?,
            Flow::Jump(target) | Flow::Branch(target) => {
                new.off = i16::try_from(distance(number, target)?).ok()?;
            }
            Flow::Next | Flow::Exit => {}
        }
    }
    let functions = code.functions.iter().map(|function| bpf_func_info {
        insn_off: starts[function.insn_off as usize] as u32,
        ..*function
    });
    Some((instructions, functions.collect()))
}
