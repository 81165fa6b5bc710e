//! A file to checked objects, and what is wrong with the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    documents::{Broken, documents},
    names,
    objects::{Key, Kind, Located, Object},
    validate,
};
use crate::{
    model::{ObjectName, Origin, Problem},
    watch::problems::Reporter,
};

#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) objects: BTreeMap<Key, Located<Object>>,
    /// Objects that are there, but cannot be used as they are.
    pub(super) invalid: BTreeSet<Key>,
    /// Whether there are, or may be, documents of which not even the [`Key`] is
    /// known.
    pub(super) unknown: bool,
    pub(super) problems: Vec<Problem>,
}

impl Parsed {
    /// Nothing can be said of the file but `found`.
    pub(super) fn broken(
        path: &Path,
        field: impl Into<String>,
        found: impl Into<String>,
        accepted: impl Into<String>,
    ) -> Self {
        let mut parsed = Self {
            unknown: true,
            ..Self::default()
        };
        let origin = Origin::File {
            path: path.to_owned(),
            document: None,
        };
        Reporter::new(&origin, "", &mut parsed.problems).report(field, found, accepted);
        parsed
    }
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Parsed {
    const TEXT: &str = "UTF-8 text, YAML or JSON";
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => return Parsed::broken(path, "", error.to_string(), TEXT),
    };
    if let Some(position) = text.find('\0') {
        return Parsed::broken(path, "", format!("a zero byte at offset {position}"), TEXT);
    }

    let mut parsed = Parsed::default();
    let mut last_is_bad = false;
    for document in documents(path, text) {
        let bad_before = (parsed.unknown, parsed.invalid.len());
        let origin = Origin::File {
            path: path.to_owned(),
            document: Some(document.number),
        };
        match document.content {
            Ok(value) => parsed.value(&origin, value),
            Err(Broken { place, message }) => {
                parsed.unidentified(&origin, &place, message, "a document that is whole");
            }
        }
        last_is_bad = bad_before != (parsed.unknown, parsed.invalid.len());
    }
    // The file may be cut off there, and documents may be missing.
    parsed.unknown |= last_is_bad;
    parsed
}

impl Parsed {
    fn value(&mut self, origin: &Origin, value: Value) {
        let Value::Object(mut fields) = value else {
            self.unidentified(
                origin,
                "",
                value.to_string(),
                "an object with apiVersion and kind",
            );
            return;
        };
        let mut types = [String::new(), String::new()];
        for (text, (field, accepted)) in types.iter_mut().zip([
            ("apiVersion", "an API version such as v1"),
            ("kind", "a kind such as Service"),
        ]) {
            match fields.get(field) {
                Some(Value::String(found)) if !found.is_empty() => text.clone_from(found),
                found => {
                    let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
                    self.unidentified(origin, field, found, accepted);
                    return;
                }
            }
        }
        let [api_version, kind] = types;
        if let Some(item) = kind.strip_suffix("List")
            && let Some(Value::Array(items)) = fields.get_mut("items").map(Value::take)
        {
            self.list(origin, &api_version, item, items);
            return;
        }
        if let Some(kind) = Kind::named(&kind) {
            self.object(origin, kind, &api_version, fields);
        }
    }

