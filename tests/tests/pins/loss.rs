//! Without a source of Services, nothing is taken away.

use std::{fs, io, path::Path, thread, time::Duration};

use aya::maps::{LpmTrie, Map, MapData, lpm_trie};
use lb_common::NetworkKey;
use lb_tests::{
    api::{Api, Resource},
    lab::{Exchange, Family, Lab, LabOptions, Protocol, pod_cidrs},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    answers::check_works,
    dump::dump,
    kernel::{links, map_path},
    site::{self, BACKENDS, NODE_PORT, Site, service, slices},
};

#[test]
fn a_lost_server_takes_nothing_away() {
    let runtime = Runtime::new().unwrap();
    let lab = site::lab(&LabOptions::default());
    let start = || runtime.block_on(Api::start());
    let mut api = lab.node(1).netns.run(start).unwrap();
    api.put(Resource::Nodes, json!({"metadata": {"name": "node1"}}));
    api.put(Resource::Services, service("web", 10, NODE_PORT));
    for slice in slices(&lab, "web", &BACKENDS) {
        api.put(Resource::EndpointSlices, slice);
    }
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let mut agent = lab.start_agent(1, &["--kubeconfig", &kubeconfig]).unwrap();
    agent.wait_ready().unwrap();
    let pins = lab.pins(1);
    let (before, links_before) = (dump(&pins), links(&pins));
    let check = |what: &str| {
        check_works(&lab, what);
        assert_eq!(dump(&pins), before, "{what}");
    };

    runtime.block_on(api.stop());
    check("the server is gone");
    agent.kill().unwrap();
    agent.start().unwrap();
    agent
        .wait_for("up", |status| status["synced"] == false)
        .unwrap();
    thread::sleep(Duration::from_secs(2));
    check("the agent has never seen a server");
    assert_eq!(agent.status().unwrap()["synced"], false);
    assert_eq!(links(&pins), links_before);

    lab.node(1)
        .netns
        .run(|| runtime.block_on(api.resume()))
        .unwrap();
    agent.wait_ready().unwrap();
    check("the server is back");
}

#[test]
fn a_lost_folder_takes_nothing_away() {
    let mut site = Site::new(&[]);
    let pins = site.lab.pins(1);
    let before = dump(&pins);
    let check = |what: &str| {
        check_works(&site.lab, what);
        assert_eq!(dump(&pins), before, "{what}");
    };
    let elsewhere = site.manifests.with_extension("moved");
    fs::rename(&site.manifests, &elsewhere).unwrap();
    let told = |status: &Value| status["problems"] != json!([]);
    site.agent.wait_for("told of it", told).unwrap();
    check("the folder is gone");

    site.agent.kill().unwrap();
    site.agent.start().unwrap();
    let error = site.agent.wait_ready().unwrap_err().to_string();
    let folder = site.manifests.display().to_string();
    assert!(
        error.contains(&format!("cannot read the manifests in {folder}")),
        "{error}"
    );
    check("the agent has never seen a folder");

    // Such as one that is yet to be mounted.
    fs::create_dir(&site.manifests).unwrap();
    site.agent.kill().unwrap();
    site.agent.start().unwrap();
    site.agent.wait_ready().unwrap();
    check("the agent has never seen a manifest");
    fs::remove_dir_all(&site.manifests).unwrap();
    fs::rename(&elsewhere, &site.manifests).unwrap();
    let has_it_all = |status: &Value| status["services"].as_array().unwrap().len() == 1;
    site.agent.wait_for("told of web", has_it_all).unwrap();
    check("the folder is back");
}

/// A node's server, with `web` in it, and the arguments to reach it.
fn served(lab: &Lab, runtime: &Runtime, node: Value) -> (Api, [String; 2]) {
    let start = || runtime.block_on(Api::start());
    let api = lab.node(1).netns.run(start).unwrap();
    api.put(Resource::Nodes, node);
    api.put(Resource::Services, service("web", 10, NODE_PORT));
    for slice in slices(lab, "web", &BACKENDS) {
        api.put(Resource::EndpointSlices, slice);
    }
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig).unwrap();
    let arguments = ["--kubeconfig".to_owned(), kubeconfig.display().to_string()];
    (api, arguments)
}

/// Networks of a set, as bytes of their keys.
fn networks(pins: &Path, set: u32) -> Vec<Vec<u8>> {
    type Key = lpm_trie::Key<NetworkKey>;
    let map = MapData::from_pin(map_path(pins, "NETWORKS")).unwrap();
    let map: LpmTrie<_, NetworkKey, u32> = Map::LpmTrie(map).try_into().unwrap();
    let keys = map.keys().map(Result::unwrap);
    let mut networks: Vec<Vec<u8>> = keys
        .filter(|key: &Key| key.data().set == set)
        .map(|key| {
            let words = key.data().address.words;
            let bytes = words.map(u32::to_ne_bytes).concat();
            [bytes, key.prefix_len().to_be_bytes().to_vec()].concat()
        })
        .collect();
    networks.sort_unstable();
    networks
}

/// What tells pods from others is kept until the Node is seen again.
#[test]
fn pod_networks_outlive_an_agent_without_a_server() {
    let runtime = Runtime::new().unwrap();
    let lab = site::lab(&LabOptions::default());
    let cidrs = pod_cidrs(1);
    let node = json!({
        "metadata": {"name": "node1"},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
    });
    let (mut api, arguments) = served(&lab, &runtime, node);
    let [flag, kubeconfig] = arguments.each_ref().map(String::as_str);
    let arguments = [flag, kubeconfig, "--detect-pods", "node-cidr"];
    let mut agent = lab.start_agent(1, &arguments).unwrap();
    agent.wait_ready().unwrap();
    let pods = || networks(&lab.pins(1), NetworkKey::PODS);
    let before = pods();
    assert_eq!(before.len(), 2, "{before:?}");
    runtime.block_on(api.stop());
    agent.kill().unwrap();
    agent.start().unwrap();
    let is_up = |status: &Value| status["synced"] == false;
    agent.wait_for("up", is_up).unwrap();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(pods(), before);
}

/// A version with other settings takes the clusterIPs over all the same.
#[test]
fn unknown_ports_are_refused_though_the_settings_are_new() {
    let runtime = Runtime::new().unwrap();
    let lab = site::lab(&LabOptions::default());
    let (_api, arguments) = served(&lab, &runtime, json!({"metadata": {"name": "node1"}}));
    let arguments = arguments.each_ref().map(String::as_str);
    let mut agent = lab.start_agent(1, &arguments).unwrap();
    agent.wait_ready().unwrap();
    let shell = lab.pod("shell").unwrap();
    let answer = || {
        let mut to = site::cluster_ip(Family::V4, 10);
        to.set_port(81);
        let exchange = Exchange::new(Protocol::Tcp, to);
        exchange.run_in(&shell.netns).unwrap_err().kind()
    };
    assert_eq!(answer(), io::ErrorKind::ConnectionRefused);
    agent.kill().unwrap();
    fs::remove_file(map_path(&lab.pins(1), "SETTINGS")).unwrap();
    agent.start().unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(answer(), io::ErrorKind::ConnectionRefused);
}
