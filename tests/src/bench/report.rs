//! The report in Markdown.

use std::fmt;

use super::{Group, Machine, Measurement, Part, Profile, calls, groups, profile, summary, table};

/// All that was measured, and where, and how to do it again.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    pub machine: &'a Machine,
    pub measurements: &'a [Measurement],
    pub profiles: &'a [Profile],
    /// What was typed.
    pub command: String,
    pub seconds: f64,
    /// Name of each plot's file as seen from the report, and the group's title.
    pub plots: Vec<(String, String)>,
}

const INTRODUCTION: &str = "\
Written by the command below, on one machine and in one run. Absolute figures\n\
differ between machines, and with what else runs there: compare the ratios.\n\
All variants are alive at the same time, each in network namespaces of its own,\n\
and take turns within every repetition. A cell is the median of the repetitions,\n\
and in brackets the least and the most. Ratios are medians of the ratios of each\n\
repetition, at each number of Services; the last column is how the largest number\n\
of Services compares with the smallest.\n";

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Benchmarks\n")?;
        if !self.measurements.is_empty() {
            writeln!(f, "{INTRODUCTION}")?;
        }
        writeln!(f, "```console\n{}\n```\n", self.command)?;
        writeln!(
            f,
            "It took {:.0} seconds.\n\n{}.",
            self.seconds, self.machine
        )?;
        let mut part = None;
        for group in groups(self.measurements) {
            if part != Some(group.part) {
                part = Some(group.part);
                writeln!(
                    f,
                    "\n## {}\n\n{}",
                    group.part.title(),
                    explanation(group.part)
                )?;
            }
            let title = title(&group);
            writeln!(f, "\n### {title}\n")?;
            write_markdown(f, &table(&group))?;
            for (file, _) in self.plots.iter().filter(|(_, of)| *of == title) {
                writeln!(f, "\n![{title}]({file})")?;
            }
        }
        if !self.profiles.is_empty() {
            let explanation = profile::EXPLANATION;
            writeln!(f, "\n## What a packet costs in work\n\n{explanation}\n")?;
            write_markdown(f, &summary(self.profiles))?;
            writeln!(f, "\n### Calls by name\n")?;
            write_markdown(f, &calls(self.profiles))?;
        }
        Ok(())
    }
}

/// Load, unit, and which way is better.
#[must_use]
pub(crate) fn title(group: &Group<'_>) -> String {
    let better = if group.unit.is_rate() { "more" } else { "less" };
    format!(
        "{}, {} ({better} is better)",
        group.load,
        group.unit.label()
    )
}

fn explanation(part: Part) -> &'static str {
    match part {
        Part::Program => super::program::EXPLANATION,
        Part::Traffic => super::traffic::EXPLANATION,
        Part::Control => super::control::EXPLANATION,
    }
}

fn write_markdown(f: &mut fmt::Formatter<'_>, lines: &[Vec<String>]) -> fmt::Result {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (index, line) in lines.iter().enumerate() {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            match column {
                0 => write!(f, "| {cell:width$} ")?,
                _ => write!(f, "| {cell:>width$} ")?,
            }
        }
        writeln!(f, "|")?;
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                match column {
                    0 => write!(f, "| {} ", "-".repeat(*width))?,
                    _ => write!(f, "| {}: ", "-".repeat(width - 1))?,
                }
            }
            writeln!(f, "|")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Unit;

    #[test]
    fn a_table_below_the_name_of_what_was_measured() {
        let measured = |variant: &str, services, sample| Measurement {
            part: Part::Traffic,
            load: "UDP datagrams from a pod".into(),
            variant: variant.into(),
            services: Some(services),
            unit: Unit::PerCpuSecond,
            samples: vec![sample],
        };
        let measurements = [
            measured("plain", 10, 200_000.0),
            measured("ours", 10, 180_000.0),
            measured("plain", 1_000, 200_000.0),
            measured("ours", 1_000, 180_000.0),
        ];
        let title = "UDP datagrams from a pod, per CPU-second (more is better)";
        let report = Report {
            machine: &Machine::describe(),
            measurements: &measurements,
            profiles: &[],
            command: "cargo xtask bench --quick".into(),
            seconds: 61.4,
            plots: vec![("plots/udp.svg".into(), title.into())],
        };
        let text = report.to_string();
        let end = "\
### UDP datagrams from a pod, per CPU-second (more is better)

|       |      10 Services |   1,000 Services |    to plain | 1,000 to 10 |
| ----- | ---------------: | ---------------: | ----------: | ----------: |
| plain | 200k (200k..200k) | 200k (200k..200k) | 1.00 / 1.00 |        1.00 |
| ours  | 180k (180k..180k) | 180k (180k..180k) | 0.90 / 0.90 |        1.00 |

![UDP datagrams from a pod, per CPU-second (more is better)](plots/udp.svg)
";
        let expect: Vec<String> = end.lines().map(squeezed).collect();
        let found: Vec<String> = text.lines().map(squeezed).collect();
        assert!(found.ends_with(&expect), "{text}");
        assert!(text.contains("cargo xtask bench --quick\n"), "{text}");
        assert!(text.contains("It took 61 seconds."), "{text}");
    }

    /// Without what only aligns.
    fn squeezed(line: &str) -> String {
        line.replace([' ', '-'], "")
    }
}
