//! The agent's loop: watch -> model -> compile -> diff -> apply.

mod client;
mod collect;
mod configuration;
mod memory;
mod overview;
mod report;
mod room;
mod status;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::bail;
use ipnet::IpNet;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time,
};

pub use self::{
    client::print_status,
    status::{
        BackendStatus, FrontendStatus, PortStatus, ServiceStatus, Status, TableStatus, TablesStatus,
    },
};
use self::{memory::Memory, room::Room};
use crate::{
    connections::Settings as ConnectionSettings,
    dataplane::{self, AttachmentError, ConnectionTable, Dataplane, XdpMode},
    filters::{self, Filters},
    health::{self, Health},
    interfaces,
    model::{Change, Node},
    node::{self, NodeOptions},
    reconcile::Reconciler,
    shortcut::{Shortcut, ShortcutOption},
    store::Store,
    watch as sources,
};

/// What `lb-agent run` is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub source: Source,
    pub node_name: String,
    pub node: NodeOptions,
    pub dataplane: dataplane::Options,
    pub interfaces: interfaces::Patterns,
    pub health: health::Options,
    pub socket: PathBuf,
}

/// Where Services come from.
#[derive(Clone, Debug)]
pub enum Source {
    Kubernetes {
        kubeconfig: Option<PathBuf>,
    },
    Manifests {
        folders: Vec<PathBuf>,
        service_cidrs: Vec<IpNet>,
        allocations: Option<PathBuf>,
    },
}

/// How often the agent looks after what failed, and says how it stands.
const TICK: Duration = Duration::from_secs(1);
/// How long writes that fail again and again rest at most.
const LONGEST_REST: Duration = Duration::from_secs(30);
const QUEUE: usize = 1024;

/// Runs until a signal ends it, leaving the dataplane at work.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let memory = Memory::new();
    let _lock = dataplane::lock(&options.dataplane.bpffs)?;
    let (changes, mut incoming) = mpsc::channel(QUEUE);
    let (events, to_publish) = mpsc::channel(QUEUE);
    // It reads its first lists while the kernel verifies the programs.
    let source = start_source(&options, changes, to_publish);
    let mut dataplane = Dataplane::open(&options.dataplane)?;
    if options.dataplane.trace_packets {
        dataplane.follow_packets();
    }
    let ConnectionSettings { limits, timeouts } = options.dataplane.connections;
    let collector = dataplane.collector(&timeouts)?;
    let (ticks, mut collected) = mpsc::channel(1);
    let mut collecting = tokio::spawn(collect::collect(collector, ticks));
    let (snapshots, mut interfaces) = watch::channel(interfaces::Snapshot::default());
    let (node_ips, of_node) = watch::channel(Vec::new());
    let following = interfaces::Options {
        patterns: options.interfaces.clone(),
        node_ips: of_node,
    };
    let mut follower = tokio::spawn(interfaces::watch(following, snapshots));
    let (changes_of_routes, mut routes) = watch::channel(0);
    let mut routing = tokio::spawn(interfaces::watch_routes(changes_of_routes));
    let (readings, mut filters) = watch::channel(None);
    let mut filtering = tokio::spawn(filters::watch(readings));
    let (requests, mut asked) = mpsc::channel(16);
    let socket = options.socket.clone();
    let mut server = tokio::spawn(async move { status::serve(&socket, requests).await });

    let (scrapes, mut scraped) = mpsc::channel(16);
    let configuration = configuration::describe(&options);
    let health = Health::start(
        &options.node_name,
        options.health,
        configuration,
        scrapes,
        events,
    );
    let room = Room::new(limits);
    let mode = options.dataplane.shortcut;
    let mut agent = Agent::new(
        &options.node_name,
        options.node,
        mode,
        dataplane,
        health,
        room,
        memory,
    )?;
    let running_xdp = agent.running_xdp.subscribe();
    let mut keeping = tokio::spawn(interfaces::keep_neighbours(running_xdp));
    let mut retry = time::interval(TICK);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            batch = incoming.recv() => match batch {
                Some(batch) => {
                    agent.take(batch);
                    while let Ok(batch) = incoming.try_recv() {
                        agent.take(batch);
                    }
                    if let Some(node) = &agent.store.node_object {
                        node_ips.send_if_modified(|held| {
                            let changed = *held != node.internal_ips;
                            held.clone_from(&node.internal_ips);
                            changed
                        });
                    }
                    agent.refresh_node();
                    agent.apply();
                }
                None => bail!("{}", ended("source of Services", source.await)),
            },
            Ok(()) = interfaces.changed() => {
                let snapshot = interfaces.borrow_and_update().clone();
                agent.take_interfaces(snapshot);
            }
            Ok(()) = routes.changed() => {
                routes.borrow_and_update();
                agent.forget_routes();
            }
            Ok(()) = filters.changed() => {
                let filters = filters.borrow_and_update().clone();
                agent.take_filters(filters.as_ref());
            }
            Some(request) = asked.recv() => agent.answer(request),
            Some(request) = scraped.recv() => agent.count(request),
            Some(tick) = collected.recv() => agent.take_tick(tick),
            _ = retry.tick() => agent.retry(),
            result = &mut collecting => bail!("{}", ended("collection", result)),
            result = &mut follower => bail!("{}", ended("interfaces", result)),
            result = &mut routing => bail!("{}", ended("routes", result)),
            result = &mut keeping => bail!("{}", ended("neighbours", result)),
            result = &mut filtering => bail!("{}", ended("filters", result.map(Ok::<(), std::convert::Infallible>))),
            result = &mut server => bail!("{}: {}", options.socket.display(), ended("socket", result)),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    source.abort();
    tracing::info!("stopped; the dataplane goes on");
    Ok(())
}

