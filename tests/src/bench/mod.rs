//! The benchmark: programs by themselves, traffic on whole nodes, and the control
//! path, each next to what it replaces, in one run.

mod measurement;
pub mod program;

pub use measurement::{Measurement, Part, Summary, Unit};
