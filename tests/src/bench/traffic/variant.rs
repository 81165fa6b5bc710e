//! Who balances in a node: nobody, a ruleset, our agent, or any other agent.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_common::{Verdict, verdict::Class};
use serde_json::Value;

use super::{
    frames::Floor,
    iptables, nft,
    services::{CLIENT_PORT, EXTERNAL_IP, MEASURED, PORT, Service, TARGET_PORT, manifests},
};
use crate::{
    bench::floor::{self, Established},
    lab::{AgentProcess, Family, Lab, Process, mac},
};

/// The node that is measured.
pub(super) const NODE: u8 = 1;

/// Longest wait for an agent to have taken all Services.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is set up in one lab, and what it is called under each load; `None`
/// leaves the load out.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    pub(super) kind: Kind,
    /// For frames from the NIC.
    pub(super) nic: Option<&'static str>,
    /// For a pod's sockets.
    pub(super) pod: Option<&'static str>,
    /// For the node's own sockets.
    pub(super) node: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The sink is at the uplink, so that no node has a part in it.
    Wire,
    /// No Services: the endpoint is addressed.
    Plain,
    /// One program at the uplink, for one flow.
    Floor,
    Nftables,
    Iptables,
    /// Arguments of the agent.
    Ours(&'static [&'static str]),
    Peer(String),
}

impl Variant {
    pub(super) fn name(&self) -> &'static str {
        self.nic.or(self.pod).or(self.node).unwrap_or_default()
    }
}

/// All variants, in the order in which they take turns.
pub(super) fn variants(peer: Option<&str>) -> Vec<Variant> {
    let same = |kind, name| Variant {
        kind,
        nic: Some(name),
        pod: Some(name),
        node: Some(name),
    };
    let mut all = vec![
        Variant {
            kind: Kind::Wire,
            nic: Some("dropped at the uplink"),
            pod: None,
            node: None,
        },
        Variant {
            kind: Kind::Floor,
            nic: Some(floor::NAME),
            pod: None,
            node: None,
        },
        same(Kind::Plain, "plain"),
        same(Kind::Nftables, "nftables"),
        same(Kind::Iptables, "iptables"),
        Variant {
            kind: Kind::Ours(&["--xdp", "off", "--shortcut", "never"]),
            nic: Some("ours, TC"),
            pod: Some("ours, stack"),
            node: None,
        },
        Variant {
            kind: Kind::Ours(&["--xdp", "native", "--shortcut", "always"]),
            nic: Some("ours, XDP"),
            pod: Some("ours, shortcut"),
            node: Some("ours"),
        },
    ];
    all.extend(peer.map(|command| same(Kind::Peer(command.to_owned()), "peer")));
    all
}

/// A variant at work in a lab.
#[derive(Debug)]
pub(super) enum Balancer {
    Plain,
    Floor(Floor),
    Nftables,
    Iptables,
    Ours(AgentProcess),
    /// Held for its end.
    Peer(#[expect(dead_code, reason = "killed when it is dropped")] Process),
}

impl Balancer {
    pub(super) fn start(kind: &Kind, lab: &Lab, object: &Path) -> Result<Self> {
        let folder = manifests_of(lab);
        fs::create_dir_all(&folder)?;
        Ok(match kind {
            Kind::Wire | Kind::Plain => Self::Plain,
            Kind::Floor => Self::Floor(lab.node(NODE).netns.run(|| Floor::attach(object, "eth0"))?),
            Kind::Nftables => Self::Nftables,
            Kind::Iptables => Self::Iptables,
            Kind::Ours(more) => {
                let folder = folder.display().to_string();
                let allocations = lab.folder().join("allocations.json").display().to_string();
                let own = ["--manifests", &folder, "--allocations", &allocations];
                Self::Ours(lab.start_agent(NODE, &[&own, *more].concat())?)
            }
            Kind::Peer(line) => {
                let mut command = lab.node(NODE).netns.command("sh")?;
                command
                    .args(["-c", line])
                    .env("LB_BENCH_NODE", &lab.node(NODE).name)
                    .env("LB_BENCH_MANIFESTS", &folder)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null());
                Self::Peer(Process::spawn(command).context("starting the peer")?)
            }
        })
    }

