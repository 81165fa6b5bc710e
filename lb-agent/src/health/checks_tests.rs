use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use nix::sched::{CloneFlags, unshare};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::model::{Endpoint, Protocol, ServiceType, SlicePort, TrafficPolicy};

#[test]
fn endpoints_that_count() {
    let port = SlicePort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::MIN,
    };
    let endpoint = |address: &str, node: &str, ready| Endpoint {
        address: address.parse().unwrap(),
        node: Some(node.to_owned()),
        ready,
        serving: true,
        terminating: !ready,
        for_zones: BTreeSet::new(),
        for_nodes: BTreeSet::new(),
    };
    let slice = |ports: &[SlicePort], endpoints: Vec<Endpoint>| Slice {
        name: ObjectName::new("ns", "web-1"),
        service: ObjectName::new("ns", "web"),
        family: Family::of(endpoints[0].address),
        ports: ports.to_vec(),
        endpoints,
        trigger_time: None,
    };
    let one = std::slice::from_ref(&port);
    let v4 = |node, ready| slice(one, vec![endpoint("10.0.0.1", node, ready)]);
    let v6 = || slice(one, vec![endpoint("fd00::1", "n1", true)]);
    let table = [
        (vec![], 2, 0),
        (vec![v4("n1", true)], 2, 1),
        (vec![v4("n2", true)], 2, 0),
        // A draining endpoint takes traffic, but does not ask for more.
        (vec![v4("n1", false)], 2, 0),
        (vec![v4("n1", true), v4("n1", true)], 2, 1),
        (vec![v4("n1", true), v4("n1", false)], 2, 1),
        (vec![v4("n1", true), v6()], 2, 2),
        // The Service has IPv4 only.
        (vec![v4("n1", true), v6()], 1, 1),
        (
            vec![slice(&[], vec![endpoint("10.0.0.1", "n1", true)])],
            2,
            0,
        ),
    ];
    for (row, (slices, families, expect)) in table.into_iter().enumerate() {
        let cluster_ips = ["10.96.0.1", "fd00:96::1"].map(|text| text.parse().unwrap());
        let mut service = Service {
            name: ObjectName::new("ns", "web"),
            service_type: ServiceType::LoadBalancer,
            cluster_ips: cluster_ips[..families].to_vec(),
            external_ips: BTreeSet::new(),
            load_balancer_ips: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            ports: Vec::new(),
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_traffic_policy: TrafficPolicy::Local,
            affinity_seconds: None,
            health_check_node_port: NonZeroU16::new(30000),
        };
        let found = Wanted::of(&service, slices.iter(), "n1").unwrap();
        assert_eq!(found.endpoints, expect, "row {row}");
        service.health_check_node_port = None;
        assert_eq!(Wanted::of(&service, slices.iter(), "n1"), None);
    }
}

/// Runs in a network namespace of its own, whose loopback interface is up.
fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let inside = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(test);
    });
    inside.join().unwrap();
}

