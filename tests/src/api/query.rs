//! The query of a request.

use std::time::Duration;

use serde_json::Value;

use super::store::Name;

#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) version: Option<u64>,
    pub(super) limit: Option<usize>,
    /// The version of the list, and where it goes on.
    pub(super) token: Option<(u64, Name)>,
    pub(super) timeout: Option<Duration>,
    pub(super) bookmarks: bool,
    pub(super) selectors: Selectors,
}

/// Those that the agent uses: `!label`, `label`, `label=value`, and
/// `metadata.name=value`.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    labels: Vec<String>,
    fields: Vec<String>,
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let list = || {
                value
                    .split(',')
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            match key.as_ref() {
                "watch" => parsed.watch = matches!(value.as_ref(), "true" | "1"),
                "resourceVersion" => parsed.version = value.parse().ok(),
                "limit" => parsed.limit = value.parse().ok(),
                "continue" => parsed.token = parse_token(&value),
                "timeoutSeconds" => parsed.timeout = value.parse().ok().map(Duration::from_secs),
                "allowWatchBookmarks" => parsed.bookmarks = value == "true",
                "labelSelector" => parsed.selectors.labels = list(),
                "fieldSelector" => parsed.selectors.fields = list(),
                _ => {}
            }
        }
        parsed
    }
}

impl Selectors {
    pub(super) fn match_object(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let labels = self.labels.iter().all(|selector| {
            let label = |key: &str| metadata["labels"].get(key).and_then(Value::as_str);
            match (selector.strip_prefix('!'), selector.split_once('=')) {
                (Some(key), _) => label(key).is_none(),
                (None, Some((key, value))) => label(key.trim_end_matches('=')) == Some(value),
                (None, None) => label(selector).is_some(),
            }
        });
        let fields = self.fields.iter().all(|selector| {
            let name = selector.strip_prefix("metadata.name=");
            name.is_some() && metadata["name"].as_str() == name
        });
        labels && fields
    }
}

pub(super) fn token(version: u64, (namespace, name): &Name) -> String {
    format!("{version}/{namespace}/{name}")
}

fn parse_token(token: &str) -> Option<(u64, Name)> {
    let mut parts = token.splitn(3, '/');
    let version = parts.next()?.parse().ok()?;
    Some((
        version,
        (parts.next()?.to_owned(), parts.next()?.to_owned()),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        fn check(query: &str, expect: bool) {
            let object = json!({"metadata": {"name": "n1", "labels": {"a": "1"}}});
            assert_eq!(
                Query::parse(query).selectors.match_object(&object),
                expect,
                "{query}"
            );
        }
        check("", true);
        check("labelSelector=%21b", true);
        check("labelSelector=%21a", false);
        check("labelSelector=a", true);
        check("labelSelector=a%3D1%2C%21b", true);
        check("labelSelector=a%3D2", false);
        check("fieldSelector=metadata.name%3Dn1", true);
        check("fieldSelector=metadata.name%3Dn2", false);
        check("fieldSelector=spec.x%3Dn1", false);
    }

    #[test]
    fn tokens() {
        let name = ("ns".to_owned(), "a".to_owned());
        assert_eq!(parse_token(&token(7, &name)), Some((7, name)));
        assert_eq!(parse_token("x"), None);
    }
}
