//! Whether an outcome is the one that the file asks for.

use std::net::{IpAddr, SocketAddr};

use super::{
    judge::Outcome,
    place::Source,
    scenario::{Expect, Flow, Scenario, Verdict},
};

/// What the backend is to see as the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Client,
    Node,
    Either,
}

/// What is expected instead, if this is not it. `local` tells of an endpoint
/// whether it is on this node.
pub(crate) fn check(
    outcome: &Outcome,
    flow: &Flow,
    source: Source,
    scenario: &Scenario,
    local: impl Fn(SocketAddr) -> bool,
) -> Result<(), String> {
    let expect = &flow.expect;
    match (expect.verdict, outcome) {
        (Verdict::Reject, Outcome::Rejected)
        | (Verdict::Drop, Outcome::Dropped)
        | (Verdict::Pass, Outcome::Passed) => Ok(()),
        (
            Verdict::Dnat,
            Outcome::Sent {
                source: seen,
                destination,
            },
        ) if expect.endpoints.contains(destination) => {
            let must = if scenario.options.masquerade_all {
                as_masqueraded(expect, source, *destination)
            } else {
                as_needed(flow, source, scenario, *destination, local(*destination))
            };
            check_source(seen.ip(), flow.src, must, scenario)
        }
        _ => Err(wanted(expect)),
    }
}

fn wanted(expect: &Expect) -> String {
    let endpoints: Vec<String> = expect.endpoints.iter().map(ToString::to_string).collect();
    match expect.verdict {
        Verdict::Dnat => format!("dnat to {}", endpoints.join(" or ")),
        Verdict::Reject => "reject".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Pass => "pass".to_owned(),
    }
}

fn check_source(
    seen: IpAddr,
    client: IpAddr,
    must: Seen,
    scenario: &Scenario,
) -> Result<(), String> {
    let is_nodes = scenario.node.ips.contains(&seen);
    let right = match must {
        Seen::Client => seen == client,
        Seen::Node => is_nodes,
        Seen::Either => seen == client || is_nodes,
    };
    if right {
        return Ok(());
    }
    Err(match must {
        Seen::Client => format!("the source {client} kept"),
        Seen::Node => "an address of the node as source".to_owned(),
        Seen::Either => format!("{client} or an address of the node as source"),
    })
}

/// As kube-proxy does it.
fn as_masqueraded(expect: &Expect, source: Source, endpoint: SocketAddr) -> Seen {
    let listed = expect.masquerade_endpoints.as_ref();
    let masqueraded = listed.map_or(expect.masquerade, |listed| listed.contains(&endpoint));
    match source {
        // It is the node's own before and after.
        Source::Node => Seen::Either,
        _ if masqueraded => Seen::Node,
        _ => Seen::Client,
    }
}

/// Only where the reply would not come back to this node otherwise.
fn as_needed(
    flow: &Flow,
    source: Source,
    scenario: &Scenario,
    endpoint: SocketAddr,
    local: bool,
) -> Seen {
    match source {
        Source::Node => Seen::Either,
        Source::Unanswerable => Seen::Node,
        Source::Pod if endpoint.ip() == flow.src => Seen::Node,
        Source::Pod => Seen::Client,
        Source::Outside if endpoint.ip() == flow.src => Seen::Either,
        Source::Outside if local || scenario.node.ips.contains(&endpoint.ip()) => Seen::Client,
        Source::Outside => Seen::Node,
    }
}
