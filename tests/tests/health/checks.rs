//! Load balancers ask how many endpoints a node has.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{AgentProcess, Lab};
use serde_json::{Value, json};

use super::{
    HEALTHZ, PATIENCE, eventually, from_outside, has_problem,
    http::Answer,
    site::{NODE_PORT, Site, service, slices, write},
};

/// With a port where load balancers ask.
pub(crate) fn balanced(name: &str, number: u16, node_port: u16, port: u16) -> Value {
    let mut service = service(name, number, node_port);
    let spec = &mut service["spec"];
    spec["type"] = "LoadBalancer".into();
    spec["externalTrafficPolicy"] = "Local".into();
    spec["healthCheckNodePort"] = port.into();
    service
}

/// Code, weight, Service and count of a port, if it says the same in both
/// families.
fn check_of(lab: &Lab, port: u16) -> Option<(u16, String, String, u64)> {
    let read = |answer: Option<Answer>| {
        let answer = answer?;
        let headers = &answer.headers;
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let json = answer.json();
        assert_eq!(json["serviceProxyHealthy"], true);
        Some((
            answer.code,
            headers["x-load-balancing-endpoint-weight"].clone(),
            json["service"]["name"].as_str()?.to_owned(),
            json["localEndpoints"].as_u64()?,
        ))
    };
    let mut answers = from_outside(lab, port, "/healthz").into_iter().map(read);
    let first = answers.next()?;
    first.filter(|first| answers.all(|other| other.as_ref() == Some(first)))
}

fn expect_closed(lab: &Lab, port: u16) {
    let closed = || from_outside(lab, port, "/").iter().all(Option::is_none);
    eventually("closed", || closed().then_some(()));
}

pub(crate) fn expect_check(lab: &Lab, port: u16, code: u16, name: &str, count: u64) {
    let expect = (code, count.to_string(), name.to_owned(), count);
    let mut last = None;
    let deadline = Instant::now() + PATIENCE;
    while last.as_ref() != Some(&expect) {
        assert!(Instant::now() < deadline, "{last:?}, not {expect:?}");
        last = check_of(lab, port);
    }
}

#[test]
fn load_balancers_hear_of_local_endpoints() {
    let site = Site::new(&[]);
    let publish = |port| {
        let web = balanced("web", 10, NODE_PORT, port);
        write(&site.manifests, "web", &[web]);
    };
    publish(30500);
    // Each pod has an address in both families; `a` is on this node.
    let table: [(&[&str], u16, u64); 6] = [
        (&["a", "b", "c"], 200, 2),
        (&["b", "c"], 503, 0),
        (&["a"], 200, 2),
        (&[], 503, 0),
        (&["b"], 503, 0),
        (&["b", "a"], 200, 2),
    ];
    for (pods, code, count) in table {
        write(
            &site.manifests,
            "web-slices",
            &slices(&site.lab, "web", pods),
        );
        expect_check(&site.lab, 30500, code, "web", count);
    }

    publish(30501);
    expect_check(&site.lab, 30501, 200, "web", 2);
    expect_closed(&site.lab, 30500);
    // It changes its policy, and has no such port.
    write(&site.manifests, "web", &[service("web", 10, NODE_PORT)]);
    expect_closed(&site.lab, 30501);
    publish(30501);
    expect_check(&site.lab, 30501, 200, "web", 2);
    fs::remove_file(site.manifests.join("web.json")).unwrap();
    expect_closed(&site.lab, 30501);
}

#[test]
fn a_taken_port_is_told_of_and_taken_later() {
    let mut site = Site::new(&[]);
    let node = &site.lab.node(1).netns;
    let other = node.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 30500)).unwrap());
    let web = balanced("web", 10, NODE_PORT, 30500);
    write(&site.manifests, "web", &[web]);
    let parts = [
        "Service default/web",
        "spec.healthCheckNodePort",
        "30500",
        "in use",
    ];
    let told = |status: &Value| has_problem(status, &parts);
    site.agent.wait_for("told of the taken port", told).unwrap();
    let lines = |agent: &AgentProcess| {
        let log = agent.log();
        log.matches("FailedToStartServiceHealthcheck").count()
    };
    let before = eventually("an Event", || Some(lines(&site.agent)).filter(|n| *n > 0));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(lines(&site.agent), before, "told of it once");
    drop(other);
    expect_check(&site.lab, 30500, 200, "web", 2);
    assert!(!told(&site.agent.status().unwrap()));

    // Another Service wants the same; the first by name has it.
    let more = balanced("more", 11, NODE_PORT + 1, 30500);
    write(&site.manifests, "more", &[more]);
    let parts = ["Service default/web", "30500", "Service default/more"];
    let told = |status: &Value| has_problem(status, &parts);
    site.agent.wait_for("told of the other", told).unwrap();
    expect_check(&site.lab, 30500, 503, "more", 0);
    fs::remove_file(site.manifests.join("more.json")).unwrap();
    expect_check(&site.lab, 30500, 200, "web", 2);
    assert!(!told(&site.agent.status().unwrap()));
}

#[test]
fn a_refused_service_is_no_fault_of_the_node() {
    let mut site = Site::new(&[]);
    let web = balanced("web", 10, NODE_PORT, 30500);
    write(&site.manifests, "web", &[web]);
    expect_check(&site.lab, 30500, 200, "web", 2);
    // More source ranges than all Services together can have.
    let ranges = (0..140_000).map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255));
    let mut greedy = service("greedy", 66, 0);
    let spec = &mut greedy["spec"];
    spec["type"] = "LoadBalancer".into();
    spec["loadBalancerSourceRanges"] = ranges.collect();
    greedy["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.66"}]}});
    write(&site.manifests, "greedy", &[greedy]);
    let refused = |status: &Value| has_problem(status, &["Service default/greedy", "NETWORKS"]);
    site.agent.wait_for("refused", refused).unwrap();
    let last_updated = || {
        let answers = from_outside(&site.lab, HEALTHZ, "/livez");
        let livez = answers.into_iter().next()??;
        assert_eq!(livez.code, 200);
        let family = &livez.json()["status"]["IPv4"];
        family["lastUpdated"].as_str().map(str::to_owned)
    };
    let before = last_updated();
    eventually("no longer waiting", || {
        let told = refused(&site.agent.status().unwrap());
        (told && last_updated() > before).then_some(())
    });
    expect_check(&site.lab, 30500, 200, "web", 2);
}
