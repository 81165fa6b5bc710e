//! The packet path, in the order a packet travels it:
//! parse -> connection -> service -> NAT -> forward.
//!
//! One pipeline serves XDP, TC ingress and TC egress, and both address
//! families; what differs is in two traits, [`packet::Packet`] and
//! [`family::Family`].

#![no_std]

mod affinity;
mod connections;
mod counters;
mod family;
mod headers;
mod interfaces;
mod networks;
mod open;
mod packet;
mod pipeline;
mod plan;
mod refuse;
mod rewrite;
mod route;
mod scratch;
mod services;
mod tc;
mod xdp;

pub use pipeline::{run, run_resent};
pub use tc::{Egress, Ingress, Tc};
pub use xdp::Xdp;
