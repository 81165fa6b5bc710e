//! SCTP endpoints on raw sockets, for kernels that have none: associations that
//! are set up, carry one message at a time each way, and are shut down in order
//! (RFC 9260, sections 5, 6 and 9.2). Nothing is sent twice. What comes with a
//! wrong checksum or verification tag is an error and never overlooked.

mod chunks;
mod client;
mod server;
mod wire;

pub use client::SctpClient;
pub use server::SctpServer;
