//! The fuzzer, for as long as a test may take. What it sends is the same each
//! time, so that a failure speaks of the change at hand: `cargo xtask fuzz` is
//! for what nobody has seen yet.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use lb_tests::fuzz::{Options, run};

const PACKETS: u64 = 100_000;

#[test]
fn packets_of_every_kind_come_out_right() {
    check(1);
}

#[test]
fn others_side_by_side_come_out_right() {
    check(1 << 32);
}

fn check(seed: u64) {
    let report = run(Options {
        packets: PACKETS,
        seed,
    })
    .unwrap();
    assert_eq!(report.failure, None, "seed {seed}");
    assert!(report.packets >= PACKETS);
}
