//! A lab of its own for each variant, with pods on the node that is measured, on
//! another one, and a wire's end that swallows frames.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    frames::{Flow, Generator, Sink},
    services::{Backends, CLIENT_PORT, EXTERNAL_IP, PORT, STREAM_PORT, Service, TARGET_PORT},
    stream,
    udp::{Receivers, connected},
    variant::{Balancer, Kind, NODE, Variant},
};
use crate::lab::{Entrance, Family, Lab, LabOptions, Pod, Process, mac};

const OTHER_NODE: u8 = 2;
/// Of new flows; the last two bytes vary.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

/// Fields are dropped in order: what runs in the lab before the lab.
pub(super) struct Site {
    pub(super) variant: Variant,
    pub(super) balancer: Balancer,
    generators: Option<Generators>,
    _server: Process,
    client: Arc<Pod>,
    near: [Arc<Pod>; 3],
    far: [Arc<Pod>; 3],
    frontends: Frontends,
    pub(super) lab: Lab,
}

pub(super) struct Generators {
    pub(super) established: Generator,
    pub(super) new_flows: Generator,
    pub(super) sink: Sink,
}

/// What clients address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frontends {
    pub(super) near: SocketAddr,
    pub(super) far: SocketAddr,
    pub(super) stream: IpAddr,
}

impl Site {
    pub(super) fn build(variant: Variant, object: &Path) -> Result<Self> {
        let lab = Lab::new(&LabOptions::default())?;
        let client = lab.add_pod(NODE, "shell")?;
        let pods = |node, name: &str| -> Result<[Arc<Pod>; 3]> {
            let [a, b, c] = [1, 2, 3].map(|number| lab.add_pod(node, &format!("{name}{number}")));
            Ok([a?, b?, c?])
        };
        let (near, far) = (pods(NODE, "near")?, pods(OTHER_NODE, "far")?);
        lab.route_to_node(&format!("{EXTERNAL_IP}/32"), NODE)?;
        // What goes back out where it came in is no mistake here.
        lab.node(NODE).netns.sysctl(&[
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
        ])?;
        let server = stream::server(&near[0].netns)?;
        let frontends = Frontends::of_endpoints(&near, &far);
        let balancer = Balancer::start(&variant.kind, &lab, object)?;
        let mut site = Self {
            generators: None,
            _server: server,
            client,
            near,
            far,
            frontends,
            balancer,
            variant,
            lab,
        };
        if site.variant.nic.is_some() {
            site.generators = Some(site.load(object)?);
        }
        Ok(site)
    }

    pub(super) fn backends(&self) -> Backends {
        Backends {
            near: self.near.each_ref().map(|pod| pod.addresses.v4),
            far: self.far.each_ref().map(|pod| pod.addresses.v4),
        }
    }

    /// Has it serve these Services, and waits until the measured ones answer.
    pub(super) fn serve(&mut self, services: &[Service]) -> Result<()> {
        self.balancer.serve(&self.lab, services)?;
        if !self.has_no_services() {
            let number = u32::try_from(services.len())?;
            self.frontends = Frontends::of_services(number);
        }
        let mut tries = 0;
        while let Err(error) = self.greet_near().and_then(|()| self.greet_far()) {
            tries += 1;
            ensure!(
                tries < 30,
                "{} serves nothing: {error:#}",
                self.variant.name()
            );
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// Whether clients that expect an answer address an endpoint.
    fn has_no_services(&self) -> bool {
        matches!(self.variant.kind, Kind::Wire | Kind::Plain | Kind::Floor)
    }

    pub(super) fn frontends(&self) -> Frontends {
        self.frontends
    }

    pub(super) fn client(&self) -> &Entrance {
        &self.client.netns
    }

    pub(super) fn node(&self) -> &Entrance {
        &self.lab.node(NODE).netns
    }

    /// The endpoints on the node.
    pub(super) fn near(&self) -> [&Entrance; 3] {
        self.near.each_ref().map(|pod| &*pod.netns)
    }

    pub(super) fn router(&self) -> Entrance {
        self.lab.router().netns.clone()
    }

    pub(super) fn generators(&mut self) -> Result<&mut Generators> {
        self.generators
            .as_mut()
            .context("nothing sends frames here")
    }

    /// A real exchange over the established flow, so that all who track
    /// connections have heard both sides of it.
    pub(super) fn greet_far(&self) -> Result<()> {
        let at = self.far.each_ref().map(|pod| &*pod.netns);
        let to = self.frontends.far;
        let socket = self.lab.client().netns.run(|| connected(to, CLIENT_PORT))?;
        let greeted = Receivers::open(&at)?.greet(&socket);
        greeted.with_context(|| format!("{to} from outside"))?;
        Ok(())
    }

    fn greet_near(&self) -> Result<()> {
        let to = self.frontends.near;
        let socket = self.client.netns.run(|| connected(to, 0))?;
        let greeted = Receivers::open(&self.near())?.greet(&socket);
        greeted.with_context(|| format!("{to} from a pod"))?;
        Ok(())
    }

    fn load(&self, object: &Path) -> Result<Generators> {
        // The external IP is the same at each number of Services.
        let frontends = match self.variant.kind {
            Kind::Wire | Kind::Plain => self.frontends,
            _ => Frontends::of_services(0),
        };
        let IpAddr::V4(destination) = frontends.far.ip() else {
            anyhow::bail!("{} is not IPv4", frontends.far);
        };
        let IpAddr::V4(source) = self.lab.client().address(Family::V4) else {
            anyhow::bail!("the client has no address");
        };
        let established = Flow {
            to_mac: mac(&self.lab.node(NODE).netns, "eth0")?,
            source,
            source_port: CLIENT_PORT,
            destination,
            destination_port: frontends.far.port(),
        };
        let new_flows = Flow {
            source: CLIENTS,
            source_port: 0,
            ..established
        };
        // The router's end of the node's uplink.
        let port = &self.lab.node(NODE).name;
        let sink = match self.variant.kind {
            Kind::Wire => self.node().run(|| Sink::attach(object, "eth0"))?,
            _ => self.router().run(|| Sink::attach(object, port))?,
        };
        self.router().run(|| {
            Ok(Generators {
                established: Generator::load(object, port, &established)?,
                new_flows: Generator::load(object, port, &new_flows)?,
                sink,
            })
        })
    }
}

impl Frontends {
    fn of_services(count: u32) -> Self {
        let near = super::services::cluster_ip(count);
        let stream = super::services::cluster_ip(count.saturating_sub(1));
        Self {
            near: (near, PORT).into(),
            far: (EXTERNAL_IP, PORT).into(),
            stream: stream.into(),
        }
    }

    /// Without a Service a client addresses an endpoint.
    fn of_endpoints(near: &[Arc<Pod>; 3], far: &[Arc<Pod>; 3]) -> Self {
        Self {
            near: near[0].socket(Family::V4, TARGET_PORT),
            far: far[0].socket(Family::V4, TARGET_PORT),
            stream: near[0].socket(Family::V4, STREAM_PORT).ip(),
        }
    }
}
