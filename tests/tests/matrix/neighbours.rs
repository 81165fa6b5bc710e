//! Link-layer addresses: one datagram to where none is known, and many to where
//! another one is by now.

use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::{Hook, Verdict};
use lb_tests::lab::{
    Exchange, Family, LabOptions, NODES_GATEWAY, Protocol, Scene, Service, mac, node_address,
};

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

/// What XDP forwards is no use of a neighbour to the kernel, which would believe in
/// its address for ever.
pub(crate) fn check_that_another_is_noticed() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    const SERVICE: Service = Service(1);
    const BEFORE: &str = "02:00:00:00:77:00";
    const OTHER: &str = "02:00:00:00:77:01";

    let mut scene = Scene::new(&LabOptions::default())?;
    // Of a bridge, not of one of its ports, which it would keep.
    let set = |to| format!("link set nodes0 address {to}\n");
    scene.lab.router().netns.ip(&set(BEFORE))?;
    let node = scene.lab.node(1);
    for version in ["ipv4", "ipv6"] {
        let of = |name| format!("{version}/neigh/eth0/{name}");
        node.netns.sysctl(&[
            (&of("base_reachable_time_ms"), "500"),
            (&of("delay_first_probe_time"), "1"),
            (&of("retrans_time_ms"), "100"),
        ])?;
    }
    let backend = scene.add_backend(2, "far")?;
    scene.publish(SERVICE, &[&*backend])?;
    scene.start_agents(1, &["--xdp", "native"])?;
    let (node, router) = (scene.lab.node(1), &scene.lab.router().netns);
    let ask = |family| {
        let to = node.socket(family, SERVICE.node_port());
        let exchange = Exchange::new(Protocol::Udp, to).timeout(Duration::from_millis(200));
        exchange.run_in(&scene.lab.client().netns)
    };
    for family in Family::ALL {
        let until = Instant::now() + PATIENCE;
        while let Err(error) = ask(family) {
            assert!(Instant::now() < until, "{family}: {error}");
        }
    }
    // It says so to nobody, and asks nobody.
    let address = mac(&node.netns, "eth0")?.map(|byte| format!("{byte:02x}"));
    let address = address.join(":");
    let mut batch = set(OTHER);
    for family in Family::ALL {
        let own = node_address(1).get(family);
        batch += &format!("neigh replace {own} lladdr {address} dev nodes0 nud permanent\n");
    }
    router.ip(&batch)?;
    for family in Family::ALL {
        let until = Instant::now() + PATIENCE;
        while let Err(error) = ask(family) {
            let gateway = NODES_GATEWAY.get(family);
            assert!(Instant::now() < until, "{gateway} is not noticed: {error}");
        }
    }
    let (hook, verdict) = (Hook::Xdp.name(), Verdict::Reply.name());
    assert!(scene.count(1, hook, verdict)? > 0);
    Ok(())
}
