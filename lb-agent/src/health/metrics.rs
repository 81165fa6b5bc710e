//! What Prometheus is told, under the names that kube-proxy 1.36 uses.

use std::{
    collections::BTreeSet,
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family as Labelled,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets, linear_buckets},
    },
    registry::Registry,
};

use super::Figures;
use crate::{
    compile::Port,
    model::{Change, Family, Service, ServiceType, TrafficPolicy},
};

/// Service ports that have usable endpoints, but none on this node where their
/// traffic policy asks for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    pub internal: usize,
    pub external: usize,
}

/// Counts over `ports`, some or all of those that `service` compiles to. A
/// port that has no endpoint anywhere does not count.
#[must_use]
pub fn no_local_endpoints<'a>(
    service: &Service,
    ports: impl IntoIterator<Item = &'a Port>,
) -> NoLocalEndpoints {
    let lacks = |port: &&Port| port.local.is_empty() && !port.cluster.is_empty();
    let ports: Vec<&Port> = ports.into_iter().filter(lacks).collect();
    let mut counts = NoLocalEndpoints::default();
    if service.internal_traffic_policy == TrafficPolicy::Local {
        counts.internal = ports.len();
    }
    let has_policy =
        service.service_type != ServiceType::ClusterIP || !service.external_ips.is_empty();
    if has_policy && service.external_traffic_policy == TrafficPolicy::Local {
        let external = ports.iter().filter(|port| is_external(service, port));
        counts.external = external.count();
    }
    counts
}

fn is_external(service: &Service, port: &Port) -> bool {
    let id = &port.id;
    let mut ports = service.ports.iter();
    let own = ports.find(|own| own.name == id.port && own.protocol == id.protocol);
    let addresses = service.load_balancer_ips.iter();
    let mut addresses = addresses.chain(&service.external_ips);
    own.is_some_and(|own| own.node_port.is_some())
        || addresses.any(|address| Family::of(*address) == id.family)
}

/// All metrics but those that are read from the kernel.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    sync_duration: Labelled<OfFamily, Histogram, fn() -> Histogram>,
    programming_duration: Labelled<OfFamily, Histogram, fn() -> Histogram>,
    last_synced: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    endpoints: Changes,
    services: Changes,
    no_local_endpoints: Labelled<OfPolicy, Gauge>,
    healthz: Labelled<WithCode, Counter>,
    livez: Labelled<WithCode, Counter>,
}

#[derive(Debug, Default)]
struct Changes {
    total: Counter,
    pending: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    traffic_policy: &'static str,
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithCode {
    code: u16,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            sync_duration: Labelled::new_with_constructor(sync_histogram),
            programming_duration: Labelled::new_with_constructor(programming_histogram),
            last_synced: Gauge::default(),
            last_queued: Gauge::default(),
            endpoints: Changes::default(),
            services: Changes::default(),
            no_local_endpoints: Labelled::default(),
            healthz: Labelled::default(),
            livez: Labelled::default(),
        };
        for family in Family::ALL {
            drop(metrics.sync_duration.get_or_create(&label(family)));
            drop(metrics.programming_duration.get_or_create(&label(family)));
            metrics.set_no_local_endpoints(family, NoLocalEndpoints::default());
        }
        metrics.register();
        metrics
    }

    /// A Service or a slice changed, and is not applied yet.
    pub(super) fn told(&self, change: &Change) {
        let changes = match change {
            Change::Service(..) => &self.services,
            Change::Slice(..) => &self.endpoints,
            Change::Node(_) | Change::Synced | Change::Whole | Change::Problems(_) => return,
        };
        changes.total.inc();
        changes.pending.inc();
        self.last_queued.set(unix_seconds(SystemTime::now()));
    }

    /// All that was told of is in the maps, or on the list of failures.
    pub(super) fn applied(&self, families: &BTreeSet<Family>, took: Duration) {
        for &family in families {
            let histogram = self.sync_duration.get_or_create(&label(family));
            histogram.observe(took.as_secs_f64());
        }
        self.services.pending.set(0);
        self.endpoints.pending.set(0);
    }

    /// No failure was left at that time.
    pub(super) fn synced(&self, at: SystemTime) {
        self.last_synced.set(unix_seconds(at));
    }

    /// It took so long from the cause of a change to its effect.
    pub(super) fn programmed(&self, family: Family, took: Duration) {
        let histogram = self.programming_duration.get_or_create(&label(family));
        histogram.observe(took.as_secs_f64());
    }

    /// The sum over all Services.
    pub(super) fn set_no_local_endpoints(&self, family: Family, counts: NoLocalEndpoints) {
        for (traffic_policy, count) in
            [("internal", counts.internal), ("external", counts.external)]
        {
            let labels = OfPolicy {
                traffic_policy,
                ip_family: label(family).ip_family,
            };
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.no_local_endpoints.get_or_create(&labels).set(count);
        }
    }

    /// `/healthz` or else `/livez` was answered.
    pub(super) fn probed(&self, healthz: bool, code: u16) {
        let counters = if healthz { &self.healthz } else { &self.livez };
        counters.get_or_create(&WithCode { code }).inc();
    }

    /// In OpenMetrics text.
    pub(super) fn encode(&self, figures: Figures) -> Result<String, fmt::Error> {
        let mut of_kernel = Registry::default();
        of_kernel.register_collector(Box::new(figures));
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        text::encode(&mut text, &of_kernel)?;
        Ok(text)
    }

    fn register(&mut self) {
        // The encoder adds `_total` to counters, and a full stop to the help.
        let registry = self.registry.sub_registry_with_prefix("kubeproxy");
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "Time to write changes to the maps",
            self.sync_duration.clone(),
        );
        registry.register(
            "network_programming_duration_seconds",
            "Time from the change of a Pod or a Service until it is in the maps",
            self.programming_duration.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When changes were last written to the maps with none left",
            self.last_synced.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last heard of",
            self.last_queued.clone(),
        );
        for (changes, total, pending, kind) in [
            (
                &self.endpoints,
                "sync_proxy_rules_endpoint_changes",
                "sync_proxy_rules_endpoint_changes_pending",
                "EndpointSlices",
            ),
            (
                &self.services,
                "sync_proxy_rules_service_changes",
                "sync_proxy_rules_service_changes_pending",
                "Services",
            ),
        ] {
            let help = format!("Changes of {kind}");
            registry.register(total, help.as_str(), changes.total.clone());
            let help = format!("{help} that are not applied yet");
            registry.register(pending, help, changes.pending.clone());
        }
        registry.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy whose endpoints are all elsewhere",
            self.no_local_endpoints.clone(),
        );
        registry.register(
            "proxy_healthz",
            "Answers at /healthz by HTTP status",
            self.healthz.clone(),
        );
        registry.register(
            "proxy_livez",
            "Answers at /livez by HTTP status",
            self.livez.clone(),
        );
    }
}

fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn programming_histogram() -> Histogram {
    let buckets = linear_buckets(0.25, 0.25, 2)
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7));
    Histogram::new(buckets)
}

fn label(family: Family) -> OfFamily {
    let ip_family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    OfFamily { ip_family }
}

fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
