//! Scenarios one after another on one node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_agent::compile::PortId;
use serde_json::Value;

use super::{
    expect,
    frame::{Ports, first},
    judge::{self, Outcome},
    metrics,
    node::{self, Node, is_local},
    place::{Entry, Source},
    scenario::{self, Flow, Scenario, Verdict},
};

/// Flows and gauges, by whether they are as expected.
#[derive(Debug, Default)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
}

/// Runs the scenarios of files and folders; `report` is told each failure, in
/// a line.
///
/// # Errors
/// A file that cannot be used; the kernel refuses a step; needs root.
pub fn run(paths: &[PathBuf], mut report: impl FnMut(&str) + Send) -> Result<Summary> {
    let mut scenarios = Vec::new();
    for path in paths {
        scenarios.extend(scenario::load(path)?);
    }
    node::with(|node| {
        let mut summary = Summary::default();
        for scenario in &scenarios {
            let mut run = Run::new(scenario, node);
            run.whole()
                .with_context(|| format!("scenario {}", scenario.name))?;
            summary.passed += run.checks - run.failures.len();
            summary.failed += run.failures.len();
            for failure in run.failures.values() {
                report(&format!("{}: {failure}", scenario.name));
            }
        }
        Ok(summary)
    })
}

/// How often a flow is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Until each endpoint was drawn; clients with affinity a few times.
    Usual,
    /// Clients with affinity until each endpoint was drawn, forgotten in
    /// between; others not at all.
    Forgotten,
}

struct Run<'a, 'n> {
    scenario: &'a Scenario,
    node: &'a mut Node<'n>,
    round: Round,
    ports: Ports,
    /// Endpoints that clients with affinity had last.
    kept: BTreeMap<(IpAddr, PortId), SocketAddr>,
    /// Flows and gauges so far in this round; failures by this number.
    checks: usize,
    failures: BTreeMap<usize, String>,
}

/// Draws for each endpoint: that one of several is missed by chance is out of
/// the question.
const DRAWS: usize = 60;
const DRAWS_WITH_AFFINITY: usize = 6;
/// Answers to one client are limited to one in this time.
const PACE: Duration = Duration::from_millis(1);

impl<'a, 'n> Run<'a, 'n> {
    fn new(scenario: &'a Scenario, node: &'a mut Node<'n>) -> Self {
        Self {
            scenario,
            node,
            round: Round::Usual,
            ports: Ports::new(),
            kept: BTreeMap::new(),
            checks: 0,
            failures: BTreeMap::new(),
        }
    }

    fn whole(&mut self) -> Result<()> {
        self.stages()?;
        let steps = self.scenario.steps.iter().flat_map(|step| &step.flows);
        let mut flows = self.scenario.flows.iter().chain(steps);
        if flows.any(|flow| flow.expect.affinity_seconds.is_some()) {
            self.round = Round::Forgotten;
            self.stages()?;
        }
        Ok(())
    }

    fn stages(&mut self) -> Result<()> {
        let scenario = self.scenario;
        self.ports = Ports::new();
        self.checks = 0;
        self.node.become_node(scenario)?;
        let manifests = scenario.services.iter().chain(&scenario.endpointslices);
        self.node.apply(manifests);
        self.node.sync()?;
        self.checks(&scenario.flows, &scenario.expect_metrics)?;
        for step in &scenario.steps {
            let manifests = step.apply.services.iter().chain(&step.apply.endpointslices);
            self.node.apply(manifests);
            self.node
                .delete(&step.delete.services, &step.delete.endpointslices);
            self.node.sync()?;
            self.kept.retain(|(_, port), _| self.node.has(port));
            self.checks(&step.flows, &step.expect_metrics)?;
        }
        Ok(())
    }

