//! The pure stages of the control path: compile, and the writes between what is
//! and what is to be, with maps that cost nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark stops where it cannot go on"
)]

use std::{collections::BTreeSet, hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use lb_agent::{
    compile::compile,
    model::Change,
    reconcile::{Reconciler, Snapshot, TableError, Tables},
    store::Store,
    watch::object,
};
use lb_common::{Backend, Frontend, FrontendKey};
use serde_json::json;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;

/// Maps that take everything and keep nothing.
struct Nowhere;

impl Tables for Nowhere {
    fn delete_frontend(&mut self, _: &FrontendKey) -> Result<(), TableError> {
        Ok(())
    }

    fn write_backend(&mut self, _: u32, _: &Backend) -> Result<(), TableError> {
        Ok(())
    }

    fn write_slots(&mut self, _: u32, _: &[u32]) -> Result<(), TableError> {
        Ok(())
    }

    fn write_sources(&mut self, _: u32, _: &BTreeSet<IpNet>) -> Result<(), TableError> {
        Ok(())
    }

    fn delete_sources(&mut self, _: u32, _: &BTreeSet<IpNet>) -> Result<(), TableError> {
        Ok(())
    }

    fn write_frontend(&mut self, _: &FrontendKey, _: &Frontend) -> Result<(), TableError> {
        Ok(())
    }
}

fn address(network: u8, number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("{network}.{a}.{b}.{c}")
}

fn service(number: u32) -> Change {
    let manifest = json!({
        "kind": "Service",
        "metadata": {"namespace": "default", "name": format!("service-{number:05}")},
        "spec": {
            "clusterIP": address(10, number),
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        },
    });
    object(&manifest).0.unwrap()
}

/// With endpoints of its own, the first of them as given.
fn slice(number: u32, first: u32) -> Change {
    let rest = (1..ENDPOINTS).map(|other| number * ENDPOINTS + other);
    let addresses = std::iter::once(first).chain(rest);
    let endpoints: Vec<_> = addresses
        .map(|own| json!({"addresses": [address(11, own)], "nodeName": "node2"}))
        .collect();
    let name = format!("service-{number:05}");
    let manifest = json!({
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": format!("{name}-x"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    });
    object(&manifest).0.unwrap()
}

fn everything() -> Vec<Change> {
    let services = (0..SERVICES).map(service);
    let slices = (0..SERVICES).map(|number| slice(number, number * ENDPOINTS));
    services.chain(slices).collect()
}

fn told(changes: Vec<Change>) -> Store {
    let mut store = Store::default();
    changes.into_iter().for_each(|change| store.take(change));
    store
}

fn all(bench: &mut Criterion) {
    let changes = everything();
    let mut group = bench.benchmark_group("10,000 services of 3 endpoints");
    group.sample_size(10);
    let batch = BatchSize::PerIteration;
    group.bench_function("take", |bencher| {
        bencher.iter_batched(|| changes.clone(), told, batch);
    });
    group.bench_function("compile", |bencher| {
        let store = || told(changes.clone());
        bencher.iter_batched_ref(store, Store::compile, batch);
    });
    group.bench_function("reconcile", |bencher| {
        let compiled = told(changes.clone()).compile();
        let start = || (Reconciler::new(Snapshot::default()), compiled.clone());
        let apply = |(mut reconciler, compiled): (Reconciler, _)| {
            reconciler.apply(compiled, Duration::ZERO, &mut Nowhere);
            reconciler
        };
        bencher.iter_batched(start, apply, batch);
    });
    group.finish();
}

fn one(bench: &mut Criterion) {
    let mut store = told(everything());
    let mut reconciler = Reconciler::new(Snapshot::default());
    reconciler.apply(store.compile(), Duration::ZERO, &mut Nowhere);
    let (number, own) = (SERVICES / 2, SERVICES / 2 * ENDPOINTS);
    let slices = [slice(number, own), slice(number, 1 << 20)];
    let mut group = bench.benchmark_group("one endpoint, at 10,000 services of 3");
    let mut turns = slices.iter().cycle();
    let mut now = Duration::ZERO;
    group.bench_function("take, compile and reconcile", |bencher| {
        bencher.iter(|| {
            now += Duration::from_millis(10);
            store.take(turns.next().unwrap().clone());
            reconciler.apply(store.compile(), now, &mut Nowhere);
        });
    });
    let (Change::Service(_, Some(service)), Change::Slice(_, Some(slice))) =
        (service(number), &slices[0])
    else {
        panic!("no Service");
    };
    group.bench_function("compile", |bencher| {
        let node = lb_agent::compile::NodeContext::default();
        bencher.iter(|| compile(black_box(&service), [black_box(slice)].into_iter(), &node));
    });
    group.finish();
}

criterion_group!(benches, all, one);
criterion_main!(benches);
