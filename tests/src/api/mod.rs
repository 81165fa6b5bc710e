//! A Kubernetes API on a loopback port: lists and watches of Services,
//! EndpointSlices and Nodes as the real one serves them, and a place for
//! Events, over real HTTP, with faults on request.

mod http;
mod query;
mod store;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use self::store::Resource;
use self::store::Store;

/// What the server does wrong from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every request is answered with this HTTP status.
    pub status: Option<u16>,
    /// A watch from a version that is gone is answered with HTTP status 410
    /// instead of an ERROR event.
    pub gone_as_status: bool,
    /// The next watch event of any kind breaks off in its middle, with the
    /// connection. Then this is off again.
    pub cut_next_event: bool,
    /// Bodies are sent in pieces of this many bytes, with a pause after each.
    pub dribble: Option<(usize, Duration)>,
    /// The largest page of a list, whatever the client asks for.
    pub page: Option<usize>,
}

/// How often the server did what tests want to have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// First pages.
    pub lists: usize,
    /// Pages with a continue token.
    pub further_pages: usize,
    pub watches: usize,
    pub cuts: usize,
    pub gone: usize,
    pub bookmarks: usize,
    pub refused_status: usize,
}

/// A server. It ends with the value.
pub struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// The version of the store, for watches to wake up.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    store: Store,
    faults: Faults,
    counts: Counts,
    published: Vec<Value>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            version: watch::Sender::new(0),
        });
        let task = Some(tokio::spawn(http::serve(listener, Arc::clone(&shared))));
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> io::Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {}}],
        });
        std::fs::write(path, config.to_string())
    }

    /// Adds the object, or replaces the one of its name.
    pub fn put(&self, resource: Resource, object: Value) {
        self.change(|store| store.put(resource, object));
    }

    /// Whether there was such an object.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        self.change(|store| store.delete(resource, namespace, name))
    }

    /// Forgets the history: whoever was not watching has to list again.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Breaks all connections and refuses new ones, until [`Self::resume`].
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // An error tells that it was aborted.
            let _aborted = task.await;
        }
    }

    /// # Errors
    ///
    /// When the port was taken in the meantime.
    pub async fn resume(&mut self) -> io::Result<()> {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await?;
        self.task = Some(tokio::spawn(http::serve(
            listener,
            Arc::clone(&self.shared),
        )));
        Ok(())
    }

    /// The Events that clients have made, in order.
    #[must_use]
    pub fn published(&self) -> Vec<Value> {
        self.shared.lock().published.clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.shared.lock();
        let result = change(&mut state.store);
        let version = state.store.version();
        drop(state);
        self.shared.version.send_replace(version);
        result
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
