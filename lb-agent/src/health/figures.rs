//! What is read from the kernel when Prometheus asks.

use std::{fmt, time::Duration};

use lb_common::{Hook, State, Verdict, lifecycle};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::compile::PortId;

/// Services that are named, those with the most connections: a client that
/// tries all Services of a large cluster must not make a time series of each.
/// What fills a table is among them.
const SERVICES: usize = 100;

#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Packets by hook and verdict.
    pub packets: Vec<(Hook, Verdict, u64)>,
    pub tables: Vec<Table>,
    /// New connections take it.
    pub shortcut: bool,
    /// In any order.
    pub services: Vec<Service>,
    /// Connections that were removed, by protocol number and last state.
    pub collected: Vec<(u8, State, u64)>,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: &'static str,
    pub connections: u64,
    pub limit: u64,
    pub full_in: Option<Duration>,
}

/// A service port's share of the assured connections.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: PortId,
    pub connections: u64,
    pub refused: u64,
}

type Name = &'static str;

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Packets by the hook they passed and what became of them";
        let packets = self.packets.iter().map(|&(hook, verdict, count)| {
            let labels = [("hook", hook.name()), ("verdict", verdict.name())];
            (labels, count)
        });
        counters(&mut encoder, "lb_packets", help, packets)?;
        self.encode_shortcut(&mut encoder)?;
        self.encode_tables(&mut encoder)?;
        self.encode_services(&mut encoder)?;
        let help = "Connections that were removed because they were over";
        let collected = self.collected.iter().map(|&(protocol, state, count)| {
            let labels = [
                ("protocol", protocol_name(protocol)),
                ("state", name(state)),
            ];
            (labels, count)
        });
        counters(&mut encoder, "lb_connections_collected", help, collected)
    }
}

impl Figures {
    fn encode_shortcut(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether new connections take the shortcut past the node's stack";
        let metric = encoder.encode_descriptor("lb_shortcut", help, None, MetricType::Gauge)?;
        ConstGauge::new(u32::from(self.shortcut)).encode(metric)
    }

    fn encode_tables(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |value: fn(&Table) -> f64| {
            let tables = self.tables.iter();
            tables.map(move |table| ([("table", table.name)], value(table)))
        };
        gauges(
            encoder,
            "lb_connections",
            "Connections by the table they are in",
            of(|table| table.connections as f64),
        )?;
        gauges(
            encoder,
            "lb_connections_limit",
            "Connections that the table takes",
            of(|table| table.limit as f64),
        )?;
        gauges(
            encoder,
            "lb_connections_full_in_seconds",
            "When the table is full if it grows as it did in the last minute",
            of(|table| {
                let left = table.full_in.map(|left| left.as_secs_f64());
                left.unwrap_or(f64::INFINITY)
            }),
        )
    }

    fn encode_services(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut most: Vec<&Service> = self.services.iter().collect();
        most.retain(|service| service.connections > 0);
        most.sort_by_key(|service| std::cmp::Reverse((service.connections, &service.id)));
        let most = most.into_iter().take(SERVICES);
        gauges(
            encoder,
            "lb_service_connections",
            "Assured connections of a service port, of those 100 that have the most",
            most.map(|service| (labels(service), service.connections as f64)),
        )?;
        let refused = self.services.iter().filter(|service| service.refused > 0);
        counters(
            encoder,
            "lb_service_connections_refused",
            "Times that a connection was not assured because its service port was at the quota",
            refused.map(|service| (labels(service), service.refused)),
        )
    }
}

fn labels(service: &Service) -> [(Name, String); 5] {
    let id = &service.id;
    [
        ("namespace", id.service.namespace.clone()),
        ("service", id.service.name.clone()),
        ("port", id.port.clone()),
        ("protocol", id.protocol.to_string()),
        ("ip_family", id.family.to_string()),
    ]
}

fn gauges<L: AsRef<str>, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = ([(Name, L); N], f64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        let labels = labels.each_ref().map(|(key, value)| (*key, value.as_ref()));
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The encoder adds `_total` to the name.
fn counters<L: AsRef<str>, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = ([(Name, L); N], u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        let labels = labels.each_ref().map(|(key, value)| (*key, value.as_ref()));
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn protocol_name(protocol: u8) -> Name {
    match protocol {
        lifecycle::TCP => "TCP",
        lifecycle::UDP => "UDP",
        lifecycle::SCTP => "SCTP",
        _ => "other",
    }
}

fn name(state: State) -> Name {
    match state {
        State::Opening => "opening",
        State::Answered => "answered",
        State::Refused => "refused",
        State::Open => "open",
        State::ClientClosed => "client_closed",
        State::BackendClosed => "backend_closed",
        State::Finished => "finished",
        State::Aborted => "aborted",
        // Half a connection.
        State::Dying => "half",
    }
}
