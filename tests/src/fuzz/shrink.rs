//! The shortest and simplest sequence that still comes out wrong.

use anyhow::Result;

use super::{
    difference::Difference,
    play::Player,
    sequence::{Content, Sequence, Step, What},
};

/// Tries of each sequence: what the programs draw is theirs.
const TRIES: usize = 4;

/// Returns the sequence itself without a difference if it does not fail again.
pub(crate) fn shrink(
    player: &mut Player<'_>,
    sequence: &Sequence,
) -> Result<(Sequence, Option<Difference>)> {
    let mut best = sequence.clone();
    let mut difference = fails(player, &best, 4 * TRIES)?;
    let Some(found) = &difference else {
        return Ok((best, None));
    };
    best.steps.truncate(found.step + 1);
    loop {
        let mut better = None;
        for simpler in simpler(&best) {
            if let Some(found) = fails(player, &simpler, TRIES)? {
                better = Some((simpler, found));
                break;
            }
        }
        let Some((simpler, found)) = better else {
            return Ok((best, difference));
        };
        best = simpler;
        best.steps.truncate(found.step + 1);
        difference = Some(found);
    }
}

fn fails(player: &mut Player<'_>, sequence: &Sequence, tries: usize) -> Result<Option<Difference>> {
    for _ in 0..tries {
        if let (_, Some(difference)) = player.play(sequence)? {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

/// Sequences with something left out, the most first.
fn simpler(sequence: &Sequence) -> impl Iterator<Item = Sequence> {
    let count = sequence.steps.len();
    let sizes = [count / 2, count / 4, 1].into_iter();
    let cuts = sizes.filter(|size| *size > 0).flat_map(move |size| {
        (0..count.saturating_sub(size))
            .step_by(size)
            .map(move |from| (from, size))
    });
    let shorter = cuts.map(|(from, size)| {
        let mut shorter = sequence.clone();
        shorter.steps.drain(from..from + size);
        shorter
    });
    let plainer = (0..count).flat_map(move |index| {
        let steps = plainer(&sequence.steps[index]);
        steps.map(move |step| {
            let mut plainer = sequence.clone();
            plainer.steps[index] = step;
            plainer
        })
    });
    let talks = (0..sequence.talks.len()).flat_map(move |index| {
        let talk = &sequence.talks[index];
        let is_decorated = !talk.tags.is_empty()
            || talk.options > 0
            || !talk.extensions.is_empty()
            || talk.is_unsummed;
        is_decorated.then(|| {
            let mut plainer = sequence.clone();
            let talk = &mut plainer.talks[index];
            talk.tags.clear();
            talk.options = 0;
            talk.extensions.clear();
            talk.is_unsummed = false;
            plainer
        })
    });
    shorter.chain(plainer).chain(talks)
}

fn plainer(step: &Step) -> impl Iterator<Item = Step> {
    let edits = (0..step.edits.len()).map(|index| {
        let mut plainer = step.clone();
        plainer.edits.remove(index);
        plainer
    });
    let (What::Request(content) | What::Reply(content)) = &step.what else {
        return edits.collect::<Vec<_>>().into_iter();
    };
    let plain = Content {
        hops: 64,
        mac: None,
        payload: 0,
        part: None,
        ..content.clone()
    };
    let is_plain = content.hops == 64
        && content.mac.is_none()
        && content.payload == 0
        && content.part.is_none();
    let content = (!is_plain).then(|| {
        let mut plainer = step.clone();
        plainer.what = match &step.what {
            What::Request(_) => What::Request(plain),
            _ => What::Reply(plain),
        };
        plainer
    });
    edits.chain(content).collect::<Vec<_>>().into_iter()
}
