//! Services and EndpointSlices of a scenario.

use lb_agent::{model::Change, watch};
use serde::Deserialize;
use serde_json::Value;

/// What a manifest means. Parts that cannot be used are left out, as the agent
/// does; a manifest that cannot be read at all is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Manifest(pub(crate) Change);

impl TryFrom<Value> for Manifest {
    type Error = String;

    fn try_from(manifest: Value) -> Result<Self, String> {
        let (change, problems) = watch::object(&manifest);
        change.map(Self).ok_or_else(|| {
            let texts = problems.iter().map(|problem| {
                let (object, field) = (&problem.object, &problem.field);
                let (found, accepted) = (&problem.found, &problem.accepted);
                format!("{object}: {field}: found {found}, accepted: {accepted}")
            });
            texts.collect::<Vec<_>>().join("; ")
        })
    }
}
