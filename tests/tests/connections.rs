//! Connections on real stacks: which meet each other, and which a flood would
//! like to be rid of.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "connections/flood.rs"]
mod flood;
#[path = "connections/hairpin.rs"]
mod hairpin;
#[path = "connections/one_port.rs"]
mod one_port;
#[path = "continuity/site.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod site;
#[path = "services/stage.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod stage;
#[path = "connections/strangers.rs"]
mod strangers;
#[path = "connections/talk.rs"]
mod talk;

use std::io;

use lb_tests::lab::{Family, Protocol, Reply};
use serde_json::json;
use stage::{Client, Stage, Way, eventually, kinds, ready};

/// Has `web` served by this pod alone, from wherever it is asked.
fn publish(stage: &Stage, pod: &'static str) {
    stage.publish(json!({}), &[ready(pod)]);
    for (protocol, family) in kinds() {
        for path in [
            (Client::Pod, Way::ClusterIp),
            (Client::Outside, Way::NodePort),
            (Client::Outside, Way::LoadBalancer),
        ] {
            let ask = || stage.exchange(path, protocol, family);
            let is_right =
                |reply: &io::Result<Reply>| reply.as_ref().is_ok_and(|reply| reply.server == pod);
            eventually(pod, ask, is_right).unwrap();
        }
    }
}

fn what(protocol: Protocol, family: Family, xdp: &str) -> String {
    format!("{protocol} {family}, xdp {xdp}")
}
