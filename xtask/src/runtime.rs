//! Programs that the lab and the tests call while they run.

use anyhow::bail;

use crate::apt::{self, Apt};

/// Program and Debian package.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables-restore", "iptables"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
    ("ping", "iputils-ping"),
    ("traceroute", "traceroute"),
];

/// Installs what is missing of the programs that the lab calls.
pub(crate) fn ready() -> anyhow::Result<()> {
    let packages = missing(|program| apt::which(program).is_some());
    if packages.is_empty() {
        return Ok(());
    }
    let Some(apt) = Apt::find() else {
        bail!(
            "the lab needs programs that are not here; install these packages: {}",
            packages.join(" ")
        );
    };
    apt.install(&packages)
}

fn missing(is_here: impl Fn(&str) -> bool) -> Vec<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(program, _)| !is_here(program))
        .map(|(_, package)| *package)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_missing_programs() {
        let check = |here: &[&str], expect: &[&str]| {
            assert_eq!(missing(|program| here.contains(&program)), expect);
        };
        check(&PROGRAMS.map(|(program, _)| program), &[]);
        check(
            &["ethtool", "iperf3", "ping", "tcpdump", "traceroute"],
            &["iproute2", "nftables", "iptables", "curl"],
        );
        check(&[], &PROGRAMS.map(|(_, package)| package));
    }
}
