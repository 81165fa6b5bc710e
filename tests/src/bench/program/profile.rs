//! Each way once more, through programs that count what they execute.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::Program;
use lb_agent::{connections::Limits, dataplane::Dataplane};
use lb_common::Hook;

use super::{
    SERVICES,
    node::{self, Node},
    ways::{self, Way},
};
use crate::bench::{
    Progress, floor,
    profile::{Counted, Profile},
};

/// Of a way, for each part of its program.
const PACKETS: u32 = 128;

pub(crate) fn profile(object: &Path, progress: &mut Progress) -> Result<Vec<Profile>> {
    let own = fs::read(object).with_context(|| object.display().to_string())?;
    node::with(object, Limits::default(), |node| {
        node.fill(SERVICES)?;
        let ways = ways::prepare(node)?;
        floor::enter(node.own(), &ways::FLOOR, SERVICES)?;
        progress.part("profile", ways.len() as u64);
        let mut profiles = vec![
            profile_own(node, &own, "empty", "empty program")?,
            profile_own(node, &own, "floor", floor::NAME)?,
        ];
        let mut programs: BTreeMap<&str, Counted> = BTreeMap::new();
        for hook in [Hook::Xdp, Hook::TcIngress, Hook::TcEgress] {
            let (name, program) = node.program(hook)?;
            progress.stage(&format!("counters into {name}"));
            programs.insert(name, Counted::new(Dataplane::object(), name, program)?);
        }
        for way in &ways {
            progress.step(&way.name);
            let (name, _) = node.program(way.place.hook)?;
            let program = programs.get(name).context(name)?;
            profiles.push(profile_way(node, program, way)?);
        }
        Ok(profiles)
    })
}

fn profile_way(node: &mut Node, program: &Counted, way: &Way) -> Result<Profile> {
    program.profile(&way.name, PACKETS, |counted| {
        node.settle()?;
        // What is remembered for a second is known from here on, of each flow.
        let flows = if way.is_new { 1 } else { way.template.flows };
        node.replay(way.place, &way.template, flows, way.verdict)?;
        let template = &way.template;
        node.replay_in_place(counted, way.place, template, PACKETS, way.verdict)?;
        Ok(())
    })
}

fn profile_own(node: &mut Node, object: &[u8], program: &str, name: &str) -> Result<Profile> {
    let loaded: &Program = node.own().program(program).context("program")?;
    let counted = Counted::new(object, program, loaded)?;
    counted.profile(name, PACKETS, |counted| {
        node.replay_in_place_of_own(counted, &ways::floor(), PACKETS)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bench::{CallKind, Span, summary};

    #[test]
    fn small_programs_are_counted_block_by_block() {
        let object = std::env::var_os("LB_BENCH_OBJECT");
        let object = PathBuf::from(object.expect("LB_BENCH_OBJECT is set by cargo xtask test"));
        let own = fs::read(&object).unwrap();
        let profiles = node::with(&object, Limits::default(), |node| {
            floor::enter(node.own(), &ways::FLOOR, 10)?;
            Ok([
                profile_own(node, &own, "empty", "empty")?,
                profile_own(node, &own, "floor", "floor")?,
            ])
        });
        let [empty, floor] = profiles.unwrap();

        let packets = u64::from(PACKETS);
        // Two nops; push; mov; mov eax, 2; leave; ret or a jump to it. Kernels with
        // other mitigations have one or two more.
        let Span { least, most } = empty.instructions;
        assert_eq!(least, most);
        assert!((7..=9).contains(&(least / packets)), "{least}");
        assert_eq!(empty.calls, []);

        let called: Vec<_> = floor
            .calls
            .iter()
            .filter(|(call, _)| call.kind != CallKind::Function)
            .map(|(call, times)| (call.name.as_str(), *times))
            .collect();
        let expect = [
            ("lookup FLOOR_FLOWS", packets),
            ("lookup FLOOR_FRONTENDS", packets),
            ("lookup FLOOR_BACKENDS", packets),
        ];
        assert_eq!(called, expect);
        assert_eq!(summary(&[floor])[1][2..6], ["2", "0", "1", "0"]);
    }
}
