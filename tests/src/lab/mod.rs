//! A small cluster made of network namespaces: an outside client, a router,
//! nodes, and pods behind veths, all dual-stack.
//!
//! ```text
//! client 198.51.100.10 -- router -- nodes0 (bridge) -- node1 192.0.2.11 -- pods 10.244.1.x
//!        2001:db8:100::10                 `----------- node2 192.0.2.12 -- pods 10.244.2.x
//! ```
//!
//! Everything a lab makes is named after its [`LabId`] and goes away when the
//! [`Lab`] is dropped; what a killed process left behind is removed by the
//! next lab. The machine's own network is never touched.

mod address;
mod agent;
mod capture;
mod checksum;
mod client;
mod host;
mod inject;
mod link;
mod load;
mod netns;
mod process;
mod residue;
mod scene;
mod sctp;
mod server;
mod topology;
mod wiring;

pub use address::{
    CLIENT, Family, GATEWAY, LAN_GATEWAY, NODES_GATEWAY, Pair, Protocol, node_address, pod_address,
    pod_cidrs,
};
pub use agent::{AgentProcess, agent_binary};
pub use capture::{Capture, Frame, Recording};
pub use checksum::{BadFrame, ChecksumReport, Verdict, inspect};
pub use client::{Exchange, Reply, TcpClient, payload};
pub use host::{Host, Pod};
pub use inject::{Injector, mac};
pub use load::{AsyncTcp, Load, LoadOptions, LoadReport};
pub use netns::{Entrance, Netns};
pub use process::Process;
pub(crate) use process::stay_on_this_cpu;
pub(crate) use residue::Residue;
pub use residue::{LabId, clean_up_on_signal};
pub use scene::{Scene, Service};
pub use sctp::{SctpClient, SctpServer};
pub use topology::{Lab, LabOptions};
pub(crate) use wiring::forwarding;
