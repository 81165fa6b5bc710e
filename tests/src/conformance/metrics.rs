//! Gauges that follow from what is compiled.

use lb_agent::{compile::Port, health::metrics::no_local_endpoints, model::Service};
use serde_json::{Value, json};

const NO_LOCAL_ENDPOINTS: &str = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";

/// What is wrong with a gauge's values.
pub(crate) fn check<'a>(
    name: &str,
    expect: &Value,
    ports: impl Iterator<Item = (&'a Service, &'a Port)>,
) -> Result<(), String> {
    let found = match name {
        NO_LOCAL_ENDPOINTS => sum(ports),
        _ => {
            return Err(format!(
                "no such gauge here, accepted: {NO_LOCAL_ENDPOINTS}"
            ));
        }
    };
    if agrees(expect, &found) {
        return Ok(());
    }
    Err(format!("expected {expect}, got {found}"))
}

/// Labels that the file does not name may have any value.
fn agrees(expect: &Value, found: &Value) -> bool {
    match expect {
        Value::Object(labels) => labels
            .iter()
            .all(|(label, value)| found.get(label).is_some_and(|found| agrees(value, found))),
        Value::Number(number) => number.as_f64() == found.as_f64(),
        _ => false,
    }
}

/// The sum over all families.
fn sum<'a>(ports: impl Iterator<Item = (&'a Service, &'a Port)>) -> Value {
    let (mut internal, mut external) = (0, 0);
    for (service, port) in ports {
        let counts = no_local_endpoints(service, [port]);
        internal += counts.internal;
        external += counts.external;
    }
    json!({"internal": internal, "external": external})
}
