//! Failures, each published once for as long as it lasts.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::watch::{Event, Subject};

#[derive(Debug)]
pub(super) struct Publisher {
    events: mpsc::Sender<Event>,
    /// What was taken and lasts: the message by object and reason.
    published: BTreeMap<(Subject, &'static str), String>,
    /// Some did not fit.
    behind: bool,
}

impl Publisher {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self {
            events,
            published: BTreeMap::new(),
            behind: false,
        }
    }

    /// `failures` are all there are, at most one of an object and reason. To be
    /// called now and then: what does not fit is tried again.
    pub(super) fn update(&mut self, failures: impl Iterator<Item = Event>) {
        let was_behind = std::mem::take(&mut self.behind);
        let mut before = std::mem::take(&mut self.published);
        for failure in failures {
            let key = (failure.about.clone(), failure.reason);
            let message = failure.message.clone();
            let is_known = before.remove(&key).as_ref() == Some(&message);
            // Nobody waits for a Kubernetes API that does not answer.
            if is_known || self.events.try_send(failure).is_ok() {
                self.published.insert(key, message);
            } else {
                self.behind = true;
            }
        }
        if self.behind && !was_behind {
            tracing::warn!("more Events than can be published; will retry");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `node reason message` each.
    fn event(text: &str) -> Event {
        let (node, rest) = text.split_once(' ').unwrap();
        let (reason, message) = rest.split_once(' ').unwrap();
        Event {
            about: Subject::Node(node.to_owned()),
            reason: ["Port", "Write"]
                .into_iter()
                .find(|r| *r == reason)
                .unwrap(),
            message: message.to_owned(),
        }
    }

    fn check(room: usize, table: &[(&[&str], &[&str])]) {
        let (events, mut published) = mpsc::channel(room);
        let mut publisher = Publisher::new(events);
        for (row, (failures, expect)) in table.iter().enumerate() {
            publisher.update(failures.iter().map(|text| event(text)));
            let mut found = Vec::new();
            while let Ok(event) = published.try_recv() {
                let Event {
                    about,
                    reason,
                    message,
                } = event;
                found.push(format!("{about} {reason} {message}"));
            }
            let expect: Vec<String> = expect.iter().map(|text| format!("Node {text}")).collect();
            assert_eq!(found, expect, "room {room} row {row}");
        }
    }

    #[test]
    fn a_failure_is_published_once_for_as_long_as_it_lasts() {
        let all = ["a Write full", "b Write full"];
        check(
            8,
            &[
                (&[], &[]),
                (&all[..1], &all[..1]),
                (&all[..1], &[]),
                (&all, &all[1..]),
                (&["a Write busy", "b Write full"], &["a Write busy"]),
                (&["a Write busy", "a Port taken"], &["a Port taken"]),
                (&[], &[]),
                (&all[1..], &all[1..]),
            ],
        );
    }

    #[test]
    fn a_full_queue_only_delays() {
        let all = ["a Write full", "b Write full", "c Port taken"];
        check(
            1,
            &[
                (&all, &all[..1]),
                // It has passed before it was its turn.
                (&[all[0], all[2]], &all[2..]),
                (&all, &all[1..2]),
                (&all, &[]),
            ],
        );
    }
}
