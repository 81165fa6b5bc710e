//! The demo's side of the lab, without any agent.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use lb_tests::{
    demo::{self, Controller, Folder, Status, rows, targets},
    lab::{Exchange, Family, Lab, LabOptions, Protocol},
};
use serde_json::{Value, json};

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");

struct Scene {
    controller: Controller,
    folder: Folder,
    lab: Arc<Lab>,
}

impl Scene {
    fn new() -> Result<Self> {
        let lab = Arc::new(Lab::new(&LabOptions::default())?);
        let [manifests, pods] = ["manifests", "pods"].map(|name| lab.folder().join(name));
        fs::create_dir_all(&manifests)?;
        fs::create_dir_all(&pods)?;
        for entry in fs::read_dir(MANIFESTS)? {
            let entry = entry?;
            fs::copy(entry.path(), manifests.join(entry.file_name()))?;
        }
        let controller = Controller::new(Arc::clone(&lab), pods);
        let folder = Folder::new(manifests);
        let mut scene = Self {
            controller,
            folder,
            lab,
        };
        assert_eq!(scene.sync()?, [""; 0]);
        Ok(scene)
    }

    fn sync(&mut self) -> Result<Vec<String>> {
        let (workloads, problems) = self.folder.read()?;
        self.controller.reconcile(&workloads)?;
        Ok(problems)
    }

    fn edit(&self, file: &str, edit: impl Fn(String) -> String) -> Result<()> {
        let path = self.folder.path().join(file);
        Ok(fs::write(&path, edit(fs::read_to_string(&path)?))?)
    }

    fn pods(&self, start: &str) -> Vec<String> {
        let pods = self.lab.pods();
        let names = pods.iter().map(|pod| pod.name.clone());
        names.filter(|name| name.starts_with(start)).collect()
    }

    fn manifest(&self, pod: &str) -> Option<Value> {
        let path = self.lab.folder().join("pods").join(format!("{pod}.json"));
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }
}

#[test]
fn deployments_become_pods_that_serve() {
    let scene = Scene::new().unwrap();
    let table = [
        ("kiada-0", Protocol::Tcp, 8080),
        ("kiada-2", Protocol::Tcp, 8443),
        ("quote-1", Protocol::Tcp, 80),
        ("ocr-1", Protocol::Tcp, 5002),
        ("production-cloud.mysqlauth-0", Protocol::Tcp, 3306),
        ("kube-system.coredns-1", Protocol::Tcp, 53),
        ("kube-system.coredns-1", Protocol::Udp, 53),
        ("syslog-0", Protocol::Udp, 5514),
    ];
    for (name, protocol, port) in table {
        let pod = scene.lab.pod(name).unwrap();
        for family in Family::ALL {
            let reply = scene
                .lab
                .client()
                .exchange(protocol, pod.socket(family, port));
            assert_eq!(reply.unwrap().server, name);
        }
    }
    let warehouse = scene.lab.client().socket(Family::V6, 15432);
    let from = scene.lab.pod("quiz-0").unwrap();
    assert_eq!(
        from.exchange(Protocol::Tcp, warehouse).unwrap().server,
        "client"
    );

    let pod = scene.lab.pod("quiz-1").unwrap();
    let manifest = scene.manifest("quiz-1").unwrap();
    let expect = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "quiz-1", "namespace": "default", "labels": {"app": "quiz", "rel": "stable"},
        },
        "spec": {
            "nodeName": pod.node,
            "containers": [{
                "name": "quiz", "image": "lab",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            }],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIP": pod.addresses.v4,
            "podIPs": [{"ip": pod.addresses.v4}, {"ip": pod.addresses.v6}],
        },
    });
    assert_eq!(manifest, expect);
}

#[test]
fn replicas_are_spread_over_the_nodes() {
    let scene = Scene::new().unwrap();
    for name in ["kiada", "quiz", "myapp"] {
        let nodes = scene.lab.pods();
        let nodes = nodes.iter().filter(|pod| pod.name.starts_with(name));
        let nodes: std::collections::BTreeSet<_> = nodes.map(|pod| pod.node.clone()).collect();
        assert_eq!(nodes.len(), 2, "{name}");
    }
}

#[test]
fn the_folder_is_followed() {
    let mut scene = Scene::new().unwrap();
    assert_eq!(scene.pods("quiz-"), ["quiz-0", "quiz-1"]);

    let scale = |text: String| text.replace("replicas: 2", "replicas: 4");
    scene.edit("kiada.yaml", scale).unwrap();
    assert_eq!(scene.sync().unwrap(), [""; 0]);
    assert_eq!(scene.pods("quiz-").len(), 4);
    let new = scene.lab.pod("quiz-3").unwrap().socket(Family::V4, 8080);
    assert_eq!(
        scene
            .lab
            .client()
            .exchange(Protocol::Tcp, new)
            .unwrap()
            .server,
        "quiz-3"
    );
    assert!(scene.manifest("quiz-3").is_some());

    scene
        .edit("kiada.yaml", |text| {
            text[..text.len() / 2].to_owned() + "\n\t{"
        })
        .unwrap();
    let problems = scene.sync().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("kiada.yaml"), "{problems:?}");
    assert_eq!(
        scene.pods("quiz-").len(),
        4,
        "a broken file changes nothing"
    );

    fs::remove_file(scene.folder.path().join("kiada.yaml")).unwrap();
    assert_eq!(scene.sync().unwrap(), [""; 0]);
    assert_eq!(scene.pods("quiz-"), [""; 0]);
    assert!(scene.manifest("quiz-3").is_none());
    let gone = Exchange::new(Protocol::Tcp, new).timeout(Duration::from_millis(300));
    assert!(gone.run_in(&scene.lab.client().netns).is_err());
    assert_eq!(scene.pods("myapp-").len(), 3, "the other files count");
}

