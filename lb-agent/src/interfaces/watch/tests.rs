//! On real interfaces, in two network namespaces that go with the test: the
//! node's, and another one where the other ends are.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use tokio::{runtime, sync::watch as channel};

use super::*;
use crate::interfaces::{FILTER_PRIORITY, Kind, Peer};

const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    elsewhere: File,
    interfaces: Receiver<Snapshot>,
    node_ips: Sender<Vec<IpAddr>>,
}

impl Node {
    /// Runs commands of ip(8); `ELSEWHERE` stands for the other namespace.
    fn ip(&self, commands: &str) {
        ip(&self.elsewhere, commands);
    }

    /// Waits until the interfaces are these, with their kinds and addresses.
    async fn expect(&mut self, expect: &[&str]) {
        let reached = timeout(
            PATIENCE,
            self.interfaces
                .wait_for(|snapshot| lines(&snapshot.interfaces) == expect),
        )
        .await
        .is_ok();
        if !reached {
            assert_eq!(lines(&self.interfaces.borrow().interfaces), expect);
        }
    }
}

/// Runs commands of tc(8) in the namespace of this thread.
fn tc(commands: &str) {
    for command in commands.lines() {
        let status = Command::new("tc").args(command.split(' ')).status();
        assert!(status.unwrap().success(), "{command}");
    }
}

fn lines(interfaces: &[Interface]) -> Vec<String> {
    interfaces
        .iter()
        .map(|interface| {
            let down = if interface.up { "" } else { " down" };
            let addresses = interface.addresses.iter().map(|ip| format!(" {ip}"));
            let addresses: String = addresses.collect();
            format!("{} {}{down}{addresses}", interface.name, interface.kind)
        })
        .collect()
}

fn ip(elsewhere: &File, commands: &str) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), elsewhere.as_raw_fd());
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let commands = commands.replace("ELSEWHERE", &path);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(commands.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{commands}");
}

/// A thread has a network namespace of its own, which ends with it.
fn on_a_node(before: &'static str, test: impl AsyncFnOnce(Node) + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let elsewhere = File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip(&elsewhere, before);

        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (interfaces, received) = channel::channel(Snapshot::default());
            let (node_ips, ips) = channel::channel(Vec::new());
            let options = Options {
                patterns: Patterns::default(),
                node_ips: ips,
            };
            let watcher = tokio::spawn(watch(options, interfaces));
            test(Node {
                elsewhere,
                interfaces: received,
                node_ips,
            })
            .await;
            timeout(PATIENCE, watcher).await.unwrap().unwrap().unwrap();
        });
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

const UPLINK: &str = "link set lo up
link add eth0 type veth peer name eth0 netns ELSEWHERE
addr add 10.0.0.2/24 dev eth0
addr add fd00::2/64 dev eth0 nodad
link set eth0 up
route add default via 10.0.0.1
";
const LO: &str = "lo local 127.0.0.1 ::1";
const ETH0: &str = "eth0 uplink 10.0.0.2 fd00::2";

#[test]
fn an_empty_namespace_is_told_at_once() {
    on_a_node("", async |mut node| {
        timeout(PATIENCE, node.interfaces.changed())
            .await
            .unwrap()
            .unwrap();
        node.expect(&[]).await;
        node.ip("link set lo up\n");
        node.expect(&[LO]).await;
    });
}

#[test]
fn pod_interfaces_come_and_go() {
    on_a_node(UPLINK, async |mut node| {
        node.expect(&[LO, ETH0]).await;
        node.ip("link add v1 type veth peer name eth1 netns ELSEWHERE\n");
        node.expect(&[LO, ETH0, "v1 pod down"]).await;
        node.ip("link set v1 up\n");
        node.expect(&[LO, ETH0, "v1 pod"]).await;
        node.ip("link set v1 down\nlink set v1 name v2\n");
        node.expect(&[LO, ETH0, "v2 pod down"]).await;
        node.ip("link del v2\n");
        node.expect(&[LO, ETH0]).await;
    });
}

#[test]
fn a_veth_becomes_a_pod_interface_when_its_other_end_moves_away() {
    on_a_node(UPLINK, async |mut node| {
        node.ip("link add v1 type veth peer name p1\n");
        node.expect(&[LO, ETH0]).await;
        node.ip("link set p1 netns ELSEWHERE\n");
        node.expect(&[LO, ETH0, "v1 pod down"]).await;
    });
}

