//! Whether the proxy keeps up with what it is told: `/livez` and `/healthz`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::any};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::{NO_SNIFF, metrics::Metrics};
use crate::model::Family;

/// A change may stay unapplied for this long: two periods of 30 seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// How the agent stands with what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The first full list is not in: there is no change that could wait.
    Starting,
    /// Changes wait to be applied.
    Waiting,
    /// All is applied but for what the kernel refused of some Services.
    Refused,
    Applied,
}

/// What the agent's loop last said of itself.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Since when some change has not been applied.
    pub(super) unapplied_since: Option<Instant>,
    /// When nothing was last found to wait.
    pub(super) last_updated: Option<Timestamp>,
    /// When the loop last looked.
    pub(super) looked: Instant,
    pub(super) node_eligible: bool,
}

impl State {
    /// Nothing was told yet, and the node was not seen.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unapplied_since: None,
            last_updated: None,
            looked: now,
            node_eligible: false,
        }
    }

    pub(super) fn look(&mut self, progress: Progress, now: Instant, time: Timestamp) {
        self.looked = now;
        match progress {
            Progress::Starting => self.unapplied_since = None,
            Progress::Waiting => {
                self.unapplied_since.get_or_insert(now);
            }
            Progress::Refused | Progress::Applied => {
                self.unapplied_since = None;
                self.last_updated = Some(time);
            }
        }
    }

    /// A loop that does not look does not apply either.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        let oldest = self.unapplied_since.unwrap_or(self.looked).min(self.looked);
        now.saturating_duration_since(oldest) < LIMIT
    }

    fn report(&self, now: Instant, time: Timestamp, of_node: bool) -> (StatusCode, Report) {
        let healthy = self.is_healthy(now);
        let updated = self.last_updated;
        let family = updated.map(|last_updated| FamilyReport {
            last_updated,
            healthy,
        });
        let is_ok = healthy && (!of_node || self.node_eligible);
        let code = if is_ok {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let report = Report {
            last_updated: if is_ok { Some(time) } else { updated },
            current_time: time,
            node_eligible: of_node.then_some(self.node_eligible),
            healthy,
            status: family
                .map(|family| Family::ALL.map(|name| (name, family)).into())
                .unwrap_or_default(),
        };
        (code, report)
    }
}

/// The body, with the names and the order of kube-proxy's. Times are RFC 3339.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Now, if all is well.
    #[serde(serialize_with = "time_or_zero")]
    last_updated: Option<Timestamp>,
    #[serde(serialize_with = "time")]
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<Family, FamilyReport>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    #[serde(serialize_with = "time")]
    last_updated: Timestamp,
    healthy: bool,
}

fn time<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn time_or_zero<S: serde::Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        // The zero time of Go.
        None => serializer.serialize_str("0001-01-01T00:00:00Z"),
    }
}

/// `/livez` and `/healthz`; the latter is about the node too.
pub(super) fn router(state: &watch::Receiver<State>, metrics: &Arc<Metrics>) -> Router {
    let answer = |of_node: bool| {
        let (state, metrics) = (state.clone(), Arc::clone(metrics));
        any(move || async move {
            let (code, report) = state
                .borrow()
                .report(Instant::now(), Timestamp::now(), of_node);
            metrics.probed(of_node, code.as_u16());
            (code, [NO_SNIFF], Json(report)).into_response()
        })
    };
    Router::new()
        .route("/livez", answer(false))
        .route("/healthz", answer(true))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_change_may_be_unapplied_for_a_minute() {
        use Progress::{Applied, Refused, Starting, Waiting};
        struct Row {
            /// When the loop looks, and what it finds.
            looks: &'static [(u64, Progress)],
            asked: u64,
            healthy: bool,
        }
        let row = |looks, asked, healthy| Row {
            looks,
            asked,
            healthy,
        };
        let table = [
            row(&[], 59, true),
            row(&[], 60, false),
            row(&[(30, Waiting)], 89, true),
            row(&[(30, Waiting)], 90, false),
            row(&[(50, Applied)], 100, true),
            // Nobody looks any more.
            row(&[(50, Applied)], 110, false),
            row(&[(61, Starting)], 121, false),
            // No API server was reached yet.
            row(&[(61, Starting), (120, Starting)], 121, true),
            row(&[(61, Starting), (120, Waiting), (150, Waiting)], 179, true),
            row(
                &[(61, Starting), (120, Waiting), (150, Waiting)],
                180,
                false,
            ),
            row(&[(50, Applied), (60, Waiting), (110, Waiting)], 119, true),
            row(&[(50, Applied), (60, Waiting), (120, Waiting)], 120, false),
            row(&[(60, Waiting), (120, Waiting), (121, Applied)], 122, true),
            row(&[(60, Refused), (120, Refused)], 121, true),
            row(&[(60, Waiting), (120, Refused)], 121, true),
        ];
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        for (number, row) in table.iter().enumerate() {
            let mut state = State::new(start);
            for &(second, progress) in row.looks {
                state.look(progress, at(second), Timestamp::UNIX_EPOCH);
            }
            let found = state.is_healthy(at(row.asked));
            assert_eq!(found, row.healthy, "row {number}");
        }
    }

    #[test]
    fn reports() {
        let (updated, asked) = ("2026-01-02T03:04:05.6Z", "2026-01-02T03:05:00Z");
        let families = |healthy: bool| {
            let family = json!({"lastUpdated": updated, "healthy": healthy});
            json!({"IPv4": family, "IPv6": family})
        };
        let zero = "0001-01-01T00:00:00Z";
        // Synced or not, eligible or not, whether the loop stands still; the
        // code and what is said, at /livez and then at /healthz.
        let table = [
            ((true, true, false), [200, 200], asked, Some(true)),
            ((true, false, false), [200, 503], asked, Some(true)),
            ((true, true, true), [503, 503], updated, Some(false)),
            ((false, true, false), [200, 200], asked, None),
            ((false, true, true), [503, 503], zero, None),
        ];
        for ((synced, eligible, stuck), codes, last, status) in table {
            let start = Instant::now();
            let mut state = State::new(start);
            state.node_eligible = eligible;
            if synced {
                state.look(Progress::Applied, start, updated.parse().unwrap());
            }
            let now = start + if stuck { LIMIT } else { Duration::ZERO };
            for (of_node, code) in [false, true].into_iter().zip(codes) {
                let (found, report) = state.report(now, asked.parse().unwrap(), of_node);
                assert_eq!(found.as_u16(), code);
                // An unhealthy answer says when all was well.
                let last = match code {
                    503 if synced => updated,
                    _ => last,
                };
                let mut expect = json!({
                    "lastUpdated": last, "currentTime": asked, "healthy": !stuck,
                });
                if of_node {
                    expect["nodeEligible"] = eligible.into();
                }
                if let Some(healthy) = status {
                    expect["status"] = families(healthy);
                }
                let found: Value = serde_json::to_value(&report).unwrap();
                assert_eq!(found, expect);
            }
        }
    }
}
