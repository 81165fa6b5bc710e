//! What is sent, from where.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    frames,
    site::Site,
    stream,
    tcp::{self, Done},
    udp,
    variant::{Kind, Variant},
};
use crate::bench::{Progress, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Established,
    NewFlows,
    Datagrams(Place),
    Connects(Place),
    Exchanges(Place),
    Streams(u8),
}

/// Whose sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pod,
    Node,
}

pub(super) const LOADS: [Load; 10] = [
    Load::Established,
    Load::NewFlows,
    Load::Datagrams(Place::Pod),
    Load::Connects(Place::Pod),
    Load::Exchanges(Place::Pod),
    Load::Streams(1),
    Load::Streams(8),
    Load::Datagrams(Place::Node),
    Load::Connects(Place::Node),
    Load::Exchanges(Place::Node),
];

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// CPU time of a sample.
    pub(super) cpu: Duration,
    /// Of a sample. Ports come again after 64,512 flows, and by then the earlier
    /// ones must be over.
    pub(super) new_flows: u64,
    pub(super) stream_seconds: u32,
}

/// A quantity of a sample: what the load's name goes on with, and the figure.
pub(super) type Figure = (&'static str, Unit, f64);

impl Load {
    pub(super) fn name(self) -> String {
        match self {
            Self::Established => "Frames from the NIC, one established UDP flow".into(),
            Self::NewFlows => "Frames from the NIC, a new UDP flow with each".into(),
            Self::Datagrams(place) => format!("UDP datagrams from {}", place.name()),
            Self::Connects(place) => {
                format!("TCP connections from {}, opened and reset", place.name())
            }
            Self::Exchanges(place) => format!("Requests and responses from {}", place.name()),
            Self::Streams(1) => "One TCP stream from a pod".into(),
            Self::Streams(count) => format!("{count} TCP streams from a pod"),
        }
    }

    /// What a variant is called here, if it is measured.
    pub(super) fn of(self, variant: &Variant) -> Option<&'static str> {
        match self {
            Self::NewFlows if matches!(variant.kind, Kind::Floor) => None,
            Self::Established | Self::NewFlows => variant.nic,
            Self::Datagrams(place) | Self::Connects(place) | Self::Exchanges(place) => {
                match place {
                    Place::Pod => variant.pod,
                    Place::Node => variant.node,
                }
            }
            Self::Streams(_) => variant.pod,
        }
    }

    pub(super) fn measure(
        self,
        site: &mut Site,
        amount: Amount,
        progress: &Progress,
    ) -> Result<Vec<Figure>> {
        let frontends = site.frontends();
        let variant = site.variant.name();
        let note = |sent: u64, arrived: u64| {
            if arrived * 100 < sent * 98 {
                let load = self.name();
                progress.note(&format!("{variant}: {load}: {arrived} of {sent} arrived"));
            }
        };
        match self {
            Self::Established | Self::NewFlows => {
                let far = site.backends().far;
                site.greet_far()?;
                let router = site.router();
                let generators = site.generators()?;
                let (generator, most) = match self {
                    Self::Established => (&mut generators.established, u64::MAX),
                    _ => (&mut generators.new_flows, amount.new_flows),
                };
                let (sent, arrived, last) =
                    frames::measure(&router, generator, &generators.sink, amount.cpu, most)?;
                ensure!(
                    last.is_some_and(|last| far.contains(&last)),
                    "frames went to {last:?}"
                );
                note(sent.frames, arrived);
                Ok(vec![("", Unit::PerCpuSecond, rate(arrived, sent.cpu))])
            }
            Self::Datagrams(place) => {
                let sent = udp::measure(place.of(site), frontends.near, &site.near(), amount.cpu)?;
                note(sent.datagrams, sent.arrived);
                Ok(vec![("", Unit::PerCpuSecond, rate(sent.arrived, sent.cpu))])
            }
            Self::Connects(place) => {
                let (from, at) = (place.of(site), site.near());
                Ok(figures(&tcp::connects(
                    from,
                    frontends.near,
                    &at,
                    amount.cpu,
                )?))
            }
            Self::Exchanges(place) => {
                let (from, at) = (place.of(site), site.near());
                Ok(figures(&tcp::exchanges(
                    from,
                    frontends.near,
                    &at,
                    amount.cpu,
                )?))
            }
            Self::Streams(count) => {
                let to = frontends.stream.to_string();
                let rate = stream::measure(site.client(), &to, count, amount.stream_seconds)?;
                Ok(vec![
                    ("", Unit::GigabitsPerSecond, rate.per_second),
                    ("", Unit::GigabitsPerCpuSecond, rate.per_cpu_second),
                ])
            }
        }
    }
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "a pod",
            Self::Node => "the node itself",
        }
    }

    fn of(self, site: &Site) -> &crate::lab::Entrance {
        match self {
            Self::Pod => site.client(),
            Self::Node => site.node(),
        }
    }
}

fn figures(done: &Done) -> Vec<Figure> {
    let latency = |name, quantile| {
        let nanoseconds = done.latencies.value_at_quantile(quantile);
        (name, Unit::Microseconds, nanoseconds as f64 / 1000.0)
    };
    vec![
        ("", Unit::PerCpuSecond, rate(done.count, done.cpu)),
        latency(", p50", 0.5),
        latency(", p99", 0.99),
        latency(", p99.9", 0.999),
    ]
}

fn rate(count: u64, cpu: Duration) -> f64 {
    count as f64 / cpu.as_secs_f64()
}
