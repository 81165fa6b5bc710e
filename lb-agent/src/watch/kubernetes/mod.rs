//! The Kubernetes API as a source: Services, EndpointSlices and this Node,
//! listed and watched.
//!
//! Architecture Invariant: an object is removed only because the server said
//! so, or because a whole new list came without it. A lost server changes
//! nothing.

mod decoded;
mod events;
mod lean;
mod publish;
mod tables;

use std::path::PathBuf;

use futures::{Stream, StreamExt};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
    runtime::watcher,
};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::JoinSet,
};

use self::{
    events::{Event, Watched, events},
    tables::Tables,
};
use crate::{model::Change, watch};

#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Where the cluster is. Without it: `KUBECONFIG`, then
    /// `~/.kube/config`, then the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The Node that the agent runs on.
    pub node_name: String,
}

/// Only what makes it impossible to start. A server that cannot be reached is
/// tried again for ever.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("cannot use the kubeconfig {path}: {source}")]
    Kubeconfig {
        path: PathBuf,
        source: Box<KubeconfigError>,
    },
    #[error("found no way to the Kubernetes API, neither a kubeconfig nor a pod's: {0}")]
    Infer(#[source] Box<InferConfigError>),
    #[error("cannot set up the client of the Kubernetes API: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// Sends what the cluster holds, then each change, until `changes` is closed;
/// publishes the events that it is given.
///
/// # Errors
///
/// When the configuration cannot be used; see [`KubernetesError`].
pub async fn kubernetes(
    options: KubernetesOptions,
    changes: Sender<Vec<Change>>,
    to_publish: Receiver<watch::Event>,
) -> Result<(), KubernetesError> {
    let client = Client::try_from(config(options.kubeconfig).await?)
        .map_err(|source| KubernetesError::Client(Box::new(source)))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(publish::publish(
        client.clone(),
        options.node_name.clone(),
        to_publish,
    ));
    let services = watcher::Config::default().labels("!service.kubernetes.io/service-proxy-name");
    let slices = watcher::Config::default().labels("!service.kubernetes.io/headless");
    let node = watcher::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let events = futures::stream::select_all([
        follow::<Service>(&mut tasks, &client, services).boxed(),
        follow::<EndpointSlice>(&mut tasks, &client, slices).boxed(),
        follow::<Node>(&mut tasks, &client, node).boxed(),
    ]);

    let mut batches = batches(events, options.node_name).boxed();
    loop {
        let batch = tokio::select! {
            batch = batches.next() => batch,
            () = changes.closed() => None,
        };
        let Some(batch) = batch else {
            return Ok(());
        };
        if !batch.is_empty() && changes.send(batch).await.is_err() {
            return Ok(());
        }
    }
}

/// Objects of a list that are asked for at once.
const PAGE: u32 = 1000;
/// Events that go into one vector at most.
const EVENTS: usize = 4096;
/// Vectors of a kind that wait.
const WAITING: usize = 4;

/// Follows a kind on a task of its own, as long as the stream is there: reading
/// what the server says is most of the work. What was told together stays
/// together.
fn follow<K: Watched>(
    tasks: &mut JoinSet<()>,
    client: &Client,
    config: watcher::Config,
) -> impl Stream<Item = Vec<Event>> + Send + use<K> {
    let events = events::<K>(Api::all(client.clone()), config.page_size(PAGE));
    let (sender, receiver) = mpsc::channel(WAITING);
    tasks.spawn(async move {
        let mut events = events.ready_chunks(EVENTS).boxed();
        while let Some(events) = events.next().await {
            if sender.send(events).await.is_err() {
                return;
            }
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async {
        let events = receiver.recv().await?;
        Some((events, receiver))
    })
}

fn batches(
    events: impl Stream<Item = Vec<Event>> + Send,
    node_name: String,
) -> impl Stream<Item = Vec<Change>> + Send {
    let mut tables = Tables::new(node_name);
    events.ready_chunks(WAITING).map(move |events| {
        let events = events.into_iter().flatten();
        events.flat_map(|event| tables.apply(event)).collect()
    })
}

async fn config(kubeconfig: Option<PathBuf>) -> Result<Config, KubernetesError> {
    let Some(path) = kubeconfig else {
        let inferred = Config::infer().await;
        return inferred.map_err(|source| KubernetesError::Infer(Box::new(source)));
    };
    let read = match Kubeconfig::read_from(&path) {
        Ok(file) => Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await,
        Err(error) => Err(error),
    };
    read.map_err(|source| KubernetesError::Kubeconfig {
        path,
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::{
        events::{Kind, Object, Use, What},
        *,
    };
    use crate::model::ObjectName;

    #[tokio::test]
    async fn one_vector_for_events_that_come_together() {
        fn event(kind: Kind, what: What) -> Poll<Option<Vec<Event>>> {
            Poll::Ready(Some(vec![Event { kind, what }]))
        }
        fn slice(kind: fn(Object) -> What, name: &str, there: bool) -> Poll<Option<Vec<Event>>> {
            let name = ObjectName::new("ns", name);
            let use_ = if there {
                Use::Send(Box::new(Change::Slice(name.clone(), None)))
            } else {
                Use::Skip
            };
            let object = Object {
                name,
                use_,
                problems: Vec::new(),
            };
            event(Kind::EndpointSlice, kind(object))
        }
        let mut steps = vec![
            event(Kind::Service, What::ListEnds),
            Poll::Pending,
            slice(What::Listed, "old", true),
            slice(What::Listed, "other", true),
            event(Kind::EndpointSlice, What::ListEnds),
            event(Kind::Node, What::ListEnds),
            Poll::Pending,
            slice(What::Changed, "old", false),
            slice(What::Changed, "new", true),
            Poll::Pending,
            Poll::Ready(None),
        ]
        .into_iter();
        let events = futures::stream::poll_fn(move |context| {
            let step = steps.next().expect("no poll after the end");
            if step.is_pending() {
                context.waker().wake_by_ref();
            }
            step
        });
        let found: Vec<Vec<Change>> = batches(events, "n1".to_owned()).collect().await;
        let change = |name: &str| Change::Slice(ObjectName::new("ns", name), None);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], []);
        assert_eq!(found[1][..2], [change("old"), change("other")]);
        let [.., Change::Problems(_), Change::Synced, Change::Whole] = found[1].as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(found[2], [change("old"), change("new")]);
    }
}
