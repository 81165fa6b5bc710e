//! traceroute(8) and ping(8).

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::Host;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    Udp,
    Tcp,
}

/// Who answered for each hop; `None` if nobody did.
pub(crate) fn trace(host: &Host, to: SocketAddr, probe: Probe) -> Vec<Option<IpAddr>> {
    let method = match probe {
        Probe::Udp => "-U",
        Probe::Tcp => "-T",
    };
    let port = to.port().to_string();
    let output = run(
        host,
        "traceroute",
        &[
            method,
            "-p",
            &port,
            "-n",
            "-q1",
            "-w1",
            "-m6",
            &to.ip().to_string(),
        ],
    );
    // The first line says what is traced, the others `<hop> <address> <time> ms`.
    let hops = output.1.lines().skip(1);
    hops.map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect()
}

/// Whether one request is answered within a second.
pub(crate) fn ping(host: &Host, to: IpAddr) -> bool {
    run(host, "ping", &["-n", "-c1", "-W1", &to.to_string()]).0
}

fn run(host: &Host, program: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = host.netns.command(program).unwrap();
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}
