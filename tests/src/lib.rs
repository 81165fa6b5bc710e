//! The lab of network namespaces and the demo that runs in it.

pub mod lab;
