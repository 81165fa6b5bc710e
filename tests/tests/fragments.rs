//! Datagrams in parts, through real stacks.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "fragments/disorder.rs"]
mod disorder;
#[path = "fragments/load.rs"]
mod load;
#[path = "fragments/stage.rs"]
mod stage;

use std::time::Duration;

use lb_tests::lab::{Exchange, Family, Protocol};
use stage::{SERVED, Stage};

/// One byte more than an Ethernet frame takes, and on to what UDP takes.
const LENGTHS: [usize; 7] = [1_473, 1_481, 2_953, 8_000, 20_001, 40_000, 60_000];

#[test]
fn the_kernel_cuts_and_mends_by_xdp() {
    check(&Stage::new("native"));
}

#[test]
fn the_kernel_cuts_and_mends_by_tc() {
    check(&Stage::new("off"));
}

#[test]
fn the_kernel_cuts_and_mends_behind_a_firewall() {
    check(&Stage::tracked("native"));
    check(&Stage::tracked("off"));
}

/// Requests and replies of many lengths, by every way to a Service.
fn check(stage: &Stage) {
    for family in Family::ALL {
        for (service, server) in SERVED {
            stage.for_each_cut_path(service, family, |host, to| {
                for length in LENGTHS {
                    let mut exchange = Exchange::new(Protocol::Udp, to).payload(length);
                    exchange.timeout = Duration::from_secs(5);
                    let what = format!("{length} bytes from {} to {to}", host.name);
                    let reply = exchange.run_in(&host.netns);
                    let reply = reply.unwrap_or_else(|error| {
                        panic!("{what}: {error}; {:?}", stage.counts());
                    });
                    assert_eq!(reply.server, server, "{what}");
                }
            });
        }
    }
    for verdict in ["held", "fragment_lost"] {
        assert_eq!(stage.count(verdict), 0, "{verdict}");
    }
}
