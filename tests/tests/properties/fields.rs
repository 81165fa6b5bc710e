//! A field that changes costs the writes that it takes, there and back.

/// The frontends of the Service in [`base`] that all lead to the same.
macro_rules! every {
    ($set:literal) => {
        concat!(
            "frontend 10.96.0.1 80/TCP, 192.0.2.1 30080/TCP, ",
            "198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> ",
            $set
        )
    };
}

mod base;
mod endpoints;
mod nodes;
mod services;
mod without_effect;

use serde_json::Value;

use self::base::{base, object_name};
use crate::{agent::Agent, cluster::Cluster};

/// The name of an object and a JSON pointer into it (RFC 6901), and what is
/// there then; null for no such field.
type Field = (&'static str, Value);

type Writes = &'static [&'static str];

/// The Service has lost all its endpoints, and gets them again.
const NOBODY: Writes = &[every!("reject"), "retire 1, 2, 3"];
const AGAIN: Writes = &[
    "backend 1 10.0.0.1 8080 local",
    "backend 2 10.0.0.2 8080",
    "backend 3 10.0.0.3 8080",
    "slots 1 2 3",
    every!("1 2 3"),
];

/// From the cluster of [`base`] with fields set as `given` to one with
/// `changed` ones, and back.
struct Case {
    given: Vec<Field>,
    changed: Vec<Field>,
    there: Writes,
    back: Writes,
}

impl Case {
    fn check(&self) {
        let mut before = base();
        set(&mut before, &self.given);
        let mut after = before.clone();
        set(&mut after, &self.changed);
        let what = format!("{:?} given {:?}", self.changed, self.given);
        check(&what, &before, &after, self.there, self.back);
    }
}

/// `there` and `back` are all writes until nothing rests any more.
fn check(what: &str, before: &Cluster, after: &Cluster, there: &[&str], back: &[&str]) {
    assert_ne!(before, after, "{what}");
    let mut agent = Agent::fresh(before);
    agent.rest();
    let mut go = |from: &Cluster, to: &Cluster| {
        agent.maps.writes.clear();
        agent.take(to.changes(from), &to.node);
        agent.rest();
        agent.maps.check_endpoints();
        merged(&agent.maps.writes)
    };
    assert_eq!(go(before, after), there, "{what}");
    assert_eq!(go(after, before), back, "back from {what}");
}

/// Neighbours that do the same as one line: `delete a`, `delete b` becomes
/// `delete a, b`.
fn merged(writes: &[String]) -> Vec<String> {
    let parse = |line: &String| {
        let (verb, rest) = line.split_once(' ').unwrap();
        let (subject, effect) = match rest.split_once(" -> ") {
            Some((subject, effect)) => (subject, format!(" -> {effect}")),
            None => (rest, String::new()),
        };
        (verb.to_owned(), subject.to_owned(), effect)
    };
    let mut lines: Vec<(String, String, String)> = Vec::new();
    for (verb, subject, effect) in writes.iter().map(parse) {
        match lines.last_mut() {
            Some(last)
                if ["delete", "frontend", "retire"].contains(&verb.as_str())
                    && (&last.0, &last.2) == (&verb, &effect) =>
            {
                last.1 += &format!(", {subject}");
            }
            _ => lines.push((verb, subject, effect)),
        }
    }
    let lines = lines.into_iter();
    lines
        .map(|(verb, subject, effect)| format!("{verb} {subject}{effect}"))
        .collect()
}

fn set(cluster: &mut Cluster, fields: &[Field]) {
    for (field, value) in fields {
        let (object, pointer) = field.split_once('/').unwrap();
        let name = object_name(object);
        let services = cluster.services.get_mut(&name);
        let manifest = services.or_else(|| cluster.slices.get_mut(&name)).unwrap();
        let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        let names = parent.split('/').filter(|name| !name.is_empty());
        let parent = names.fold(manifest, |at, name| match name.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[unescaped(name)],
        });
        parent[unescaped(last)] = value.clone();
        if value.is_null() {
            parent.as_object_mut().unwrap().remove(&unescaped(last));
        }
    }
}

fn unescaped(name: &str) -> String {
    name.replace("~1", "/")
}
