//! `lb-agent status`: asks a running agent and prints what it says.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Prints the status of the agent behind `socket`, as JSON or as tables.
pub fn print_status(socket: &Path, json: bool) -> anyhow::Result<()> {
    let body = fetch(socket).with_context(|| {
        format!(
            "{}: no agent answers here; is it running?",
            socket.display()
        )
    })?;
    let status: Value = serde_json::from_str(&body)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    print!("{}", render(&status));
    Ok(())
}

fn fetch(socket: &Path) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: agent\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    let line = head.lines().next().unwrap_or_default();
    if !line.contains(" 200 ") {
        bail!("answered {line:?}");
    }
    Ok(body.to_owned())
}

/// Services with their frontends and backends, one row each.
fn render(status: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = format!(
        "node {} {}\n",
        text(&status["node"]),
        if status["synced"] == Value::Bool(true) {
            "in sync"
        } else {
            "NOT IN SYNC"
        },
    );
    for interface in list(&status["interfaces"]) {
        let [name, kind, xdp, tc] = ["name", "kind", "xdp", "tc"].map(|key| text(&interface[key]));
        let peer = match interface["peer"] == Value::Bool(true) {
            true => " peer",
            false => "",
        };
        out.push_str(&format!(
            "interface {name:<16} {kind:<7} xdp {xdp:<8} tc {tc}{peer}\n"
        ));
    }
    let shortcut = &status["shortcut"];
    let [mode, reason] = ["mode", "reason"].map(|key| text(&shortcut[key]));
    let taken = match shortcut["taken"] == Value::Bool(true) {
        true => "taken",
        false => "not taken",
    };
    out.push_str(&format!(
        "shortcut: {taken}, {reason} (--shortcut {mode})\n"
    ));
    let tables = ["assured", "unassured"].map(|name| {
        let table = &status["connections"][name];
        let [count, limit] = ["connections", "limit"].map(|key| text(&table[key]));
        format!("{count} of {limit} {name}")
    });
    out.push_str(&format!("connections {}\n", tables.join(", ")));
    for service in list(&status["services"]) {
        let [namespace, name, kind] = ["namespace", "name", "type"].map(|key| text(&service[key]));
        out.push_str(&format!("\n{namespace}/{name} {kind}\n"));
        for port in list(&service["ports"]) {
            let [name, protocol] = ["name", "protocol"].map(|key| text(&port[key]));
            for frontend in list(&port["frontends"]) {
                let [address, number, kind, error] =
                    ["address", "port", "kind", "error"].map(|key| text(&frontend[key]));
                out.push_str(&format!(
                    "  {kind:<14} {address} {number}/{protocol} {name} {error}\n"
                ));
            }
            let seconds = text(&port["affinity_seconds"]);
            if seconds != "0" {
                out.push_str(&format!("    affinity by client, {seconds} s\n"));
            }
            let ranges: Vec<String> = list(&port["source_ranges"]).iter().map(text).collect();
            if !ranges.is_empty() {
                let ranges = ranges.join(" ");
                out.push_str(&format!("    load balancer IPs only from {ranges}\n"));
            }
            let backends = list(&port["backends"]);
            if backends.is_empty() {
                out.push_str("    no backend: connections are refused\n");
            }
            for backend in backends {
                let [address, number, connections] =
                    ["address", "port", "connections"].map(|key| text(&backend[key]));
                let place = if backend["local"] == Value::Bool(true) {
                    "local"
                } else {
                    "remote"
                };
                out.push_str(&format!(
                    "    -> {address} {number} {place}, {connections} connections\n"
                ));
            }
        }
    }
    for problem in list(&status["problems"]) {
        out.push_str(&format!("problem: {}\n", text(&problem)));
    }
    out
}
