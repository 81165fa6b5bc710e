//! Bulk data by iperf3.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::services::STREAM_PORT;
use crate::lab::{Entrance, Process};

/// A server that goes on until it is dropped.
pub(super) fn server(at: &Entrance) -> Result<Process> {
    let mut command = at.command("iperf3")?;
    command
        .args(["--server", "--port", &STREAM_PORT.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(Process::spawn(command)?)
}

/// Gigabits that arrived per second, and per CPU-second of both ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    pub(super) per_cpu_second: f64,
}

/// Sends for whole seconds: iperf3 takes a fraction for no end.
pub(super) fn measure(from: &Entrance, to: &str, streams: u8, seconds: u32) -> Result<Rate> {
    let mut command = from.command("iperf3")?;
    command
        .args(["--client", to, "--port", &STREAM_PORT.to_string()])
        .args(["--parallel", &streams.to_string()])
        .args(["--time", &seconds.to_string(), "--json"])
        .args(["--connect-timeout", "2000"])
        .stdin(Stdio::null());
    let output = command.output().context("iperf3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    rate(&text).with_context(|| format!("iperf3 to {to}"))
}

fn rate(text: &str) -> Result<Rate> {
    let report: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
    if let Some(error) = report["error"].as_str() {
        bail!("{error}");
    }
    let number = |keys: [&str; 3]| {
        let [first, second, third] = keys;
        let value = report[first][second][third].as_f64();
        value.with_context(|| format!("no number at {}", keys.join(".")))
    };
    let bits = number(["end", "sum_received", "bits_per_second"])?;
    // Either end's processes do the kernel's work on the way, as it happens.
    let ends = ["host_total", "remote_total"];
    let [sender, receiver] = ends.map(|end| number(["end", "cpu_utilization_percent", end]));
    let percent = sender? + receiver?;
    ensure!(percent > 0.0, "no CPU time was used");
    let per_second = bits / 1e9;
    Ok(Rate {
        per_second,
        per_cpu_second: per_second * 100.0 / percent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_a_report() {
        let text = r#"{"end": {"sum_received": {"bits_per_second": 2e10},
            "cpu_utilization_percent": {"host_total": 30.0, "remote_total": 20.0}}}"#;
        let expect = Rate {
            per_second: 20.0,
            per_cpu_second: 40.0,
        };
        assert_eq!(rate(text).unwrap(), expect);
        let error = rate(r#"{"error": "unable to connect"}"#).unwrap_err();
        assert_eq!(error.to_string(), "unable to connect");
    }
}
