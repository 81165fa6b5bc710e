//! What is known of this node.

use lb_agent::node::{NodePortAddress, PodDetection};
use serde_json::json;

use super::{Field, Writes, base::base, check, set};
use crate::cluster::ThisNode;

/// What is set of the cluster, what changes of the node, and the writes.
type Row = (Vec<Field>, fn(&mut ThisNode), Writes, Writes);

#[test]
fn what_is_known_of_the_node_costs_what_it_takes() {
    let hints = |zone: &str| json!({"forZones": [{"name": zone}]});
    let ranges: Field = ("web/spec/loadBalancerSourceRanges", json!(["192.0.2.0/24"]));
    let hinted: Vec<Field> = vec![
        ("web-4/endpoints/0/hints", hints("z1")),
        ("web-4/endpoints/1/hints", hints("z2")),
        ("web-4/endpoints/2/hints", hints("z2")),
    ];
    let table: Vec<Row> = vec![
        (vec![], |node| node.zone = Some("z2".to_owned()), &[], &[]),
        (
            hinted.clone(),
            |node| node.zone = None,
            &["slots 1 2 3", every!("1 2 3")],
            &["slots 1", every!("1")],
        ),
        (
            hinted,
            |node| node.zone = Some("z2".to_owned()),
            &["slots 2 3", every!("2 3")],
            &["slots 1", every!("1")],
        ),
        (
            vec![],
            |node| node.uplink.push("192.0.2.2".parse().unwrap()),
            &["frontend 192.0.2.2 30080/TCP -> 1 2 3"],
            &["delete 192.0.2.2 30080/TCP"],
        ),
        (
            vec![],
            |node| node.uplink.push("2001:db8::1".parse().unwrap()),
            &[],
            &[],
        ),
        (
            vec![],
            |node| node.internal_ips.push("192.0.2.1".parse().unwrap()),
            &[],
            &[],
        ),
        (
            vec![ranges],
            |node| node.internal_ips.push("192.0.3.1".parse().unwrap()),
            &[
                "sources 17 192.0.2.0/24",
                "frontend 198.51.100.1 80/TCP -> 1 2 3, sources 17",
                "delete sources 16",
            ],
            &[
                "sources 18 192.0.2.0/24 198.51.100.1/32",
                "frontend 198.51.100.1 80/TCP -> 1 2 3, sources 18",
                "delete sources 17",
            ],
        ),
        (
            vec![],
            |node| {
                node.options
                    .node_port_addresses
                    .push(NodePortAddress::Primary)
            },
            &[],
            &[],
        ),
        (
            vec![],
            |node| {
                let network = "192.0.3.0/24".parse().unwrap();
                node.options.node_port_addresses.push(network);
            },
            &["delete 192.0.2.1 30080/TCP"],
            &["frontend 192.0.2.1 30080/TCP -> 1 2 3"],
        ),
        (
            vec![],
            |node| node.options.localhost_node_ports = true,
            &["frontend 127.0.0.1 30080/TCP -> 1 2 3"],
            &["delete 127.0.0.1 30080/TCP"],
        ),
        (
            vec![],
            |node| node.options.masquerade_all = true,
            &[
                every!("1 2 3, flags 1"),
                "frontend 10.96.0.2 80/TCP -> 0, flags 1",
            ],
            &[every!("1 2 3"), "frontend 10.96.0.2 80/TCP -> 0"],
        ),
        (
            vec![],
            |node| node.options.pods = PodDetection::NodeNetworks,
            &[],
            &[],
        ),
        (
            vec![],
            |node| node.pod_cidrs.push("10.0.0.0/24".parse().unwrap()),
            &[],
            &[],
        ),
    ];
    for (index, (given, change, there, back)) in table.into_iter().enumerate() {
        let mut before = base();
        set(&mut before, &given);
        let mut after = before.clone();
        change(&mut after.node);
        let what = format!("row {index}: {:?}", after.node);
        check(&what, &before, &after, there, back);
    }
}
