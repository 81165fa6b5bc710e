//! The lab of network namespaces and the demo that runs in it.

pub mod demo;
pub mod lab;