fn start_source(
    options: &Options,
    changes: mpsc::Sender<Vec<Change>>,
    to_publish: mpsc::Receiver<sources::Event>,
) -> JoinHandle<anyhow::Result<()>> {
    let node_name = options.node_name.clone();
    match options.source.clone() {
        Source::Kubernetes { kubeconfig } => tokio::spawn(async move {
            let options = sources::KubernetesOptions {
                kubeconfig,
                node_name,
            };
            Ok(sources::kubernetes(options, changes, to_publish).await?)
        }),
        Source::Manifests {
            folders,
            service_cidrs,
            allocations,
        } => tokio::spawn(async move {
            let options = sources::FolderOptions {
                dirs: folders,
                allocations,
                service_cidrs,
                node: Node {
                    name: node_name,
                    internal_ips: Vec::new(),
                    zone: None,
                    pod_cidrs: Vec::new(),
                    eligible: true,
                },
            };
            tokio::spawn(sources::log_events(to_publish));
            Ok(sources::folder(options, changes).await?)
        }),
    }
}

fn ended<E: std::fmt::Display>(
    what: &str,
    result: Result<Result<(), E>, tokio::task::JoinError>,
) -> String {
    match result {
        Ok(Ok(())) => format!("{what} ended"),
        Ok(Err(error)) => format!("{what}: {error:#}"),
        Err(error) => format!("{what}: {error}"),
    }
}

struct Agent {
    store: Store,
    reconciler: Reconciler,
    dataplane: Dataplane,
    connections: ConnectionTable,
    room: Room,
    health: Health,
    memory: Memory,
    snapshot: Option<interfaces::Snapshot>,
    attachment_errors: Vec<AttachmentError>,
    /// Interfaces that run XDP, for those who follow them.
    running_xdp: watch::Sender<BTreeSet<u32>>,
    node_name: String,
    node_options: NodeOptions,
    /// What the programs were told last.
    settings: Option<node::Settings>,
    settings_error: Option<String>,
    shortcut: Shortcut,
    /// Whether the programs were told of it.
    shortcut_told: Result<(), String>,
    started: Instant,
    /// When failed writes are tried again, and for how long they rest then.
    retry_at: Duration,
    retry_rest: Duration,
    /// The first full state is in the maps.
    programmed: bool,
    /// What an earlier agent left and nobody claimed is gone.
    swept: bool,
    /// Programs of this version run on every interface.
    attached: bool,
}

impl Agent {
    fn new(
        node_name: &str,
        node_options: NodeOptions,
        mode: ShortcutOption,
        dataplane: Dataplane,
        health: Health,
        room: Room,
        memory: Memory,
    ) -> anyhow::Result<Self> {
        let reconciler = Reconciler::new(dataplane.snapshot()?);
        let connections = dataplane.connection_table()?;
        let mut agent = Self {
            store: Store::default(),
            reconciler,
            dataplane,
            connections,
            room,
            health,
            memory,
            snapshot: None,
            attachment_errors: Vec::new(),
            running_xdp: watch::Sender::default(),
            node_name: node_name.to_owned(),
            node_options,
            settings: None,
            settings_error: None,
            shortcut: Shortcut::decide(mode, None),
            shortcut_told: Ok(()),
            started: Instant::now(),
            retry_at: Duration::ZERO,
            retry_rest: TICK,
            programmed: false,
            swept: false,
            attached: false,
        };
        agent.tell_shortcut();
        agent.forget_routes();
        Ok(agent)
    }

    fn take(&mut self, batch: Vec<Change>) {
        for change in batch {
            self.health.told(&change, &self.store);
            self.store.take(change);
        }
    }

