//! What a Service promises over time, on real stacks: a single packet shows
//! none of it.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "services/affinity.rs"]
mod affinity;
#[path = "services/bridge.rs"]
mod bridge;
#[path = "services/draining.rs"]
mod draining;
#[path = "services/forgeries.rs"]
mod forgeries;
#[path = "services/host.rs"]
mod host;
#[path = "services/policies.rs"]
mod policies;
#[path = "services/refusals.rs"]
mod refusals;
#[path = "continuity/site.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod site;
#[path = "services/sources.rs"]
mod sources;
#[path = "services/stage.rs"]
mod stage;
