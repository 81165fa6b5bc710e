//! Whether new connections take the shortcut, and to which interfaces.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use lb_agent::dataplane::Dataplane;
use lb_common::{Interface, Settings};
use lb_tests::lab::{AgentProcess, Lab, LabOptions, agent_binary};
use serde_json::Value;

/// From a change to what follows from it.
const LIMIT: Duration = Duration::from_secs(4);

const DROPS: &str = "add table ip guard
add chain ip guard pods { type filter hook forward priority 0; policy accept; }
add rule ip guard pods tcp dport 80 drop
";

struct Site {
    agent: AgentProcess,
    lab: Lab,
}

impl Site {
    /// One node without any Service.
    fn new(firewall: Option<&str>, arguments: &[&str]) -> Self {
        let lab = Lab::new(&LabOptions {
            nodes: 1,
            firewall: firewall.map(ToOwned::to_owned),
            ..LabOptions::default()
        })
        .unwrap();
        let manifests = lab.folder().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let mut all = vec!["--manifests", manifests.to_str().unwrap()];
        all.extend(arguments);
        let mut agent = lab.start_agent(1, &all).unwrap();
        agent.wait_ready().unwrap();
        Self { agent, lab }
    }

    /// Waits until the shortcut is taken or not, for a reason that contains
    /// this, and says how long that took.
    fn expect(&mut self, taken: bool, reason: &str) -> Duration {
        let start = Instant::now();
        let what = format!("shortcut {taken}, {reason}");
        let reached = |status: &Value| {
            let shortcut = &status["shortcut"];
            let found = shortcut["reason"].as_str().unwrap_or_default();
            shortcut["taken"] == taken && found.contains(reason)
        };
        self.agent.wait_for(&what, reached).unwrap();
        let took = start.elapsed();
        let settings = Array::<_, Settings>::try_from(map(&self.lab.pins(1), "SETTINGS"));
        let told = settings.unwrap().get(&0, 0).unwrap().shortcut;
        assert_eq!(told, u32::from(taken), "{what}");
        took
    }

    /// Waits until the pod's interface is, or is not, said to be a peer.
    fn expect_peer(&mut self, interface: &str, is_peer: bool) -> Duration {
        let start = Instant::now();
        let reached = |status: &Value| {
            let mut all = status["interfaces"].as_array().unwrap().iter();
            let found = all.find(|found| found["name"] == interface);
            found.is_some_and(|found| found["peer"] == is_peer)
        };
        let what = format!("{interface} peer {is_peer}");
        self.agent.wait_for(&what, reached).unwrap();
        let took = start.elapsed();
        let index = self.lab.node(1).netns.run(|| {
            let index = nix::net::if_::if_nametoindex(interface);
            index.unwrap()
        });
        let interfaces = HashMap::<_, u32, Interface>::try_from(hash(&self.lab.pins(1)));
        let flags = interfaces.unwrap().get(&index, 0).unwrap().flags;
        assert_eq!(flags & Interface::PEER != 0, is_peer, "{what}");
        took
    }

    /// As people see it.
    fn status(&self) -> String {
        let mut command = Command::new(agent_binary().unwrap());
        command.arg("status").arg("--socket");
        let output = command.arg(self.lab.agent_socket(1)).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn nft(&self, ruleset: &str) {
        self.lab.node(1).netns.nft(ruleset).unwrap();
    }

    /// Whether it could, which it cannot where the kernel has no IPsec.
    fn xfrm(&self, arguments: &str) -> bool {
        let mut command = self.lab.node(1).netns.command("ip").unwrap();
        let output = command.arg("xfrm").args(arguments.split(' ')).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("Protocol not supported") {
            return false;
        }
        assert!(output.status.success(), "{arguments}: {said}");
        true
    }

    fn tc(&self, arguments: &str) {
        let mut command = self.lab.node(1).netns.command("tc").unwrap();
        let status = command.args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "{arguments}");
    }
}

fn pinned(pins: &Path, name: &str) -> MapData {
    let files = fs::read_dir(pins.join("maps")).unwrap();
    let mut paths = files.map(|file| file.unwrap().path());
    let is_it = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(name)
    };
    MapData::from_pin(paths.find(is_it).unwrap()).unwrap()
}

fn map(pins: &Path, name: &str) -> Map {
    Map::Array(pinned(pins, name))
}

