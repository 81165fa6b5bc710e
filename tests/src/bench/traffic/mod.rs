//! Traffic through whole nodes, each with a balancer of its own.

mod clock;
mod frames;
mod iptables;
mod load;
mod nft;
mod services;
mod site;
mod stream;
mod tcp;
mod udp;
mod variant;

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::{
    load::{Amount, Figure, LOADS, Load},
    services::{Backends, services},
    site::Site,
    variant::{Kind, variants},
};
use super::{Measurement, Options, Part, Progress, table::grouped};

pub(crate) const EXPLANATION: &str = "\
client -- veth -- node -- veth -- endpoint, each a network namespace. Every Service\n\
has three endpoints, but the one of iperf3's streams has one. Measured are the last\n\
three that were created: one from the NIC, one for streams, one for all else.\n\
\n\
*plain* addresses an endpoint and translates nothing, and *dropped at the uplink* is\n\
what sending and counting alone cost. The *floor program* is at the uplink by itself,\n\
for the one established flow. *nftables* and *iptables* have the rulesets\n\
that kube-proxy writes for the same Services, the latter loaded by\n\
`iptables-legacy-restore`. *ours, stack* leaves a pod's packets to the kernel's\n\
routing after they are translated, *ours, shortcut* (`--shortcut always`) hands them\n\
straight to the endpoint's interface. *ours, TC* has no XDP at the uplink.\n\
\n\
From the NIC, an endpoint on another node is reached by an external IP, and what XDP\n\
swallows on the other side of the wire is counted, so that nothing but the node costs\n\
anything; a frame that does not arrive does not count. From a pod and from the node\n\
itself, the endpoints are on the same node.\n\
\n\
Rates are per second of CPU time of the thread that sends, in which the kernel does\n\
all of the work of the way, and of the ksoftirqd of its CPU. TCP's two ends are one\n\
thread, so that latencies hold no scheduling; for connections the time of the\n\
client's calls counts, for requests and responses that of both ends. Streams are\n\
iperf3's, between two processes that share the machine's cores: Gbit/s is what the\n\
machine had to spare, Gbit per CPU-second counts the CPU time of both.";

/// What kube-proxy has the kernel hold for so many Services: an nftables ruleset,
/// and one of iptables.
pub(crate) fn rulesets(count: u32) -> (String, String) {
    let somewhere = [1, 2, 3].map(|host| Ipv4Addr::new(10, 244, 1, host));
    let backends = Backends {
        near: somewhere,
        far: somewhere,
    };
    let services = services(count, &backends);
    let node = Ipv4Addr::new(192, 0, 2, 11);
    (nft::ruleset(&services, node), iptables::ruleset(&services))
}

/// How much is done.
struct Plan {
    /// Numbers of Services, one after the other.
    scales: &'static [u32],
    repetitions: usize,
    amount: Amount,
}

const FULL: Plan = Plan {
    scales: &[10, 1_000, 10_000],
    repetitions: 3,
    amount: Amount {
        cpu: Duration::from_millis(300),
        new_flows: 30_000,
        stream_seconds: 2,
    },
};

const QUICK: Plan = Plan {
    scales: &[10, 1_000],
    repetitions: 3,
    amount: Amount {
        cpu: Duration::from_millis(100),
        new_flows: 20_000,
        stream_seconds: 1,
    },
};

/// A sample that fails is taken again this many times.
const RETRIES: usize = 2;

