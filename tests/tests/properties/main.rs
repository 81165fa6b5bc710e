//! Whole clusters through conversion, store, compile and reconcile into maps in
//! memory: what the maps say is what the Service semantics ask for, however the
//! agent got there, and no more is written than that takes.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod agent;
mod cluster;
mod diff;
mod fields;
mod generate;
mod lookup;
mod maps;
mod oracle;
mod probe;
mod probes;
mod selection;
