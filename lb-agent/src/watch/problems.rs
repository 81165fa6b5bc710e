//! The current problems of a source, and who found them.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Change, Origin, Problem};

/// Collects the problems of one object while it is read.
pub(super) struct Reporter<'a> {
    origin: &'a Origin,
    object: String,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(
        origin: &'a Origin,
        object: impl Into<String>,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self {
            origin,
            object: object.into(),
            problems,
        }
    }

    pub(super) fn report(
        &mut self,
        field: impl Into<String>,
        found: impl Into<String>,
        accepted: impl Into<String>,
    ) {
        self.problems.push(Problem {
            origin: self.origin.clone(),
            object: self.object.clone(),
            field: field.into(),
            found: found.into(),
            accepted: accepted.into(),
        });
    }
}

/// The problems of a source by what they belong to. Each is logged once, when
/// it is new.
pub(super) struct Problems<K> {
    by_key: BTreeMap<K, Vec<Problem>>,
    sent: BTreeSet<Problem>,
}

impl<K: Ord> Problems<K> {
    pub(super) fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            sent: BTreeSet::new(),
        }
    }

    /// Replaces the problems of `key`.
    pub(super) fn set(&mut self, key: K, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.by_key.insert(key, problems);
        }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.by_key.retain(|key, _| keep(key));
    }

    /// The whole list, if it is not the one returned last.
    pub(super) fn change(&mut self) -> Option<Change> {
        let current: BTreeSet<Problem> = self.by_key.values().flatten().cloned().collect();
        if current == self.sent {
            return None;
        }
        for problem in current.difference(&self.sent) {
            tracing::warn!("{problem}");
        }
        self.sent = current;
        Some(Change::Problems(self.sent.iter().cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_changed_list_is_sent() {
        let problem = |found: &str| Problem {
            origin: Origin::Api,
            object: String::new(),
            field: String::new(),
            found: found.to_owned(),
            accepted: String::new(),
        };
        let mut problems = Problems::new();
        assert_eq!(problems.change(), None);
        problems.set("b", vec![problem("2")]);
        problems.set("a", vec![problem("1")]);
        let both = Change::Problems(vec![problem("1"), problem("2")]);
        assert_eq!(problems.change(), Some(both));
        problems.set("a", vec![problem("1")]);
        assert_eq!(problems.change(), None);
        problems.retain(|key| *key != "b");
        assert_eq!(
            problems.change(),
            Some(Change::Problems(vec![problem("1")]))
        );
        problems.set("a", Vec::new());
        assert_eq!(problems.change(), Some(Change::Problems(Vec::new())));
    }
}
