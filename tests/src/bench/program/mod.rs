//! Each way through the pipeline by itself: nanoseconds per packet by
//! BPF_PROG_TEST_RUN, next to a program that does the least.

mod node;
mod profile;
mod ways;

use anyhow::Result;
use lb_agent::connections::Limits;

use self::{node::Node, ways::Way};
use super::{Measurement, Options, Part, Progress, Unit, floor};

pub(crate) use self::profile::profile;

pub(crate) const EXPLANATION: &str = "\
By `BPF_PROG_TEST_RUN`: nanoseconds for each packet, gross, so that an empty program\n\
costs something as well. Every packet of a run is the same, but for those of new\n\
flows and of many flows, and every one must come to the verdict that its way has, or\n\
the benchmark fails. A small program writes each frame anew and calls the one that is\n\
timed; what that takes is taken off. The *floor program* does the least that still\n\
translates: parse, one look at the frontends, one at the connections, rewrite. Packets\n\
of new flows find room in the table, whose memory is cold; a *small table* is one of\n\
the least size that there is, which a CPU's cache holds.";

/// Services beside those that packets go to.
const SERVICES: u32 = 10_000;

/// Unassured connections that the small table is for.
const SMALL: u32 = 1 << 10;

struct Effort {
    repetitions: u32,
    /// Packets of a run.
    packets: u32,
}

const FULL: Effort = Effort {
    repetitions: 5,
    packets: 500_000,
};
const QUICK: Effort = Effort {
    repetitions: 3,
    packets: 200_000,
};

pub(crate) fn run(options: &Options, progress: &mut Progress) -> Result<Vec<Measurement>> {
    let effort = if options.quick { QUICK } else { FULL };
    progress.part("programs", 2 * u64::from(effort.repetitions));
    let measure = |limits, prepare: fn(&mut Node) -> Result<Vec<Way>>| {
        node::with(&options.object, limits, |node| {
            node.fill(SERVICES)?;
            let ways = prepare(node)?;
            floor::enter(node.own(), &ways::FLOOR, SERVICES)?;
            let mut all = Vec::new();
            for repetition in 1..=effort.repetitions {
                progress.step(&format!("round {repetition}"));
                take(node, &ways, &effort, &mut all)?;
            }
            Ok(all)
        })
    };
    let mut all = measure(Limits::default(), ways::prepare)?;
    let small = Limits {
        unassured: SMALL,
        ..Limits::default()
    };
    let in_small = measure(small, ways::prepare_small)?.into_iter();
    all.extend(in_small.filter(|measured| measured.variant.ends_with(ways::SMALL)));
    Ok(all)
}

/// One sample of each.
fn take(node: &mut Node, ways: &[Way], effort: &Effort, all: &mut Vec<Measurement>) -> Result<()> {
    let empty = node.run_own("empty", effort.packets)?;
    let [replayed, floor] =
        ["empty", "floor"].map(|name| node.replay_own(name, &ways::floor(), effort.packets));
    // What it takes to hand over a frame as it was is none of the programs'.
    let replay = (replayed? - empty).max(0.0);
    let mut samples = vec![("empty program", empty), (floor::NAME, floor? - replay)];
    for way in ways {
        node.settle()?;
        let packets = if way.is_new {
            ways::ROOM
        } else {
            effort.packets
        };
        let took = node.replay(way.place, &way.template, packets, way.verdict)?;
        samples.push((&way.name, took - replay));
    }
    if all.is_empty() {
        all.extend(samples.iter().map(|(variant, _)| measurement(variant)));
    }
    for (measured, (_, took)) in all.iter_mut().zip(samples) {
        measured.samples.push(took);
    }
    Ok(())
}

fn measurement(variant: &str) -> Measurement {
    Measurement {
        part: Part::Program,
        load: "one packet".to_owned(),
        variant: variant.to_owned(),
        services: Some(SERVICES),
        unit: Unit::Nanoseconds,
        samples: Vec::new(),
    }
}
