//! The agent's Kubernetes source against an API server that misbehaves in
//! every way that a real one does.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use lb_agent::{
    model::{Change, ObjectName},
    watch::{Event, KubernetesOptions, Subject, kubernetes},
};
use lb_tests::api::{Api, Faults, Resource};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

struct Fixture {
    api: Api,
    changes: Receiver<Vec<Change>>,
    /// The rest of the last vector.
    rest: VecDeque<Change>,
    /// What the source has said, as `service/name port` and `slice/name address`.
    state: BTreeSet<String>,
    problems: Vec<String>,
    zone: Option<String>,
    synced: usize,
    whole: usize,
    removals: usize,
    events: Sender<Event>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn new(objects: u16, faults: Faults) -> Self {
        let api = Api::start().await.expect("a free port");
        for index in 0..objects {
            api.put(Resource::Services, service(index, 80));
            api.put(Resource::EndpointSlices, slice(index, 1));
        }
        api.put(Resource::Nodes, node("n1", "z1"));
        api.put(Resource::Nodes, node("n2", "z2"));
        api.set_faults(faults);
        let dir = tempfile::tempdir().expect("a folder");
        let kubeconfig = dir.path().join("kubeconfig");
        api.write_kubeconfig(&kubeconfig)
            .expect("a writable folder");
        let (sender, changes) = channel(16);
        let options = KubernetesOptions {
            kubeconfig: Some(kubeconfig),
            node_name: "n1".to_owned(),
        };
        let (events, to_publish) = channel(16);
        tokio::spawn(kubernetes(options, sender, to_publish));
        Self {
            api,
            changes,
            rest: VecDeque::new(),
            state: BTreeSet::new(),
            problems: Vec::new(),
            zone: None,
            synced: 0,
            whole: 0,
            removals: 0,
            events,
            _dir: dir,
        }
    }

    /// After the first lists, with all of `objects` there.
    async fn synced(objects: u16, faults: Faults) -> Self {
        let mut fixture = Self::new(objects, faults).await;
        while fixture.whole == 0 {
            fixture.receive().await;
        }
        assert_eq!(fixture.state, expect(0..objects, 80, 1));
        assert_eq!(fixture.zone.as_deref(), Some("z1"));
        assert_eq!(fixture.problems, Vec::<String>::new());
        fixture
    }

    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.rest.pop_front() {
                return change;
            }
            self.rest = self.changes.recv().await.expect("a running source").into();
            assert!(!self.rest.is_empty());
        }
    }

    async fn receive(&mut self) {
        let next = tokio::time::timeout(Duration::from_secs(60), self.next());
        match next.await.expect("a change in time") {
            Change::Service(name, service) => {
                let prefix = format!("service/{} ", name.name);
                self.removals += usize::from(service.is_none());
                self.state.retain(|line| !line.starts_with(&prefix));
                self.state
                    .extend(service.map(|service| format!("{prefix}{}", service.ports[0].port)));
            }
            Change::Slice(name, slice) => {
                let prefix = format!("slice/{} ", name.name);
                self.removals += usize::from(slice.is_none());
                self.state.retain(|line| !line.starts_with(&prefix));
                self.state
                    .extend(slice.map(|slice| format!("{prefix}{}", slice.endpoints[0].address)));
            }
            Change::Node(node) => self.zone = node.zone,
            Change::Problems(problems) => {
                self.problems = problems.iter().map(ToString::to_string).collect();
            }
            Change::Synced => self.synced += 1,
            Change::Whole => self.whole += 1,
        }
    }

    async fn until(&mut self, expect: &BTreeSet<String>) {
        while self.state != *expect {
            self.receive().await;
        }
    }

    async fn nothing_for(&mut self, time: Duration) {
        let change = tokio::time::timeout(time, self.next()).await;
        assert!(change.is_err(), "{change:?}");
    }
}

fn service(index: u16, port: u16) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": format!("s{index}"), "managedFields": [{"manager": "lab"}]},
        "spec": {"clusterIP": format!("10.96.{}.{}", index / 250, index % 250 + 1), "ports": [{"port": port}]},
    })
}

fn slice(index: u16, host: u16) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": format!("s{index}-1"), "labels": {"kubernetes.io/service-name": format!("s{index}")}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [format!("10.1.{}.{host}", index % 250)]}],
    })
}

fn node(name: &str, zone: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}})
}

