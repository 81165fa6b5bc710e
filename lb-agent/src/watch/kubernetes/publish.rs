//! Events about Services and nodes, as `kubectl` shows them.

use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use kube::{
    Api, Client, Resource,
    runtime::events::{Event as KubernetesEvent, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc::Receiver;

use crate::{
    model::ObjectName,
    watch::{Event, event::Subject},
};

const CONTROLLER: &str = "lb-agent";
const ACTION: &str = "Sync";
/// Of a note, in bytes; the server refuses longer ones.
const LENGTH: usize = 1024;

/// Publishes until the sender is gone. What the server refuses is only logged.
pub(super) async fn publish(client: Client, node_name: String, mut events: Receiver<Event>) {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(node_name),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(event) = events.recv().await {
        event.log();
        let regarding = match &event.about {
            Subject::Service(name) => service_reference(&client, name).await,
            Subject::Node(name) => node_reference(name),
        };
        let event = KubernetesEvent {
            type_: EventType::Warning,
            reason: event.reason.to_owned(),
            note: Some(cut(event.message)),
            action: ACTION.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &regarding).await {
            tracing::warn!(%error, "an event was not published");
        }
    }
}

/// With the Service's uid, by which `kubectl describe` finds the event, if the
/// server gives it.
async fn service_reference(client: &Client, service: &ObjectName) -> ObjectReference {
    let api = Api::<Service>::namespaced(client.clone(), &service.namespace);
    let uid = match api.get_metadata(&service.name).await {
        Ok(object) => object.metadata.uid,
        Err(error) => {
            tracing::debug!(%error, %service, "an event without uid");
            None
        }
    };
    ObjectReference {
        api_version: Some(Service::api_version(&()).into()),
        kind: Some(Service::kind(&()).into()),
        namespace: Some(service.namespace.clone()),
        name: Some(service.name.clone()),
        uid,
        ..ObjectReference::default()
    }
}

/// The node's name is its uid here: kubelet's Events have it so, and by it
/// `kubectl describe` finds them.
fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(Node::api_version(&()).into()),
        kind: Some(Node::kind(&()).into()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

fn cut(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(LENGTH));
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_between_characters() {
        for (note, expect) in [
            ("short".to_owned(), "short".to_owned()),
            ("x".repeat(1025), "x".repeat(1024)),
            (format!("{}é", "x".repeat(1023)), "x".repeat(1023)),
        ] {
            assert_eq!(cut(note), expect);
        }
    }
}
