//! Requests and answers, and what goes wrong with them.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

use super::{
    Shared,
    query::{Query, token},
    store::{Resource, event},
};

const BOOKMARKS: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(300);

type Body = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;

/// Ends when it is aborted, and all connections with it.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // As the real one does. A connection that just broke will say so itself.
        let _broken = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            async move {
                let answer = match *request.method() {
                    Method::POST => publish(&shared, request).await,
                    _ => answer(&shared, &request),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        connections.spawn(async move {
            // A connection that was cut ends with an error.
            let _cut = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let mut state = shared.lock();
    if let Some(status) = state.faults.status {
        state.counts.refused_status += 1;
        return failure(status, "InternalError", "a fault on request");
    }
    let path = request.uri().path();
    if let Some((resource, name)) = Resource::of_object(path) {
        return match state.store.get(resource, name) {
            Some(object) => whole(200, &object),
            None => not_found(),
        };
    }
    let Some(resource) = Resource::at(path) else {
        return not_found();
    };
    let dribble = state.faults.dribble;
    if query.watch {
        state.counts.watches += 1;
        let gone = query
            .version
            .is_some_and(|version| state.store.is_gone(version));
        if gone && state.faults.gone_as_status {
            state.counts.gone += 1;
            return failure(410, "Expired", "too old resource version");
        }
        drop(state);
        return respond(
            200,
            dribbled(watch(Arc::clone(shared), resource, query), dribble),
        );
    }

    let start = match &query.token {
        Some((version, _)) if state.store.is_gone(*version) => {
            state.counts.gone += 1;
            return failure(410, "Expired", "the provided continue parameter is too old");
        }
        Some((_, name)) => {
            state.counts.further_pages += 1;
            Some(name)
        }
        None => {
            state.counts.lists += 1;
            None
        }
    };
    let asked = query
        .limit
        .filter(|limit| *limit != 0)
        .unwrap_or(usize::MAX);
    let limit = state.faults.page.unwrap_or(usize::MAX).min(asked);
    let page = state.store.list(resource, &query.selectors, start, limit);
    // All pages are of one version, that of the first.
    let version = query
        .token
        .as_ref()
        .map_or(page.version, |(version, _)| *version);
    let (api_version, kind) = resource.types();
    let metadata = json!({
        "resourceVersion": version.to_string(),
        "continue": page.next.map(|name| token(version, &name)).unwrap_or_default(),
    });
    drop(state);
    let items: Vec<&str> = page.items.iter().map(|item| item.text.as_str()).collect();
    let list = format!(
        r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":[{}]}}"#,
        items.join(",")
    );
    let body = stream::iter([Ok(Bytes::from(list))]);
    respond(200, dribbled(body, dribble))
}

/// Takes an Event.
async fn publish(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    if !path.starts_with("/apis/events.k8s.io/v1/namespaces/") || !path.ends_with("/events") {
        return not_found();
    }
    if let Some(status) = shared.lock().faults.status {
        return failure(status, "InternalError", "a fault on request");
    }
    let Ok(body) = request.into_body().collect().await else {
        return failure(400, "BadRequest", "half a body");
    };
    match serde_json::from_slice::<Value>(&body.to_bytes()) {
        Ok(event) => {
            shared.lock().published.push(event.clone());
            whole(201, &event)
        }
        Err(error) => failure(400, "BadRequest", &error.to_string()),
    }
}

struct Watch {
    shared: Arc<Shared>,
    resource: Resource,
    query: Query,
    version: u64,
    queue: std::collections::VecDeque<io::Result<Bytes>>,
    end: Instant,
    over: bool,
}

/// Lines of events.
fn watch(
    shared: Arc<Shared>,
    resource: Resource,
    query: Query,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let version = query
        .version
        .unwrap_or_else(|| shared.lock().store.version());
    let watch = Watch {
        version,
        resource,
        queue: std::collections::VecDeque::new(),
        end: Instant::now() + query.timeout.unwrap_or(TIMEOUT),
        over: false,
        query,
        shared,
    };
    stream::unfold(watch, |mut watch| async {
        let item = watch.next().await?;
        Some((item, watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut changed = self.shared.version.subscribe();
        let mut bookmark = Instant::now() + BOOKMARKS;
        loop {
            if let Some(item) = self.queue.pop_front() {
                return Some(item);
            }
            if self.over || Instant::now() >= self.end {
                return None;
            }
            self.collect();
            if !self.queue.is_empty() {
                continue;
            }
            tokio::select! {
                // The sender lives in `shared`.
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(bookmark.min(self.end)) => {
                    bookmark += BOOKMARKS;
                    self.bookmark();
                }
            }
        }
    }

    fn collect(&mut self) {
        let mut state = self.shared.lock();
        if state.store.is_gone(self.version) {
            state.counts.gone += 1;
            self.over = true;
            let status = status(410, "Expired", "too old resource version");
            self.queue.push_back(Ok(event("ERROR", &status).into()));
            return;
        }
        let events = state
            .store
            .events(self.resource, &self.query.selectors, self.version);
        self.version = state.store.version();
        for line in events.into_iter().map(Bytes::from) {
            if state.faults.cut_next_event {
                state.faults.cut_next_event = false;
                state.counts.cuts += 1;
                self.over = true;
                self.queue.push_back(Ok(line.slice(..line.len() / 2)));
                self.queue
                    .push_back(Err(io::ErrorKind::ConnectionReset.into()));
                return;
            }
            self.queue.push_back(Ok(line));
        }
    }

    fn bookmark(&mut self) {
        if !self.query.bookmarks {
            return;
        }
        self.shared.lock().counts.bookmarks += 1;
        let (api_version, kind) = self.resource.types();
        let metadata = json!({"resourceVersion": self.version.to_string()});
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        self.queue.push_back(Ok(event("BOOKMARK", &object).into()));
    }
}

fn dribbled(
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    dribble: Option<(usize, Duration)>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let Some((size, pause)) = dribble else {
        return body.boxed();
    };
    let pieces = body.flat_map(move |item| {
        let pieces = match item {
            Ok(bytes) => bytes
                .chunks(size)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    });
    let slowed = pieces.then(move |piece| async move {
        tokio::time::sleep(pause).await;
        piece
    });
    slowed.boxed()
}

fn not_found() -> Response<Body> {
    failure(
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}

fn whole(code: u16, object: &Value) -> Response<Body> {
    let body = Bytes::from(object.to_string());
    respond(code, stream::iter([Ok(body)]).boxed())
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    whole(code, &status(code, reason, message))
}

fn respond(code: u16, body: BoxStream<'static, io::Result<Bytes>>) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(
        body.map(|piece| piece.map(Frame::data)).boxed(),
    ));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    response
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