/// What a server says, in lines; nothing if there is none.
async fn get(ip: &str, port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((ip, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    Some(answer)
}

fn healthy() -> (watch::Sender<proxy::State>, Checks) {
    let (state, receiver) = watch::channel(proxy::State::new(Instant::now()));
    (state, Checks::new(receiver, Places::default()))
}

fn change(name: &str, wanted: Option<(u16, usize)>) -> (ObjectName, Option<Wanted>) {
    let wanted = wanted.map(|(port, endpoints)| Wanted {
        port: NonZeroU16::new(port).unwrap(),
        endpoints,
    });
    (ObjectName::new("ns", name), wanted)
}

#[test]
fn an_answer_as_load_balancers_read_it() {
    in_namespace(async {
        let (state, mut checks) = healthy();
        for (endpoints, healthy, line) in [
            (2, true, "HTTP/1.1 200 OK"),
            (0, true, "HTTP/1.1 503 Service Unavailable"),
            (2, false, "HTTP/1.1 503 Service Unavailable"),
        ] {
            if !healthy {
                let long_ago = Instant::now() - Duration::from_secs(60);
                state.send_modify(|state| state.unapplied_since = Some(long_ago));
            }
            checks.update(vec![change("web", Some((30000, endpoints)))]);
            for (ip, path) in [
                ("127.0.0.1", "/"),
                ("127.0.0.1", "/any/path?q"),
                ("::1", "/"),
            ] {
                let answer = get(ip, 30000, path).await.unwrap();
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
                assert_eq!(lines.remove(0), line.to_lowercase());
                for header in [
                    "content-type: application/json".to_owned(),
                    "x-content-type-options: nosniff".to_owned(),
                    format!("x-load-balancing-endpoint-weight: {endpoints}"),
                ] {
                    assert!(lines.contains(&header), "{header} in {lines:?}");
                }
                let expect = format!(
                    r#"{{"service":{{"namespace":"ns","name":"web"}},"localEndpoints":{endpoints},"serviceProxyHealthy":{healthy}}}"#
                );
                assert_eq!(body, expect);
            }
        }
    });
}

#[test]
fn ports_come_and_go() {
    in_namespace(async {
        type Step = (
            Vec<(ObjectName, Option<Wanted>)>,
            &'static [(u16, &'static str)],
            &'static [(&'static str, &'static str)],
        );
        let (a, b) = ("a", "b");
        // Changes; which Service answers on which port; failures.
        let table: [Step; 9] = [
            (vec![change(a, Some((30000, 1)))], &[(30000, "a")], &[]),
            (vec![change(a, Some((30001, 1)))], &[(30001, "a")], &[]),
            (
                vec![change(b, Some((30001, 1)))],
                &[(30001, "a")],
                &[("b", "Service ns/a has it")],
            ),
            (
                vec![change(a, Some((30001, 2)))],
                &[(30001, "a")],
                &[("b", "Service ns/a has it")],
            ),
            (vec![change(a, None)], &[(30001, "b")], &[]),
            // Somebody else has 30002.
            (
                vec![change(a, Some((30002, 1)))],
                &[(30001, "b")],
                &[("a", "Address already in use")],
            ),
            // They change places.
            (
                vec![change(a, Some((30001, 1))), change(b, Some((30000, 1)))],
                &[(30000, "b"), (30001, "a")],
                &[],
            ),
            (
                vec![change(a, Some((30000, 1))), change(b, Some((30001, 1)))],
                &[(30000, "a"), (30001, "b")],
                &[],
            ),
            (vec![change(a, None), change(b, None)], &[], &[]),
        ];
        let _other = TcpListener::bind("127.0.0.1:30002").await.unwrap();
        let (_state, mut checks) = healthy();
        for (row, (changes, expect, failures)) in table.into_iter().enumerate() {
            let mut kept = Vec::new();
            for port in 30000..30002 {
                kept.extend(TcpStream::connect(("127.0.0.1", port)).await.ok());
            }
            checks.update(changes);
            let events: Vec<_> = checks.failures().collect();
            assert_eq!(events.len(), failures.len(), "row {row}: {events:?}");
            for (event, (name, why)) in events.iter().zip(failures) {
                assert_eq!(event.reason, "FailedToStartServiceHealthcheck");
                let service = ObjectName::new("ns", *name);
                assert_eq!(event.about, Subject::Service(service));
                assert!(event.message.contains(why), "{event:?}");
                assert!(checks.problems().any(|problem| *problem == event.message));
            }
            let mut found = BTreeMap::new();
            for port in 30000..30002 {
                if let Some(answer) = get("127.0.0.1", port, "/").await {
                    let name = if answer.contains(r#""name":"a""#) {
                        a
                    } else {
                        b
                    };
                    found.insert(port, name);
                }
            }
            assert_eq!(found, expect.iter().copied().collect(), "row {row}");
            checks.retry();
            assert!(checks.failures().eq(events), "row {row}");
        }
        assert_eq!(checks.problems().count(), 0);
    });
}

#[test]
fn a_connection_ends_with_its_server() {
    in_namespace(async {
        let (_state, mut checks) = healthy();
        checks.update(vec![change("a", Some((30000, 1)))]);
        let mut stream = TcpStream::connect("127.0.0.1:30000").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        // Connections are accepted in their order.
        get("127.0.0.1", 30000, "/").await.unwrap();
        checks.update(vec![change("a", None)]);
        let mut buffer = [0; 4096];
        assert!(matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)));
    });
}

#[test]
fn clients_that_stay_keep_no_probe_from_its_answer() {
    in_namespace(async {
        let (_state, mut checks) = healthy();
        let ports = 30000..30006;
        let wanted = ports
            .clone()
            .map(|port| change(&port.to_string(), Some((port, 1))));
        checks.update(wanted.collect());
        let many = "GET / HTTP/1.1\r\nHost: lb\r\n\r\n".repeat(4096);
        // What each of them sends: nothing, half a request, or more than it
        // reads answers to.
        for sent in ["", "GET / HTTP/1.1\r\n", &many] {
            let mut clients = Vec::new();
            for port in ports.clone() {
                for _ in 0..100 {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    // The connection may be over before all is sent.
                    let _ = stream.write_all(sent.as_bytes()).await;
                    clients.push(stream);
                }
            }
            for port in ports.clone() {
                let limit = Duration::from_secs(2);
                let answer = timeout(limit, get("127.0.0.1", port, "/")).await;
                let answer = answer.unwrap().unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        }
    });
}

#[test]
fn a_port_that_becomes_free_is_taken() {
    in_namespace(async {
        let other = TcpListener::bind("0.0.0.0:30000").await.unwrap();
        let (_state, mut checks) = healthy();
        checks.update(vec![change("a", Some((30000, 1)))]);
        checks.retry();
        let events: Vec<_> = checks.failures().collect();
        let start = "Service ns/a: spec.healthCheckNodePort: found 30000, ";
        assert!(events[0].message.starts_with(start), "{events:?}");
        drop(other);
        checks.retry();
        assert_eq!(checks.problems().count(), 0);
        assert!(get("127.0.0.1", 30000, "/").await.is_some());
    });
}
