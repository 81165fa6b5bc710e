//! The Kubernetes API as a source: Services, EndpointSlices and this Node,
//! listed and watched.
//!
//! Architecture Invariant: an object is removed only because the server said
//! so, or because a whole new list came without it. A lost server changes
//! nothing.

mod events;
mod tables;

use std::path::PathBuf;

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
    runtime::watcher,
};
use tokio::sync::mpsc::Sender;

use self::{events::events, tables::Tables};
use crate::model::Change;

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

/// Sends what the cluster holds, then each change, until `changes` is closed.
///
/// # Errors
///
/// When the configuration cannot be used; see [`KubernetesError`].
pub async fn kubernetes(
    options: KubernetesOptions,
    changes: Sender<Change>,
) -> Result<(), KubernetesError> {
    let client = Client::try_from(config(options.kubeconfig).await?)
        .map_err(|source| KubernetesError::Client(Box::new(source)))?;
    let services = watcher::Config::default().labels("!service.kubernetes.io/service-proxy-name");
    let slices = watcher::Config::default().labels("!service.kubernetes.io/headless");
    let node = watcher::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let mut events = futures::stream::select_all([
        events::<Service>(Api::all(client.clone()), services).boxed(),
        events::<EndpointSlice>(Api::all(client.clone()), slices).boxed(),
        events::<Node>(Api::all(client), node).boxed(),
    ]);

    let mut tables = Tables::new(options.node_name);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = changes.closed() => None,
        };
        let Some(event) = event else {
            return Ok(());
        };
        for change in tables.apply(event) {
            if changes.send(change).await.is_err() {
                return Ok(());
            }
        }
    }
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
