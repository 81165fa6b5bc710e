//! One datagram to where no link-layer address is known.

use anyhow::Result;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{Family, Protocol};

use super::{
    rows::{FIRST_PORT, Path},
    stage::{Kind, Stage, Uplink},
};

/// A single datagram and its single reply: nothing is sent twice, so nothing
/// may be lost.
pub(crate) fn check(kind: Kind) -> Result<()> {
    let stage = Stage::new(kind)?;
    let mut ports = FIRST_PORT..;
    let mut failures = Vec::new();
    for path in Path::all() {
        for family in Family::ALL {
            for node in [1, 2] {
                stage.lab().flush_neighbours(node)?;
            }
            let run = path.run(&stage, (Protocol::Udp, family, 100), &mut ports);
            failures.extend(run.err());
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let deferred = (Hook::Xdp.name(), Verdict::Deferred.name());
    let deferred = stage.scene.count(1, deferred.0, deferred.1)?;
    assert_eq!(deferred > 0, kind.uplink == Uplink::Xdp, "{deferred}");
    Ok(())
}
