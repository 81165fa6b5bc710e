//! Nodes that filter what they forward.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_tests::lab::{Exchange, Family, Host, Lab, Protocol, Service};

use super::{
    rows::Frontend::{self, ClusterIp, NodePort},
    stage::{PATIENCE, Stage},
};

/// Ends before TCP repeats its SYN, so that each attempt is one packet to count.
const REFUSAL: Duration = Duration::from_millis(900);

/// Loads the ruleset into every node: closed by default, and closed to the
/// barred pods towards the backend of node 1.
pub(crate) fn install(lab: &Lab) -> Result<()> {
    let pod = |name: &str| lab.pod(name).context("made with the stage");
    let (one, two) = (pod("barred1")?.addresses, pod("barred2")?.addresses);
    let backend = pod("backend1")?.addresses;
    let ruleset = format!(
        "table inet filter {{
            counter barred {{}}
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state invalid drop
                ct state established,related accept
                iifname lo accept
                meta l4proto {{ icmp, ipv6-icmp }} accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state invalid drop
                ip saddr {{ {}, {} }} ip daddr {} counter name barred drop
                ip6 saddr {{ {}, {} }} ip6 daddr {} counter name barred drop
                ct state established,related accept
                iifname \"veth-*\" accept
                oifname \"veth-*\" accept
            }}
        }}
        ",
        one.v4, two.v4, backend.v4, one.v6, two.v6, backend.v6,
    );
    lab.nodes()
        .iter()
        .try_for_each(|node| node.netns.nft(&ruleset))
}

/// The barred pods reach the backend of node 1 in no way that keeps their
/// address, and that of node 2 in all of them.
pub(crate) fn check(stage: &Stage) -> Result<()> {
    let before = barred(stage.lab())?;
    let mut attempts = Vec::new();
    for from in [1, 2] {
        let ways = [None, Some(ClusterIp), Some(NodePort(from))];
        // From pod 1 by way of node 2 a backend of node 1 sees node 2.
        let kept = (from == 2).then_some(Some(NodePort(1)));
        for way in ways.into_iter().chain(kept) {
            for (protocol, family) in transports() {
                attempts.push(Attempt {
                    from,
                    way,
                    protocol,
                    family,
                });
            }
        }
    }
    // All at once: each of them waits in vain.
    thread::scope(|scope| {
        for attempt in &attempts {
            scope.spawn(move || {
                let reply = attempt.run(stage, 1, REFUSAL);
                assert!(reply.is_err(), "{attempt:?}: {reply:?}");
            });
        }
    });
    let dropped = barred(stage.lab())? - before;
    assert!(dropped >= attempts.len() as u64, "{dropped} dropped");

    for attempt in attempts {
        let reply = attempt.run(stage, 2, PATIENCE);
        assert_eq!(reply.as_deref(), Ok("backend2"), "{attempt:?}");
    }
    Ok(())
}

fn transports() -> impl Iterator<Item = (Protocol, Family)> {
    let families = |protocol| Family::ALL.map(|family| (protocol, family));
    Protocol::ALL.into_iter().flat_map(families)
}

#[derive(Debug)]
struct Attempt {
    from: u8,
    /// `None`: the backend's own address.
    way: Option<Frontend>,
    protocol: Protocol,
    family: Family,
}

impl Attempt {
    /// Name of who answers.
    fn run(&self, stage: &Stage, backend: u8, limit: Duration) -> Result<String, String> {
        let to: SocketAddr = match self.way {
            Some(frontend) => frontend.address(stage, backend, self.family),
            None => stage
                .backend(backend)
                .socket(self.family, Service::TARGET_PORT),
        };
        let exchange = Exchange::new(self.protocol, to).timeout(limit);
        let from = stage.pod("barred", self.from);
        let from: &Host = &from;
        let reply = exchange.run_in(&from.netns);
        reply
            .map(|reply| reply.server)
            .map_err(|error| error.to_string())
    }
}

/// Packets that the rule has dropped on all nodes.
fn barred(lab: &Lab) -> Result<u64> {
    let count = |node: &Host| {
        let mut command = node.netns.command("nft")?;
        let output = command
            .args(["list", "counter", "inet", "filter", "barred"])
            .output()?;
        ensure!(output.status.success(), "nft list counter");
        let text = String::from_utf8(output.stdout)?;
        let count = text.split("packets ").nth(1).context("no counter")?;
        Ok(count.split(' ').next().unwrap_or_default().parse::<u64>()?)
    };
    lab.nodes().iter().map(count).sum()
}
