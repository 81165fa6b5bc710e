//! The figures as a table, in Markdown.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context, Result};

use super::{LIMIT, Program};

/// All programs, and the version of the kernel that walked through them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub kernel: String,
    pub programs: Vec<Program>,
}

/// The version of the running kernel, what its distributor appends aside.
///
/// # Errors
/// /proc cannot be read.
pub fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = release.trim().split('-').next().unwrap_or_default();
    Ok(version.to_owned())
}

impl Table {
    /// Kernel, and instructions by row, of a table that was written earlier.
    ///
    /// # Errors
    /// It is not such a table.
    pub fn read(text: &str) -> Result<(String, BTreeMap<String, u32>)> {
        let kernel = text.lines().find_map(|line| line.strip_prefix(KERNEL));
        let kernel = kernel.with_context(|| format!("no line that begins with `{KERNEL}`"))?;
        let mut rows = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, name, instructions, ..] = cells[..] else {
                anyhow::bail!("no figure in `{line}`");
            };
            let digits: String = instructions.chars().filter(|&c| c != ',').collect();
            let figure = digits.parse().with_context(|| format!("in `{line}`"))?;
            rows.insert(name.to_owned(), figure);
        }
        Ok((kernel.trim_end_matches('.').to_owned(), rows))
    }

    /// The name of a program's row.
    #[must_use]
    pub fn row(program: &Program) -> String {
        let suffix = if program.traced { ", traced" } else { "" };
        format!("`{}`{suffix}", program.name)
    }
}

const KERNEL: &str = "On Linux ";

const HEAD: [&str; 8] = [
    "program",
    "instructions",
    "of the limit",
    "states",
    "at once",
    "stack",
    "loaded",
    "machine code",
];

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# The verifier's work\n")?;
        writeln!(
            f,
            "What the kernel's verifier walks through before it lets a program in, as\n\
             `cargo xtask verifier --write` found it. The kernel gives up at {}\n\
             instructions. Stack is in bytes, of the program and of each function that it\n\
             calls; loaded are the instructions that the verifier left, in bytes. Traced is\n\
             what `--trace-packets` loads.\n",
            grouped(LIMIT)
        )?;
        writeln!(f, "{KERNEL}{}.\n", self.kernel)?;
        let lines = [HEAD.map(str::to_owned)].into_iter();
        let lines: Vec<_> = lines.chain(self.programs.iter().map(cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
        let widths: [usize; 8] = std::array::from_fn(|column| width(column).unwrap_or_default());
        for (index, line) in lines.iter().enumerate() {
            write_line(f, line, &widths)?;
            if index == 0 {
                write_line(f, &rule(&widths), &widths)?;
            }
        }
        Ok(())
    }
}

fn cells(program: &Program) -> [String; 8] {
    let statistics = &program.statistics;
    let stack: Vec<String> = statistics.stack.iter().map(u32::to_string).collect();
    let share = f64::from(statistics.instructions) * 100.0 / f64::from(LIMIT);
    [
        Table::row(program),
        grouped(statistics.instructions),
        format!("{share:.1} %"),
        grouped(statistics.total_states),
        grouped(statistics.peak_states),
        stack.join("+"),
        grouped(program.loaded),
        grouped(program.jited),
    ]
}

/// Numbers are aligned to the right.
fn rule(widths: &[usize; 8]) -> [String; 8] {
    std::array::from_fn(|column| match column {
        0 => "-".repeat(widths[column]),
        _ => format!("{}:", "-".repeat(widths[column] - 1)),
    })
}

fn write_line(f: &mut fmt::Formatter<'_>, cells: &[String; 8], widths: &[usize; 8]) -> fmt::Result {
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        match column {
            0 => write!(f, "| {cell:width$} ")?,
            _ => write!(f, "| {cell:>width$} ")?,
        }
    }
    f.write_str("|\n")
}

/// 1234567 as `1,234,567`.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::Statistics;

    #[test]
    fn what_is_written_is_read() {
        let program = |name: &str, traced, instructions| Program {
            name: name.to_owned(),
            traced,
            statistics: Statistics {
                instructions,
                total_states: 1,
                peak_states: 1000,
                max_states_per_instruction: 1,
                stack: vec![488, 0],
            },
            loaded: 65_432,
            jited: 123_456,
        };
        let table = Table {
            kernel: "6.18.1".to_owned(),
            programs: vec![
                program("lb_xdp", false, 999),
                program("lb_xdp", true, 1_234_567),
            ],
        };
        let text = table.to_string();
        let rows = [("`lb_xdp`", 999), ("`lb_xdp`, traced", 1_234_567)];
        let rows = rows.map(|(name, figure)| (name.to_owned(), figure));
        let read = Table::read(&text).unwrap();
        assert_eq!(read, ("6.18.1".to_owned(), BTreeMap::from(rows)), "{text}");
    }
}
