//! The options in effect, for `/configz`.

use clap::ValueEnum;
use lb_common::{
    State,
    lifecycle::{SCTP, TCP, UDP, timeout_index},
};
use serde_json::{Value, json};

use super::{Options, Source};
use crate::{
    connections::{self, Limits},
    health,
    node::PodDetection,
};

/// Under the key and by the names of kube-proxy where it has the same option.
pub(super) fn describe(options: &Options) -> Value {
    let dataplane = &options.dataplane;
    let mut configuration = json!({
        "mode": health::MODE,
        "hostnameOverride": options.node_name,
        "healthzBindAddress": options.health.healthz.to_string(),
        "metricsBindAddress": options.health.metrics.to_string(),
        "bpffs": dataplane.bpffs,
        "socket": options.socket,
        "xdp": value_name(dataplane.xdp),
        "tc": value_name(dataplane.tc),
        "shortcut": value_name(dataplane.shortcut),
        "conntrack": connections(&dataplane.connections),
        "tracePackets": dataplane.trace_packets,
        "nodePortAddresses": texts(&options.node.node_port_addresses),
        "localhostNodePorts": options.node.localhost_node_ports,
        "masqueradeAll": options.node.masquerade_all,
        "answerEcho": options.node.answer_echo,
        "detectLocalMode": detection(&options.node.pods),
        "clusterCIDR": match &options.node.pods {
            PodDetection::Networks(networks) => texts(networks).join(","),
            _ => String::new(),
        },
        "serviceCIDRs": options.node.service_cidrs,
        "uplink": texts(&options.interfaces.uplink),
        "podInterface": texts(&options.interfaces.pod),
    });
    match &options.source {
        Source::Kubernetes { kubeconfig } => {
            configuration["clientConnection"] = json!({"kubeconfig": kubeconfig});
        }
        Source::Manifests {
            folders,
            allocations,
            ..
        } => {
            configuration["manifests"] = json!(folders);
            configuration["allocations"] = json!(allocations);
        }
    }
    json!({"kubeproxy.config.k8s.io": configuration})
}

fn connections(settings: &connections::Settings) -> Value {
    let Limits {
        assured,
        unassured,
        quota,
    } = settings.limits;
    let timeout = |protocol, state| {
        let index = timeout_index(protocol, state);
        format!("{}s", settings.timeouts.0[index])
    };
    json!({
        "maxConnections": assured,
        "maxUnassuredConnections": unassured,
        "serviceConnectionQuota": quota.to_string(),
        "tcpEstablishedTimeout": timeout(TCP, State::Open),
        "tcpCloseWaitTimeout": timeout(TCP, State::ClientClosed),
        "tcpSynSentTimeout": timeout(TCP, State::Opening),
        "tcpSynRecvTimeout": timeout(TCP, State::Answered),
        "tcpTimeWaitTimeout": timeout(TCP, State::Finished),
        "tcpCloseTimeout": timeout(TCP, State::Aborted),
        "udpTimeout": timeout(UDP, State::Opening),
        "udpStreamTimeout": timeout(UDP, State::Open),
        "sctpCookieWaitTimeout": timeout(SCTP, State::Opening),
        "sctpCookieEchoedTimeout": timeout(SCTP, State::Answered),
        "sctpEstablishedTimeout": timeout(SCTP, State::Open),
        "sctpShutdownTimeout": timeout(SCTP, State::Finished),
        "sctpClosedTimeout": timeout(SCTP, State::Aborted),
    })
}

fn detection(pods: &PodDetection) -> &'static str {
    match pods {
        PodDetection::None => "None",
        PodDetection::Interface => "Interface",
        PodDetection::Networks(_) => "ClusterCIDR",
        PodDetection::NodeNetworks => "NodeCIDR",
    }
}

/// As the command line writes it.
fn value_name(value: impl ValueEnum) -> Option<String> {
    let value = value.to_possible_value()?;
    Some(value.get_name().to_owned())
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
