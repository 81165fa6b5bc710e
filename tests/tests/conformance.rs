//! The project's own scenarios, in the form that `cargo xtask conformance`
//! takes.

use std::path::Path;

use lb_tests::conformance;

#[test]
fn every_flow_becomes_what_its_scenario_says() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut failures = Vec::new();
    let summary = conformance::run(&[scenarios], |failure| failures.push(failure.to_owned()));
    let summary = summary.unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(failures, [""; 0]);
    assert_eq!(summary.failed, 0);
    assert!(summary.passed > 800, "{summary:?}");
}
