//! `lb-agent`: runs on every node, in the place of kube-proxy.

use std::{
    io::IsTerminal as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::bail;
use clap::{Parser, Subcommand};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_agent::{
    agent::{self, Source},
    connections,
    dataplane::{self, TcModeOption, XdpModeOption},
    health::{self, BindAddress},
    interfaces::{Pattern, Patterns},
    node::{NodeOptions, NodePortAddress, PodDetection},
    shortcut::ShortcutOption,
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    sysinfo::sysinfo,
};
use tracing_subscriber::EnvFilter;

/// For manifests, which come without a cluster.
const DEFAULT_SERVICE_CIDRS: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0),
        112,
    )),
];

/// Kubernetes Services, translated per packet in XDP and TC.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the dataplane in step with Services and EndpointSlices
    Run(Box<Run>),
    /// Print Services, frontends, backends and interfaces of a running agent
    Status(Status),
    /// Detach all programs and remove all pins
    Cleanup(Cleanup),
}

#[derive(clap::Args)]
struct Run {
    /// Read manifests from this folder and follow it, instead of the
    /// Kubernetes API; may be given several times
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    manifests: Vec<PathBuf>,
    /// Reach the Kubernetes API as this file says [default: KUBECONFIG, else
    /// ~/.kube/config, else in-cluster]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Name of this node as EndpointSlices write it
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Where clusterIPs are taken from, one CIDR per family; packets to
    /// addresses there that no Service has are dropped [default: not known; with
    /// --manifests 10.96.0.0/16,fd00:10:96::/112]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    service_cidr: Vec<IpNet>,
    /// With --manifests: remember allocated addresses and ports in this file
    /// [default: .lb-allocations.json in the first folder]
    #[arg(long, value_name = "FILE")]
    allocations: Option<PathBuf>,
    /// Folder for pinned maps and links, on a BPF filesystem
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    bpffs: PathBuf,
    /// Unix socket that `lb-agent status` asks
    #[arg(long, value_name = "PATH", default_value = "/run/lb/agent.sock")]
    socket: PathBuf,
    /// Addresses of the node that serve nodePorts: CIDRs, a family without one
    /// being served on all; or `primary`, those that the cluster knows the node
    /// by [default: all]
    #[arg(long, value_name = "CIDR|primary", value_delimiter = ',')]
    nodeport_addresses: Vec<NodePortAddress>,
    /// Serve nodePorts on 127.0.0.1 to this node itself
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    localhost_nodeports: bool,
    /// Show backends this node's address instead of the client's wherever
    /// kube-proxy may be told to
    #[arg(long)]
    masquerade_all: bool,
    /// Answer ping to clusterIPs, load balancer IPs and external IPs, unless the
    /// node has the address itself
    #[arg(long)]
    answer_echo: bool,
    /// What makes a client a pod, for externalTrafficPolicy: its interface, an
    /// address in --cluster-cidr, one in the Node's podCIDRs (with --manifests,
    /// there must be a manifest of this Node), or nothing
    #[arg(long, value_enum, default_value = "interface")]
    detect_pods: DetectPods,
    /// Addresses of pods, with --detect-pods cidr only
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = cidr,
        required_if_eq("detect_pods", "cidr")
    )]
    cluster_cidr: Vec<IpNet>,
    /// Interfaces towards other nodes and the world, as a pattern such as
    /// `eth*` or `!eth1` [default: found by default routes and node addresses]
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    uplink: Vec<Pattern>,
    /// Host ends of pod interfaces, as a pattern [default: veths whose peer is
    /// in another namespace]
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pod_interface: Vec<Pattern>,
    /// XDP on uplinks
    #[arg(long, value_enum, default_value = "auto")]
    xdp: XdpModeOption,
    /// How TC programs are attached
    #[arg(long, value_enum, default_value = "auto")]
    tc: TcModeOption,
    /// Send packets of Service connections straight to the pod or the next hop,
    /// past the node's stack and what filters there; changes go for new
    /// connections
    #[arg(long, value_enum, default_value = "auto")]
    shortcut: ShortcutOption,
    /// Serve /livez and /healthz here; an empty string for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = BindAddress::HEALTHZ)]
    healthz_bind_address: BindAddress,
    /// Serve /metrics, /proxyMode and /configz here; an empty string for
    /// nowhere
    #[arg(long, value_name = "ADDRESS", default_value = BindAddress::METRICS)]
    metrics_bind_address: BindAddress,
    /// Log the verdict of every packet: for a person who looks, never for load
    #[arg(long)]
    trace_packets: bool,
    #[command(flatten)]
    connections: connections::Options,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DetectPods {
    Interface,
    Cidr,
    NodeCidr,
    None,
}

