//! Collects connections once a second, on a thread of its own.

use tokio::{
    sync::mpsc,
    task::{self, JoinError},
    time::{self, MissedTickBehavior},
};

use super::TICK;
use crate::dataplane::{Collector, DataplaneError, Tick};

/// Collects until nobody listens.
pub(super) async fn collect(
    mut collector: Collector,
    ticks: mpsc::Sender<Result<Tick, DataplaneError>>,
) -> Result<(), JoinError> {
    let mut interval = time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let tick;
        (collector, tick) = task::spawn_blocking(move || {
            let tick = collector.tick();
            (collector, tick)
        })
        .await?;
        if ticks.send(tick).await.is_err() {
            return Ok(());
        }
    }
}
