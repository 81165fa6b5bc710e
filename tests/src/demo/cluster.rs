//! A lab with the example workloads and an agent on each node.

use std::{
    fs,
    path::{Path as FsPath, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{
    controller::Controller,
    manifests::Folder,
    paths::{Path, Row, Target, targets},
    status::Status,
};
use crate::lab::{AgentProcess, Lab, LabOptions, Pod};

const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// Editors write a file in several steps; they count as one change.
const SETTLE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub lab: LabOptions,
    /// The manifests; a copy of them is used, and followed.
    pub manifests: PathBuf,
    /// More arguments for every agent.
    pub agent_arguments: Vec<String>,
}

/// The running demo. Fields are dropped in order: agents before their nodes.
#[derive(Debug)]
pub struct Cluster {
    agents: Vec<AgentProcess>,
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
    controller: Controller,
    folder: Folder,
    clients: Vec<Arc<Pod>>,
    lab: Arc<Lab>,
}

impl Cluster {
    /// Brings everything up and waits until the agents are ready.
    ///
    /// # Errors
    /// The lab cannot be made, a manifest cannot be read, or an agent does not
    /// become ready.
    pub fn start(options: &ClusterOptions) -> Result<Self> {
        let lab = Arc::new(Lab::new(&options.lab)?);
        let [manifests, pods] = ["manifests", "pods"].map(|name| lab.folder().join(name));
        fs::create_dir_all(&pods)?;
        copy_files(&options.manifests, &manifests)?;
        let (sender, changes) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<_>| {
            // Nobody listens any more when the demo ends.
            let _ = event.map(|_: notify::Event| sender.send(()));
        })?;
        watcher.watch(&manifests, RecursiveMode::NonRecursive)?;
        let mut folder = Folder::new(&manifests);
        let mut controller = Controller::new(Arc::clone(&lab), &pods);
        let (workloads, problems) = folder.read()?;
        anyhow::ensure!(problems.is_empty(), problems.join("\n"));
        controller.reconcile(&workloads)?;
        let clients = (1..=options.lab.nodes)
            .map(|node| lab.add_pod(node, &format!("shell-{node}")))
            .collect::<Result<_>>()?;
        let mut cluster = Self {
            agents: Vec::new(),
            _watcher: watcher,
            changes,
            controller,
            folder,
            clients,
            lab,
        };
        cluster.start_agents(&[manifests, pods], &options.agent_arguments)?;
        cluster.route_outside()?;
        Ok(cluster)
    }

    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The folder whose changes are followed.
    #[must_use]
    pub fn manifests(&self) -> &FsPath {
        self.folder.path()
    }

    /// Waits up to `limit` for changes of the folder and follows them; after a
    /// change, gives one line for each file that cannot be read.
    ///
    /// # Errors
    /// A pod cannot be made or removed.
    pub fn follow(&mut self, limit: Duration) -> Result<Option<Vec<String>>> {
        if self.changes.recv_timeout(limit).is_err() {
            return Ok(None);
        }
        while self.changes.recv_timeout(SETTLE).is_ok() {}
        let (workloads, problems) = self.folder.read()?;
        self.controller.reconcile(&workloads)?;
        Ok(Some(problems))
    }

    /// What each node's agent says.
    ///
    /// # Errors
    /// An agent does not answer, or not as expected.
    pub fn statuses(&self) -> Result<Vec<Status>> {
        let read = |agent: &AgentProcess| {
            serde_json::from_value(agent.status()?)
                .with_context(|| format!("status of {}", agent.node()))
        };
        self.agents.iter().map(read).collect()
    }

    /// Every place that sends: a pod on each node, each node, the outside.
    #[must_use]
    pub fn places(&self) -> Vec<Path<'_>> {
        let pods = self.clients.iter().map(|pod| Path::Pod(pod));
        let nodes = self.lab.nodes().iter().map(Path::Node);
        pods.chain(nodes)
            .chain([Path::Outside(self.lab.client())])
            .collect()
    }

    /// Every way from a place to a frontend.
    ///
    /// # Errors
    /// As [`Self::statuses`].
    pub fn ways(&self) -> Result<Vec<(Path<'_>, Target)>> {
        let targets = targets(&self.statuses()?, &self.lab);
        let all = self.places().into_iter().flat_map(|place| {
            let reached = targets.iter().filter(move |target| place.reaches(target));
            reached.map(move |target| (place, target.clone()))
        });
        Ok(all.collect())
    }

    /// Sends `count` requests over every way.
    ///
    /// # Errors
    /// As [`Self::statuses`].
    pub fn try_all(&self, count: usize) -> Result<Vec<Row>> {
        let statuses = self.statuses()?;
        let ways = self.ways()?;
        let rows = ways
            .iter()
            .map(|(place, target)| place.try_out(target, count, &statuses, &self.lab));
        Ok(rows.collect())
    }

    fn start_agents(&mut self, manifests: &[PathBuf], more: &[String]) -> Result<()> {
        for node in 1..=self.lab.nodes().len() {
            let mut arguments = Vec::new();
            for folder in manifests {
                arguments.extend(["--manifests".to_owned(), folder.display().to_string()]);
            }
            for cidr in SERVICE_CIDRS {
                arguments.extend(["--service-cidr".to_owned(), cidr.to_owned()]);
            }
            let allocations = self.lab.folder().join("allocations.json");
            arguments.extend([
                "--allocations".to_owned(),
                allocations.display().to_string(),
            ]);
            // The router's ends of the uplinks take frames that XDP sends back.
            if !more.iter().any(|argument| argument.starts_with("--xdp")) {
                arguments.extend(["--xdp".to_owned(), "native".to_owned()]);
            }
            arguments.extend(more.iter().cloned());
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let mut agent = self.lab.start_agent(u8::try_from(node)?, &arguments)?;
            // One after the other: they share the file of allocations.
            agent.wait_ready()?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// Makes the router send external addresses to a node, as a cloud's load
    /// balancer or BGP would.
    fn route_outside(&self) -> Result<()> {
        for target in targets(&self.statuses()?, &self.lab) {
            if matches!(target.kind.as_str(), "loadBalancerIP" | "externalIP") {
                let bits = if target.to.is_ipv4() { 32 } else { 128 };
                self.lab
                    .route_to_node(&format!("{}/{bits}", target.to.ip()), 1)?;
            }
        }
        Ok(())
    }
}

fn copy_files(from: &FsPath, to: &FsPath) -> Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from).with_context(|| from.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
