//! Connections outlive the agent, its builds and the backend sets.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "continuity/datagrams.rs"]
mod datagrams;
#[path = "pins/kernel.rs"]
mod kernel;
#[path = "continuity/site.rs"]
mod site;
#[path = "continuity/traffic.rs"]
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use lb_agent::{compile::frontend_key, model};
use lb_common::{Verdict, verdict::Class};
use lb_tests::{
    api::{Api, Resource},
    lab::{AgentProcess, Exchange, Family, Lab, LabOptions, Protocol, TcpClient},
};
use serde_json::json;

use self::{
    kernel::{Kernel, links},
    site::{BACKENDS, NODE_PORT, Site, TARGET, cluster_ip, service, slices},
    traffic::Traffic,
};

const ABSENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing failed on either end, and no program dropped a packet.
fn check(traffic: Traffic, agent: &AgentProcess) {
    let (failures, done) = traffic.stop();
    println!("{done}");
    assert_eq!(failures, [""; 0], "{done}");
    let status = agent.status().unwrap();
    for hook in ["xdp", "tc_ingress", "tc_egress"] {
        for verdict in Verdict::ALL {
            if verdict.class() == Class::Dropped {
                let count = &status["counters"][hook][verdict.name()];
                assert!(count.is_null(), "{hook} {}: {count}", verdict.name());
            }
        }
    }
    assert_eq!(status["problems"], json!([]));
}

#[test]
fn nobody_misses_an_agent_that_was_killed() {
    let mut site = Site::new(&["--xdp", "native"]);
    let traffic = Traffic::start(&site.lab);
    let before = links(&site.lab.pins(1));
    site.agent.kill().unwrap();
    let killed = Instant::now();
    traffic.progress();
    thread::sleep(ABSENCE.saturating_sub(killed.elapsed()));
    site.agent.start().unwrap();
    site.agent.wait_ready().unwrap();
    traffic.progress();
    let after = links(&site.lab.pins(1));
    assert!(
        before
            .iter()
            .all(|(name, (link, program))| after[name].0 == *link && after[name].1 != *program),
        "replaced in place: {before:?} {after:?}"
    );
    check(traffic, &site.agent);
}

/// Instructions of the programs behind each link, as the verifier left them.
fn sizes(pins: &Path) -> BTreeMap<String, Option<u32>> {
    let programs: BTreeMap<u32, Option<u32>> = loaded_programs()
        .filter_map(Result::ok)
        .map(|program| (program.id(), program.size_translated()))
        .collect();
    let links = links(pins).into_iter();
    links
        .map(|(name, (_, program))| (name, programs[&program]))
        .collect()
}

#[test]
fn nobody_misses_a_build_that_was_replaced() {
    let mut site = Site::new(&["--xdp", "native"]);
    let pins = site.lab.pins(1);
    let traffic = Traffic::start(&site.lab);
    let ids = |pins: &Path| -> BTreeMap<String, u32> {
        let links = links(pins).into_iter();
        links.map(|(name, (link, _))| (name, link)).collect()
    };
    let (link_ids, plain) = (ids(&pins), sizes(&pins));
    let folder = site.manifests.display().to_string();
    // The switch changes what the programs are made of, as another build does;
    // there and back are an upgrade and a downgrade.
    for switch in [&["--trace-packets"][..], &[]] {
        site.agent.kill().unwrap();
        let killed = Instant::now();
        traffic.progress();
        thread::sleep(ABSENCE.saturating_sub(killed.elapsed()));
        let arguments = [&["--manifests", &folder, "--xdp", "native"], switch].concat();
        site.agent = site.lab.start_agent(1, &arguments).unwrap();
        site.agent.wait_ready().unwrap();
        traffic.progress();
        assert_eq!(ids(&pins), link_ids);
        let now = sizes(&pins);
        for (name, size) in &plain {
            assert_eq!(now[name] == *size, switch.is_empty(), "{name}");
        }
    }
    check(traffic, &site.agent);
}

