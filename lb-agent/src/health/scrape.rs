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
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{Figures, NO_SNIFF, metrics::Metrics};

/// Asks the agent's loop.
pub type Request = oneshot::Sender<Figures>;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The answer at `/proxyMode`.
pub const MODE: &str = "ebpf";

#[derive(Clone)]
struct Sources {
    metrics: Arc<Metrics>,
    figures: mpsc::Sender<Request>,
}

/// `configuration` is what `/configz` says.
pub(super) fn router(
    metrics: Arc<Metrics>,
    figures: mpsc::Sender<Request>,
    configuration: Value,
) -> Router {
    let text = |body| move || async move { ([NO_SNIFF], body) };
    Router::new()
        .route("/metrics", get(answer))
        .with_state(Sources { metrics, figures })
        .route("/healthz", get(text("ok")))
        .route("/proxyMode", get(text(MODE)))
        .route(
            "/configz",
            get(move || async move { ([NO_SNIFF], Json(configuration)) }),
        )
}

async fn answer(State(sources): State<Sources>) -> Response {
    let (request, figures) = oneshot::channel();
    let figures = match sources.figures.send(request).await {
        Ok(()) => figures.await.unwrap_or_default(),
        // The agent is about to end.
        Err(_) => Figures::default(),
    };
    match sources.metrics.encode(figures) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
