//! A whole agent, next to an API server that has everything.

use std::{
    collections::VecDeque,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    cluster::{Scale, node, replacement, service},
    pinned::Pinned,
};
use crate::{
    api::{Api, Resource},
    lab::{AgentProcess, Family, Lab, LabOptions},
};

/// Endpoints that are changed one after the other, each when the one before is
/// in the maps.
const SINGLE_CHANGES: u32 = 50;
/// Endpoints of the rolling update, and how many change a second.
const ROLLING: u32 = 1_000;
const RATE: u32 = 100;
const POLL: Duration = Duration::from_micros(100);
const LIMIT: Duration = Duration::from_secs(60);
/// After which an agent that was told nothing has come to rest.
const REST: Duration = Duration::from_secs(3);

/// From when the API server has the object until the maps have it.
pub(super) struct Times {
    /// From the start of the process until all is in the maps and programs are
    /// attached.
    pub(super) cold_start: Duration,
    pub(super) start_cpu: Duration,
    pub(super) single: Vec<Duration>,
    pub(super) rolling: Vec<Duration>,
    /// Of the agent, for all of the rolling update.
    pub(super) rolling_cpu: Duration,
    /// Resident, in bytes.
    pub(super) memory: u64,
    pub(super) memory_after: u64,
    pub(super) memory_peak: u64,
}

pub(super) fn run(scale: Scale) -> Result<Times> {
    let lab = Lab::new(&LabOptions {
        nodes: 1,
        ..LabOptions::default()
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let api = lab.node(1).netns.run(|| runtime.block_on(Api::start()))?;
    let at = lab.node(1);
    let addresses = [Family::V4, Family::V6].map(|family| at.address(family).to_string());
    api.put(Resource::Nodes, node(&at.name, &addresses));
    for number in 0..scale.services {
        api.put(Resource::Services, service(number));
        api.put(Resource::EndpointSlices, scale.slice(number, None));
    }
    // Nobody watches yet.
    api.compact();
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig)?;
    let kubeconfig = kubeconfig.display().to_string();

    let started = Instant::now();
    let mut agent = lab.start_agent(1, &["--kubeconfig", &kubeconfig])?;
    let cold_start = synced(&agent, started);
    let cold_start = cold_start.with_context(|| agent.log())?;
    let pid = agent.pid().context("the agent has ended")?;
    let start_cpu = cpu(pid)?;
    let pinned = Pinned::open(&lab.pins(1))?;
    for service in [0, scale.services / 2, scale.services - 1] {
        let last = scale.endpoint(service, scale.endpoints - 1);
        ensure!(pinned.shows(service, last), "{service} is not programmed");
    }
    thread::sleep(REST);
    let memory = memory(pid, "VmRSS")?;

    let mut updates = Updates {
        scale,
        api: &api,
        pinned,
        sent: 0,
    };
    let single = updates.single()?;
    let before = cpu(pid)?;
    let rolling = updates.rolling()?;
    let rolling_cpu = cpu(pid)? - before;
    thread::sleep(REST);
    let times = Times {
        cold_start,
        start_cpu,
        single,
        rolling,
        rolling_cpu,
        memory,
        memory_after: self::memory(pid, "VmRSS")?,
        memory_peak: self::memory(pid, "VmHWM")?,
    };
    agent.stop()?;
    Ok(times)
}

/// Changes of one endpoint each, and when they are in the maps.
struct Updates<'a> {
    scale: Scale,
    api: &'a Api,
    pinned: Pinned,
    sent: u32,
}

impl Updates<'_> {
    fn single(&mut self) -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        for _ in 0..SINGLE_CHANGES {
            let (number, at) = self.send();
            while !self.shows(number) {
                ensure!(at.elapsed() < LIMIT, "change {number} is not programmed");
                thread::sleep(POLL);
            }
            took.push(at.elapsed());
            thread::sleep(Duration::from_millis(7));
        }
        Ok(took)
    }

    fn rolling(&mut self) -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        let mut waiting = VecDeque::new();
        let started = Instant::now();
        for turn in 0..ROLLING {
            let due = started + Duration::from_secs(turn.into()) / RATE;
            while Instant::now() < due {
                self.collect(&mut waiting, &mut took);
                thread::sleep(POLL);
            }
            waiting.push_back(self.send());
        }
        let ended = Instant::now();
        while !waiting.is_empty() {
            let left = waiting.len();
            ensure!(ended.elapsed() < LIMIT, "{left} are not programmed");
            self.collect(&mut waiting, &mut took);
            thread::sleep(POLL);
        }
        Ok(took)
    }

    fn collect(&self, waiting: &mut VecDeque<(u32, Instant)>, took: &mut Vec<Duration>) {
        waiting.retain(|&(number, at)| {
            let shows = self.shows(number);
            if shows {
                took.push(at.elapsed());
            }
            !shows
        });
    }

    /// Its number, and when the API server has it.
    fn send(&mut self) -> (u32, Instant) {
        let number = self.sent;
        self.sent += 1;
        let slice = self
            .scale
            .slice(self.service(number), Some(replacement(number)));
        let at = Instant::now();
        self.api.put(Resource::EndpointSlices, slice);
        (number, at)
    }

    fn shows(&self, number: u32) -> bool {
        self.pinned.shows(self.service(number), replacement(number))
    }

    fn service(&self, number: u32) -> u32 {
        number * 7 % self.scale.services
    }
}

/// Asking for the status would cost the agent more than it does itself.
fn synced(agent: &AgentProcess, started: Instant) -> Result<Duration> {
    while !agent.log().contains("in sync") {
        ensure!(started.elapsed() < LIMIT, "the agent is not in sync");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(started.elapsed())
}

/// CPU time of a process so far, in user and kernel space.
fn cpu(pid: u32) -> Result<Duration> {
    /// utime and stime of proc_pid_stat(5), counted after the name.
    const FIELDS: std::ops::Range<usize> = 11..13;
    /// USER_HZ, the same on every architecture that Linux has.
    const TICKS: u32 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let fields = fields.get(FIELDS).context("no times in stat")?;
    let ticks: Result<Vec<u64>, _> = fields.iter().map(|field| field.parse()).collect();
    Ok(Duration::from_secs(ticks?.iter().sum()) / TICKS)
}

/// A field of proc_pid_status(5), in bytes.
fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let mut words = line.context("no such field")?.split_whitespace();
    let kibibytes: u64 = words.nth(1).context("no figure")?.parse()?;
    Ok(kibibytes * 1024)
}
