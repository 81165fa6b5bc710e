//! Profiles as tables.

use super::{CallKind, Profile};

/// Lines of cells, the head first: a row for each way, each figure for one packet.
#[must_use]
pub fn summary(profiles: &[Profile]) -> Vec<Vec<String>> {
    let kinds = [
        (CallKind::HashLookup, "hash lookups"),
        (CallKind::HashWrite, "hash writes"),
        (CallKind::ArrayLookup, "array lookups"),
        (CallKind::Helper, "other helpers"),
        (CallKind::Function, "functions"),
    ];
    let mut head = vec![String::new(), "instructions".to_owned()];
    head.extend(kinds.iter().map(|(_, title)| (*title).to_owned()));
    let row = |profile: &Profile| {
        let mut line = vec![profile.name.clone(), instructions(profile)];
        line.extend(kinds.iter().map(|(kind, _)| {
            let own = profile.calls.iter().filter(|(call, _)| call.kind == *kind);
            per_packet(own.map(|(_, times)| times).sum(), profile.packets)
        }));
        line
    };
    [head].into_iter().chain(profiles.iter().map(row)).collect()
}

/// As [`summary`]: what is called, by name.
#[must_use]
pub fn calls(profiles: &[Profile]) -> Vec<Vec<String>> {
    let head = vec![String::new(), "calls".to_owned()];
    let row = |profile: &Profile| {
        let own = profile.calls.iter();
        let own = own.filter(|(call, _)| call.kind != CallKind::Function);
        let named = own.map(|(call, times)| {
            let times = per_packet(*times, profile.packets);
            match times.as_str() {
                "1" => call.name.clone(),
                _ => format!("{times} {}", call.name),
            }
        });
        vec![profile.name.clone(), named.collect::<Vec<_>>().join(", ")]
    };
    [head].into_iter().chain(profiles.iter().map(row)).collect()
}

fn instructions(profile: &Profile) -> String {
    let [least, most] = [profile.instructions.least, profile.instructions.most]
        .map(|all| format!("{:.0}", all as f64 / f64::from(profile.packets)));
    if least == most {
        return least;
    }
    format!("{least}..{most}")
}

fn per_packet(times: u64, packets: u32) -> String {
    let packets = u64::from(packets);
    match times % packets {
        0 => (times / packets).to_string(),
        _ => format!("{:.2}", times as f64 / packets as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::profile::{Call, Span};

    #[test]
    fn each_figure_is_for_one_packet() {
        let call = |kind, name: &str| Call {
            kind,
            name: name.into(),
        };
        let profile = Profile {
            name: "reply".into(),
            packets: 4,
            instructions: Span {
                least: 400,
                most: 412,
            },
            calls: vec![
                (call(CallKind::HashLookup, "lookup ASSURED"), 8),
                (call(CallKind::Helper, "redirect"), 4),
                (call(CallKind::Helper, "fib_lookup"), 1),
                (call(CallKind::Function, "own function"), 4),
            ],
        };
        let lines = summary(std::slice::from_ref(&profile));
        assert_eq!(lines[1], ["reply", "100..103", "2", "0", "0", "1.25", "1"]);
        let lines = calls(&[profile]);
        assert_eq!(
            lines[1],
            ["reply", "2 lookup ASSURED, redirect, 0.25 fib_lookup"]
        );
    }
}
