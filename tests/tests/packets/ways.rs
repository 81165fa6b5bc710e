//! The table of ways through the node.

use lb_common::Hook;
use lb_tests::lab::Pair;

use crate::{
    paths::{Macs, Way, passed, sent},
    rig::{
        Place,
        action::{TC_REDIRECT, XDP_REDIRECT, XDP_TX},
        at,
    },
    wiring::{
        CLIENT, CLIENT1, FAR, GATEWAY_MAC, GATEWAY1_MAC, LOOPBACK, NODE, NODE1, POD,
        POD_GATEWAY_MAC, POD_MAC, POD1, POD1_GATEWAY_MAC, POD1_MAC, REMOTE, REMOTE1, UP0_MAC,
        UP1_MAC, inner,
    },
};

const VIP: Pair = inner(96, 10);

pub(crate) const XDP0: Place = at(Hook::Xdp, "up0");
pub(crate) const XDP1: Place = at(Hook::Xdp, "up1");
pub(crate) const IN0: Place = at(Hook::TcIngress, "up0");
pub(crate) const IN1: Place = at(Hook::TcIngress, "up1");
pub(crate) const OUT0: Place = at(Hook::TcEgress, "up0");
pub(crate) const OUT1: Place = at(Hook::TcEgress, "up1");
pub(crate) const FROM_POD: Place = at(Hook::TcIngress, "pod0");
pub(crate) const FROM_POD1: Place = at(Hook::TcIngress, "pod1");
pub(crate) const TO_POD: Place = at(Hook::TcEgress, "pod0");
pub(crate) const OUT_LO: Place = at(Hook::TcEgress, "lo");

const BY_UP0: Macs = Macs::Set([GATEWAY_MAC, UP0_MAC]);
const BY_UP1: Macs = Macs::Set([GATEWAY1_MAC, UP1_MAC]);

