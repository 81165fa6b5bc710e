//! Every place to every frontend, with real agents, on nodes of several kinds.

#[path = "matrix/firewall.rs"]
mod firewall;
#[path = "matrix/neighbours.rs"]
mod neighbours;
#[path = "matrix/rows.rs"]
mod rows;
#[path = "matrix/stage.rs"]
mod stage;

use anyhow::Result;
use lb_tests::lab::{Capture, Recording};
use stage::{Kind, Stage, Uplink};

const OPEN: Kind = Kind {
    uplink: Uplink::Xdp,
    rp_filter: 0,
    firewall: false,
};

#[test]
fn matrix_xdp() {
    check(OPEN).unwrap();
}

#[test]
fn matrix_tc() {
    check(Kind {
        uplink: Uplink::Tc,
        ..OPEN
    })
    .unwrap();
}

#[test]
fn matrix_xdp_in_the_field_strict() {
    check(Kind {
        rp_filter: 1,
        firewall: true,
        ..OPEN
    })
    .unwrap();
}

#[test]
fn matrix_tc_in_the_field_strict() {
    check(Kind {
        uplink: Uplink::Tc,
        rp_filter: 1,
        firewall: true,
    })
    .unwrap();
}

#[test]
fn matrix_xdp_in_the_field_loose() {
    check(Kind {
        rp_filter: 2,
        firewall: true,
        ..OPEN
    })
    .unwrap();
}

#[test]
fn matrix_tc_in_the_field_loose() {
    check(Kind {
        uplink: Uplink::Tc,
        rp_filter: 2,
        firewall: true,
    })
    .unwrap();
}

#[test]
fn first_datagrams_outlive_missing_neighbours_xdp() {
    neighbours::check(OPEN).unwrap();
}

#[test]
fn first_datagrams_outlive_missing_neighbours_tc() {
    neighbours::check(Kind {
        uplink: Uplink::Tc,
        ..OPEN
    })
    .unwrap();
}

#[test]
fn first_datagrams_outlive_missing_neighbours_in_the_field() {
    neighbours::check(Kind {
        rp_filter: 1,
        firewall: true,
        ..OPEN
    })
    .unwrap();
}

fn check(kind: Kind) -> Result<()> {
    let stage = Stage::new(kind)?;
    let router = Capture::start(&stage.lab().router().netns, &["lan0", "node1", "node2"])?;
    let pods = [1, 2].map(|node| Capture::start(&stage.backend(node).netns, &["eth0"]));
    let exchanges = rows::check(&stage);
    if kind.firewall {
        firewall::check(&stage)?;
    }
    // Each exchange is two frames at least; those within a node miss the router.
    check_checksums("router", router.stop()?, exchanges);
    for pod in pods {
        check_checksums("pod", pod?.stop()?, exchanges / 4);
    }
    stage.check_counters()
}

fn check_checksums(place: &str, recording: Recording, at_least: usize) {
    assert_eq!(recording.lost, 0, "{place}: the capture was too slow");
    let report = recording.checksums();
    for bad in &report.bad {
        eprintln!("{place}: {bad}");
    }
    assert!(report.bad.is_empty(), "{place}: {} bad", report.bad.len());
    let checked = report.checked;
    assert!(checked > at_least, "{place}: {checked} frames checked");
    eprintln!("{place}: {checked} frames with good checksums");
}

#[test]
fn neighbours_with_another_address_are_noticed() {
    neighbours::check_that_another_is_noticed().unwrap();
}