fn expect(indexes: impl Iterator<Item = u16>, port: u16, host: u16) -> BTreeSet<String> {
    let lines = indexes.flat_map(|index| {
        [
            format!("service/s{index} {port}"),
            format!("slice/s{index}-1 10.1.{}.{host}", index % 250),
        ]
    });
    lines.collect()
}

/// Changes all objects below `to`, and removes the rest up to `all`.
fn rewrite(api: &Api, to: u16, all: u16, port: u16, host: u16) {
    for index in 0..to {
        api.put(Resource::Services, service(index, port));
        api.put(Resource::EndpointSlices, slice(index, host));
    }
    for index in to..all {
        assert!(api.delete(Resource::Services, "default", &format!("s{index}")));
        assert!(api.delete(Resource::EndpointSlices, "default", &format!("s{index}-1")));
    }
}

#[tokio::test]
async fn lists_in_pages_then_follows() {
    let faults = Faults {
        page: Some(7),
        ..Faults::default()
    };
    let mut source = Fixture::synced(30, faults).await;
    assert_eq!(source.api.counts().further_pages, 8);
    rewrite(&source.api, 20, 30, 81, 2);
    source.until(&expect(0..20, 81, 2)).await;
    source.api.put(Resource::Nodes, node("n1", "z3"));
    while source.zone.as_deref() != Some("z3") {
        source.receive().await;
    }
    // Bookmarks say nothing about objects.
    source.nothing_for(Duration::from_secs(1)).await;
    assert!(source.api.counts().bookmarks > 0);
    assert_eq!((source.synced, source.whole, source.removals), (1, 1, 20));
}

