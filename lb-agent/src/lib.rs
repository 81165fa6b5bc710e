//! The agent: watch -> model -> compile -> diff -> apply.

pub mod agent;
pub mod compile;
pub mod connections;
pub mod dataplane;
pub mod filters;
pub mod health;
pub mod interfaces;
pub mod model;
mod netlink;
pub mod node;
pub mod reconcile;
pub mod shortcut;
pub mod sorted;
pub mod store;
pub mod watch;
