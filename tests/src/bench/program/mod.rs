//! Each way through the pipeline by itself: nanoseconds per packet by
//! BPF_PROG_TEST_RUN, next to a program that does the least.

mod floor;
mod node;
mod ways;

use std::path::Path;

use anyhow::Result;

use self::{node::Node, ways::Way};
use super::measurement::{Measurement, Part, Unit};

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The object with the benchmark's own programs.
    pub object: &'a Path,
    /// Services beside those that packets go to.
    pub services: u32,
    pub repetitions: u32,
    /// Packets of a run.
    pub packets: u32,
}

/// Name of the variant that everything is compared with.
pub const FLOOR: &str = "floor";
/// And of the program that does nothing.
pub const EMPTY: &str = "empty";

/// # Errors
/// The kernel refuses a step, or packets do not go the way they should; needs
/// root.
pub fn run(options: Options<'_>, progress: &mut dyn FnMut(&str)) -> Result<Vec<Measurement>> {
    node::with(options.object, |node| {
        node.fill(options.services)?;
        let ways = ways::prepare(node)?;
        floor::prepare(node, options.services)?;
        let mut all = Vec::new();
        for _ in 0..options.repetitions {
            let mut index = 0;
            let mut take = |load: &str, variant: &str, took: f64| {
                if all.len() == index {
                    all.push(measurement(load, variant, options.services));
                }
                all[index].samples.push(took);
                index += 1;
            };
            take("nothing", EMPTY, node.run_own("empty", options.packets)?);
            let took = node.replay_own("floor", &ways::floor(), options.packets)?;
            take("established, one hot flow", FLOOR, took);
            for way in &ways {
                take(&way.name, "ours", measure(node, way, options.packets)?);
            }
        }
        Ok(all)
    })
}

fn measure(node: &mut Node, way: &Way, packets: u32) -> Result<f64> {
    node.replay(way.place, &way.template, packets, way.verdict)
}

fn measurement(load: &str, variant: &str, services: u32) -> Measurement {
    Measurement {
        part: Part::Program,
        load: load.to_owned(),
        variant: variant.to_owned(),
        services: Some(services),
        unit: Unit::Nanoseconds,
        samples: Vec::new(),
    }
}
