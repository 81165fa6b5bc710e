//! Which connections a flood would like to be rid of. Alone, for it takes from
//! whatever else goes on at the machine.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "connections/flood.rs"]
mod load;
#[path = "connections/publish.rs"]
mod publish;
#[path = "continuity/site.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod site;
#[path = "services/stage.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod stage;
#[path = "connections/strangers.rs"]
mod strangers;
