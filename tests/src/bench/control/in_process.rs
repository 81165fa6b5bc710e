//! Our own work alone: objects in memory to maps of the kernel, on one thread.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_agent::{
    compile::NodeContext,
    connections,
    dataplane::{self, Dataplane, TcModeOption, XdpModeOption},
    model::Change,
    reconcile::Reconciler,
    shortcut::ShortcutOption,
    store::Store,
};
use nix::time::{ClockId, clock_gettime};

use super::{
    cluster::{Scale, change, replacement},
    pinned::Pinned,
};

/// Endpoints that are changed, one after the other.
const CHANGES: u32 = 1_000;

pub(super) struct Times {
    pub(super) cold_start: Duration,
    pub(super) cold_start_cpu: Duration,
    /// Each of one endpoint.
    pub(super) changes: Vec<Duration>,
}

/// Makes the pins, and removes them.
pub(super) fn run(scale: Scale, pins: &Path) -> Result<Times> {
    let times = measure(scale, pins);
    dataplane::cleanup(pins)?;
    times
}

fn measure(scale: Scale, pins: &Path) -> Result<Times> {
    let _lock = dataplane::lock(pins)?;
    let mut dataplane = Dataplane::open(&dataplane::Options {
        shortcut: ShortcutOption::Never,
        bpffs: pins.to_owned(),
        xdp: XdpModeOption::Off,
        tc: TcModeOption::Auto,
        connections: connections::Settings::default(),
        trace_packets: false,
    })?;
    // On a thread of its own, whose memory is not what is measured here.
    let changes = thread::scope(|scope| scope.spawn(|| scale.changes()).join());
    let mut changes = changes.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    changes.extend([Change::Synced, Change::Whole]);
    let mut reconciler = Reconciler::new(dataplane.snapshot()?);
    let mut store = Store::default();

    let (started, cpu) = (Instant::now(), cpu()?);
    store.set_node(NodeContext {
        name: "node1".to_owned(),
        ..NodeContext::default()
    });
    changes.into_iter().for_each(|change| store.take(change));
    reconciler.apply(store.compile(), Duration::ZERO, &mut dataplane);
    reconciler.sweep(Duration::ZERO, &mut dataplane);
    let cold_start = started.elapsed();
    let cold_start_cpu = self::cpu()? - cpu;

    let pinned = Pinned::open(pins)?;
    ensure!(reconciler.failures() == 0, "some writes failed");
    for service in [0, scale.services / 2, scale.services - 1] {
        let last = scale.endpoint(service, scale.endpoints - 1);
        ensure!(pinned.shows(service, last), "{service} is not programmed");
    }
    let mut took = Vec::new();
    for number in 0..CHANGES {
        let service = number * 7 % scale.services;
        let change = change(&scale.slice(service, Some(replacement(number))))?;
        let now = Duration::from_millis(10) * number;
        let started = Instant::now();
        store.take(change);
        reconciler.apply(store.compile(), now, &mut dataplane);
        took.push(started.elapsed());
        ensure!(
            pinned.shows(service, replacement(number)),
            "change {number} is not programmed"
        );
    }
    Ok(Times {
        cold_start,
        cold_start_cpu,
        changes: took,
    })
}

/// Of this thread.
fn cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
