//! The fuzzer, for as long as a test may take.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use lb_tests::fuzz::{Options, run};

const PACKETS: u64 = 100_000;

#[test]
fn the_same_packets_as_ever_come_out_right() {
    check(1);
}

#[test]
fn packets_never_seen_before_come_out_right() {
    check(fastrand::u64(..));
}

fn check(seed: u64) {
    println!("seed {seed}");
    let report = run(Options {
        packets: PACKETS,
        seed,
    })
    .unwrap();
    assert_eq!(report.failure, None, "seed {seed}");
    assert!(report.packets >= PACKETS);
}
