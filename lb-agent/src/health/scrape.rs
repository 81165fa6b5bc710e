//! The server for people and for Prometheus: `/metrics`, `/healthz`,
//! `/proxyMode` and `/configz`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use lb_common::{Hook, Verdict};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{NO_SNIFF, metrics::Metrics};

/// Asks the agent's loop for the packets by hook and verdict.
pub type Request = oneshot::Sender<Vec<(Hook, Verdict, u64)>>;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The answer at `/proxyMode`.
pub const MODE: &str = "ebpf";

#[derive(Clone)]
struct Sources {
    metrics: Arc<Metrics>,
    packets: mpsc::Sender<Request>,
}

/// `configuration` is what `/configz` says.
pub(super) fn router(
    metrics: Arc<Metrics>,
    packets: mpsc::Sender<Request>,
    configuration: Value,
) -> Router {
    let text = |body| move || async move { ([NO_SNIFF], body) };
    Router::new()
        .route("/metrics", get(answer))
        .with_state(Sources { metrics, packets })
        .route("/healthz", get(text("ok")))
        .route("/proxyMode", get(text(MODE)))
        .route(
            "/configz",
            get(move || async move { ([NO_SNIFF], Json(configuration)) }),
        )
}

async fn answer(State(sources): State<Sources>) -> Response {
    let (request, packets) = oneshot::channel();
    let packets = match sources.packets.send(request).await {
        Ok(()) => packets.await.unwrap_or_default(),
        // The agent is about to end.
        Err(_) => Vec::new(),
    };
    match sources.metrics.encode(packets) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
