//! One manifest that somebody else has found.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{convert, manifests::typed, problems::Reporter};
use crate::model::{Change, ObjectName, Origin, Problem};

/// What a Service or an EndpointSlice means, as a source would send it, and
/// what of it cannot be used. `None` if nothing of it can.
#[must_use]
pub fn object(manifest: &Value) -> (Option<Change>, Vec<Problem>) {
    let text = |field: &str| manifest.pointer(field).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or_default();
    let [namespace, name] =
        ["namespace", "name"].map(|part| text(&format!("/metadata/{part}")).unwrap_or_default());
    let name = ObjectName::new(namespace, name);
    let mut problems = Vec::new();
    let mut reporter = Reporter::new(&Origin::Api, format!("{kind} {name}"), &mut problems);
    let change = match kind {
        "Service" => read::<Service>(manifest, &mut reporter)
            .map(|object| Change::Service(name, convert::service(&object, &mut reporter))),
        "EndpointSlice" => read::<EndpointSlice>(manifest, &mut reporter)
            .map(|object| Change::Slice(name, convert::slice(&object, &mut reporter))),
        other => {
            reporter.report("kind", format!("{other:?}"), "Service or EndpointSlice");
            None
        }
    };
    (change, problems)
}

fn read<T: DeserializeOwned>(manifest: &Value, reporter: &mut Reporter<'_>) -> Option<T> {
    typed(manifest.clone(), reporter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_is_a_change_or_a_problem() {
        let service = |spec| json!({"kind": "Service", "metadata": {"namespace": "shop", "name": "web"}, "spec": spec});
        let slice = json!({"kind": "EndpointSlice", "metadata": {"namespace": "shop", "name": "web"}, "addressType": "IPv4", "endpoints": []});
        let table = [
            (service(json!({"clusterIP": "10.96.0.7"})), "Service", None),
            (service(json!({"clusterIP": "None"})), "no Service", None),
            (
                service(json!({"clusterIP": "10.96.0.7", "externalIPs": ["x"]})),
                "Service",
                Some("spec.externalIPs[0]"),
            ),
            (service(json!({"ports": 80})), "", Some("spec.ports")),
            (slice, "no Slice", None),
            (json!({"kind": "Secret"}), "", Some("kind")),
            (json!([]), "", Some("kind")),
        ];
        for (manifest, expect, field) in table {
            let (change, problems) = object(&manifest);
            let name = ObjectName::new("shop", "web");
            let found = match change {
                None => "",
                Some(Change::Service(found, None)) if found == name => "no Service",
                Some(Change::Service(found, Some(_))) if found == name => "Service",
                Some(Change::Slice(found, None)) if found == name => "no Slice",
                other => panic!("{manifest}: {other:?}"),
            };
            assert_eq!(found, expect, "{manifest}");
            let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
            assert_eq!(fields, field.as_slice(), "{manifest}");
        }
    }
}
