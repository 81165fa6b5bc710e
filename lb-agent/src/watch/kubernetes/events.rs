//! One kind of object, listed and watched for ever, already converted.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::{
    api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource,
    runtime::watcher::{self, watcher},
};

use super::{decoded::Decoded, lean::Lean};
use crate::{
    model::{Change, ObjectName, Origin, Problem},
    watch::{convert, problems::Reporter},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Node,
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A new list begins; one that had begun before is void.
    ListBegins,
    /// Part of the list that has begun.
    Listed(Object),
    /// All of the list was [`What::Listed`].
    ListEnds,
    Changed(Object),
    Deleted(ObjectName),
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) name: ObjectName,
    pub(super) use_: Use,
    pub(super) problems: Vec<Problem>,
}

#[derive(Clone, Debug)]
pub(super) enum Use {
    Send(Box<Change>),
    /// Nothing that a proxy would act upon.
    Skip,
    /// It cannot be read: what is known of it stays.
    Unreadable,
}

/// A kind of object that the model knows.
pub(super) trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + Lean + Send + 'static
{
    const KIND: Kind;

    fn convert(&self, name: ObjectName, reporter: &mut Reporter<'_>) -> Option<Change>;
}

impl Watched for Service {
    const KIND: Kind = Kind::Service;

    fn convert(&self, name: ObjectName, reporter: &mut Reporter<'_>) -> Option<Change> {
        let service = convert::service(self, reporter)?;
        Some(Change::Service(name, Some(service)))
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn convert(&self, name: ObjectName, reporter: &mut Reporter<'_>) -> Option<Change> {
        let slice = convert::slice(self, reporter)?;
        Some(Change::Slice(name, Some(slice)))
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Node;

    fn convert(&self, _: ObjectName, reporter: &mut Reporter<'_>) -> Option<Change> {
        Some(Change::Node(convert::node(self, reporter)))
    }
}

/// Never ends: after an error it goes on where it was, with a growing delay.
pub(super) fn events<K: Watched>(
    api: Api<Decoded<K>>,
    config: watcher::Config,
) -> impl Stream<Item = Event> + Send {
    let follower = Follower {
        stream: watcher(api.clone(), config.clone()).boxed(),
        api,
        config,
        backoff: Backoff::new(),
    };
    futures::stream::unfold(follower, |mut follower| async {
        let what = follower.next().await;
        let kind = K::KIND;
        Some((Event { kind, what }, follower))
    })
}

type Item<K> = watcher::Result<watcher::Event<Decoded<K>>>;

struct Follower<K: Watched> {
    api: Api<Decoded<K>>,
    config: watcher::Config,
    stream: BoxStream<'static, Item<K>>,
    backoff: Backoff,
}

impl<K: Watched> Follower<K> {
    async fn next(&mut self) -> What {
        loop {
            match self.stream.next().await {
                Some(Ok(event)) => return what(event),
                Some(Err(error)) => self.recover(&error).await,
                None => self.restart(),
            }
        }
    }

    async fn recover(&mut self, error: &watcher::Error) {
        let delay = self.backoff.next();
        tracing::warn!(kind = ?K::KIND, %error, ?delay, "trying the Kubernetes API again");
        tokio::time::sleep(delay).await;
        // The watcher lists anew for a 410 inside of a watch only. The others
        // say that the version to start from cannot be served either.
        if let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error
            && matches!(status.code, 400 | 410 | 504)
        {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.stream = watcher(self.api.clone(), self.config.clone()).boxed();
    }
}

fn what<K: Watched>(event: watcher::Event<Decoded<K>>) -> What {
    match event {
        watcher::Event::Init => What::ListBegins,
        watcher::Event::InitApply(decoded) => What::Listed(decoded.object),
        watcher::Event::InitDone => What::ListEnds,
        watcher::Event::Apply(decoded) => What::Changed(decoded.object),
        watcher::Event::Delete(decoded) => What::Deleted(decoded.object.name),
    }
}

/// What an object means, or why it could not be read.
pub(super) fn object<K: Watched, E: ToString>(metadata: &ObjectMeta, read: Result<K, E>) -> Object {
    let name = convert::object_name(metadata);
    let title = match name.namespace.as_str() {
        "" => format!("{} {}", K::kind(&()), name.name),
        _ => format!("{} {name}", K::kind(&())),
    };
    let mut problems = Vec::new();
    let mut reporter = Reporter::new(&Origin::Api, title, &mut problems);
    let use_ = match read {
        Ok(object) => match object.convert(name.clone(), &mut reporter) {
            Some(change) => Use::Send(Box::new(change)),
            None => Use::Skip,
        },
        Err(error) => {
            reporter.report(
                "",
                error.to_string(),
                format!("an object of {}", K::api_version(&())),
            );
            Use::Unreadable
        }
    };
    Object {
        name,
        use_,
        problems,
    }
}

/// Delays after errors; small again after a minute without one.
struct Backoff {
    delays: ExponentialBackoff,
    last: Option<Instant>,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(10);
    const FORGET: Duration = Duration::from_secs(60);

    fn new() -> Self {
        Self {
            delays: Self::delays(),
            last: None,
        }
    }

    fn next(&mut self) -> Duration {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.duration_since(last) > Self::FORGET)
        {
            self.delays = Self::delays();
        }
        self.last = Some(now);
        self.delays.next().unwrap_or(Self::MAX)
    }

    fn delays() -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(Self::MIN)
            .with_max_delay(Self::MAX)
            .with_jitter()
            .without_max_times()
            .build()
    }
}
