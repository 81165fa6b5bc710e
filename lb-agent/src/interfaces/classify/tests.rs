use super::*;
use crate::interfaces::{Address, Pattern};

const LO: u32 = 1;
const ETH0: u32 = 2;

/// One link, then its addresses, as `(index, name, device, controller)`.
type Row<'a> = (u32, &'a str, Device, Option<u32>, &'a [&'a str]);

const POD: Device = Device::Veth {
    peer_elsewhere: true,
};
const LOOPBACK: Row = (LO, "lo", Device::Loopback, None, &["127.0.0.1", "::1"]);

struct Case<'a> {
    rows: &'a [Row<'a>],
    default_routes: &'a [u32],
    node_ips: &'a [&'a str],
    uplink: &'a [&'a str],
    pod: &'a [&'a str],
}

const NODE: Case = Case {
    rows: &[],
    default_routes: &[],
    node_ips: &[],
    uplink: &[],
    pod: &[],
};

impl Case<'_> {
    fn facts(&self) -> Facts {
        let mut facts = Facts {
            default_routes: self.default_routes.iter().copied().collect(),
            ..Facts::default()
        };
        for (index, name, device, controller, addresses) in self.rows {
            let link = Link {
                name: (*name).to_owned(),
                device: *device,
                mac: None,
                up: true,
                controller: *controller,
                lower: None,
                qdisc: None,
            };
            facts.links.insert(*index, link);
            facts
                .addresses
                .extend(addresses.iter().map(|address| Address {
                    interface: *index,
                    address: address.parse().unwrap(),
                    prefix_length: 24,
                }));
        }
        facts
    }

    fn node_ips(&self) -> Vec<IpAddr> {
        self.node_ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn patterns(&self) -> Patterns {
        let parse = |patterns: &[&str]| -> Vec<Pattern> {
            patterns.iter().map(|p| p.parse().unwrap()).collect()
        };
        Patterns {
            uplink: parse(self.uplink),
            pod: parse(self.pod),
        }
    }
}

fn check(case: &Case, expect: &[&str]) {
    let interfaces = classify(&case.facts(), &case.node_ips(), &case.patterns());
    let lines: Vec<_> = interfaces
        .iter()
        .map(|interface| {
            let addresses = interface.addresses.iter().map(|ip| format!(" {ip}"));
            format!(
                "{} {}{}",
                interface.name,
                interface.kind,
                addresses.collect::<String>()
            )
        })
        .collect();
    assert_eq!(lines, expect);
}

#[test]
fn kinds() {
    check(&NODE, &[]);

    let rows: &[Row] = &[
        LOOPBACK,
        (ETH0, "eth0", Device::Ethernet, None, &["10.0.0.2"]),
        (3, "eth1", Device::Ethernet, None, &["192.168.7.2"]),
        (4, "eth2", Device::Ethernet, None, &[]),
        (5, "veth1", POD, None, &["fe80::1"]),
    ];
    let lo = "lo local 127.0.0.1 ::1";
    let pod = "veth1 pod";
    check(
        &Case {
            rows,
            default_routes: &[ETH0],
            ..NODE
        },
        &[lo, "eth0 uplink 10.0.0.2", "eth1 local 192.168.7.2", pod],
    );
    check(
        &Case {
            rows,
            node_ips: &["192.168.7.2", "fd00::7"],
            ..NODE
        },
        &[lo, "eth0 local 10.0.0.2", "eth1 uplink 192.168.7.2", pod],
    );
    check(
        &Case {
            rows,
            default_routes: &[ETH0, 4],
            node_ips: &["192.168.7.2"],
            ..NODE
        },
        &[
            lo,
            "eth0 uplink 10.0.0.2",
            "eth1 uplink 192.168.7.2",
            "eth2 uplink",
            pod,
        ],
    );
}

#[test]
fn a_veth_with_the_default_route_is_an_uplink() {
    let rows: &[Row] = &[
        (ETH0, "eth0", POD, None, &["172.18.0.2", "fc00::2"]),
        (3, "veth1", POD, None, &[]),
        (
            4,
            "veth2",
            Device::Veth {
                peer_elsewhere: false,
            },
            None,
            &[],
        ),
    ];
    check(
        &Case {
            rows,
            default_routes: &[ETH0],
            ..NODE
        },
        &["eth0 uplink 172.18.0.2 fc00::2", "veth1 pod"],
    );
    check(
        &Case { rows, ..NODE },
        &["eth0 pod 172.18.0.2 fc00::2", "veth1 pod"],
    );
}

#[test]
fn own_addresses_leave_out_link_local_v6_and_multicast() {
    check(
        &Case {
            rows: &[(
                ETH0,
                "eth0",
                Device::Ethernet,
                None,
                &[
                    "169.254.1.1",
                    "224.0.0.9",
                    "fe80::1",
                    "ff02::1",
                    "2001:db8::1",
                ],
            )],
            ..NODE
        },
        &["eth0 local 169.254.1.1 2001:db8::1"],
    );
}

