//! What was sent of each kind, so that a new list yields removals and the
//! first lists of all kinds yield [`Change::Synced`].

use std::collections::BTreeSet;

use super::events::{Event, Kind, Object, Use, What};
use crate::{
    model::{Change, ObjectName, Origin, Problem},
    watch::problems::Problems,
};

pub(super) struct Tables {
    node_name: String,
    services: Table,
    slices: Table,
    nodes: Table,
    problems: Problems<(Kind, ObjectName)>,
    synced: bool,
    whole: bool,
}

#[derive(Default)]
struct Table {
    sent: BTreeSet<ObjectName>,
    /// Those that could not be read and are not in `sent`.
    hidden: BTreeSet<ObjectName>,
    listing: BTreeSet<ObjectName>,
    complete: bool,
}

impl Tables {
    pub(super) fn new(node_name: String) -> Self {
        Self {
            node_name,
            services: Table::default(),
            slices: Table::default(),
            nodes: Table::default(),
            problems: Problems::new(),
            synced: false,
            whole: false,
        }
    }

    /// The changes to send, in order.
    pub(super) fn apply(&mut self, event: Event) -> Vec<Change> {
        let kind = event.kind;
        let mut changes = Vec::new();
        match event.what {
            What::ListBegins => self.table(kind).listing.clear(),
            What::Listed(object) => {
                self.table(kind).listing.insert(object.name.clone());
                changes.extend(self.object(kind, object));
                return changes;
            }
            What::ListEnds => changes.extend(self.list_ends(kind)),
            What::Changed(object) => changes.extend(self.object(kind, object)),
            What::Deleted(name) => {
                self.problems.set((kind, name.clone()), Vec::new());
                self.table(kind).hidden.remove(&name);
                changes.extend(self.remove(kind, name));
            }
        }
        if kind == Kind::Node {
            self.report_missing_node();
        }
        changes.extend(self.problems.change());
        let tables = [&self.services, &self.slices, &self.nodes];
        if !self.synced && tables.iter().all(|table| table.complete) {
            self.synced = true;
            changes.push(Change::Synced);
        }
        if self.synced && !self.whole && tables.iter().all(|table| table.hidden.is_empty()) {
            self.whole = true;
            changes.push(Change::Whole);
        }
        changes
    }

    fn object(&mut self, kind: Kind, object: Object) -> Option<Change> {
        self.problems
            .set((kind, object.name.clone()), object.problems);
        let table = self.table(kind);
        table.hidden.remove(&object.name);
        match object.use_ {
            Use::Send(change) => {
                table.sent.insert(object.name);
                Some(*change)
            }
            Use::Skip => self.remove(kind, object.name),
            Use::Unreadable => {
                if !table.sent.contains(&object.name) {
                    table.hidden.insert(object.name);
                }
                None
            }
        }
    }

    fn list_ends(&mut self, kind: Kind) -> Vec<Change> {
        let table = self.table(kind);
        table.complete = true;
        let listed = std::mem::take(&mut table.listing);
        table.hidden.retain(|name| listed.contains(name));
        let gone: Vec<ObjectName> = table.sent.difference(&listed).cloned().collect();
        self.problems
            .retain(|(other, name)| *other != kind || listed.contains(name));
        gone.into_iter()
            .filter_map(|name| self.remove(kind, name))
            .collect()
    }

    fn remove(&mut self, kind: Kind, name: ObjectName) -> Option<Change> {
        if !self.table(kind).sent.remove(&name) {
            return None;
        }
        match kind {
            Kind::Service => Some(Change::Service(name, None)),
            Kind::EndpointSlice => Some(Change::Slice(name, None)),
            Kind::Node => None,
        }
    }

    fn report_missing_node(&mut self) {
        let missing = self.nodes.complete && self.nodes.sent.is_empty();
        let problem = Problem {
            origin: Origin::Api,
            object: format!("Node {}", self.node_name),
            field: String::new(),
            found: "no such Node".to_owned(),
            accepted: "the name of a Node of the cluster".to_owned(),
        };
        let problems = missing.then_some(problem).into_iter().collect();
        self.problems
            .set((Kind::Node, ObjectName::new("", "")), problems);
    }

