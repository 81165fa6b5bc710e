//! A program's instructions, taken from its object and joined with the maps of
//! the one that is loaded.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::{MapData, MapType},
    programs::{Program, ProgramFd, loaded_programs},
};
use aya_obj::{
    Object, ProgramSection,
    generated::{
        BPF_F_XDP_HAS_FRAGS, bpf_attach_type, bpf_func_info, bpf_insn, bpf_line_info, bpf_prog_type,
    },
};

use super::kernel::{self, Image, Load};
use crate::instruction;

pub(super) struct Bytecode {
    pub(super) instructions: Vec<bpf_insn>,
    /// Each function, in the order of the instructions.
    pub(super) functions: Vec<bpf_func_info>,
    /// Some line of the source, for what must have one.
    line: bpf_line_info,
    license: CString,
    kind: Kind,
    btf: OwnedFd,
    maps: BTreeMap<String, MapData>,
}

struct Kind {
    program: bpf_prog_type,
    attach: u32,
    flags: u32,
}

impl Bytecode {
    /// Reads the program `name` of the object, whose maps and BTF are to be those
    /// of `loaded`.
    pub(super) fn new(object: &[u8], name: &str, loaded: &Program) -> Result<Self> {
        let info = loaded.info()?;
        let maps = info.map_ids()?.context("the kernel tells no maps")?;
        let maps: Result<BTreeMap<String, MapData>> = maps
            .into_iter()
            .map(|id| {
                let map = MapData::from_id(id)?;
                let name = map
                    .info()?
                    .name_as_str()
                    .context("a map's name")?
                    .to_owned();
                Ok((name, map))
            })
            .collect();
        let maps = maps?;
        let btf = kernel::btf(info.btf_id().context("a program without BTF")?)?;

        let mut object = Object::parse(object)?;
        let text = object.functions.keys().map(|(section, _)| *section);
        let text: HashSet<usize> = text.collect();
        let declared = object.maps.clone();
        let descriptors = declared.iter().map(|(name, declared)| {
            let short = name.get(..NAME).unwrap_or(name);
            let map = maps.get(short).map(|map| map.fd().as_fd().as_raw_fd());
            // Other programs' maps are nowhere in this one.
            (name.as_str(), map.unwrap_or(-1), declared)
        });
        object.relocate_maps(descriptors, &text)?;
        object.relocate_calls(&text)?;

        let program = object.programs.get(name);
        let program = program.with_context(|| format!("no program {name} in the object"))?;
        let function = &object.functions[&program.function_key()];
        let mut functions = function.func_info.func_info.clone();
        functions.sort_by_key(|function| function.insn_off);
        ensure!(!functions.is_empty(), "{name} has no BTF of its functions");
        let line = function.line_info.line_info.first().copied();
        Ok(Self {
            instructions: function.instructions.clone(),
            functions,
            line: line.with_context(|| format!("{name} has no lines of source"))?,
            license: program.license.clone(),
            kind: kind(&program.section)?,
            btf,
            maps,
        })
    }

    /// Loads it as it is, with a line of its own for each instruction: the
    /// column is the instruction's number.
    pub(super) fn load_with_lines(&self) -> Result<Image> {
        let mut lines = Vec::new();
        let mut at = 0;
        while let Some(it) = self.instructions.get(at) {
            lines.push(bpf_line_info {
                insn_off: at as u32,
                line_col: at as u32,
                ..self.line
            });
            at += if instruction::is_wide(it) { 2 } else { 1 };
        }
        let program = self.load(&self.instructions, &self.functions, &lines);
        kernel::image(program.context("loading it with lines")?.as_fd())
    }

    /// Loads other instructions in its place.
    pub(super) fn load(
        &self,
        instructions: &[bpf_insn],
        functions: &[bpf_func_info],
        lines: &[bpf_line_info],
    ) -> std::io::Result<OwnedFd> {
        kernel::load(&Load {
            kind: self.kind.program as u32,
            attach: self.kind.attach,
            flags: self.kind.flags,
            license: &self.license,
            instructions,
            btf: self.btf.as_fd(),
            functions,
            lines,
        })
    }

    /// The map of this descriptor.
    pub(super) fn map(&self, descriptor: i32) -> Option<(&str, MapType)> {
        let is_it = |map: &MapData| map.fd().as_fd().as_raw_fd() == descriptor;
        let (name, map) = self.maps.iter().find(|(_, map)| is_it(map))?;
        Some((name, map.info().ok()?.map_type().ok()?))
    }
}

/// As aya has it: to be put where it takes programs.
pub(super) fn known_to_aya(program: &OwnedFd) -> Result<ProgramFd> {
    let id = kernel::image(program.as_fd())?.id;
    let mut all = loaded_programs().filter_map(Result::ok);
    let found = all.find(|program| program.id() == id);
    Ok(found.context("a program that went")?.fd()?)
}

/// BPF_OBJ_NAME_LEN without the end.
const NAME: usize = 15;

fn kind(section: &ProgramSection) -> Result<Kind> {
    Ok(match section {
        ProgramSection::Xdp { frags, attach_type } => Kind {
            program: bpf_prog_type::BPF_PROG_TYPE_XDP,
            attach: bpf_attach_type::from(*attach_type) as u32,
            flags: if *frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
        },
        ProgramSection::SchedClassifier => Kind {
            program: bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
            attach: 0,
            flags: 0,
        },
        other => bail!("no way to profile {other:?}"),
    })
}
