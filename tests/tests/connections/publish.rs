use std::io;

use lb_tests::lab::Reply;
use serde_json::json;

use crate::stage::{Client, Stage, Way, eventually, kinds, ready};

/// Has `web` served by this pod alone, from wherever it is asked.
pub(crate) fn publish(stage: &Stage, pod: &'static str) {
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
