//! 200 connections that transfer, new ones all the time, and datagrams: from a
//! pod and from outside, in both families.

use std::{
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{Family, Lab, Load, LoadOptions};

use super::{
    datagrams::Datagrams,
    site::{NODE_PORT, cluster_ip},
};

const CONNECTIONS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Traffic {
    loads: Vec<Load>,
    datagrams: Vec<Datagrams>,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab) -> Self {
        let shell = lab.pod("shell").unwrap();
        let (mut loads, mut datagrams) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let ways = [
                (&shell.netns, cluster_ip(family, 10)),
                (&lab.client().netns, lab.node(1).socket(family, NODE_PORT)),
            ];
            for (netns, to) in ways {
                let options = LoadOptions {
                    kept: CONNECTIONS / 4,
                    fresh: 1,
                    pause: Duration::from_millis(100),
                    limit: Duration::from_secs(20),
                    ..LoadOptions::default()
                };
                loads.push(Load::start(netns, to, options).unwrap());
                datagrams.push(Datagrams::start(netns, to));
            }
        }
        let traffic = Self { loads, datagrams };
        traffic.progress();
        traffic
    }

    /// Waits until every sender has done more: each kept connection has
    /// transferred, new ones were opened and datagrams answered.
    pub(crate) fn progress(&self) {
        let goal: Vec<_> = self
            .counts()
            .iter()
            .map(|[connections, exchanges, datagrams]| {
                [
                    connections + 5,
                    exchanges + 2 * CONNECTIONS as u64,
                    datagrams + 50,
                ]
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.counts();
            let is_reached = |(now, goal): (&[u64; 3], &[u64; 3])| {
                now.iter().zip(goal).all(|(now, goal)| now >= goal)
            };
            if now.iter().zip(&goal).all(is_reached) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{now:?}, not {goal:?}: {:?}",
                self.failures()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it all; returns what failed, and how much did not.
    pub(crate) fn stop(self) -> (Vec<String>, String) {
        let counts = self.counts();
        let mut failures = Vec::new();
        for load in self.loads {
            failures.extend(load.stop().failures);
        }
        for datagrams in self.datagrams {
            failures.extend(datagrams.stop());
        }
        let sum = |place: usize| counts.iter().map(|count| count[place]).sum::<u64>();
        let done = format!(
            "{} connections, {} exchanges, {} datagrams",
            sum(0),
            sum(1),
            sum(2)
        );
        (failures, done)
    }

    /// Connections, exchanges and datagrams of each sender.
    fn counts(&self) -> Vec<[u64; 3]> {
        let each = self.loads.iter().zip(&self.datagrams);
        each.map(|(load, datagrams)| {
            let report = load.report();
            [report.connections, report.exchanges, datagrams.answered()]
        })
        .collect()
    }

    fn failures(&self) -> Vec<String> {
        let loads = self.loads.iter();
        loads.flat_map(|load| load.report().failures).collect()
    }
}
