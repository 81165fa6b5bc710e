//! The lab of network namespaces, the demo that runs in it, scenarios of packets,
//! and an API server for tests.

pub mod api;
pub mod conformance;
pub mod demo;
pub mod lab;
pub mod packet;
