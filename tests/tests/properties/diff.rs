//! However the agent came to a cluster, the maps say what a first agent would
//! make them say.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use lb_common::{Backend, Frontend, FrontendKey, NetworkKey, Slice};
use proptest::prelude::*;

use crate::{
    agent::Agent,
    cluster::Cluster,
    generate::{Contradictions, cluster},
    maps::{Maps, endpoint},
};

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 1000,
        ..ProptestConfig::with_cases(400)
    })]

    #[test]
    fn the_way_to_a_cluster_leaves_no_trace(turns in prop::collection::vec(turn(), 1..6)) {
        check(turns)?;
    }
}

/// A cluster to go to, and how.
#[derive(Clone, Debug)]
struct Turn {
    cluster: Cluster,
    /// What of the cluster changes; the rest stays as it was.
    only: Part,
    /// All at once, or one object after the other.
    at_once: bool,
    pause: Duration,
    agent: Takeover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    Services,
    Slices,
    Node,
}

/// Whether another agent goes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takeover {
    None,
    /// One that can read everything.
    Whole,
    /// One that can read everything a while later.
    Later,
}

prop_compose! {
    fn turn()(
        cluster in cluster(Contradictions::Some),
        only in prop::sample::select(vec![Part::All, Part::Services, Part::Slices, Part::Node]),
        at_once in any::<bool>(),
        pause in prop::sample::select(vec![0, 1, 6, 70]),
        agent in prop_oneof![
            4 => Just(Takeover::None),
            1 => Just(Takeover::Whole),
            1 => Just(Takeover::Later),
        ],
    ) -> Turn {
        Turn { cluster, only, at_once, pause: Duration::from_secs(pause), agent }
    }
}

fn check(turns: Vec<Turn>) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::default();
    let mut agent = Agent::fresh(&cluster);
    for turn in turns {
        agent.pause(turn.pause);
        let next = next(&cluster, &turn);
        match turn.agent {
            Takeover::None => go(&mut agent, &cluster, &next, turn.at_once),
            Takeover::Whole => {
                agent = agent.restarted();
                agent.read(&next, true);
            }
            Takeover::Later => {
                agent = agent.restarted();
                agent.read(&cluster, false);
                go(&mut agent, &cluster, &next, turn.at_once);
                agent.finish(&next);
            }
        }
        cluster = next;
        let fresh = Agent::fresh(&cluster);
        prop_assert_eq!(said(&agent.maps), said(&fresh.maps));
    }
    agent.rest();
    agent.maps.check_endpoints();
    let fresh = Agent::fresh(&cluster);
    prop_assert_eq!(said(&agent.maps), said(&fresh.maps));
    prop_assert_eq!(agent.maps.sources.len(), fresh.maps.sources.len());
    agent.maps.writes.clear();
    agent.take(cluster.changes(&Cluster::default()), &cluster.node);
    prop_assert_eq!(&agent.maps.writes, &Vec::<String>::new());
    Ok(())
}

fn next(cluster: &Cluster, turn: &Turn) -> Cluster {
    let mut next = cluster.clone();
    let to = turn.cluster.clone();
    if matches!(turn.only, Part::All | Part::Services) {
        next.services = to.services;
    }
    if matches!(turn.only, Part::All | Part::Slices) {
        next.slices = to.slices;
    }
    if matches!(turn.only, Part::All | Part::Node) {
        next.node = to.node;
    }
    next
}

fn go(agent: &mut Agent, from: &Cluster, to: &Cluster, at_once: bool) {
    let changes = to.changes(from);
    if at_once {
        return agent.take(changes, &to.node);
    }
    for change in changes {
        agent.take(vec![change], &from.node);
    }
    agent.take(Vec::new(), &to.node);
}

/// What maps say, whatever numbers they say it by.
#[derive(Debug, PartialEq)]
struct Said {
    frontends: BTreeMap<FrontendKey, FrontendSaid>,
    /// Those in use: the first frontend of their service port, their endpoint
    /// and flags.
    backends: Vec<(Option<FrontendKey>, (IpAddr, u16), u8)>,
}

#[derive(Debug, PartialEq)]
struct FrontendSaid {
    /// The first frontend of its service port; none if it is nobody's.
    service: Option<FrontendKey>,
    inside: Result<Vec<(IpAddr, u16)>, Slice>,
    outside: Result<Vec<(IpAddr, u16)>, Slice>,
    sources: Vec<IpNet>,
    affinity_seconds: u32,
    flags: u32,
}

fn said(maps: &Maps) -> Said {
    let mut services: BTreeMap<u32, FrontendKey> = BTreeMap::new();
    for (key, frontend) in maps.frontends.iter().filter(|(_, f)| f.service != 0) {
        services.entry(frontend.service).or_insert(*key);
    }
    let members = |packed| {
        let members = maps.members(packed)?;
        let mut members: Vec<_> = members.values().map(endpoint).collect();
        members.sort_unstable();
        Ok(members)
    };
    let frontend = |frontend: &Frontend| {
        assert!(frontend.sources == 0 || frontend.sources >= NetworkKey::FIRST_SOURCES);
        FrontendSaid {
            service: services.get(&frontend.service).copied(),
            inside: members(frontend.inside),
            outside: members(frontend.outside),
            sources: maps.networks(frontend).into_iter().collect(),
            affinity_seconds: frontend.affinity_seconds,
            flags: frontend.flags,
        }
    };
    let alive = maps.backends.values();
    let alive = alive.filter(|backend| backend.flags & Backend::ALIVE != 0);
    let mut backends: Vec<_> = alive
        .map(|backend| {
            let service = services.get(&backend.service).copied();
            (service, endpoint(backend), backend.flags)
        })
        .collect();
    backends.sort_unstable();
    Said {
        frontends: maps
            .frontends
            .iter()
            .map(|(key, value)| (*key, frontend(value)))
            .collect(),
        backends,
    }
}