#[test]
fn a_bridge_port_that_leaves_its_bridge_stays() {
    on_a_node(UPLINK, async |mut node| {
        node.ip("link add br0 type bridge
addr add 10.1.0.1/24 dev br0
link add v1 type veth peer name eth1 netns ELSEWHERE
link set v1 master br0
");
        let bridge = "br0 local down 10.1.0.1";
        node.expect(&[LO, ETH0, bridge, "v1 pod down"]).await;
        node.ip("link set v1 nomaster up\n");
        node.expect(&[LO, ETH0, bridge, "v1 pod"]).await;
    });
}

#[test]
fn addresses_come_and_go() {
    on_a_node(UPLINK, async |mut node| {
        node.ip("addr add 10.0.0.3/32 dev eth0\naddr add fd00::3/128 dev eth0 nodad\n");
        node.expect(&[LO, "eth0 uplink 10.0.0.2 10.0.0.3 fd00::2 fd00::3"])
            .await;
        node.ip("addr del 10.0.0.2/24 dev eth0\naddr del fd00::2/64 dev eth0\n");
        node.expect(&[LO, "eth0 uplink 10.0.0.3 fd00::3"]).await;
    });
}

#[test]
fn the_uplink_follows_default_routes_and_node_addresses() {
    on_a_node(UPLINK, async |mut node| {
        node.expect(&[LO, ETH0]).await;
        node.ip("link add eth1 type veth peer name eth1 netns ELSEWHERE
addr add 10.9.0.2/24 dev eth1
link set eth1 up
");
        node.expect(&[LO, ETH0, "eth1 pod 10.9.0.2"]).await;
        node.ip("route replace default via 10.9.0.1\n");
        let moved = ["eth0 pod 10.0.0.2 fd00::2", "eth1 uplink 10.9.0.2"];
        node.expect(&[LO, moved[0], moved[1]]).await;

        node.node_ips.send_replace(vec!["fd00::2".parse().unwrap()]);
        let by_address = "eth0 uplink fd00::2 10.0.0.2";
        node.expect(&[LO, by_address, moved[1]]).await;

        // The kernel drops the IPv4 default route without notice.
        node.ip("link set eth1 down\n");
        node.expect(&[LO, by_address, "eth1 pod down 10.9.0.2"])
            .await;
    });
}

#[test]
fn an_ipv6_default_route_over_two_hops_makes_two_uplinks() {
    on_a_node(UPLINK, async |mut node| {
        node.ip("route del default
link add eth1 type veth peer name eth1 netns ELSEWHERE
addr add fd09::2/64 dev eth1 nodad
link set eth1 up
");
        let pods = ["eth0 pod 10.0.0.2 fd00::2", "eth1 pod fd09::2"];
        node.expect(&[LO, pods[0], pods[1]]).await;
        node.ip("route add ::/0 nexthop via fd00::1 nexthop via fd09::1\n");
        node.expect(&[LO, ETH0, "eth1 uplink fd09::2"]).await;
    });
}

#[test]
fn a_new_pod_interface_is_reported_at_once() {
    on_a_node(UPLINK, async |mut node| {
        node.expect(&[LO, ETH0]).await;
        let mut delays = Vec::new();
        for number in 0..20 {
            node.ip(&format!(
                "link add v{number} type veth peer name p{number} netns ELSEWHERE\n"
            ));
            let created = Instant::now();
            timeout(PATIENCE, node.interfaces.changed())
                .await
                .unwrap()
                .unwrap();
            delays.push(created.elapsed());
        }
        delays.sort();
        let median = delays[delays.len() / 2];
        assert!(median < Duration::from_millis(10), "{delays:?}");
    });
}

#[test]
fn a_flood_of_interfaces_ends_in_the_right_state() {
    on_a_node(UPLINK, async |mut node| {
        let each = |form: fn(u32) -> String| (0..200).map(form).collect::<String>();
        node.ip(&each(|n| {
            format!("link add v{n} type veth peer name p{n} netns ELSEWHERE\nlink set v{n} up\n")
        }));
        let all_pods = |Snapshot { interfaces, .. }: &Snapshot| {
            let pods = interfaces.iter().filter(|i| i.kind == Kind::Pod && i.up);
            pods.count() == 200 && interfaces.len() == 202
        };
        let reached = timeout(PATIENCE, node.interfaces.wait_for(all_pods))
            .await
            .is_ok();
        assert!(reached);
        node.ip(&each(|n| format!("link del v{n}\n")));
        node.expect(&[LO, ETH0]).await;
    });
}

#[test]
fn qdiscs_and_filters_of_others_come_and_go() {
    const POD: &str = "link add v1 type veth peer name eth1 netns ELSEWHERE\nlink set v1 up\n";
    const U32: &str = "u32 match u32 0 0 flowid 1:1";
    on_a_node("", async |mut node| {
        node.ip(POD);
        let own = format!("filter add dev v1 ingress pref {FILTER_PRIORITY} {U32}");
        for (commands, expect) in [
            ("", Peer::Free),
            (
                "qdisc add dev v1 root tbf rate 1mbit burst 10kb latency 1ms",
                Peer::Guarded,
            ),
            ("qdisc del dev v1 root", Peer::Free),
            ("qdisc add dev v1 clsact", Peer::Free),
            (&own, Peer::Free),
            (
                &format!("filter add dev v1 egress pref 1 {U32}"),
                Peer::Guarded,
            ),
            ("filter del dev v1 egress", Peer::Free),
            (
                &format!("filter add dev v1 ingress pref 2 {U32}"),
                Peer::Guarded,
            ),
            ("qdisc del dev v1 clsact", Peer::Free),
            (
                &format!("qdisc add dev v1 ingress\nfilter add dev v1 parent ffff: {U32}"),
                Peer::Guarded,
            ),
            ("qdisc del dev v1 ingress", Peer::Free),
        ] {
            tc(commands);
            let reached = node.interfaces.wait_for(|snapshot| {
                let v1 = snapshot.interfaces.iter().find(|i| i.name == "v1");
                v1.is_some_and(|v1| v1.peer == expect)
            });
            let reached = timeout(PATIENCE, reached).await.is_ok();
            assert!(reached, "{expect:?} after {commands}");
        }
    });
}