#[test]
fn devices_that_cannot_be_uplinks() {
    let pods_bridged: &[Row] = &[
        (ETH0, "br0", Device::Bridge, None, &["10.0.0.2"]),
        (3, "veth1", POD, Some(ETH0), &[]),
    ];
    let nic_bridged: &[Row] = &[
        (ETH0, "br0", Device::Bridge, None, &["10.0.0.2"]),
        (3, "eth0", Device::Ethernet, Some(ETH0), &[]),
    ];
    let wireguard: &[Row] = &[(ETH0, "wg0", Device::Unframed, None, &["10.0.0.2"])];
    let check_refusal = |rows: &[Row], uplink: &[&str], expect: &str, refusal: Option<Refusal>| {
        let case = Case {
            rows,
            default_routes: &[ETH0],
            uplink,
            ..NODE
        };
        let refused = refusals(&case.facts(), &case.node_ips(), &case.patterns());
        assert_eq!(refused.into_values().next(), refusal);
        let interfaces = classify(&case.facts(), &case.node_ips(), &case.patterns());
        assert_eq!(interfaces[0].kind.to_string(), expect);
    };
    check_refusal(pods_bridged, &[], "local", Some(Refusal::BridgeOfPods));
    check_refusal(pods_bridged, &["br*"], "uplink", None);
    check_refusal(nic_bridged, &[], "uplink", None);
    check_refusal(wireguard, &[], "local", Some(Refusal::NoFrames));
    check_refusal(wireguard, &["wg0"], "local", Some(Refusal::NoFrames));
    check_refusal(wireguard, &["!wg0"], "local", None);
    check_refusal(
        &[(ETH0, "lo", Device::Loopback, None, &["10.0.0.2"])],
        &["*"],
        "local",
        None,
    );
}

#[test]
fn patterns_override_both_ways() {
    let rows: &[Row] = &[
        (ETH0, "eth0", POD, None, &["10.0.0.2"]),
        (3, "eth1", Device::Ethernet, None, &[]),
        (4, "cali1", POD, None, &[]),
    ];
    let check_patterns = |uplink: &[&str], pod: &[&str], expect: &[&str]| {
        check(
            &Case {
                rows,
                default_routes: &[ETH0],
                uplink,
                pod,
                ..NODE
            },
            expect,
        );
    };
    let eth0 = "eth0 uplink 10.0.0.2";
    check_patterns(&[], &[], &[eth0, "cali1 pod"]);
    check_patterns(&["eth*"], &[], &[eth0, "eth1 uplink", "cali1 pod"]);
    check_patterns(
        &["eth1"],
        &[],
        &["eth0 local 10.0.0.2", "eth1 uplink", "cali1 pod"],
    );
    check_patterns(&["!eth0"], &[], &["eth0 local 10.0.0.2", "cali1 pod"]);
    check_patterns(&[], &["!cali*"], &[eth0]);
    check_patterns(&[], &["eth1"], &[eth0, "eth1 pod"]);
    check_patterns(&[], &["eth0"], &["eth0 pod 10.0.0.2"]);
    check_patterns(&["eth0"], &["eth0"], &[eth0]);
}

#[test]
fn the_other_end_is_a_peer_where_nobody_has_a_say() {
    const FAR: Device = POD;
    const NEAR: Device = Device::Veth {
        peer_elsewhere: false,
    };
    const INDEX: u32 = 7;

    use Peer::{Free, Guarded, Unreachable};

    for (device, controller, qdisc, filtered, expect) in [
        (FAR, None, Some("noqueue"), false, Free),
        (FAR, None, Some("noqueue"), true, Guarded),
        (FAR, None, Some("tbf"), false, Guarded),
        // While it is down.
        (FAR, None, Some("noop"), false, Guarded),
        (FAR, None, None, false, Guarded),
        (FAR, Some(3), Some("noqueue"), false, Unreachable),
        (NEAR, None, Some("noqueue"), false, Unreachable),
        (Device::Ethernet, None, Some("noqueue"), false, Unreachable),
    ] {
        let rows: &[Row] = &[(INDEX, "v", device, controller, &[])];
        let case = Case {
            rows,
            pod: &["v"],
            ..NODE
        };
        let mut facts = case.facts();
        facts.filtered = [1, if filtered { INDEX } else { 2 }].into();
        let link = facts.links.get_mut(&INDEX).unwrap();
        link.qdisc = qdisc.map(ToOwned::to_owned);
        let interfaces = classify(&facts, &[], &case.patterns());
        let found = (interfaces[0].kind, interfaces[0].peer);
        assert_eq!(found, (Kind::Pod, expect), "{device:?} {qdisc:?}");
    }
}

#[test]
fn an_uplink_has_no_peer() {
    let rows: &[Row] = &[(ETH0, "eth0", POD, None, &[])];
    let case = Case {
        rows,
        default_routes: &[ETH0],
        ..NODE
    };
    let mut facts = case.facts();
    for link in facts.links.values_mut() {
        link.qdisc = Some("noqueue".to_owned());
    }
    let interfaces = classify(&facts, &[], &case.patterns());
    assert_eq!(interfaces[0].peer, Peer::Unreachable);
}