    fn checks(&mut self, flows: &[Flow], metrics: &BTreeMap<String, Value>) -> Result<()> {
        for flow in flows {
            let skipped = self.round == Round::Forgotten && flow.expect.affinity_seconds.is_none();
            let result = if skipped { Ok(()) } else { self.flow(flow)? };
            self.count(result.map_err(|failure| format!("{flow}: {failure}")));
        }
        for (name, values) in metrics {
            let result = metrics::check(name, values, self.node.ports());
            self.count(result.map_err(|failure| format!("{name}: {failure}")));
        }
        Ok(())
    }

    fn count(&mut self, result: Result<(), String>) {
        if let Err(failure) = result {
            self.failures.entry(self.checks).or_insert(failure);
        }
        self.checks += 1;
    }

    /// Sends a flow by every way in, and as often as it takes. What is not as
    /// expected is said in the inner result.
    fn flow(&mut self, flow: &Flow) -> Result<Result<(), String>> {
        let port = self.node.port(flow);
        let source = Source::of(flow, self.scenario, &self.node.vips(port));
        for entry in source.entries(flow, self.scenario) {
            if let Err(failure) = self.entry(flow, source, entry)? {
                return Ok(Err(format!("{failure} ({})", entry.name)));
            }
        }
        Ok(Ok(()))
    }

    fn entry(&mut self, flow: &Flow, source: Source, entry: &Entry) -> Result<Result<(), String>> {
        let endpoints = &flow.expect.endpoints;
        let sticky = flow.expect.affinity_seconds.is_some() && self.round == Round::Usual;
        let (least, most) = match (flow.expect.verdict, sticky) {
            (Verdict::Dnat, false) => (endpoints.len() + 3, endpoints.len() * DRAWS),
            (Verdict::Dnat, true) => (DRAWS_WITH_AFFINITY, DRAWS_WITH_AFFINITY),
            _ => (1, 1),
        };
        let mut drawn = BTreeSet::new();
        for draw in 1..=most {
            if self.round == Round::Forgotten {
                self.node.forget_clients()?;
            }
            let outcome = self.send(flow, entry)?;
            let port = self.node.port(flow);
            let local = |endpoint| is_local(port, endpoint);
            if let Err(wanted) = expect::check(&outcome, flow, source, self.scenario, local) {
                return Ok(Err(format!("expected {wanted}, got {outcome}")));
            }
            if let Outcome::Sent { destination, .. } = outcome {
                let id = port.map(|port| port.id.clone());
                if let (true, Some(id)) = (sticky, id)
                    && let Some(kept) = self.kept.insert((flow.src, id), destination)
                    && endpoints.contains(&kept)
                    && kept != destination
                {
                    return Ok(Err(format!(
                        "expected dnat to {kept} as before, got {outcome}"
                    )));
                }
                drawn.insert(destination);
            }
            if draw >= least && drawn.len() >= endpoints.len() {
                break;
            }
        }
        let missed = endpoints
            .iter()
            .filter(|endpoint| !drawn.contains(endpoint));
        let missed: Vec<String> = missed.map(ToString::to_string).collect();
        if !sticky && !missed.is_empty() {
            let missed = missed.join(", ");
            return Ok(Err(format!(
                "expected every endpoint in {most} draws, got none to {missed}"
            )));
        }
        Ok(Ok(()))
    }

    /// One new connection.
    fn send(&mut self, flow: &Flow, entry: &Entry) -> Result<Outcome> {
        let port = match self.ports.take() {
            Some(port) => port,
            None => {
                self.node.forget_connections()?;
                self.ports = Ports::new();
                self.ports.take().context("no source port")?
            }
        };
        if flow.expect.verdict == Verdict::Reject {
            thread::sleep(PACE);
        }
        let frame = first(flow, port);
        let mut bytes = frame.bytes();
        let mut outcome = Outcome::Passed;
        for &place in entry.hooks {
            let returned = self.node.run(place, &bytes)?;
            outcome = judge::outcome(&frame, place, &returned);
            if !judge::passes(place, returned.action) {
                break;
            }
            bytes = returned.bytes;
        }
        Ok(outcome)
    }
}