pub(crate) fn run(options: &Options, progress: &mut Progress) -> Result<Vec<Measurement>> {
    let plan = if options.quick { QUICK } else { FULL };
    let variants = variants(options.peer.as_deref());
    let of_all = |load: &Load| variants.iter().filter(|one| load.of(one).is_some()).count();
    let samples: usize = LOADS.iter().map(of_all).sum();
    let steps = plan.scales.len() * plan.repetitions * samples;
    progress.part("traffic", u64::try_from(steps)?);
    progress.stage("making a cluster for each variant");
    let mut sites = variants
        .into_iter()
        .map(|variant| Site::build(variant, &options.object))
        .collect::<Result<Vec<_>>>()?;
    let mut measurements = Measurements::default();
    for &scale in plan.scales {
        for site in &mut sites {
            let name = site.variant.name();
            progress.stage(&format!("{} Services: {name} takes them", grouped(scale)));
            let services = services(scale, &site.backends());
            site.serve(&services).context(name)?;
        }
        if measurements.0.is_empty() {
            // Once only: more at once than there are ports find none.
            progress.stage("filling the tables of connections as they will be");
            for site in &mut sites {
                if Load::NewFlows.of(&site.variant).is_some() {
                    sample(Load::NewFlows, site, plan.amount, progress)?;
                }
            }
        }
        for repetition in 0..plan.repetitions {
            for load in LOADS {
                progress.stage(&format!("{} Services: {}", grouped(scale), load.name()));
                for turn in 0..sites.len() {
                    let index = (turn + repetition) % sites.len();
                    let site = &mut sites[index];
                    let Some(name) = load.of(&site.variant) else {
                        continue;
                    };
                    progress.step(&format!(
                        "{} Services: {}, {name}",
                        grouped(scale),
                        load.name()
                    ));
                    let figures = sample(load, site, plan.amount, progress)
                        .with_context(|| format!("{name}: {}", load.name()))?;
                    measurements.add(load, index, name, scale, figures);
                }
            }
        }
        for site in &sites {
            check(site)?;
            for problem in site.balancer.problems()? {
                progress.note(&format!("{}: {problem}", site.variant.name()));
            }
        }
    }
    Ok(measurements.finish())
}

fn sample(load: Load, site: &mut Site, amount: Amount, progress: &Progress) -> Result<Vec<Figure>> {
    let mut tries = 0;
    loop {
        match load.measure(site, amount, progress) {
            Err(error) if tries < RETRIES => {
                tries += 1;
                progress.note(&format!(
                    "again: {}, {}: {error:#}",
                    site.variant.name(),
                    load.name()
                ));
                std::thread::sleep(Duration::from_millis(500));
            }
            result => return result,
        }
    }
}

/// Whether each variant did what it is for: the kernel tracks connections for
/// rulesets only, and our programs have translated.
fn check(site: &Site) -> Result<()> {
    let tracked = site.node().run(|| {
        let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        text.map_or(0, |text| text.trim().parse::<u64>().unwrap_or(0))
    });
    match site.variant.kind {
        Kind::Wire | Kind::Plain | Kind::Floor => {
            ensure!(tracked == 0, "plain forwarding tracks connections")
        }
        Kind::Nftables | Kind::Iptables => {
            ensure!(tracked > 0, "{} tracks no connections", site.variant.name());
        }
        Kind::Ours(_) => {
            ensure!(tracked == 0, "the kernel tracks connections beside ours");
            let by_hook = site.balancer.translated()?;
            let hook = if site.variant.nic == Some("ours, XDP") {
                "xdp"
            } else {
                "tc_ingress"
            };
            ensure!(
                by_hook.get(hook).is_some_and(|count| *count > 100_000),
                "{hook} was to translate: {by_hook:?}"
            );
        }
        Kind::Peer(_) => {}
    }
    Ok(())
}

/// In the order of the loads, then of the variants.
#[derive(Default)]
struct Measurements(Vec<((usize, usize, u32), Measurement)>);

impl Measurements {
    fn add(&mut self, load: Load, variant: usize, name: &str, services: u32, figures: Vec<Figure>) {
        let load_number = LOADS
            .iter()
            .position(|one| *one == load)
            .unwrap_or_default();
        for (number, (suffix, unit, figure)) in figures.into_iter().enumerate() {
            let load = format!("{}{suffix}", load.name());
            let key = (load_number * 8 + number, variant, services);
            let is_it = |(at, _): &&mut (_, Measurement)| *at == key;
            match self.0.iter_mut().find(is_it) {
                Some((_, measurement)) => measurement.samples.push(figure),
                None => self.0.push((
                    key,
                    Measurement {
                        part: Part::Traffic,
                        load,
                        variant: name.to_owned(),
                        services: Some(services),
                        unit,
                        samples: vec![figure],
                    },
                )),
            }
        }
    }

    fn finish(mut self) -> Vec<Measurement> {
        self.0.sort_by_key(|(key, _)| *key);
        self.0
            .into_iter()
            .map(|(_, measurement)| measurement)
            .collect()
    }
}
