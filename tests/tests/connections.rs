//! Connections on real stacks that meet each other.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "connections/hairpin.rs"]
mod hairpin;
#[path = "connections/one_port.rs"]
mod one_port;
#[path = "connections/publish.rs"]
mod publish;
#[path = "continuity/site.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod site;
#[path = "services/stage.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod stage;
#[path = "connections/talk.rs"]
mod talk;

use lb_tests::lab::{Family, Protocol};

fn what(protocol: Protocol, family: Family, xdp: &str) -> String {
    format!("{protocol} {family}, xdp {xdp}")
}
