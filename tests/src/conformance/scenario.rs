//! Scenario files: a node, its objects, and what becomes of first packets.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use lb_agent::node::{BadNodePortAddress, NodePortAddress};
use serde::Deserialize;
use serde_json::Value;
use walkdir::WalkDir;

use super::manifest::Manifest;
use crate::lab::Family;

#[derive(Debug, Deserialize)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// IP families that are proxied; both if there are none.
    #[serde(default)]
    pub(crate) ip_families: Vec<Family>,
    pub(crate) node: Node,
    #[serde(default)]
    pub(crate) options: Options,
    #[serde(default)]
    pub(crate) services: Vec<Manifest>,
    #[serde(default)]
    pub(crate) endpointslices: Vec<Manifest>,
    #[serde(default)]
    pub(crate) flows: Vec<Flow>,
    /// Values by label, by gauge.
    #[serde(default)]
    pub(crate) expect_metrics: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// All addresses besides loopback.
    pub(crate) ips: Vec<IpAddr>,
    /// The node's own address, one a family.
    #[serde(default)]
    pub(crate) primary_ips: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) zone: Option<String>,
    #[serde(default)]
    pub(crate) pod_cidrs: Vec<IpNet>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Options {
    #[serde(default)]
    pub(crate) masquerade_all: bool,
    #[serde(default)]
    pub(crate) local_traffic: LocalTraffic,
    /// CIDRs, or `primary`; every address of the node if there are none.
    #[serde(default)]
    pub(crate) nodeport_addresses: Vec<Selection>,
    #[serde(default)]
    pub(crate) localhost_nodeports: bool,
    #[serde(default)]
    pub(crate) service_cidrs: Vec<IpNet>,
}

/// Addresses that serve nodePorts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Selection(pub(crate) NodePortAddress);

impl TryFrom<String> for Selection {
    type Error = BadNodePortAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

/// What makes a source a pod.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct LocalTraffic {
    pub(crate) mode: Detection,
    /// Those of the node if there is no such list.
    #[serde(default)]
    pub(crate) cidrs: Option<Vec<IpNet>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Detection {
    Cidr,
    #[default]
    None,
}

/// Manifests.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Objects {
    #[serde(default)]
    pub(crate) services: Vec<Manifest>,
    #[serde(default)]
    pub(crate) endpointslices: Vec<Manifest>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Step {
    #[serde(default)]
    pub(crate) apply: Objects,
    #[serde(default)]
    pub(crate) delete: Names,
    #[serde(default)]
    pub(crate) flows: Vec<Flow>,
    #[serde(default)]
    pub(crate) expect_metrics: BTreeMap<String, Value>,
}

/// `namespace/name`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Names {
    #[serde(default)]
    pub(crate) services: Vec<String>,
    #[serde(default)]
    pub(crate) endpointslices: Vec<String>,
}

/// The first packet of a new connection.
#[derive(Debug, Deserialize)]
pub(crate) struct Flow {
    #[serde(default)]
    name: Option<String>,
    pub(crate) src: IpAddr,
    pub(crate) proto: Protocol,
    pub(crate) dst: IpAddr,
    pub(crate) dport: u16,
    pub(crate) expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Expect {
    pub(crate) verdict: Verdict,
    #[serde(default)]
    pub(crate) endpoints: Vec<SocketAddr>,
    #[serde(default)]
    pub(crate) masquerade: bool,
    /// Those with which the source is translated; all of them if there is no
    /// such list.
    #[serde(default)]
    pub(crate) masquerade_endpoints: Option<Vec<SocketAddr>>,
    #[serde(default)]
    pub(crate) affinity_seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Dnat,
    Reject,
    Drop,
    Pass,
}

impl Flow {
    pub(crate) fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.dport)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = format!("{:?}", self.proto).to_uppercase();
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{} -> {}/{protocol}", self.src, self.destination()),
        }
    }
}

/// All scenarios of a file, or of the `.json` files of a folder and those below
/// it, in order.
///
/// # Errors
/// A file that cannot be read, named with the scenario and the field.
pub(crate) fn load(path: &Path) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for file in files(path)? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let read = parse(&text).with_context(|| file.display().to_string())?;
        scenarios.extend(read);
    }
    Ok(scenarios)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in WalkDir::new(path).sort_by_file_name() {
        let path = entry?.into_path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "{}: no .json file", path.display());
    Ok(files)
}

/// A list of scenarios, or a single one.
pub(super) fn parse(text: &str) -> Result<Vec<Scenario>> {
    let value: Value = serde_json::from_str(text)?;
    let values = match value {
        Value::Array(values) => values,
        Value::Object(_) => vec![value],
        _ => bail!("found {value}, accepted: a list of scenarios"),
    };
    let numbered = (1..).zip(values);
    numbered
        .map(|(number, value)| read(number, value))
        .collect()
}

fn read(number: usize, value: Value) -> Result<Scenario> {
    let title = match value.get("name") {
        Some(Value::String(name)) => format!("scenario {name}"),
        _ => format!("scenario {number}"),
    };
    let scenario: Scenario = serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        anyhow::anyhow!("{title}: {path}: {error}")
    })?;
    scenario.check().context(title)?;
    Ok(scenario)
}

impl Scenario {
    /// What the types do not say.
    fn check(&self) -> Result<()> {
        for (number, step) in self.steps.iter().enumerate() {
            let (services, slices) = (&step.delete.services, &step.delete.endpointslices);
            for name in services.iter().chain(slices) {
                ensure!(
                    name.contains('/'),
                    "steps[{number}].delete: found {name:?}, accepted: namespace/name"
                );
            }
            check_flows(&format!("steps[{number}].flows"), &step.flows)?;
        }
        check_flows("flows", &self.flows)
    }
}

fn check_flows(field: &str, flows: &[Flow]) -> Result<()> {
    for (number, flow) in flows.iter().enumerate() {
        let field = format!("{field}[{number}]");
        ensure!(
            flow.src.is_ipv4() == flow.dst.is_ipv4(),
            "{field}.dst: found {}, accepted: an address of the family of {}",
            flow.dst,
            flow.src
        );
        let none = flow.expect.endpoints.is_empty();
        ensure!(
            none == (flow.expect.verdict != Verdict::Dnat),
            "{field}.expect.endpoints: found {:?}, accepted: endpoints with dnat, else none",
            flow.expect.endpoints
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
