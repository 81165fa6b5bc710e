//! What the agent answers over HTTP: to load balancers on
//! `healthCheckNodePort`, to probes, and to Prometheus.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "health/checks.rs"]
mod checks;
#[path = "health/http.rs"]
mod http;
#[path = "health/kubernetes.rs"]
mod kubernetes;
#[path = "health/metrics.rs"]
mod metrics;
#[path = "health/room.rs"]
mod room;
#[path = "continuity/site.rs"]
mod site;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{Family, Lab, LabOptions};
use serde_json::{Value, json};

use self::{
    http::{Answer, get},
    site::{Site, write},
};

const PATIENCE: Duration = Duration::from_secs(10);
const HEALTHZ: u16 = 10256;
const METRICS: u16 = 10249;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Calls `found` until it says something.
fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// From the client, in both families.
fn from_outside(lab: &Lab, port: u16, path: &str) -> Vec<Option<Answer>> {
    let ask = |family| get(&lab.client().netns, lab.node(1).socket(family, port), path);
    Family::ALL.map(ask).into()
}

fn has_problem(status: &Value, parts: &[&str]) -> bool {
    let problems = status["problems"].as_array().unwrap().iter();
    let mut lines = problems.filter_map(Value::as_str);
    lines.any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn probes() {
    let site = Site::new(&[]);
    let node = |taints: Value| {
        let addresses = Family::ALL.map(
            |family| json!({"type": "InternalIP", "address": site.lab.node(1).address(family)}),
        );
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
            "spec": {"taints": taints}, "status": {"addresses": addresses},
        });
        write(&site.manifests, "node", &[node]);
    };
    let leaving = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    let cordoned = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    for (taints, eligible) in [(json!([]), true), (leaving, false), (cordoned, true)] {
        node(taints);
        for (path, code) in [
            ("/healthz", if eligible { 200 } else { 503 }),
            ("/livez", 200),
        ] {
            let answers = eventually(path, || {
                let answers = from_outside(&site.lab, HEALTHZ, path);
                let mut codes = answers.iter().flatten().map(|answer| answer.code);
                codes.all(|other| other == code).then_some(answers)
            });
            for answer in answers {
                let answer = answer.unwrap();
                assert_eq!(answer.headers["content-type"], "application/json");
                assert_eq!(answer.headers["x-content-type-options"], "nosniff");
                let json = answer.json();
                assert_eq!(json["healthy"], true);
                for family in ["IPv4", "IPv6"] {
                    assert_eq!(json["status"][family]["healthy"], true);
                }
                let of_node = json.get("nodeEligible").and_then(Value::as_bool);
                assert_eq!(of_node, (path == "/healthz").then_some(eligible));
                for time in ["lastUpdated", "currentTime"] {
                    assert!(json[time].as_str().unwrap().ends_with('Z'), "{json}");
                }
            }
        }
    }
    let unknown = from_outside(&site.lab, HEALTHZ, "/metrics");
    assert!(unknown.iter().flatten().all(|answer| answer.code == 404));
}

#[test]
fn addresses_of_choice() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let manifests = lab.folder().join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    let folder = manifests.display().to_string();
    let own = ["--manifests", &folder];
    let node = &lab.node(1).netns;
    let asked = |address: IpAddr, port: u16, path: &str| {
        let answer = get(node, SocketAddr::new(address, port), path);
        answer.map(|answer| answer.code)
    };
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);

    let nowhere = ["--healthz-bind-address", "", "--metrics-bind-address", ""];
    let mut agent = lab.start_agent(1, &[&own[..], &nowhere].concat()).unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(agent.status().unwrap()["problems"], json!([]));
    for port in [HEALTHZ, METRICS] {
        assert_eq!(asked(LOOPBACK, port, "/healthz"), None);
    }
    agent.stop().unwrap();

    let others = [
        "--healthz-bind-address",
        "127.0.0.1:7001",
        "--metrics-bind-address",
        "[::]:7002",
    ];
    let mut agent = lab.start_agent(1, &[&own[..], &others].concat()).unwrap();
    agent.wait_ready().unwrap();
    for (address, port, expect) in [
        (LOOPBACK, 7001, Some(200)),
        (v6, 7001, None),
        (lab.node(1).address(Family::V4), 7001, None),
        (LOOPBACK, 7002, Some(200)),
        (v6, 7002, Some(200)),
    ] {
        assert_eq!(asked(address, port, "/healthz"), expect, "{address} {port}");
    }
    agent.stop().unwrap();

    let taken =
        [HEALTHZ, METRICS].map(|port| node.run(|| TcpListener::bind((LOOPBACK, port)).unwrap()));
    let mut agent = lab.start_agent(1, &own).unwrap();
    let options = ["--healthz-bind-address", "--metrics-bind-address"];
    let told = |status: &Value| {
        let told = |option: &&str| has_problem(status, &[option, "in use"]);
        status["synced"] == true && options.iter().all(told)
    };
    agent.wait_for("told of taken ports", told).unwrap();
    drop(taken);
    let free = |status: &Value| status["problems"] == json!([]);
    agent.wait_for("there after all", free).unwrap();
    for port in [HEALTHZ, METRICS] {
        assert_eq!(asked(LOOPBACK, port, "/healthz"), Some(200));
    }
}
