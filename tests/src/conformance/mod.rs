//! Scenario files, each flow of them sent through the loaded programs: what
//! becomes of the first packet of a connection, judged by what the file says.

mod expect;
mod frame;
mod judge;
mod manifest;
mod metrics;
mod node;
mod place;
mod run;
mod scenario;
mod settings;
mod wiring;

pub use run::{Summary, run};
