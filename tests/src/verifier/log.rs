//! The last lines of the verifier's log.

use std::{collections::BTreeMap, str::FromStr};

use anyhow::{Context, Result};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Instructions walked through, on all paths.
    pub instructions: u32,
    pub total_states: u32,
    pub peak_states: u32,
    pub max_states_per_instruction: u32,
    /// Bytes of stack of the program and each of its functions.
    pub stack: Vec<u32>,
}

/// As the kernel prints them at log level BPF_LOG_STATS (kernel/bpf/verifier.c,
/// print_verification_stats).
impl FromStr for Statistics {
    type Err = anyhow::Error;

    fn from_str(log: &str) -> Result<Self> {
        let line = |start: &str| {
            let found = log.lines().find_map(|line| line.strip_prefix(start));
            found.with_context(|| format!("no line `{start}` in the verifier's log: {log}"))
        };
        let stack = line("stack depth ")?
            .split('+')
            .map(|bytes| Ok(bytes.trim().parse()?))
            .collect::<Result<_>>()?;
        let (instructions, rest) = line("processed ")?
            .split_once(" insns (limit ")
            .context("no limit in the verifier's log")?;
        let words: Vec<&str> = rest.split_whitespace().skip(1).collect();
        let named: BTreeMap<&str, &str> = words
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let number = |name: &str| {
            let value = named.get(name);
            let value = value.with_context(|| format!("no {name} in the verifier's log"))?;
            Ok::<u32, anyhow::Error>(value.parse()?)
        };
        Ok(Self {
            instructions: instructions.parse()?,
            total_states: number("total_states")?,
            peak_states: number("peak_states")?,
            max_states_per_instruction: number("max_states_per_insn")?,
            stack,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let log = "verification time 1234 usec\n\
            stack depth 488+0+16\n\
            processed 250113 insns (limit 1000000) max_states_per_insn 22 \
            total_states 9213 peak_states 1405 mark_read 87\n";
        let expect = Statistics {
            instructions: 250_113,
            total_states: 9213,
            peak_states: 1405,
            max_states_per_instruction: 22,
            stack: vec![488, 0, 16],
        };
        assert_eq!(log.parse::<Statistics>().unwrap(), expect);
    }

    #[test]
    fn another_log_is_an_error() {
        for log in ["", "stack depth 8\n", "processed 1 insns (limit 2)\n"] {
            assert!(log.parse::<Statistics>().is_err(), "{log}");
        }
    }
}
