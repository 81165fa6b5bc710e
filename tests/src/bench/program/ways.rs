//! The ways through the pipeline that are measured.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use anyhow::Result;
use lb_agent::model::Protocol;
use lb_common::{Hook, Verdict, maps};

use super::node::{ELSEWHERE, HEAD, Node, Template};
use crate::{
    bench::floor::Established,
    lab::Family,
    packet::{
        Place, at,
        frame::{ACK, Frame, SYN, Transport},
        wiring::{CLIENT, FORBIDDEN, NODE, NODE1, POD, POD1, REMOTE, REMOTE1, inner, outer},
    },
};

/// One way through one program.
pub(super) struct Way {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) template: Template,
    pub(super) verdict: Verdict,
    /// Every packet is of a flow that was not there before, and the table has
    /// room for it.
    pub(super) is_new: bool,
}

/// More than a table holds, so that what comes round again is forgotten.
const NEW_FLOWS: u32 = 1 << 22;
/// Packets of new flows that an empty table has room for.
pub(super) const ROOM: u32 = maps::UNASSURED as u32 / 4;
const PORT: u16 = 80;
const TARGET: u16 = 8080;

/// How names of ways end that lead to a small table.
pub(super) const SMALL: &str = ", small table";

/// The uplink whose frames leave by XDP_TX, as those of a NIC do.
const UPLINK: &str = "up1";

/// Has the node serve what the ways lead to, and opens their connections.
pub(super) fn prepare(node: &mut Node) -> Result<Vec<Way>> {
    // Flows that are alone are there before many fill the sets.
    let mut ways = single(node)?;
    let mut scene = Scene {
        node,
        ways: &mut ways,
        family: Family::V4,
        transport: Transport::Udp,
        protocol: Protocol::Udp,
        suffix: ", UDP".to_owned(),
    };
    scene.many()?;
    Ok(ways)
}

/// As above, but only those of new flows, on a node whose table is small.
pub(super) fn prepare_small(node: &mut Node) -> Result<Vec<Way>> {
    let mut ways = single(node)?;
    ways.retain(|way| way.is_new);
    for way in &mut ways {
        way.name.push_str(SMALL);
    }
    Ok(ways)
}

fn single(node: &mut Node) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    for family in Family::ALL {
        let v6 = if family == Family::V6 { ", IPv6" } else { "" };
        for (transport, protocol) in [
            (Transport::Udp, Protocol::Udp),
            (Transport::Tcp(ACK), Protocol::Tcp),
        ] {
            let what = if protocol == Protocol::Udp {
                "UDP"
            } else {
                "TCP"
            };
            let mut scene = Scene {
                node,
                ways: &mut ways,
                family,
                transport,
                protocol,
                suffix: format!(", {what}{v6}"),
            };
            scene.serve_outside()?;
            scene.serve_pods()?;
            if family == Family::V4 {
                scene.misses();
            }
        }
    }
    Ok(ways)
}

struct Scene<'a> {
    node: &'a mut Node,
    ways: &'a mut Vec<Way>,
    family: Family,
    transport: Transport,
    protocol: Protocol,
    suffix: String,
}

