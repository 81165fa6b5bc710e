//! The stack of a program and the functions that it calls.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use anyhow::{Context, Result, ensure};
use aya_obj::{Function, Object};

use crate::instruction;

/// A program's functions, itself the first, in the kernel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack(pub Vec<Frame>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub function: String,
    pub bytes: u32,
    calls: BTreeSet<usize>,
}

impl Stack {
    /// Reads every program of an object.
    ///
    /// # Errors
    /// It is not such an object, or has no BTF of its functions.
    pub fn read(object: &[u8]) -> Result<BTreeMap<String, Self>> {
        let mut object = Object::parse(object)?;
        let names = object.functions.values().filter_map(|function| {
            let info = function.func_info.func_info.first()?;
            Some((info.type_id, function.name.clone()))
        });
        let names: BTreeMap<u32, String> = names.collect();
        let text = object.functions.keys().map(|(section, _)| *section);
        let text: HashSet<usize> = text.collect();
        object.relocate_calls(&text)?;
        let programs = object.programs.iter().map(|(name, program)| {
            let linked = &object.functions[&program.function_key()];
            let stack = Self::new(linked, &names);
            let stack = stack.with_context(|| format!("functions of {name}"))?;
            Ok((name.clone(), stack))
        });
        programs.collect()
    }

    fn new(linked: &Function, names: &BTreeMap<u32, String>) -> Result<Self> {
        let mut functions = linked.func_info.func_info.clone();
        ensure!(!functions.is_empty(), "no BTF of them");
        functions.sort_by_key(|function| function.insn_off);
        let starts = functions.iter().map(|function| function.insn_off as usize);
        let starts: Vec<usize> = starts.collect();
        let ends = starts.iter().skip(1).copied();
        let ends = ends.chain([linked.instructions.len()]);
        let frames = functions.iter().zip(ends).map(|(function, end)| {
            let name = names.get(&function.type_id);
            let own = function.insn_off as usize..end;
            let numbered = own.clone().zip(&linked.instructions[own.clone()]);
            let calls = numbered.filter_map(|(at, it)| instruction::function(at, it));
            let calls = calls.map(|target| starts.binary_search(&target).ok());
            Ok(Frame {
                function: name.context("a function without a name")?.clone(),
                bytes: instruction::stack(&linked.instructions[own]),
                calls: calls
                    .collect::<Option<_>>()
                    .context("a call to the middle of a function")?,
            })
        });
        frames.collect::<Result<_>>().map(Self)
    }

    /// The chain of calls that needs most.
    #[must_use]
    pub fn deepest(&self) -> Chain<'_> {
        self.deepest_from(0)
    }

    fn deepest_from(&self, function: usize) -> Chain<'_> {
        let frame = &self.0[function];
        let called = frame.calls.iter().map(|&called| self.deepest_from(called));
        let called = called.max_by_key(Chain::bytes).unwrap_or_default();
        Chain([vec![frame], called.0].concat())
    }
}

/// Functions each of which calls the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain<'a>(Vec<&'a Frame>);

impl Chain<'_> {
    /// As Linux 6.1 adds them up, more strictly than later ones
    /// (kernel/bpf/verifier.c, check_max_stack_depth).
    #[must_use]
    pub fn bytes(&self) -> u32 {
        let rounded = |frame: &&Frame| frame.bytes.max(1).next_multiple_of(32);
        self.0.iter().map(rounded).sum()
    }
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = self.0.iter();
        let frames = frames.map(|frame| format!("{} {}", frame.function, frame.bytes));
        f.write_str(&frames.collect::<Vec<_>>().join(" -> "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_chain_is_found() {
        let frame = |function: &str, bytes, calls: &[usize]| Frame {
            function: function.to_owned(),
            bytes,
            calls: calls.iter().copied().collect(),
        };
        let stack = Stack(vec![
            frame("program", 33, &[1, 2]),
            frame("large", 64, &[]),
            frame("small", 8, &[3]),
            frame("smaller", 0, &[4]),
            frame("smallest", 0, &[]),
        ]);
        let deepest = stack.deepest();
        let text = "program 33 -> small 8 -> smaller 0 -> smallest 0";
        assert_eq!((deepest.to_string().as_str(), deepest.bytes()), (text, 160));
    }
}