#[derive(clap::Args)]
struct Status {
    #[arg(long, value_name = "PATH", default_value = "/run/lb/agent.sock")]
    socket: PathBuf,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Cleanup {
    /// Folder that `lb-agent run` was given
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lb")]
    bpffs: PathBuf,
}

fn main() -> anyhow::Result<()> {
    // Packets are logged at trace level by the programs, if at all.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,lb_ebpf=trace"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().command {
        Command::Run(run) => {
            raise_descriptor_limit();
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?
                .block_on(agent::run(run.options()?))
        }
        Command::Status(status) => agent::print_status(&status.socket, status.json),
        Command::Cleanup(cleanup) => {
            let removed = dataplane::cleanup(&cleanup.bpffs)?;
            for path in &removed {
                println!("removed {}", path.display());
            }
            if removed.is_empty() {
                println!("{}: nothing to remove", cleanup.bpffs.display());
            }
            Ok(())
        }
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        format!("found {text:?}, accepted: a CIDR such as 192.0.2.0/24 or 2001:db8::/32")
    })
}

/// Maps, links and servers take a descriptor each, and the usual 1024 are meant
/// for programs that use `select`.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Of the machine, in bytes; 0 if it does not say.
fn memory() -> u64 {
    sysinfo().map_or(0, |info| info.ram_total())
}

impl Run {
    fn options(self) -> anyhow::Result<agent::Options> {
        let by_cidr = matches!(self.detect_pods, DetectPods::Cidr);
        if !by_cidr && let Some(first) = self.cluster_cidr.first() {
            bail!(
                "--cluster-cidr: found {first} without --detect-pods cidr, accepted: both or neither"
            );
        }
        let mut service_cidrs = self.service_cidr;
        if service_cidrs.is_empty() && !self.manifests.is_empty() {
            service_cidrs = DEFAULT_SERVICE_CIDRS.to_vec();
        }
        let node = NodeOptions {
            node_port_addresses: self.nodeport_addresses,
            localhost_node_ports: self.localhost_nodeports,
            masquerade_all: self.masquerade_all,
            answer_echo: self.answer_echo,
            pods: match self.detect_pods {
                DetectPods::Interface => PodDetection::Interface,
                DetectPods::Cidr => PodDetection::Networks(self.cluster_cidr),
                DetectPods::NodeCidr => PodDetection::NodeNetworks,
                DetectPods::None => PodDetection::None,
            },
            service_cidrs: service_cidrs.clone(),
        };
        let source = if self.manifests.is_empty() {
            Source::Kubernetes {
                kubeconfig: self.kubeconfig,
            }
        } else {
            Source::Manifests {
                folders: self.manifests,
                service_cidrs,
                allocations: self.allocations,
            }
        };
        Ok(agent::Options {
            source,
            node_name: self.node_name,
            node,
            dataplane: dataplane::Options {
                bpffs: self.bpffs,
                xdp: self.xdp,
                tc: self.tc,
                connections: self.connections.settings(memory()),
                shortcut: self.shortcut,
                trace_packets: self.trace_packets,
            },
            interfaces: Patterns {
                uplink: self.uplink,
                pod: self.pod_interface,
            },
            health: health::Options {
                healthz: self.healthz_bind_address,
                metrics: self.metrics_bind_address,
            },
            socket: self.socket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with arguments of `run`.
    fn complaint(arguments: &str) -> Option<String> {
        let all = format!("lb-agent run --node-name n1 {arguments}");
        match Arguments::try_parse_from(all.split(' ')) {
            Ok(Arguments {
                command: Command::Run(run),
            }) => run.options().err().map(|error| error.to_string()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn a_bad_option_is_told_with_what_is_accepted() {
        for arguments in [
            "--masquerade-all",
            "--service-cidr 10.96.0.0/16,fd00::/112",
            "--nodeport-addresses primary",
            "--detect-pods cidr --cluster-cidr 10.0.0.0/8",
            "--detect-pods node-cidr",
            "--detect-pods node-cidr --manifests m",
        ] {
            assert_eq!(complaint(arguments), None, "{arguments}");
        }
        for (arguments, parts) in [
            (
                "--service-cidr 10.0.0.0",
                ["--service-cidr", "\"10.0.0.0\"", "192.0.2.0/24"],
            ),
            (
                "--detect-pods cidr --cluster-cidr 10.0.0.0/8,x",
                ["--cluster-cidr", "\"x\"", "192.0.2.0/24"],
            ),
            (
                "--nodeport-addresses 10.0.0.0/33",
                ["--nodeport-addresses", "\"10.0.0.0/33\"", "192.0.2.0/24"],
            ),
            (
                "--detect-pods cidr",
                ["required", "--cluster-cidr", "<CIDR>"],
            ),
            (
                "--cluster-cidr 10.0.0.0/8",
                ["--cluster-cidr", "10.0.0.0/8", "--detect-pods cidr"],
            ),
            (
                "--detect-pods none --cluster-cidr 10.0.0.0/8",
                ["--cluster-cidr", "10.0.0.0/8", "--detect-pods cidr"],
            ),
        ] {
            let found = complaint(arguments).unwrap_or_default();
            for part in parts {
                assert!(found.contains(part), "{arguments}: {part} in {found}");
            }
        }
    }

    #[test]
    fn all_descriptors_that_are_allowed_are_there() {
        let limits = || getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let (_, hard) = limits();
        setrlimit(Resource::RLIMIT_NOFILE, hard / 2, hard).unwrap();
        raise_descriptor_limit();
        assert_eq!(limits(), (hard, hard));
    }
}
