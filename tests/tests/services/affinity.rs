//! `sessionAffinity: ClientIP` over time.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{Family, Protocol};
use serde_json::{Value, json};

use crate::stage::{Client, Stage, Way, eventually, kinds, ready};

/// Longer than it takes to ask all questions once.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);

fn sticky(timeout: Duration) -> Value {
    json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout.as_secs()}},
    })
}

fn all() -> [(&'static str, bool, bool, bool); 3] {
    ["a", "b", "c"].map(ready)
}

struct Scene {
    stage: Stage,
}

impl Scene {
    fn new(xdp: &str, timeout: Duration) -> Self {
        let stage = Stage::new(0, false, &["--xdp", xdp]);
        stage.publish(sticky(timeout), &all());
        let scene = Self { stage };
        for (protocol, family) in kinds() {
            for path in [
                (Client::Pod, Way::ClusterIp),
                (Client::Outside, Way::NodePort),
            ] {
                let ask = || scene.stage.exchange(path, protocol, family);
                eventually("served", ask, Result::is_ok).unwrap();
            }
        }
        scene
    }

    fn server(&self, path: (Client, Way), protocol: Protocol, family: Family) -> String {
        let ask = || self.stage.exchange(path, protocol, family);
        eventually("served", ask, Result::is_ok).unwrap().server
    }
}

/// One backend for a client and a service port, whatever frontend it uses,
/// while the timeout starts anew with each connection; then another.
#[test]
fn a_client_keeps_its_backend_until_it_rests() {
    let scene = Scene::new("native", TIMEOUT);
    let clients = [
        (
            Client::Pod,
            &[Way::ClusterIp, Way::NodePort, Way::LoadBalancer][..],
        ),
        (Client::Node, &[Way::ClusterIp]),
        (Client::Outside, &[Way::NodePort, Way::LoadBalancer]),
    ];
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    let start = Instant::now();
    while start.elapsed() < 2 * TIMEOUT {
        for (client, ways) in clients {
            for (protocol, family) in kinds() {
                for way in ways {
                    let server = scene.server((client, *way), protocol, family);
                    let who = format!("{client:?} {protocol} {family}");
                    let first = kept.entry(who.clone()).or_insert(server.clone());
                    assert_eq!(*first, server, "{who}, {way:?}");
                }
            }
        }
    }
    // One of three backends each: that all of them keep theirs is one in 3^12.
    thread::sleep(TIMEOUT + Duration::from_millis(500));
    let mut found = BTreeMap::new();
    for (client, ways) in clients {
        for (protocol, family) in kinds() {
            let server = scene.server((client, ways[0]), protocol, family);
            found.insert(format!("{client:?} {protocol} {family}"), server);
        }
    }
    assert_eq!(found.len(), kept.len());
    assert_ne!(found, kept);
}

/// XDP and TC, and an agent and its successor, remember the same.
#[test]
fn agents_and_hooks_share_one_memory() {
    let mut scene = Scene::new("native", LONG);
    let path = (Client::Outside, Way::NodePort);
    let kept: Vec<String> = kinds().map(|(p, f)| scene.server(path, p, f)).collect();
    let folder = scene.stage.manifests.display().to_string();
    for xdp in ["off", "native"] {
        scene.stage.agent.kill().unwrap();
        let arguments = ["--manifests", &folder, "--xdp", xdp];
        scene.stage.agent = scene.stage.lab.start_agent(1, &arguments).unwrap();
        scene.stage.agent.wait_ready().unwrap();
        let found: Vec<String> = kinds().map(|(p, f)| scene.server(path, p, f)).collect();
        assert_eq!(found, kept, "xdp {xdp}");
    }
}

/// A backend that is out of the set is not asked again, even if it comes back.
#[test]
fn a_client_whose_backend_goes_gets_another_and_keeps_that() {
    let scene = Scene::new("off", LONG);
    let path = (Client::Pod, Way::ClusterIp);
    let ask = || scene.server(path, Protocol::Tcp, Family::V4);
    let first = ask();
    let rest: Vec<_> = all().into_iter().filter(|pod| pod.0 != first).collect();
    scene.stage.publish(sticky(LONG), &rest);
    let second = eventually("another", ask, |server| *server != first);
    for _ in 0..10 {
        assert_eq!(ask(), second);
    }
    scene.stage.publish(sticky(LONG), &all());
    let is_back = |address: &str| {
        let status = scene.stage.agent.status().unwrap();
        status.to_string().contains(address)
    };
    let address = scene.stage.lab.pod(&first).unwrap().address(Family::V4);
    eventually("back", || is_back(&address.to_string()), |back| *back);
    assert_eq!(ask(), second);
}