#[tokio::test]
async fn what_is_not_proxied_goes() {
    let mut source = Fixture::synced(3, Faults::default()).await;
    let mut headless = service(0, 80);
    headless["spec"]["clusterIP"] = "None".into();
    let mut other = service(1, 80);
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    let mut labelled = slice(2, 1);
    labelled["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    source.api.put(Resource::Services, headless);
    source.api.put(Resource::Services, other);
    source.api.put(Resource::EndpointSlices, labelled);
    let mut left = expect(0..3, 80, 1);
    left.retain(|line| {
        !["service/s0 80", "service/s1 80", "slice/s2-1 10.1.2.1"].contains(&line.as_str())
    });
    source.until(&left).await;
}

#[tokio::test]
async fn a_malformed_object_spoils_no_other() {
    let mut source = Fixture::new(2, Faults::default()).await;
    let mut malformed = service(9, 80);
    malformed["spec"]["ports"] = "http".into();
    source.api.put(Resource::Services, malformed);
    while source.synced == 0 || source.problems.is_empty() {
        source.receive().await;
    }
    assert_eq!(source.state, expect(0..2, 80, 1));
    source.nothing_for(Duration::from_millis(300)).await;
    assert_eq!(source.whole, 0, "s9 is hidden");
    assert!(
        source.problems[0].starts_with("API: Service default/s9: found "),
        "{:?}",
        source.problems
    );

    let mut malformed = service(0, 81);
    malformed["spec"]["ports"][0]["port"] = "http".into();
    source.api.put(Resource::Services, malformed);
    while source.problems.len() != 2 {
        source.receive().await;
    }
    assert_eq!((&source.state, source.removals), (&expect(0..2, 80, 1), 0));
    source.api.put(Resource::Services, service(0, 81));
    source.api.put(Resource::Services, service(1, 81));
    assert!(source.api.delete(Resource::Services, "default", "s9"));
    source.until(&expect(0..2, 81, 1)).await;
    while !source.problems.is_empty() || source.whole == 0 {
        source.receive().await;
    }
    assert_eq!((source.synced, source.whole), (1, 1));
}

#[tokio::test]
async fn a_connection_that_breaks_within_an_event() {
    let mut source = Fixture::synced(5, Faults::default()).await;
    for round in 0..3 {
        let faults = Faults {
            cut_next_event: true,
            ..Faults::default()
        };
        source.api.set_faults(faults);
        let host = 2 + round;
        rewrite(&source.api, 5, 5, 81 + round, host);
        source.until(&expect(0..5, 81 + round, host)).await;
        assert_eq!(source.api.counts().cuts, usize::from(round) + 1);
    }
    assert_eq!(source.removals, 0);
}

#[tokio::test]
async fn slow_bodies_in_small_pieces() {
    let faults = Faults {
        dribble: Some((1, Duration::from_micros(50))),
        ..Faults::default()
    };
    let mut source = Fixture::synced(3, faults).await;
    rewrite(&source.api, 2, 3, 81, 2);
    source.until(&expect(0..2, 81, 2)).await;
    assert_eq!(source.removals, 2);
}

#[tokio::test]
async fn a_lost_server_removes_nothing() {
    let mut source = Fixture::synced(5, Faults::default()).await;
    source.api.stop().await;
    source.nothing_for(Duration::from_secs(2)).await;
    rewrite(&source.api, 3, 5, 81, 2);
    source.api.resume().await.unwrap();
    source.until(&expect(0..3, 81, 2)).await;

    source.api.set_faults(Faults {
        status: Some(500),
        ..Faults::default()
    });
    source.api.stop().await;
    source.api.resume().await.unwrap();
    source.nothing_for(Duration::from_secs(2)).await;
    assert!(source.api.counts().refused_status > 0);
    source.api.set_faults(Faults::default());
    rewrite(&source.api, 3, 3, 82, 3);
    source.until(&expect(0..3, 82, 3)).await;
    assert_eq!((source.synced, source.removals), (1, 4));
}

#[tokio::test]
async fn a_version_that_is_gone() {
    for gone_as_status in [false, true] {
        let faults = Faults {
            gone_as_status,
            page: Some(3),
            ..Faults::default()
        };
        let mut source = Fixture::synced(10, faults).await;
        let lists = source.api.counts().lists;
        source.api.stop().await;
        rewrite(&source.api, 6, 10, 81, 2);
        source.api.compact();
        source.nothing_for(Duration::from_millis(300)).await;
        assert_eq!(source.removals, 0);
        source.api.resume().await.unwrap();
        source.until(&expect(0..6, 81, 2)).await;
        assert!(source.api.counts().gone > 0 && source.api.counts().lists > lists);
        assert_eq!((source.synced, source.removals), (1, 8));

        rewrite(&source.api, 5, 6, 82, 3);
        source.until(&expect(0..5, 82, 3)).await;
    }
}

#[tokio::test]
async fn a_server_that_comes_late() {
    let faults = Faults {
        status: Some(503),
        ..Faults::default()
    };
    let mut source = Fixture::new(2, faults).await;
    source.nothing_for(Duration::from_secs(1)).await;
    source.api.set_faults(Faults::default());
    while source.synced == 0 {
        source.receive().await;
    }
    assert_eq!(source.state, expect(0..2, 80, 1));
}

#[tokio::test]
async fn events_about_services() {
    let mut source = Fixture::synced(2, Faults::default()).await;
    let mut known = service(0, 80);
    known["metadata"]["uid"] = "0-0-1".into();
    source.api.put(Resource::Services, known);
    let event = |service: &str, message: &str| Event {
        about: Subject::Service(ObjectName::new("default", service)),
        reason: "FailedToProgram",
        message: message.to_owned(),
    };
    let refused = Faults {
        status: Some(403),
        ..Faults::default()
    };
    source.api.set_faults(refused);
    source.events.send(event("s0", "lost")).await.unwrap();
    while source.api.counts().refused_status == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The refusal of the event itself follows at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    source.api.set_faults(Faults::default());
    let table = [
        ("s0", "map FRONTENDS: full", Some("0-0-1")),
        ("gone", "x", None),
    ];
    for (index, (service, message, uid)) in table.into_iter().enumerate() {
        source.events.send(event(service, message)).await.unwrap();
        while source.api.published().len() <= index {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let found = &source.api.published()[index];
        assert_eq!(found["type"], "Warning");
        assert_eq!(found["reason"], "FailedToProgram");
        assert_eq!(found["note"], message);
        assert_eq!(found["reportingInstance"], "n1");
        assert_eq!(found["metadata"]["namespace"], "default");
        let regarding = &found["regarding"];
        let named = ["kind", "namespace", "name"].map(|field| regarding[field].as_str());
        assert_eq!(named, [Some("Service"), Some("default"), Some(service)]);
        assert_eq!(regarding["uid"].as_str(), uid);
    }
    // And the source goes on.
    rewrite(&source.api, 1, 2, 81, 2);
    source.until(&expect(0..1, 81, 2)).await;
}
