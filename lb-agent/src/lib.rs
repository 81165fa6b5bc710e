//! The agent: watch -> model -> compile -> diff -> apply.

pub mod compile;
pub mod dataplane;
pub mod interfaces;
pub mod model;
pub mod reconcile;
pub mod watch;