    /// Has it serve these Services instead of those that it served before. The
    /// last ones, which are measured, are made after all others.
    pub(super) fn serve(&mut self, lab: &Lab, services: &[Service]) -> Result<()> {
        let node = &lab.node(NODE);
        match self {
            Self::Plain => Ok(()),
            Self::Floor(floor) => floor.serve(&flow(lab, services)?, services.len()),
            Self::Nftables => node.netns.nft(&nft::ruleset(services, node.addresses.v4)),
            Self::Iptables => node.netns.feed(
                "iptables-legacy-restore",
                &["--wait"],
                &iptables::ruleset(services),
            ),
            Self::Ours(agent) => {
                let (others, measured) = services.split_at(services.len() - MEASURED);
                publish(lab, "measured", &[])?;
                publish(lab, "others", others)?;
                wait_for(agent, others.len())?;
                publish(lab, "measured", measured)?;
                wait_for(agent, services.len())
            }
            Self::Peer(_) => {
                let (others, measured) = services.split_at(services.len() - MEASURED);
                publish(lab, "others", others)?;
                publish(lab, "measured", measured)
            }
        }
    }

    /// What an agent of ours complains about.
    pub(super) fn problems(&self) -> Result<Vec<String>> {
        let Self::Ours(agent) = self else {
            return Ok(Vec::new());
        };
        let status = agent.status()?;
        let problems = status["problems"].as_array().into_iter().flatten();
        Ok(problems.map(Value::to_string).collect())
    }

    /// How many packets our programs have translated, by hook; none of others.
    pub(super) fn translated(&self) -> Result<BTreeMap<String, u64>> {
        let Self::Ours(agent) = self else {
            return Ok(BTreeMap::new());
        };
        let status = agent.status()?;
        let hooks = status["counters"].as_object();
        let hooks = hooks.context("an agent without counters")?.iter();
        let verdicts = Verdict::ALL.iter();
        let translated: Vec<&str> = verdicts
            .filter(|verdict| verdict.class() == Class::Translated)
            .map(|verdict| verdict.name())
            .collect();
        let sum = |counts: &Value| {
            let counts = translated.iter().filter_map(|name| counts[*name].as_u64());
            counts.sum()
        };
        Ok(hooks
            .map(|(hook, counts)| (hook.clone(), sum(counts)))
            .collect())
    }
}

/// The established one from outside.
fn flow(lab: &Lab, services: &[Service]) -> Result<Established> {
    let IpAddr::V4(client) = lab.client().address(Family::V4) else {
        bail!("the client has no address");
    };
    let exposed = services.iter().find(|one| one.external_ip.is_some());
    let endpoint = exposed.and_then(|service| service.endpoints.first());
    let backend = endpoint.context("no endpoint for what comes from outside")?;
    Ok(Established {
        client: SocketAddrV4::new(client, CLIENT_PORT),
        frontend: SocketAddrV4::new(EXTERNAL_IP, PORT),
        backend: SocketAddrV4::new(backend.address, TARGET_PORT),
        next_hop: mac(&lab.router().netns, &lab.node(NODE).name)?,
    })
}

fn manifests_of(lab: &Lab) -> PathBuf {
    lab.folder().join("manifests")
}

/// Replaces a file of manifests in one step; without Services it goes.
fn publish(lab: &Lab, name: &str, services: &[Service]) -> Result<()> {
    let file = manifests_of(lab).join(format!("{name}.yaml"));
    if services.is_empty() {
        return match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        };
    }
    let new = lab.folder().join(name);
    fs::write(&new, manifests(services))?;
    fs::rename(&new, &file).with_context(|| file.display().to_string())
}

fn wait_for(agent: &mut AgentProcess, services: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Problems are no reason to wait: new flows have filled a table before.
    let is_there = |status: &Value| {
        let length = status["services"].as_array().map_or(0, Vec::len);
        status["synced"] == true && length == services
    };
    loop {
        if agent.status().as_ref().is_ok_and(is_there) {
            return Ok(());
        }
        if agent.pid().is_none() || Instant::now() > deadline {
            let status = agent.status().map(|mut status| {
                status["services"] = Value::Null;
                status
            });
            bail!(
                "{services} Services are not served: {status:?}\n{}",
                agent.log()
            );
        }
        // A status with all Services is work for the agent, too.
        std::thread::sleep(Duration::from_millis(100));
    }
}
