//! The packet path, in the order a packet travels it:
//! parse -> connection -> service -> NAT -> forward.
//!
//! One pipeline serves XDP, TC ingress and TC egress, and both address
//! families; what differs is in two traits, [`packet::Packet`] and
//! [`family::Family`].

#![no_std]
// Atomic operations that the compiler has no name for on this target.
#![feature(asm_experimental_arch)]

mod advance;
mod affinity;
mod answer;
mod atomic;
mod claim;
mod clock;
mod closer;
mod collect;
mod connections;
mod counters;
mod echo;
mod family;
mod fragments;
mod headers;
mod holdings;
mod hop;
mod icmp;
mod interfaces;
mod known;
mod limit;
mod networks;
mod open;
mod packet;
mod pipeline;
mod plan;
mod relate;
mod report;
mod reset;
mod rewrite;
mod route;
mod scratch;
mod services;
mod sets;
mod sockets;
mod subprograms;
mod tc;
mod track;
mod words;
mod xdp;

pub use collect::collect;
pub use pipeline::{run, run_resent};
pub use tc::{Egress, Ingress, Tc};
pub use xdp::Xdp;
