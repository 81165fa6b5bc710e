//! The lab of a matrix: two nodes, and on each a pod that only asks, a pod
//! that is the only backend of a Service, and a pod that may not reach the
//! backend of node 1.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use lb_common::{Hook, Verdict, verdict::Class};
use lb_tests::lab::{Lab, LabOptions, Pod, Scene, Service};

use super::firewall;

/// The machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uplink {
    Xdp,
    Tc,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) uplink: Uplink,
    pub(crate) rp_filter: u8,
    pub(crate) firewall: bool,
}

pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) scene: Scene,
}

impl Stage {
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let mut scene = Scene::new(&LabOptions {
            rp_filter: kind.rp_filter,
            ..LabOptions::default()
        })?;
        for node in [1, 2] {
            scene.lab.add_pod(node, &format!("asker{node}"))?;
            scene.lab.add_pod(node, &format!("barred{node}"))?;
            let backend = scene.add_backend(node, &format!("backend{node}"))?;
            scene.publish(service_on(node), &[&backend])?;
        }
        if kind.firewall {
            firewall::install(&scene.lab)?;
        }
        let xdp = match kind.uplink {
            Uplink::Xdp => "native",
            Uplink::Tc => "off",
        };
        scene.start_agents(2, &["--xdp", xdp])?;
        Ok(Self { kind, scene })
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.scene.lab
    }

    pub(crate) fn backend(&self, node: u8) -> Arc<Pod> {
        self.pod("backend", node)
    }

    pub(crate) fn pod(&self, name: &str, node: u8) -> Arc<Pod> {
        let name = format!("{name}{node}");
        self.lab().pod(&name).expect("made with the stage")
    }

    /// The hook in question has done the work, and nothing was dropped.
    pub(crate) fn check_counters(&self) -> Result<()> {
        let uplink = match self.kind.uplink {
            Uplink::Xdp => Hook::Xdp,
            Uplink::Tc => Hook::TcIngress,
        };
        for node in [1, 2] {
            let status = self.scene.agent(node).status()?;
            let count = |hook: Hook, verdict: Verdict| {
                let count = &status["counters"][hook.name()][verdict.name()];
                count.as_u64().unwrap_or(0)
            };
            for verdict in [Verdict::Opened, Verdict::Forward, Verdict::Reply] {
                assert!(count(uplink, verdict) > 0, "node{node}: {verdict:?}");
            }
            if self.kind.uplink == Uplink::Tc {
                let by_xdp = &status["counters"][Hook::Xdp.name()];
                assert!(by_xdp.is_null(), "node{node}: {by_xdp}");
            }
            for hook in Hook::ALL {
                let is_drop = |verdict: &&Verdict| verdict.class() == Class::Dropped;
                for &verdict in Verdict::ALL.iter().filter(is_drop) {
                    assert_eq!(count(hook, verdict), 0, "node{node}: {hook:?} {verdict:?}");
                }
            }
        }
        Ok(())
    }
}

/// The Service whose backend is on a node.
pub(crate) fn service_on(node: u8) -> Service {
    Service(node)
}
