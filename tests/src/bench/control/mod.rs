//! The control path: objects to maps, by itself and as a whole agent.

mod cluster;
mod in_process;
mod pinned;
mod process;
mod rulesets;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::{
    cluster::Scale,
    rulesets::{Loader, load_ruleset},
};
use super::{Measurement, Options, Part, Progress, Summary, Unit, traffic};
use crate::lab::{Lab, LabOptions};

pub(crate) const EXPLANATION: &str = "\
*Objects to maps* is one process with all objects in its memory; *process to maps* is\n\
the agent, from its start until an API server that has all objects sees it in sync.\n\
*API to map* is from just before the change is given to the API server until the pinned\n\
maps lead to the new endpoint. The rolling update is 1,000 changes at 100 a second, and\n\
its CPU time is the agent's. Memory is resident, three seconds after the last change.\n\
*nftables* and *iptables* are `nft -f` and `iptables-legacy-restore` of the ruleset that\n\
kube-proxy has for as many Services, without kube-proxy's own work.";

struct Effort {
    scales: &'static [Scale],
    repetitions: u32,
}

const FULL: Effort = Effort {
    scales: &Scale::ALL,
    repetitions: 2,
};
const QUICK: Effort = Effort {
    scales: &[Scale::new(10, 3), Scale::new(1_000, 3)],
    repetitions: 1,
};

/// Services of which others take a ruleset in reasonable time.
const RULESETS: u32 = 10_000;

pub(crate) fn run(options: &Options, progress: &mut Progress) -> Result<Vec<Measurement>> {
    let Effort {
        scales,
        repetitions,
    } = if options.quick { QUICK } else { FULL };
    progress.part("control path", u64::from(repetitions) * scales.len() as u64);
    let mut table = Table::default();
    for repetition in 1..=repetitions {
        for &scale in scales {
            let Scale {
                services,
                endpoints,
            } = scale;
            progress.step(&format!(
                "{services} Services of {endpoints} endpoints, round {repetition}"
            ));
            in_process(scale, &mut table)?;
            process(scale, &mut table)?;
            if services <= RULESETS && endpoints == 3 {
                others(scale, &mut table)?;
            }
        }
    }
    Ok(table.rows)
}

/// The same Services, for those that we replace.
fn others(scale: Scale, table: &mut Table) -> Result<()> {
    let lab = Lab::new(&LabOptions {
        nodes: 1,
        ..LabOptions::default()
    })?;
    let (nft, iptables) = traffic::rulesets(scale.services);
    for (variant, loader, ruleset) in [
        ("nftables", Loader::Nft, nft),
        ("iptables", Loader::IptablesRestore, iptables),
    ] {
        let took = load_ruleset(&lab.node(1).netns, loader, &ruleset)?;
        let load = "start, objects to maps";
        table.add_for(variant, scale, load, Unit::Milliseconds, milliseconds(took));
    }
    Ok(())
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
        self.add_for("ours", scale, load, unit, value);
    }

    fn add_for(&mut self, variant: &str, scale: Scale, load: &str, unit: Unit, value: f64) {
        let load = match scale.endpoints {
            3 => load.to_owned(),
            many => format!("{load}, {many} endpoints each"),
        };
        let services = Some(scale.services);
        let mut rows = self.rows.iter_mut();
        let is_it = |row: &&mut Measurement| {
            (row.load == load, row.variant == variant, row.services) == (true, true, services)
        };
        match rows.find(is_it) {
            Some(row) => row.samples.push(value),
            None => self.rows.push(Measurement {
                part: Part::Control,
                load,
                variant: variant.to_owned(),
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