fn hash(pins: &Path) -> Map {
    Map::HashMap(pinned(pins, "INTERFACES"))
}

#[test]
fn it_is_taken_while_nothing_filters_forwarded_traffic() {
    let mut site = Site::new(None, &[]);
    site.expect(true, "nothing else");
    site.nft(DROPS);
    let took = site.expect(false, "nftables ip guard pods at forward filters");
    assert!(took < LIMIT, "{took:?}");
    site.nft("delete table ip guard\n");
    let took = site.expect(true, "nothing else");
    assert!(took < LIMIT, "{took:?}");
}

/// It would let packets out that are to be encrypted.
#[test]
fn it_is_not_taken_while_there_are_policies_of_ipsec() {
    let mut site = Site::new(None, &[]);
    site.expect(true, "nothing else");
    let between = "src 10.9.0.0/16 dst 10.10.0.0/16";
    for direction in ["fwd", "out"] {
        let policy = format!("{between} dir {direction} action block");
        if !site.xfrm(&format!("policy add {policy}")) {
            eprintln!("this kernel has no xfrm (CONFIG_XFRM_USER): only its answer is tested");
            return;
        }
        let took = site.expect(false, "an xfrm policy (IPsec) filters");
        assert!(took < LIMIT, "{direction}: {took:?}");
        site.xfrm("policy flush");
        let took = site.expect(true, "nothing else");
        assert!(took < LIMIT, "{direction}: {took:?}");
    }
}

#[test]
fn what_filters_the_node_itself_does_not_count() {
    let input = "add table inet node
add chain inet node in { type filter hook input priority 0; policy accept; }
add rule inet node in tcp dport 22 drop
";
    let mut site = Site::new(Some(input), &[]);
    site.expect(true, "nothing else");
}

#[test]
fn it_is_not_taken_from_the_start_where_something_filters() {
    let mut site = Site::new(Some(DROPS), &[]);
    site.expect(false, "nftables ip guard pods at forward");
    site.agent.restart().unwrap();
    site.expect(false, "nftables ip guard pods at forward");
    let line = "shortcut: not taken, nftables ip guard pods at forward filters forwarded traffic (--shortcut auto)\n";
    let said = site.status();
    assert!(said.contains(line), "{said}");
}

#[test]
fn one_may_insist() {
    let mut site = Site::new(Some(DROPS), &["--shortcut", "always"]);
    site.expect(true, "past nftables ip guard pods at forward");
    let pod = site.lab.add_pod(1, "pod").unwrap();
    site.expect_peer(&pod.interface, true);
    let shape = "root tbf rate 1mbit burst 10kb latency 1ms";
    site.tc(&format!("qdisc add dev {} {shape}", pod.interface));
    std::thread::sleep(LIMIT);
    site.expect_peer(&pod.interface, true);
    drop(site);

    let mut site = Site::new(None, &["--shortcut", "never"]);
    site.expect(false, "as told");
}

#[test]
fn a_pod_that_others_have_a_say_on_is_no_peer() {
    for tc in ["tcx", "clsact"] {
        let mut site = Site::new(None, &["--tc", tc]);
        let pod = site.lab.add_pod(1, "pod").unwrap();
        let name = &pod.interface;
        site.expect_peer(name, true);
        let shape = "root tbf rate 1mbit burst 10kb latency 1ms";
        site.tc(&format!("qdisc add dev {name} {shape}"));
        let took = site.expect_peer(name, false);
        assert!(took < LIMIT, "{took:?}");
        site.tc(&format!("qdisc del dev {name} root"));
        site.expect_peer(name, true);

        let mut others = Dataplane::unloaded(false).unwrap();
        let other: &mut SchedClassifier =
            others.program_mut("lb_egress").unwrap().try_into().unwrap();
        other.load().unwrap();
        site.lab.node(1).netns.run(|| {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            other
                .attach_with_options(name, TcAttachType::Egress, order)
                .unwrap();
        });
        let took = site.expect_peer(name, false);
        assert!(took < LIMIT, "{took:?}");
        // Another agent does not take it for its own either.
        site.agent.restart().unwrap();
        site.expect_peer(name, false);
        drop(others);
        site.expect_peer(name, true);
        site.agent.restart().unwrap();
        site.expect_peer(name, true);
    }
}
