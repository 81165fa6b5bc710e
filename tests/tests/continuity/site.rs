//! A lab whose node 1 has an agent, four pods and the Service `web`.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use lb_tests::lab::{AgentProcess, Family, Lab, LabOptions, Protocol};
use serde_json::{Value, json};

pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30080;
pub(crate) const TARGET: u16 = 8080;

/// Fields are dropped in order: the agent before its node.
pub(crate) struct Site {
    pub(crate) agent: AgentProcess,
    pub(crate) manifests: PathBuf,
    pub(crate) lab: Lab,
}

impl Site {
    /// With `web` in a folder, all its pods behind it.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let lab = lab(&LabOptions::default());
        let manifests = lab.folder().join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        write(&manifests, "web", &[service("web", 10, NODE_PORT)]);
        write(&manifests, "web-slices", &slices(&lab, "web", &BACKENDS));
        let folder = manifests.display().to_string();
        let all = [&["--manifests", &folder], arguments].concat();
        let mut agent = lab.start_agent(1, &all).unwrap();
        agent.wait_ready().unwrap();
        Self {
            agent,
            manifests,
            lab,
        }
    }
}

/// Pods with servers: `a` on node 1, `b` and `c` on node 2.
pub(crate) const BACKENDS: [&str; 3] = ["a", "b", "c"];

/// With the client pod `shell` on node 1 too.
pub(crate) fn lab(options: &LabOptions) -> Lab {
    let lab = Lab::new(options).unwrap();
    lab.add_pod(1, "shell").unwrap();
    for (node, name) in [1, 2, 2].into_iter().zip(BACKENDS) {
        let pod = lab.add_pod(node, name).unwrap();
        let ports = Protocol::ALL.map(|protocol| (protocol, TARGET));
        lab.serve(&pod, &ports).unwrap();
    }
    lab
}

/// Where pods reach a Service made by [`service`].
pub(crate) fn cluster_ip(family: Family, number: u16) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("10.96.0.{number}"),
        Family::V6 => format!("fd00:10:96::{number:x}"),
    };
    SocketAddr::new(text.parse::<IpAddr>().unwrap(), PORT)
}

/// TCP and UDP in both families; nodePort 0 means none.
pub(crate) fn service(name: &str, number: u16, node_port: u16) -> Value {
    let addresses = Family::ALL.map(|family| cluster_ip(family, number).ip());
    let ports = Protocol::ALL.map(|protocol| {
        let name = protocol.to_string().to_lowercase();
        let mut port = json!({"name": name, "protocol": protocol, "port": PORT});
        if node_port > 0 {
            port["nodePort"] = node_port.into();
        }
        port
    });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": if node_port > 0 { "NodePort" } else { "ClusterIP" },
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": Family::ALL,
            "ipFamilyPolicy": "RequireDualStack",
            "ports": ports,
        },
    })
}

/// The pods of that name as endpoints of a Service, one slice a family.
pub(crate) fn slices(lab: &Lab, service: &str, pods: &[&str]) -> [Value; 2] {
    Family::ALL.map(|family| {
        let ports = Protocol::ALL.map(|protocol| {
            let name = protocol.to_string().to_lowercase();
            json!({"name": name, "protocol": protocol, "port": TARGET})
        });
        let endpoints = pods.iter().map(|name| {
            let pod = lab.pod(name).unwrap();
            json!({
                "addresses": [pod.address(family)],
                "nodeName": pod.node,
                "conditions": {"ready": true},
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{family}").to_lowercase(),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family,
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": ports,
        })
    })
}

/// Writes `<name>.json` so that no reader sees half of it.
pub(crate) fn write(folder: &Path, name: &str, objects: &[Value]) {
    let text: Vec<_> = objects.iter().map(Value::to_string).collect();
    let draft = folder.join(format!("{name}.draft"));
    fs::write(&draft, text.join("\n")).unwrap();
    fs::rename(&draft, folder.join(format!("{name}.json"))).unwrap();
}