/// A Service whose "frontend" is the address of one of its pods needs no agent.
fn status(lab: &Lab, frontends: &Value, backends: &[&str]) -> Status {
    let backends = backends.iter().map(|name| {
        let pod = lab.pod(name).expect("a pod of the examples");
        json!({"address": pod.addresses.v4, "port": 8080, "local": true, "node": pod.node, "connections": 3})
    });
    let backends: Vec<_> = backends.collect();
    let status = json!({
        "synced": true,
        "node": "node1",
        "interfaces": [
            {"name": "eth0", "index": 2, "kind": "uplink", "xdp": "native", "tc": "tcx"},
            {"name": "lo", "index": 1, "kind": "local", "xdp": "off", "tc": "clsact"},
            {"name": "veth-shell", "index": 3, "kind": "pod", "xdp": "off", "tc": "clsact"},
        ],
        "services": [{
            "namespace": "default", "name": "kiada", "type": "NodePort",
            "ports": [{
                "name": "http", "protocol": "TCP", "family": "IPv4",
                "frontends": frontends, "backends": backends,
            }],
        }],
        "problems": [],
        "counters": {},
    });
    serde_json::from_value(status).expect("a status as agents serve it")
}

#[test]
fn paths_tell_complete_rows_from_broken_ones() {
    let scene = Scene::new().unwrap();
    let lab = &scene.lab;
    let pod = lab.add_pod(1, "shell").unwrap();
    let address = |name: &str| lab.pod(name).unwrap().addresses.v4;
    let frontends = json!([
        {"address": address("kiada-0"), "port": 8080, "kind": "clusterIP", "error": null},
        {"address": address("quiz-0"), "port": 8080, "kind": "externalIP", "error": null},
        {"address": lab.node(1).addresses.v4, "port": 30080, "kind": "nodePort", "error": null},
        {"address": lab.node(2).addresses.v4, "port": 30080, "kind": "nodePort", "error": null},
    ]);
    let statuses = [status(lab, &frontends, &["kiada-0", "kiada-1"])];
    let targets = targets(&statuses, lab);
    let kinds: Vec<_> = targets.iter().map(|target| target.kind.as_str()).collect();
    assert_eq!(
        kinds.len(),
        3,
        "a nodePort counts on its own node: {kinds:?}"
    );
    let target = |kind: &str| targets.iter().find(|target| target.kind == kind).unwrap();

    let [inside, node, outside] = [
        demo::Path::Pod(&pod),
        demo::Path::Node(lab.node(1)),
        demo::Path::Outside(lab.client()),
    ];
    let table = [
        (inside, "clusterIP", 3, "tc ingress (clsact)", None),
        (node, "clusterIP", 3, "tc egress (tcx)", None),
        (
            node,
            "nodePort",
            0,
            "tc egress (clsact)",
            Some("Connection refused (os error 111)"),
        ),
        (
            outside,
            "externalIP",
            0,
            "xdp native",
            Some("answered by quiz-0"),
        ),
        (
            outside,
            "nodePort",
            0,
            "xdp native",
            Some("Connection refused (os error 111)"),
        ),
    ];
    let mut all = Vec::new();
    for (path, kind, replies, hook, error) in table {
        let row = path.try_out(target(kind), 3, &statuses, lab);
        let got = (row.replies, row.hook.as_str(), row.error.as_deref());
        assert_eq!(got, (replies, hook, error), "{kind}");
        assert_eq!(row.is_complete(), replies == 3);
        all.push(row);
    }
    assert!(!outside.reaches(target("clusterIP")) && inside.reaches(target("clusterIP")));
    let text = rows(&all);
    assert!(text.lines().nth(1).unwrap().contains("3/3"), "{text}");
    assert!(demo::frontends(&statuses[0]).contains("nodePort 192.0.2.11:30080"));
    let counts = demo::connections(&[statuses[0].clone(), statuses[0].clone()], lab);
    assert!(
        counts.ends_with("default/kiada  http  TCP    kiada-0=6 kiada-1=6\n"),
        "{counts}"
    );
}

#[test]
fn the_examples_have_what_people_meet() {
    let mut text = String::new();
    for entry in fs::read_dir(Path::new(MANIFESTS)).unwrap() {
        text.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for part in [
        "name: kiada",
        "name: quiz",
        "name: quote",
        "nodePort: 30001",
        "name: ner-service",
        "name: ocr-service",
        "namespace: production-cloud",
        "nodePort: 32001",
        "nodePort: 30008",
        "type: LoadBalancer",
        "clusterIP: None",
        "type: ExternalName",
        "kind: EndpointSlice",
    ] {
        assert!(text.contains(part), "{part}");
    }
}