pub(crate) const WITH_XDP: [Way; 8] = [
    Way {
        what: "outside to a local backend",
        client: CLIENT,
        frontend: NODE,
        backend: (POD, true),
        seen: None,
        request: passed(XDP0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to a pod that is not said to be local",
        client: CLIENT,
        frontend: NODE,
        backend: (POD1, false),
        seen: None,
        request: passed(XDP0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to the node's own address",
        client: CLIENT,
        frontend: VIP,
        backend: (NODE1, false),
        seen: None,
        request: passed(XDP0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to a remote backend, back over a veth",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: Some(NODE),
        request: sent(XDP0, XDP_REDIRECT, 1, BY_UP0),
        reply: sent(XDP0, XDP_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "outside to a remote backend, back over a NIC",
        client: CLIENT1,
        frontend: VIP,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(XDP1, XDP_TX, 1, BY_UP1),
        reply: sent(XDP1, XDP_TX, 1, BY_UP1),
    },
    Way {
        what: "outside to a remote backend on another uplink",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(XDP0, XDP_REDIRECT, 1, BY_UP1),
        reply: sent(XDP1, XDP_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "outside, asked in TC after all",
        client: CLIENT,
        frontend: NODE,
        backend: (FAR, false),
        seen: Some(NODE),
        request: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
        reply: sent(XDP0, XDP_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "a pod to a remote backend",
        client: POD,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
];

const INTO_POD: Macs = Macs::Set([POD_MAC, POD_GATEWAY_MAC]);
const INTO_POD1: Macs = Macs::Set([POD1_MAC, POD1_GATEWAY_MAC]);

/// Both sides past the stack, by TC also where XDP runs before it.
pub(crate) const SHORT: [Way; 3] = [
    Way {
        what: "a pod to another on this node",
        client: POD,
        frontend: VIP,
        backend: (POD1, true),
        seen: None,
        request: sent(FROM_POD, TC_REDIRECT, 1, INTO_POD1),
        reply: sent(FROM_POD1, TC_REDIRECT, 1, INTO_POD),
    },
    Way {
        what: "a pod to a remote backend",
        client: POD,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: sent(FROM_POD, TC_REDIRECT, 1, BY_UP0),
        reply: sent(IN0, TC_REDIRECT, 1, INTO_POD),
    },
    Way {
        what: "the node to a pod of its own",
        client: NODE,
        frontend: VIP,
        backend: (POD1, true),
        seen: None,
        request: sent(OUT0, TC_REDIRECT, 0, INTO_POD1),
        reply: sent(FROM_POD1, TC_REDIRECT, 0, Macs::Kept),
    },
];

pub(crate) const WITHOUT_XDP: [Way; 16] = [
    Way {
        what: "a pod to another on this node",
        client: POD,
        frontend: VIP,
        backend: (POD1, true),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to a remote backend",
        client: POD,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to a nodePort, local backend",
        client: POD,
        frontend: NODE,
        backend: (POD1, true),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to a nodePort, remote backend",
        client: POD,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: None,
        request: passed(FROM_POD),
        reply: passed(TO_POD),
    },
    Way {
        what: "a pod to itself",
        client: POD,
        frontend: VIP,
        backend: (POD, true),
        seen: Some(NODE),
        request: sent(FROM_POD, TC_REDIRECT, 0, Macs::Swapped),
        reply: sent(FROM_POD, TC_REDIRECT, 0, Macs::Swapped),
    },
    Way {
        what: "outside to a local backend",
        client: CLIENT,
        frontend: NODE,
        backend: (POD, true),
        seen: None,
        request: passed(IN0),
        reply: passed(OUT0),
    },
    Way {
        what: "outside to a remote backend",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: Some(NODE),
        request: sent(IN0, TC_REDIRECT, 1, BY_UP0),
        reply: sent(IN0, TC_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "outside to a remote backend on another uplink",
        client: CLIENT,
        frontend: NODE,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(IN0, TC_REDIRECT, 1, BY_UP1),
        reply: sent(IN1, TC_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "outside to a backend whose neighbour is unknown",
        client: CLIENT,
        frontend: NODE,
        backend: (FAR, false),
        seen: Some(NODE),
        request: sent(IN0, TC_REDIRECT, 1, Macs::Kept),
        reply: sent(IN0, TC_REDIRECT, 1, BY_UP0),
    },
    Way {
        what: "the node to a remote backend",
        client: NODE,
        frontend: VIP,
        backend: (REMOTE, false),
        seen: None,
        request: sent(OUT0, TC_REDIRECT, 0, BY_UP0),
        reply: sent(IN0, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node to a remote backend, out of the other uplink",
        client: NODE,
        frontend: VIP,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(OUT0, TC_REDIRECT, 0, BY_UP1),
        reply: sent(IN1, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node to a pod of its own",
        client: NODE1,
        frontend: VIP,
        backend: (POD1, true),
        seen: None,
        request: sent(OUT1, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(FROM_POD1, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node to an address of its own",
        client: NODE,
        frontend: VIP,
        backend: (NODE1, true),
        seen: None,
        request: sent(OUT0, TC_REDIRECT, 0, Macs::Kept),
        reply: passed(OUT_LO),
    },
    Way {
        what: "the node to its own nodePort, remote backend",
        client: NODE,
        frontend: NODE,
        backend: (REMOTE, false),
        seen: None,
        request: sent(OUT_LO, TC_REDIRECT, 0, BY_UP0),
        reply: sent(IN0, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node's loopback to a remote backend",
        client: LOOPBACK,
        frontend: LOOPBACK,
        backend: (REMOTE1, false),
        seen: Some(NODE1),
        request: sent(OUT_LO, TC_REDIRECT, 0, BY_UP1),
        reply: sent(IN1, TC_REDIRECT, 0, Macs::Kept),
    },
    Way {
        what: "the node's loopback to a pod",
        client: LOOPBACK,
        frontend: LOOPBACK,
        backend: (POD, true),
        seen: Some(NODE),
        request: sent(OUT_LO, TC_REDIRECT, 0, Macs::Kept),
        reply: sent(FROM_POD, TC_REDIRECT, 0, Macs::Kept),
    },
];
