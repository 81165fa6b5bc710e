//! Whether the Service `web` answers.

use std::{io, time::Duration};

use lb_tests::lab::{Exchange, Family, Lab, Protocol};

use super::{
    PATIENCE,
    site::{NODE_PORT, cluster_ip},
};

/// New connections from a pod and from outside, over both protocols and
/// families; which of them are answered.
pub(crate) fn answered(lab: &Lab, limit: Duration) -> Vec<io::Result<String>> {
    let shell = lab.pod("shell").unwrap();
    let mut answers = Vec::new();
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            let ways = [
                (&shell.netns, cluster_ip(family, 10)),
                (&lab.client().netns, lab.node(1).socket(family, NODE_PORT)),
            ];
            let exchanges = ways.map(|(netns, to)| {
                let exchange = Exchange::new(protocol, to).timeout(limit);
                exchange.run_in(netns).map(|reply| reply.server)
            });
            answers.extend(exchanges);
        }
    }
    answers
}

pub(crate) fn check_works(lab: &Lab, what: &str) {
    let answers = answered(lab, PATIENCE);
    assert!(answers.iter().all(Result::is_ok), "{what}: {answers:?}");
}
