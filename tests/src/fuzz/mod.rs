//! Packets of every kind through the loaded programs, and through a model of
//! what they are to do: what comes out must be the same, byte by byte.

mod counters;
mod difference;
mod flow;
mod generate;
mod make;
mod model;
mod mutate;
mod node;
mod place;
mod play;
mod ports;
mod sequence;
mod shrink;
mod tables;
mod world;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::{difference::Difference, play::Player, sequence::Sequence, world::World};

/// A sequence takes milliseconds, and the kernel's clock goes on: what comes out
/// of one that was held up for so long says nothing.
const STALL: Duration = Duration::from_millis(200);

/// Sequences between looks for what the model does not know of.
const CLEAN_EVERY: u64 = 1024;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packets to send, at least.
    pub packets: u64,
    /// The sequence to begin with; the next ones count up from it.
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub packets: u64,
    /// Sequences that were sent whole.
    pub sequences: u64,
    /// Those that came out otherwise while they were held up, or once only.
    pub stalled: u64,
    /// Packets by hook and verdict.
    pub verdicts: BTreeMap<(&'static str, &'static str), u64>,
    /// The first difference, for a person to read.
    pub failure: Option<String>,
}

/// Sends packets until there are enough, or one comes out wrong.
///
/// # Errors
/// The kernel refuses a step; needs root.
pub fn run(options: Options) -> Result<Report> {
    let world = World::new();
    node::with(&world, |node| {
        let mut player = Player::new(node, &world);
        let mut report = Report {
            packets: 0,
            sequences: 0,
            stalled: 0,
            verdicts: BTreeMap::new(),
            failure: None,
        };
        while report.packets < options.packets {
            let seed = options.seed.wrapping_add(report.sequences);
            let sequence = generate::sequence(&world, seed);
            let began = Instant::now();
            let (sent, difference) = match player.play(&sequence) {
                Ok(played) => played,
                // What is there twice is no accident.
                Err(_) => player
                    .play(&sequence)
                    .with_context(|| format!("sequence {seed}"))?,
            };
            report.packets += sent;
            if difference.is_some() && began.elapsed() > STALL {
                report.stalled += 1;
            } else if let Some(difference) = difference {
                let (text, recurs) = explain(&mut player, &sequence, &difference)?;
                if !recurs {
                    eprintln!("sequence {seed}: {text}");
                    report.stalled += 1;
                    report.sequences += 1;
                    continue;
                }
                report.failure = Some(format!(
                    "packet {}, again with `cargo xtask fuzz --seed {seed} --packets 1`\n{text}",
                    report.packets
                ));
                break;
            }
            report.sequences += 1;
            if report.sequences.is_multiple_of(CLEAN_EVERY) {
                player.ensure_clean()?;
            }
        }
        player.ensure_clean()?;
        report.verdicts = player.verdicts();
        Ok(report)
    })
}

/// The difference in its simplest form, and whether it came again.
fn explain(
    player: &mut Player<'_>,
    sequence: &Sequence,
    difference: &Difference,
) -> Result<(String, bool)> {
    let mut text = String::new();
    let (simplest, again) = shrink::shrink(player, sequence)?;
    let recurs = again.is_some();
    if !recurs {
        text += "it did not happen again\n";
    }
    let difference = again.as_ref().unwrap_or(difference);
    let steps = &simplest.steps[..=difference.step];
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{difference}xdp {}, quota {}, steps:",
        simplest.has_xdp, simplest.quota
    );
    for step in steps {
        let _ = writeln!(text, "  {step:?} of {:?}", simplest.talks[step.talk]);
    }
    Ok((text, recurs))
}
