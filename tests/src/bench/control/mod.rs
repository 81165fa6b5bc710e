//! The control path: objects to maps, by itself and as a whole agent.

mod cluster;
mod in_process;
mod pinned;
mod process;
mod rulesets;

use std::time::Duration;

use anyhow::{Context as _, Result};

pub use self::{
    cluster::Scale,
    rulesets::{Loader, load_ruleset},
};
use super::{Measurement, Part, Summary, Unit};
use crate::lab::{Lab, LabOptions};

/// Measures each scale `repetitions` times over. Says what it is at.
///
/// # Errors
/// The lab cannot be made, or an agent does not do its work.
pub fn run(
    scales: &[Scale],
    repetitions: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Measurement>> {
    let mut table = Table::default();
    for repetition in 1..=repetitions {
        for &scale in scales {
            let Scale {
                services,
                endpoints,
            } = scale;
            progress(&format!(
                "control path, {services} services of {endpoints} endpoints, {repetition} of {repetitions}"
            ));
            in_process(scale, &mut table)?;
            process(scale, &mut table)?;
        }
    }
    Ok(table.rows)
}

fn in_process(scale: Scale, table: &mut Table) -> Result<()> {
    let lab = Lab::new(&LabOptions {
        nodes: 1,
        ..LabOptions::default()
    })?;
    let times = in_process::run(scale, &lab.pins(1))?;
    let mut add = |load, value| table.add(scale, load, Unit::Milliseconds, value);
    add("start, objects to maps", milliseconds(times.cold_start));
    let cpu = milliseconds(times.cold_start_cpu);
    add("start, objects to maps, CPU", cpu);
    let [median, late] = quantiles(&times.changes)?;
    add("one endpoint, own work, median", median);
    add("one endpoint, own work, p99", late);
    Ok(())
}

fn process(scale: Scale, table: &mut Table) -> Result<()> {
    let times = process::run(scale)?;
    let mut add = |load, unit, value| table.add(scale, load, unit, value);
    let cold_start = milliseconds(times.cold_start);
    add("start, process to maps", Unit::Milliseconds, cold_start);
    let cpu = times.start_cpu.as_secs_f64();
    add("start, process to maps, CPU", Unit::CpuSeconds, cpu);
    let [median, late] = quantiles(&times.single)?;
    add(
        "one endpoint, API to map, median",
        Unit::Milliseconds,
        median,
    );
    add("one endpoint, API to map, p99", Unit::Milliseconds, late);
    let [median, late] = quantiles(&times.rolling)?;
    add("rolling update, median", Unit::Milliseconds, median);
    add("rolling update, p99", Unit::Milliseconds, late);
    let cpu = times.rolling_cpu.as_secs_f64();
    add("rolling update, CPU", Unit::CpuSeconds, cpu);
    for (load, bytes) in [
        ("memory at rest", times.memory),
        ("memory after the rolling update", times.memory_after),
        ("memory at its peak", times.memory_peak),
    ] {
        add(load, Unit::Mebibytes, bytes as f64 / f64::from(1 << 20));
    }
    Ok(())
}

#[derive(Default)]
struct Table {
    rows: Vec<Measurement>,
}

impl Table {
    fn add(&mut self, scale: Scale, load: &str, unit: Unit, value: f64) {
        let load = match scale.endpoints {
            3 => load.to_owned(),
            many => format!("{load}, {many} endpoints each"),
        };
        let services = Some(scale.services);
        let mut rows = self.rows.iter_mut();
        match rows.find(|row| row.load == load && row.services == services) {
            Some(row) => row.samples.push(value),
            None => self.rows.push(Measurement {
                part: Part::Control,
                load,
                variant: "lb".to_owned(),
                services,
                unit,
                samples: vec![value],
            }),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Median, and what 99 of 100 do not exceed.
fn quantiles(times: &[Duration]) -> Result<[f64; 2]> {
    let mut sorted: Vec<f64> = times.iter().copied().map(milliseconds).collect();
    sorted.sort_by(f64::total_cmp);
    let summary = Summary::of(&sorted).context("nothing was measured")?;
    let late = sorted[(sorted.len() * 99).div_ceil(100) - 1];
    Ok([summary.median, late])
}
