//! What is told of the room for connections.

use std::fs;

use aya::maps::{HashMap, Map, MapData};
use lb_common::Holdings;
use lb_tests::{
    api::{Api, Resource},
    lab::{Family, Lab, LabOptions, TcpClient},
};
use serde_json::{Value, json};

use super::{
    PATIENCE, eventually, has_problem,
    metrics::sample,
    site::{Site, cluster_ip, service, slices, write},
};

#[test]
fn one_service_at_its_quota_leaves_room_for_others() {
    let site = Site::new(&[
        "--service-connection-quota",
        "2",
        "--max-connections",
        "1024",
        "--max-unassured-connections",
        "2048",
        "--tcp-timeout-fin-wait",
        "2s",
        "--tcp-timeout-time-wait",
        "2s",
    ]);
    let lab = &site.lab;
    write(&site.manifests, "other", &[service("other", 11, 0)]);
    write(
        &site.manifests,
        "other-slices",
        &slices(lab, "other", &["a"]),
    );
    let value = |name: &str, labels: &str| sample(lab, &format!("{name}{{{labels}}}"));
    let of_table = |name: &str, table: &str| value(name, &format!(r#"table="{table}""#));
    let of_service = |name: &str, service: &str| {
        let of = format!(r#"namespace="default",service="{service}""#);
        let labels = format!(r#"{of},port="tcp",protocol="TCP",ip_family="IPv4""#);
        value(name, &labels)
    };
    for (table, limit) in [("assured", 1024.0), ("unassured", 2048.0)] {
        assert_eq!(of_table("lb_connections_limit", table), Some(limit));
        let full_in = of_table("lb_connections_full_in_seconds", table);
        assert_eq!(full_in, Some(f64::INFINITY));
    }

    let shell = lab.pod("shell").unwrap();
    let connect = |number| {
        let to = cluster_ip(Family::V4, number);
        let connect = || TcpClient::connect(to, None, PATIENCE);
        eventually("a connection", || {
            let mut client = shell.netns.run(connect).ok()?;
            client.exchange(b"hello").ok().map(|_| client)
        })
    };
    let mut clients: Vec<_> = (0..4).map(|_| connect(10)).collect();
    let others = [connect(11), connect(11)];
    for client in &mut clients {
        client.exchange(b"all work").unwrap();
    }
    eventually("counted", || {
        let web = of_service("lb_service_connections", "web");
        let other = of_service("lb_service_connections", "other");
        let refused = of_service("lb_service_connections_refused_total", "web");
        let assured = of_table("lb_connections", "assured");
        let unassured = of_table("lb_connections", "unassured");
        let exact = [web, other, assured, unassured] == [2.0, 2.0, 4.0, 2.0].map(Some);
        (exact && refused >= Some(2.0)).then_some(())
    });
    let status = site.agent.status().unwrap();
    for (table, count, limit) in [("assured", 4, 1024), ("unassured", 2, 2048)] {
        let table = &status["connections"][table];
        assert_eq!(table["connections"], count, "{table}");
        assert_eq!(table["limit"], limit, "{table}");
    }
    let parts = [
        "\"tcp\" TCP IPv4",
        "quota of 2",
        "--service-connection-quota",
    ];
    let told = |status: &Value, service: &str| {
        let service = format!("Service default/{service}: ");
        has_problem(status, &[&[service.as_str()], &parts[..]].concat())
    };
    assert!(told(&status, "web") && told(&status, "other"), "{status:#}");

    drop((clients, others));
    eventually("collected", || {
        let finished = r#"protocol="TCP",state="finished""#;
        let collected = value("lb_connections_collected_total", finished);
        let left = ["assured", "unassured"].map(|table| of_table("lb_connections", table));
        (left == [Some(0.0); 2] && collected == Some(6.0)).then_some(())
    });
    let status = site.agent.status().unwrap();
    assert!(
        !told(&status, "web") && !told(&status, "other"),
        "{status:#}"
    );
    let log = site.agent.log();
    let warnings = log.matches("ConnectionQuotaReached").count();
    assert_eq!(warnings, 2, "once a Service: {log}");
}

/// Has the programs' count say so many connections.
fn hold(lab: &Lab, connections: u64) {
    let folder = lab.pins(1).join("maps");
    let mut pins = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let is_it = |name: &str| name.starts_with("HOLDINGS_");
    let pin = pins.find(|pin| is_it(pin.file_name().to_str().unwrap()));
    let data = MapData::from_pin(pin.unwrap().path()).unwrap();
    let mut holdings: HashMap<MapData, u32, Holdings> = Map::HashMap(data).try_into().unwrap();
    let record = Holdings {
        connections,
        refused: 0,
    };
    holdings.insert(1_000_000, record, 0).unwrap();
    let assured = r#"lb_connections{table="assured"}"#;
    let expect = Some(connections as f64);
    eventually("counted", || (sample(lab, assured) == expect).then_some(()));
}

#[test]
fn a_table_that_is_nearly_full_is_told_of_once() {
    let site = Site::new(&["--max-connections", "1024"]);
    let told = || {
        let status = site.agent.status().unwrap();
        has_problem(&status, &["Node node1", "of 1024 assured connections"])
    };
    hold(&site.lab, 500);
    assert!(!told());
    for connections in [900, 700, 1023, 800] {
        hold(&site.lab, connections);
        assert!(told(), "{connections}");
    }
    let log = site.agent.log();
    assert_eq!(log.matches("ConnectionsNearLimit").count(), 1, "{log}");
}

#[test]
fn a_node_without_room_has_an_event() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let node = &lab.node(1).netns;
    let api = node.run(|| runtime.block_on(Api::start()).unwrap());
    api.put(Resource::Nodes, json!({"metadata": {"name": "node1"}}));
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let arguments = ["--kubeconfig", &kubeconfig, "--max-connections", "1024"];
    let mut agent = lab.start_agent(1, &arguments).unwrap();
    agent.wait_ready().unwrap();
    hold(&lab, 1000);
    let event = eventually("an Event", || api.published().into_iter().next());
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "ConnectionsNearLimit");
    for (field, expect) in [("kind", "Node"), ("name", "node1"), ("uid", "node1")] {
        assert_eq!(event["regarding"][field], expect, "{event:#}");
    }
    let note = event["note"].as_str().unwrap();
    let parts = ["1024", "--max-connections"];
    assert!(parts.iter().all(|part| note.contains(part)), "{note}");
}