impl Scene<'_> {
    fn serve_outside(&mut self) -> Result<()> {
        let client = outer(1, 2).get(self.family);
        let remote = REMOTE1.get(self.family);
        let node = NODE1.get(self.family);
        let far = self.serve(1, &[remote], false)?;
        let near = self.serve(2, &[POD.get(self.family)], true)?;
        let xdp = at(Hook::Xdp, UPLINK);

        let request = self.frame((client, 40_001), far);
        let reply = self.frame((remote, TARGET), (node, 40_001));
        self.open(xdp, &request, xdp, &reply)?;
        self.add(
            "established, backend elsewhere",
            xdp,
            &request,
            Verdict::Forward,
        );
        self.add("reply, backend elsewhere", xdp, &reply, Verdict::Reply);
        // To each backend there are only so many ports.
        let many: Result<Vec<IpAddr>, _> = (1..=64)
            .map(|host| format!("{ELSEWHERE}.{host}").parse())
            .collect();
        let far = self.serve(6, &many?, false)?;
        self.add_new("new, backend elsewhere", xdp, far, client);

        let request = self.frame((client, 40_002), near);
        let reply = self.frame((POD.get(self.family), TARGET), (client, 40_002));
        let egress = forwarded(UPLINK, "pod0");
        self.open(xdp, &request, egress, &reply)?;
        self.add("established, backend here", xdp, &request, Verdict::Forward);
        self.add("reply, backend here", egress, &reply, Verdict::Reply);
        self.add_new("new, backend here", xdp, near, client);
        Ok(())
    }

    fn serve_pods(&mut self) -> Result<()> {
        let client = POD.get(self.family);
        let backend = POD1.get(self.family);
        let frontend = self.serve(3, &[backend], true)?;
        let ingress = at(Hook::TcIngress, "pod0");
        let request = self.frame((client, 40_003), frontend);
        let reply = self.frame((backend, TARGET), (client, 40_003));
        let replies = self.reply_place();
        self.open(ingress, &request, replies, &reply)?;
        self.add(
            "established, pod to pod",
            ingress,
            &request,
            Verdict::Forward,
        );
        self.add("reply, pod to pod", replies, &reply, Verdict::Reply);
        self.add_new("new, pod to pod", ingress, frontend, client);
        Ok(())
    }

    /// Many flows at once, so that the tables are not in the cache.
    fn many(&mut self) -> Result<()> {
        let xdp = at(Hook::Xdp, UPLINK);
        for (flows, name, number) in [(1 << 10, "1k", 4), (1 << 15, "32k", 5)] {
            // To one backend, no two flows have the same source.
            let client = inner(50 + number, 0).get(self.family);
            let near = POD.get(self.family);
            let frontend = self.serve(number, &[near], true)?;
            let request = self.template(&self.frame((client, 0), frontend), flows, 0);
            let reply = self.template(&self.frame((near, TARGET), (client, 0)), flows, 1);
            self.node.replay(xdp, &request, flows, Verdict::Opened)?;
            let egress = forwarded(UPLINK, "pod0");
            self.node.replay(egress, &reply, flows, Verdict::Reply)?;
            self.push(
                format!("established, backend here, {name} flows"),
                xdp,
                request,
                Verdict::Forward,
                false,
            );
        }
        Ok(())
    }

    fn misses(&mut self) {
        let client = CLIENT.get(self.family);
        for (place, name) in [
            (at(Hook::Xdp, UPLINK), "XDP"),
            (at(Hook::TcIngress, "pod0"), "TC ingress"),
            (at(Hook::TcEgress, UPLINK), "TC egress"),
        ] {
            let frame = self.frame((client, 40_005), (FORBIDDEN.get(self.family), PORT));
            self.add(&format!("miss, {name}"), place, &frame, Verdict::NoFrontend);
        }
        if self.protocol == Protocol::Tcp {
            self.transport = Transport::Tcp(SYN);
            let frame = self.frame((client, 40_005), (FORBIDDEN.get(self.family), PORT));
            let place = at(Hook::Xdp, UPLINK);
            self.add("miss, SYN", place, &frame, Verdict::NoFrontend);
        }
    }

    /// Replies of a backend here to a pod.
    fn reply_place(&self) -> Place {
        forwarded("pod0", "pod1")
    }

    fn serve(&mut self, number: u8, backends: &[IpAddr], local: bool) -> Result<(IpAddr, u16)> {
        let address = inner(96, number).get(self.family);
        let name = format!("{:?}-{number}", self.protocol);
        let frontend = SocketAddr::new(address, PORT);
        self.node
            .serve(&name, self.protocol, frontend, backends, local)?;
        Ok((address, PORT))
    }

    fn frame(&self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Frame {
        let mut frame = Frame::new(self.transport, from.into(), to.into());
        frame.payload = vec![0x5a; HEAD + frame.payload.len() - frame.bytes().len()];
        frame
    }

    fn template(&self, frame: &Frame, flows: u32, end: u32) -> Template {
        let mut head = [0; HEAD];
        head.copy_from_slice(&frame.bytes()[..HEAD]);
        Template { head, flows, end }
    }

    /// Has both sides of a connection be heard.
    fn open(&mut self, there: Place, request: &Frame, back: Place, reply: &Frame) -> Result<()> {
        let replay = |node: &mut Node, place, frame: &Frame, verdict| {
            let mut head = [0; HEAD];
            head.copy_from_slice(&frame.bytes()[..HEAD]);
            let template = Template {
                head,
                flows: 1,
                end: 0,
            };
            node.replay(place, &template, 1, verdict)
        };
        if self.protocol == Protocol::Tcp {
            let with = |frame: &Frame, flags| Frame {
                transport: Transport::Tcp(flags),
                ..frame.clone()
            };
            replay(self.node, there, &with(request, SYN), Verdict::Opened)?;
            replay(self.node, back, &with(reply, SYN | ACK), Verdict::Reply)?;
        } else {
            replay(self.node, there, request, Verdict::Opened)?;
            replay(self.node, back, reply, Verdict::Reply)?;
        }
        replay(self.node, there, request, Verdict::Forward)?;
        Ok(())
    }

    fn add(&mut self, name: &str, place: Place, frame: &Frame, verdict: Verdict) {
        let template = self.template(frame, 1, 0);
        self.push(name.to_owned(), place, template, verdict, false);
    }

    /// A new flow with every packet; only IPv4 has the room.
    fn add_new(&mut self, name: &str, place: Place, to: (IpAddr, u16), from: IpAddr) {
        if self.family == Family::V6 {
            return;
        }
        let mut frame = self.frame((from, 0), to);
        if self.protocol == Protocol::Tcp {
            frame.transport = Transport::Tcp(SYN);
        }
        let template = self.template(&frame, NEW_FLOWS, 0);
        self.push(name.to_owned(), place, template, Verdict::Opened, true);
    }

    fn push(
        &mut self,
        name: String,
        place: Place,
        template: Template,
        verdict: Verdict,
        is_new: bool,
    ) {
        self.ways.push(Way {
            name: name + &self.suffix,
            place,
            template,
            verdict,
            is_new,
        });
    }
}

const fn forwarded(interface: &'static str, origin: &'static str) -> Place {
    Place {
        hook: Hook::TcEgress,
        interface,
        origin: Some(origin),
    }
}

/// What the floor program translates.
pub(super) const FLOOR: Established = Established {
    client: SocketAddrV4::new(CLIENT.v4, 40_000),
    frontend: SocketAddrV4::new(NODE.v4, PORT),
    backend: SocketAddrV4::new(REMOTE.v4, TARGET),
    next_hop: [2, 0, 0, 0, 1, 2],
};

/// A frame of that.
pub(super) fn floor() -> Template {
    let (client, frontend) = (FLOOR.client.into(), FLOOR.frontend.into());
    let mut frame = Frame::new(Transport::Udp, client, frontend);
    frame.payload = vec![0x5a; HEAD - 42];
    let mut head = [0; HEAD];
    head.copy_from_slice(&frame.bytes()[..HEAD]);
    Template {
        head,
        flows: 1,
        end: 0,
    }
}