    /// Nothing is programmed, and nothing removed, before the first full list
    /// and the node's own addresses are known.
    fn apply(&mut self) {
        if !self.store.synced || !self.knows_interfaces() {
            return;
        }
        let now = self.started.elapsed();
        if !self.swept && !self.store.whole {
            self.reconciler.inherit_until_sweep();
        }
        if self.store.is_dirty() {
            let changes = self.store.compile();
            self.memory.note(changes.len());
            self.health.compiled(&changes, &self.store);
            let families: BTreeSet<_> = changes.iter().map(|(id, _)| id.family).collect();
            self.reconciler.apply(changes, now, &mut self.dataplane);
            let took = self.started.elapsed().saturating_sub(now);
            self.health.applied(&families, took);
        }
        if !self.swept && self.store.whole {
            self.reconciler.sweep(now, &mut self.dataplane);
            self.swept = true;
        }
        if !self.programmed {
            self.programmed = true;
            self.attach();
            self.report();
            tracing::info!(took = ?self.started.elapsed(), "in sync");
        }
    }

    /// Whether the interfaces were told apart by what is known of the node. An
    /// older snapshot may take an uplink for something else.
    fn knows_interfaces(&self) -> bool {
        let node_ips = match &self.store.node_object {
            Some(node) => node.internal_ips.as_slice(),
            None => &[],
        };
        let snapshot = self.snapshot.as_ref();
        snapshot.is_some_and(|snapshot| snapshot.node_ips == node_ips)
    }

    fn take_interfaces(&mut self, snapshot: interfaces::Snapshot) {
        self.snapshot = Some(snapshot);
        self.refresh_node();
        if self.programmed {
            self.attach();
        }
        self.apply();
    }

    /// Passes on what is known of the node to compile and to the programs.
    fn refresh_node(&mut self) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let (options, node) = (&self.node_options, self.store.node_object.as_ref());
        let context = node::context(options, &self.node_name, node, &snapshot.interfaces);
        let settings = node::settings(options, node);
        self.store.set_node(context);
        let Some(settings) = settings.filter(|new| self.settings.as_ref() != Some(new)) else {
            return;
        };
        match self.dataplane.configure(&settings) {
            Ok(()) => {
                self.settings = Some(settings);
                self.settings_error = None;
            }
            Err(error) => {
                tracing::warn!(%error, "will retry");
                self.settings_error = Some(error.to_string());
            }
        }
    }

    fn take_filters(&mut self, filters: Option<&Filters>) {
        let shortcut = Shortcut::decide(self.shortcut.mode, filters);
        if self.shortcut == shortcut {
            return;
        }
        tracing::info!(%shortcut);
        self.shortcut = shortcut;
        self.tell_shortcut();
    }

    /// Has the programs ask the routing table again.
    fn forget_routes(&mut self) {
        // If it fails, they do so within a second.
        if let Err(error) = self.dataplane.forget_routes() {
            tracing::warn!(%error, "connections notice changed routes late");
        }
    }

    fn tell_shortcut(&mut self) {
        let told = self.dataplane.set_shortcut(self.shortcut.taken);
        self.shortcut_told = told.map_err(|error| error.to_string());
        if let Err(error) = &self.shortcut_told {
            tracing::warn!(%error, "will retry");
        }
    }

    fn attach(&mut self) {
        if !self.knows_interfaces() {
            return;
        }
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let errors = self.dataplane.sync_interfaces(&snapshot.interfaces);
        for error in &errors {
            if !self.attachment_errors.contains(error) {
                tracing::warn!(%error, "will retry");
            }
        }
        self.attachment_errors = errors;
        let attached = self.dataplane.attached().into_iter();
        let running_xdp = attached.filter(|at| at.xdp != XdpMode::Off);
        let running_xdp: BTreeSet<u32> = running_xdp.map(|at| at.index).collect();
        self.running_xdp.send_if_modified(|held| {
            let changed = *held != running_xdp;
            *held = running_xdp;
            changed
        });
        if self.attachment_errors.is_empty() && !self.attached {
            self.attached = true;
            self.dataplane.forget_other_versions();
        }
    }

    fn retry(&mut self) {
        if self.programmed {
            self.memory.give_back();
        }
        if self.settings_error.is_some() {
            self.refresh_node();
        }
        if self.shortcut_told.is_err() {
            self.tell_shortcut();
        }
        if self.attached
            && let Some(snapshot) = &self.snapshot
            && let Err(error) = self.dataplane.refresh_peers(&snapshot.interfaces)
        {
            tracing::warn!(%error, "will retry");
        }
        let now = self.started.elapsed();
        if self.programmed && now >= self.retry_at {
            self.reconciler.retry(now, &mut self.dataplane);
            self.retry_rest = match self.reconciler.failures() {
                0 => TICK,
                _ => LONGEST_REST.min(2 * self.retry_rest),
            };
            self.retry_at = now + self.retry_rest - TICK;
        }
        if self.programmed && !self.attachment_errors.is_empty() {
            self.attach();
        }
        self.report();
    }
}
