//! Two nodes with agents; Services with backends on each that the lab serves,
//! and others whose backends are for a test to play.

use std::net::SocketAddr;

use lb_tests::lab::{Family, Host, LabOptions, Scene, Service};

/// On the node of the client's choice, and on the other.
pub(crate) const SERVED: [(Service, &str); 2] = [(Service(1), "a"), (Service(2), "b")];
pub(crate) const PLAYED: [(Service, &str); 2] = [(Service(3), "c"), (Service(4), "d")];

const HOOKS: [&str; 3] = ["xdp", "tc_ingress", "tc_egress"];

/// With it, nodes put packets together to track them, and cut them again.
const TRACKED: &str = "table inet filter {
    chain input {
        type filter hook input priority filter;
        ct state invalid drop
    }
    chain forward {
        type filter hook forward priority filter;
        ct state invalid drop
    }
}";

pub(crate) struct Stage {
    pub(crate) scene: Scene,
}

impl Stage {
    pub(crate) fn new(xdp: &str) -> Self {
        Self::on(&LabOptions::default(), xdp)
    }

    /// On nodes with a firewall and a strict filter of sources.
    pub(crate) fn tracked(xdp: &str) -> Self {
        let options = LabOptions {
            rp_filter: 1,
            firewall: Some(TRACKED.to_owned()),
            ..LabOptions::default()
        };
        Self::on(&options, xdp)
    }

    fn on(options: &LabOptions, xdp: &str) -> Self {
        let mut scene = Scene::new(options).unwrap();
        scene.lab.add_pod(1, "shell").unwrap();
        for (node, (service, name)) in [1, 2].into_iter().zip(SERVED) {
            let pod = scene.add_backend(node, name).unwrap();
            scene.publish(service, &[&pod]).unwrap();
        }
        for (node, (service, name)) in [1, 2].into_iter().zip(PLAYED) {
            let pod = scene.lab.add_pod(node, name).unwrap();
            scene.publish(service, &[&pod]).unwrap();
        }
        scene.start_agents(4, &["--xdp", xdp]).unwrap();
        Self { scene }
    }

    /// Calls `check` with who asks, and where, for each way to a Service by
    /// node 1, but for its own way to itself: nothing is cut there.
    pub(crate) fn for_each_cut_path(
        &self,
        service: Service,
        family: Family,
        check: impl Fn(&Host, SocketAddr),
    ) {
        let lab = &self.scene.lab;
        let shell = lab.pod("shell").unwrap();
        let node_port = lab.node(1).socket(family, service.node_port());
        check(&shell.host, service.cluster_ip(family));
        check(&shell.host, node_port);
        check(lab.node(1), service.cluster_ip(family));
        check(lab.client(), node_port);
    }

    /// Packets of both nodes with a verdict, at any hook.
    pub(crate) fn count(&self, verdict: &str) -> u64 {
        let count = |node, hook| self.scene.count(node, hook, verdict).unwrap();
        [1, 2]
            .into_iter()
            .flat_map(|node| HOOKS.map(|hook| count(node, hook)))
            .sum()
    }

    /// All that node 1 counted, for a message.
    pub(crate) fn counts(&self) -> String {
        self.scene.agent(1).status().unwrap()["counters"].to_string()
    }
}
