//! The lab of network namespaces, the demo that runs in it, scenarios of packets,
//! an API server for tests, and what the verifier says of the programs.

pub mod api;
pub mod bench;
pub mod conformance;
pub mod demo;
pub mod fuzz;
mod instruction;
pub mod lab;
pub mod packet;
pub mod verifier;
