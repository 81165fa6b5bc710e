//! `--trace-packets`: what the programs say of each packet.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::{task::JoinHandle, time};

/// How often the programs' ring buffer is read.
const INTERVAL: Duration = Duration::from_millis(50);

/// Passes the programs' log lines on to this process' log. Needs a tokio
/// runtime; ends with it.
pub(super) fn follow(ebpf: &mut Ebpf) -> Result<JoinHandle<()>, aya_log::Error> {
    let mut logger = EbpfLogger::init(ebpf)?;
    Ok(tokio::spawn(async move {
        let mut turn = time::interval(INTERVAL);
        loop {
            turn.tick().await;
            logger.flush();
        }
    }))
}
