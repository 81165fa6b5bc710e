//! Who is chosen, by condition, place and hint.

use super::*;

#[test]
fn sets_are_chosen_by_condition_place_and_hint() {
    let elsewhere = || zones(ready(1), &["zone2"]);
    let both = &[ZONE, "zone2"];
    // Endpoints; the Cluster set, the Local set, all that serve.
    type Case = (
        &'static str,
        Vec<Endpoint>,
        &'static [u8],
        &'static [u8],
        &'static [u8],
    );
    let table: Vec<Case> = vec![
        ("none", vec![], &[], &[], &[]),
        (
            "ready ones",
            vec![ready(1), here(2)],
            &[1, 2],
            &[2],
            &[1, 2],
        ),
        (
            "no node is not here",
            vec![Endpoint {
                node: None,
                ..ready(1)
            }],
            &[1],
            &[],
            &[1],
        ),
        (
            "one that is not ready",
            vec![ready(1), not_ready(here(2))],
            &[1],
            &[],
            &[1, 2],
        ),
        (
            "only such",
            vec![not_ready(ready(1)), not_ready(here(2))],
            &[],
            &[],
            &[1, 2],
        ),
        (
            "not even serving",
            vec![ready(1), not_serving(here(2))],
            &[1],
            &[],
            &[1],
        ),
        (
            "terminating, others ready",
            vec![ready(1), terminating(ready(2))],
            &[1],
            &[],
            &[1, 2],
        ),
        (
            "all terminating",
            vec![terminating(ready(1)), terminating(here(2))],
            &[1, 2],
            &[2],
            &[1, 2],
        ),
        (
            "the local one terminating",
            vec![ready(1), terminating(here(2))],
            &[1],
            &[2],
            &[1, 2],
        ),
        (
            "the remote one terminating",
            vec![terminating(ready(1)), here(2)],
            &[2],
            &[2],
            &[1, 2],
        ),
        (
            "terminating, not serving",
            vec![not_serving(terminating(here(1)))],
            &[],
            &[],
            &[],
        ),
        (
            "terminating ones, some not serving",
            vec![terminating(here(1)), not_serving(terminating(here(2)))],
            &[1],
            &[1],
            &[1],
        ),
        (
            "this zone",
            vec![elsewhere(), zones(ready(2), &[ZONE])],
            &[2],
            &[],
            &[1, 2],
        ),
        (
            "both zones",
            vec![elsewhere(), zones(here(2), both)],
            &[2],
            &[2],
            &[1, 2],
        ),
        (
            "hints do not narrow Local",
            vec![zones(here(1), &["zone2"]), zones(here(2), &[ZONE])],
            &[2],
            &[1, 2],
            &[1, 2],
        ),
        (
            "one without a zone hint",
            vec![elsewhere(), zones(ready(2), &[ZONE]), ready(3)],
            &[1, 2, 3],
            &[],
            &[1, 2, 3],
        ),
        (
            "no hint for this zone",
            vec![elsewhere(), zones(ready(2), &["zone3"])],
            &[1, 2],
            &[],
            &[1, 2],
        ),
        (
            "hints of those not ready do not count",
            vec![
                not_ready(ready(1)),
                zones(ready(2), &[ZONE]),
                zones(ready(3), &["zone2"]),
            ],
            &[2],
            &[],
            &[1, 2, 3],
        ),
        (
            "nor does it help to be hinted and not ready",
            vec![
                zones(ready(1), &["zone2"]),
                not_ready(zones(ready(2), &[ZONE])),
            ],
            &[1],
            &[],
            &[1, 2],
        ),
        (
            "hints are no matter to those that terminate",
            vec![
                terminating(zones(ready(1), &["zone2"])),
                terminating(zones(ready(2), &[ZONE])),
            ],
            &[1, 2],
            &[],
            &[1, 2],
        ),
        (
            "this node",
            vec![nodes(ready(1), &["node2"]), nodes(ready(2), &[NODE])],
            &[2],
            &[],
            &[1, 2],
        ),
        (
            "node before zone",
            vec![
                zones(nodes(ready(1), &["node2"]), &[ZONE]),
                zones(nodes(ready(2), &[NODE]), &["zone2"]),
            ],
            &[2],
            &[],
            &[1, 2],
        ),
        (
            "zone, when one lacks a node hint",
            vec![
                zones(ready(1), &[ZONE]),
                zones(nodes(ready(2), &[NODE]), &["zone2"]),
            ],
            &[1],
            &[],
            &[1, 2],
        ),
        (
            "zone, when none is for this node",
            vec![
                zones(nodes(ready(1), &["node2"]), &[ZONE]),
                zones(nodes(ready(2), &["node3"]), &["zone2"]),
            ],
            &[1],
            &[],
            &[1, 2],
        ),
    ];
    for (what, endpoints, cluster, local, serving) in table {
        let slice = slice(endpoints);
        let ports = compile(&service(), [&slice].into_iter(), &node());
        let [port] = ports.as_slice() else {
            panic!("{what}: one port");
        };
        let sets = [&port.cluster, &port.local, &port.serving].map(numbers);
        assert_eq!(sets, [cluster, local, serving], "{what}");
        let is_here = |backend: &Backend| {
            let mut all = slice.endpoints.iter();
            let endpoint = all
                .find(|endpoint| endpoint.address == backend.address)
                .unwrap();
            endpoint.node.as_deref() == Some(NODE)
        };
        for backend in port.cluster.iter().chain(&port.local).chain(&port.serving) {
            assert_eq!(backend.local, is_here(backend), "{what}: {backend:?}");
        }
    }
}

#[test]
fn a_node_without_a_zone_takes_no_zone_hint() {
    let slice = slice(vec![zones(ready(1), &["zone2"]), zones(ready(2), &[""])]);
    let nowhere = NodeContext {
        zone: None,
        ..node()
    };
    let ports = compile(&service(), [&slice].into_iter(), &nowhere);
    assert_eq!(numbers(&ports[0].cluster), [1, 2]);
}