    fn table(&mut self, kind: Kind) -> &mut Table {
        match kind {
            Kind::Service => &mut self.services,
            Kind::EndpointSlice => &mut self.slices,
            Kind::Node => &mut self.nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Node, Slice};

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    fn slice(text: &str) -> Change {
        let slice = Slice {
            name: name(text),
            service: name("web"),
            family: Family::V4,
            ports: Vec::new(),
            endpoints: Vec::new(),
            trigger_time: None,
        };
        Change::Slice(name(text), Some(slice))
    }

    fn removed(text: &str) -> Change {
        Change::Slice(name(text), None)
    }

    fn object(text: &str, use_: Use) -> Object {
        Object {
            name: name(text),
            use_,
            problems: Vec::new(),
        }
    }

    fn used(text: &str) -> Object {
        object(text, Use::Send(Box::new(slice(text))))
    }

    #[test]
    fn a_new_list_removes_what_it_lacks() {
        let mut tables = Tables::new("n1".to_owned());
        let steps = [
            (What::ListBegins, vec![]),
            (What::Listed(used("a")), vec![slice("a")]),
            (What::Listed(used("b")), vec![slice("b")]),
            (What::ListEnds, vec![]),
            (What::Changed(used("c")), vec![slice("c")]),
            (What::Changed(object("c", Use::Skip)), vec![removed("c")]),
            (What::Changed(object("c", Use::Skip)), vec![]),
            (What::Deleted(name("c")), vec![]),
            (What::Changed(object("a", Use::Unreadable)), vec![]),
            // A list that breaks off says nothing about what it did not reach.
            (What::ListBegins, vec![]),
            (What::Listed(used("a")), vec![slice("a")]),
            (What::ListBegins, vec![]),
            (What::Listed(used("b")), vec![slice("b")]),
            (What::Listed(object("d", Use::Skip)), vec![]),
            (What::ListEnds, vec![removed("a")]),
            (What::Deleted(name("b")), vec![removed("b")]),
        ];
        for (step, (what, expect)) in steps.into_iter().enumerate() {
            let kind = Kind::EndpointSlice;
            assert_eq!(tables.apply(Event { kind, what }), expect, "step {step}");
        }
    }

    #[test]
    fn synced_once_after_the_first_list_of_every_kind() {
        let node = Node {
            name: "n1".to_owned(),
            internal_ips: Vec::new(),
            zone: None,
            pod_cidrs: Vec::new(),
            eligible: true,
        };
        let node_object = |use_| Object {
            name: ObjectName::new("", "n1"),
            use_,
            problems: Vec::new(),
        };
        let mut tables = Tables::new("n1".to_owned());
        let steps = [
            (Kind::Node, What::ListBegins, vec![]),
            (
                Kind::Node,
                What::Listed(node_object(Use::Send(Box::new(Change::Node(node.clone()))))),
                vec![Change::Node(node)],
            ),
            (Kind::Node, What::ListEnds, vec![]),
            (Kind::Service, What::ListEnds, vec![]),
            (
                Kind::EndpointSlice,
                What::ListEnds,
                vec![Change::Synced, Change::Whole],
            ),
            (Kind::Service, What::ListEnds, vec![]),
        ];
        for (step, (kind, what, expect)) in steps.into_iter().enumerate() {
            assert_eq!(tables.apply(Event { kind, what }), expect, "step {step}");
        }
        let gone = tables.apply(Event {
            kind: Kind::Node,
            what: What::Deleted(ObjectName::new("", "n1")),
        });
        let [Change::Problems(problems)] = gone.as_slice() else {
            panic!("{gone:?}");
        };
        assert_eq!(
            problems[0].to_string(),
            "API: Node n1: found no such Node, accepted: the name of a Node of the cluster"
        );
    }

    #[test]
    fn whole_when_nothing_is_hidden() {
        fn check(steps: Vec<(Kind, What)>) {
            let mut tables = Tables::new("n1".to_owned());
            let last = steps.len() - 1;
            for (step, (kind, what)) in steps.into_iter().enumerate() {
                let changes = tables.apply(Event { kind, what });
                let whole = changes.contains(&Change::Whole);
                assert_eq!(whole, step == last, "step {step}");
            }
            let what = What::Changed(object("late", Use::Unreadable));
            let kind = Kind::Service;
            assert_eq!(tables.apply(Event { kind, what }), []);
            let what = What::Deleted(name("late"));
            assert_eq!(tables.apply(Event { kind, what }), [], "once");
        }
        let hidden = |text| What::Listed(object(text, Use::Unreadable));
        let start = || {
            vec![
                (Kind::Node, What::ListEnds),
                (Kind::Service, hidden("a")),
                (Kind::Service, hidden("b")),
                (Kind::Service, What::ListEnds),
                (Kind::EndpointSlice, What::Listed(used("c"))),
                // It was sent before.
                (
                    Kind::EndpointSlice,
                    What::Changed(object("c", Use::Unreadable)),
                ),
                (Kind::EndpointSlice, hidden("c")),
                (Kind::EndpointSlice, What::ListEnds),
                (Kind::EndpointSlice, What::Changed(used("d"))),
            ]
        };
        let mut steps = start();
        steps.push((Kind::Service, What::Deleted(name("a"))));
        steps.push((Kind::Service, What::Changed(object("b", Use::Skip))));
        check(steps);
        let mut steps = start();
        steps.push((Kind::Service, What::Changed(used("b"))));
        steps.push((Kind::Service, What::ListBegins));
        steps.push((Kind::Service, What::Listed(used("b"))));
        steps.push((Kind::Service, What::ListEnds));
        check(steps);
    }
}