const CHANGES: usize = 1000;
/// The agent is killed and started again after each so many changes.
const KILLS: usize = 300;

/// A server in the node, where its agent reaches it, with `web` and its slices.
fn api(lab: &Lab, runtime: &tokio::runtime::Runtime) -> Api {
    let start = || runtime.block_on(Api::start());
    let api = lab.node(1).netns.run(start).unwrap();
    api.put(
        Resource::Nodes,
        json!({"metadata": {"name": "node1"}, "spec": {}, "status": {}}),
    );
    api.put(Resource::Services, service("web", 10, NODE_PORT));
    announce(lab, &api, &BACKENDS);
    api
}

fn announce(lab: &Lab, api: &Api, pods: &[&str]) {
    for slice in slices(lab, "web", pods) {
        api.put(Resource::EndpointSlices, slice);
    }
}

/// Waits until new connections go to `pods` and nowhere else.
fn await_set(lab: &Lab, kernel: &Kernel, pods: &[&str]) {
    for family in Family::ALL {
        let to = cluster_ip(family, 10);
        let key = frontend_key(to.ip(), to.port(), model::Protocol::Tcp);
        let pods = pods.iter().map(|name| lab.pod(name).unwrap());
        let expect: BTreeSet<SocketAddr> = pods.map(|pod| pod.socket(family, TARGET)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let chosen = kernel.chosen(&key);
            if chosen == expect {
                break;
            }
            assert!(Instant::now() < deadline, "{chosen:?}, not {expect:?}");
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Connections through the frontend, one to each backend.
fn one_to_each(lab: &Lab) -> BTreeMap<String, TcpClient> {
    let shell = lab.pod("shell").unwrap();
    let mut clients = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while clients.len() < BACKENDS.len() {
        assert!(Instant::now() < deadline, "only {:?}", clients.keys());
        let to = cluster_ip(Family::V4, 10);
        let connect = || TcpClient::connect(to, None, PATIENCE);
        let mut client = shell.netns.run(connect).unwrap();
        let server = client.exchange(b"who").unwrap().server;
        clients.entry(server).or_insert(client);
    }
    clients
}

#[test]
fn nobody_notices_that_backends_come_and_go() {
    const SETS: [&[&str]; 6] = [
        &["b"],
        &["c", "a"],
        &["a"],
        &["b", "c"],
        &["c"],
        &["a", "b"],
    ];

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lab = site::lab(&LabOptions::default());
    let api = api(&lab, &runtime);
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let arguments = ["--kubeconfig", &kubeconfig, "--xdp", "native"];
    let mut agent = lab.start_agent(1, &arguments).unwrap();
    agent.wait_ready().unwrap();
    let kernel = Kernel::open(&lab.pins(1));
    await_set(&lab, &kernel, &BACKENDS);
    let mut clients = one_to_each(&lab);
    let traffic = Traffic::start(&lab);

    for change in 0..CHANGES {
        let pods = SETS[change % SETS.len()];
        announce(&lab, &api, pods);
        if change % KILLS == KILLS - 1 {
            agent.kill().unwrap();
            agent.start().unwrap();
        }
        await_set(&lab, &kernel, pods);
    }
    announce(&lab, &api, &["a"]);
    await_set(&lab, &kernel, &["a"]);
    agent.wait_ready().unwrap();

    traffic.progress();
    for (server, client) in &mut clients {
        let reply = client.exchange(b"still here").unwrap();
        assert_eq!(reply.server, *server);
    }
    let shell = lab.pod("shell").unwrap();
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            let exchange = Exchange::new(protocol, cluster_ip(family, 10)).timeout(PATIENCE);
            let reply = exchange.run_in(&shell.netns).unwrap();
            assert_eq!(reply.server, "a", "{protocol} {family}");
        }
    }
    check(traffic, &agent);
}
