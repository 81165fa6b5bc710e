//! The agent: watch -> model -> compile -> diff -> apply.

pub mod agent;
pub mod compile;
pub mod connections;
pub mod dataplane;
pub mod health;
pub mod interfaces;
pub mod model;
pub mod node;
pub mod reconcile;
pub mod sorted;
pub mod store;
pub mod watch;