    /// The items of a `ServiceList`, unlike those of a `List`, may leave out
    /// what they are.
    fn list(&mut self, origin: &Origin, api_version: &str, kind: &str, items: Vec<Value>) {
        for mut item in items {
            if let Value::Object(fields) = &mut item
                && !kind.is_empty()
            {
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| api_version.into());
                fields.entry("kind").or_insert_with(|| kind.into());
            }
            self.value(origin, item);
        }
    }

    fn object(
        &mut self,
        origin: &Origin,
        kind: Kind,
        api_version: &str,
        mut fields: Map<String, Value>,
    ) {
        // Others have kinds of these names too, serving.knative.dev/v1 say.
        let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
        let other = group(api_version);
        if other != group(kind.api_version()) && other.is_some_and(|group| group.contains('.')) {
            return;
        }
        let Some(key) = self.key(origin, kind, &mut fields) else {
            return;
        };

        let mut problems = Vec::new();
        let mut reporter = Reporter::new(origin, key.to_string(), &mut problems);
        let object = if api_version == kind.api_version() {
            read(kind, Value::Object(fields), &mut reporter)
        } else {
            reporter.report("apiVersion", format!("{api_version:?}"), kind.api_version());
            None
        };
        let valid = problems.is_empty();
        self.problems.append(&mut problems);
        let Some(object) = object.filter(|_| valid) else {
            self.invalid.insert(key);
            return;
        };
        if let Some(first) = self.objects.get(&key) {
            self.problems.push(duplicate(origin, &key, &first.origin));
            return;
        }
        let origin = origin.clone();
        self.objects.insert(key, Located { origin, object });
    }

    fn key(&mut self, origin: &Origin, kind: Kind, fields: &mut Map<String, Value>) -> Option<Key> {
        let metadata = fields.get_mut("metadata").and_then(Value::as_object_mut);
        let name = metadata
            .as_ref()
            .and_then(|metadata| metadata.get("name"))
            .cloned();
        let namespace = match metadata {
            Some(metadata) if kind != Kind::Node => {
                let namespace = metadata.entry("namespace").or_insert(Value::Null);
                if matches!(namespace, Value::Null) || *namespace == "" {
                    *namespace = "default".into();
                }
                namespace.clone()
            }
            _ => Value::String(String::new()),
        };

        let (is_name, rule) = match kind {
            Kind::Service => (names::is_label as fn(&str) -> bool, names::LABEL),
            _ => (names::is_subdomain as fn(&str) -> bool, names::SUBDOMAIN),
        };
        let object = format!("{kind:?}");
        let mut check =
            |field: &str, value: Option<Value>, valid: fn(&str) -> bool, rule: &str| match value {
                Some(Value::String(text)) if valid(&text) => Some(text),
                found => {
                    let found =
                        found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
                    Reporter::new(origin, object.as_str(), &mut self.problems)
                        .report(field, found, rule);
                    self.unknown = true;
                    None
                }
            };
        let name = check("metadata.name", name, is_name, rule)?;
        let namespace = match kind {
            Kind::Node => String::new(),
            _ => check(
                "metadata.namespace",
                Some(namespace),
                names::is_label,
                names::LABEL,
            )?,
        };
        Some(Key {
            kind,
            name: ObjectName::new(namespace, name),
        })
    }

    fn unidentified(&mut self, origin: &Origin, field: &str, found: String, accepted: &str) {
        self.unknown = true;
        Reporter::new(origin, "", &mut self.problems).report(field, found, accepted);
    }
}

pub(super) fn duplicate(origin: &Origin, key: &Key, first: &Origin) -> Problem {
    Problem {
        origin: origin.clone(),
        object: key.to_string(),
        field: "metadata.name".to_owned(),
        found: format!("the same object as in {first}"),
        accepted: "one document for each object".to_owned(),
    }
}

fn read(kind: Kind, value: Value, reporter: &mut Reporter<'_>) -> Option<Object> {
    Some(match kind {
        Kind::Service => {
            let service = typed(value, reporter)?;
            validate::service(&service, reporter);
            Object::Service(Arc::new(service))
        }
        Kind::EndpointSlice => {
            let slice = typed(value, reporter)?;
            validate::slice(&slice, reporter);
            Object::EndpointSlice(Arc::new(slice))
        }
        Kind::Endpoints => {
            let endpoints = typed(value, reporter)?;
            validate::endpoints(&endpoints, reporter);
            Object::Endpoints(Arc::new(endpoints))
        }
        Kind::Pod => {
            let pod = typed(value, reporter)?;
            validate::pod(&pod, reporter);
            Object::Pod(Arc::new(pod))
        }
        Kind::Node => Object::Node(Arc::new(typed(value, reporter)?)),
    })
}

/// An object of a known kind; a value that does not fit is reported.
pub(in crate::watch) fn typed<T: DeserializeOwned>(
    value: Value,
    reporter: &mut Reporter<'_>,
) -> Option<T> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| {
            let field = error.path().to_string();
            let message = error.into_inner().to_string();
            let (found, expected) = message
                .split_once(", expected ")
                .unwrap_or((&message, "a valid value"));
            let found = found.rsplit_once(": ").map_or(found, |(_, found)| found);
            let accepted = match expected {
                "i32" | "i64" => "a whole number",
                "a string" => "a string (in quotes)",
                other => other,
            };
            reporter.report(field, found, accepted);
        })
        .ok()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
