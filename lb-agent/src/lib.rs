//! The agent: watch -> model -> compile -> diff -> apply.

pub mod model;
