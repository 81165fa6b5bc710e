//! Random clusters.

mod node;
mod service;
mod slice;

use std::collections::BTreeMap;

use lb_agent::model::ObjectName;
use proptest::{
    option, prop_compose,
    sample::select,
    strategy::{BoxedStrategy, Strategy},
};
use serde_json::{Map, Value};

use self::{node::this_node, service::service, slice::slice};
use crate::cluster::Cluster;

/// What the Service semantics say nothing of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contradictions {
    /// No two Services want the same frontend, and what slices say of one
    /// endpoint differs only by whether it terminates.
    None,
    Some,
}

/// Namespace and name of the Services there can be.
const SERVICES: [[&str; 2]; 4] = [["a", "web"], ["a", "api"], ["b", "web"], ["b", "dns"]];
const SLICES: usize = 6;

prop_compose! {
    pub(crate) fn cluster(allow: Contradictions)(
        services in (0..SERVICES.len())
            .map(|index| option::weighted(0.8, service(index, allow)))
            .collect::<Vec<_>>(),
        slices in (0..SLICES)
            .map(|index| option::weighted(0.8, slice(index)))
            .collect::<Vec<_>>(),
        node in this_node(),
    ) -> Cluster {
        let mut cluster = Cluster {
            services: by_name(services),
            slices: by_name(slices),
            node,
        };
        if allow == Contradictions::None {
            agree(&mut cluster);
        }
        cluster
    }
}

fn by_name(manifests: Vec<Option<Value>>) -> BTreeMap<ObjectName, Value> {
    let named = manifests.into_iter().flatten().map(|manifest| {
        let text = |field: &str| manifest["metadata"][field].as_str().unwrap().to_owned();
        (ObjectName::new(text("namespace"), text("name")), manifest)
    });
    named.collect()
}

/// Endpoints of one address that terminate become equal, as do those that do
/// not.
fn agree(cluster: &mut Cluster) {
    let mut seen: BTreeMap<(String, bool), Value> = BTreeMap::new();
    for slice in cluster.slices.values_mut() {
        for endpoint in slice["endpoints"].as_array_mut().unwrap() {
            let address = endpoint["addresses"][0].as_str().unwrap().to_owned();
            let terminates = endpoint["conditions"]["terminating"] == true;
            let first = seen.entry((address, terminates));
            *endpoint = first.or_insert_with(|| endpoint.clone()).clone();
        }
    }
}

type Field = (&'static str, BoxedStrategy<Value>);

/// An object with these fields. What is null is left out.
fn object(fields: Vec<Field>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let fill = move |values: Vec<Value>| {
        let fields = names.iter().map(|name| (*name).to_owned()).zip(values);
        let fields: Map<String, Value> = fields.filter(|(_, value)| !value.is_null()).collect();
        Value::Object(fields)
    };
    values.prop_map(fill).boxed()
}

fn one_of<T: Into<Value> + Clone>(values: &[T]) -> BoxedStrategy<Value> {
    let values: Vec<Value> = values.iter().cloned().map(Into::into).collect();
    select(values).boxed()
}

/// Null three times of four.
fn seldom(value: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    option::weighted(0.25, value)
        .prop_map(Option::unwrap_or_default)
        .boxed()
}

/// Each of these or not, in order.
fn some_of(values: Vec<Value>) -> BoxedStrategy<Value> {
    let count = values.len();
    proptest::sample::subsequence(values, 0..=count)
        .prop_map(Value::Array)
        .boxed()
}
