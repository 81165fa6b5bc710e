//! The benchmark: programs by themselves, traffic on whole nodes, and the control
//! path, each next to what it replaces, in one run.

pub mod control;
mod measurement;

pub use measurement::{Measurement, Part, Summary, Unit};
