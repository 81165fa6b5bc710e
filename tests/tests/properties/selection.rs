//! Who a client is led to, against the oracle.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    agent::Agent,
    cluster::Cluster,
    generate::{Contradictions, cluster},
    lookup::look_up,
    oracle::Oracle,
    probes::probes,
};

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn clients_are_led_where_the_semantics_say(cluster in cluster(Contradictions::None)) {
        check(&cluster)?;
    }
}

fn check(cluster: &Cluster) -> Result<(), TestCaseError> {
    let agent = Agent::fresh(cluster);
    let oracle = Oracle::new(cluster);
    let mut services: BTreeMap<String, u32> = BTreeMap::new();
    for probe in probes(cluster, &oracle) {
        let (found, service) = look_up(&agent.maps, &probe);
        let (expect, identity) = oracle.judge(&probe);
        prop_assert_eq!(found, expect, "{:?}", probe);
        if let (Some(service), Some(identity)) = (service, identity) {
            let first = *services.entry(identity).or_insert(service);
            prop_assert_eq!(first, service, "one service port is two: {:?}", probe);
        }
    }
    let ids: BTreeSet<&u32> = services.values().collect();
    prop_assert_eq!(ids.len(), services.len(), "{:?}", services);
    Ok(())
}
