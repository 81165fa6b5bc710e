//! The options of `lb-agent run`: named as those of nf_conntrack are, and to be
//! given as those of kube-proxy too where they mean the same.

use clap::{Args, value_parser};
use lb_common::{
    State,
    lifecycle::{SCTP, TCP, UDP, timeout_index},
};

use super::{Limits, Quota, Settings, Timeout, Timeouts};

const RANGE: std::ops::RangeInclusive<i64> = Limits::LEAST as i64..=Limits::MOST as i64;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Connections")]
pub struct Options {
    /// Room for so many connections in which both sides were heard: nothing evicts them
    /// [default: one for 128 KiB of the machine's memory, 65536 to 4194304]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(RANGE))]
    max_connections: Option<u32>,
    /// Connections in which one side was heard, at most: new ones evict the
    /// oldest [default: half of --max-connections]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(RANGE))]
    max_unassured_connections: Option<u32>,
    /// What one port of a Service may have of --max-connections; its other
    /// connections can be evicted
    #[arg(long, value_name = "PERCENT%|N", default_value_t = Quota::default())]
    service_connection_quota: Quota,
    /// After a SYN without an answer
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    tcp_timeout_syn_sent: Timeout,
    /// After an answer to a SYN
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    tcp_timeout_syn_recv: Timeout,
    /// Without a packet on an open connection
    #[arg(long, value_name = "DURATION", default_value = "5d")]
    #[arg(visible_alias = "conntrack-tcp-timeout-established")]
    tcp_timeout_established: Timeout,
    /// After the FIN of one side
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    #[arg(visible_alias = "conntrack-tcp-timeout-close-wait")]
    tcp_timeout_fin_wait: Timeout,
    /// After the FINs of both sides
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    tcp_timeout_time_wait: Timeout,
    /// After a RST
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    tcp_timeout_close: Timeout,
    /// After a datagram without an answer
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(visible_alias = "conntrack-udp-timeout")]
    udp_timeout: Timeout,
    /// Without a datagram after an answer
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    #[arg(visible_alias = "conntrack-udp-timeout-stream")]
    udp_timeout_stream: Timeout,
    /// After an INIT without an answer
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    sctp_timeout_cookie_wait: Timeout,
    /// After an answer to an INIT
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    sctp_timeout_cookie_echoed: Timeout,
    /// Without a packet on an open association
    #[arg(long, value_name = "DURATION", default_value = "3m30s")]
    sctp_timeout_established: Timeout,
    /// After a SHUTDOWN
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    sctp_timeout_shutdown: Timeout,
    /// After an ABORT, or the end of a shutdown
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    sctp_timeout_closed: Timeout,
}

impl Options {
    /// With defaults for a machine of so many bytes of memory.
    #[must_use]
    pub fn settings(&self, memory: u64) -> Settings {
        let default = Limits::for_memory(memory);
        let assured = self.max_connections.unwrap_or(default.assured);
        let unassured = self.max_unassured_connections;
        Settings {
            limits: Limits {
                assured,
                unassured: unassured.unwrap_or((assured / 2).max(Limits::LEAST)),
                quota: self.service_connection_quota,
            },
            timeouts: self.timeouts(),
        }
    }

    fn timeouts(&self) -> Timeouts {
        use State::{
            Aborted, Answered, BackendClosed, ClientClosed, Finished, Open, Opening, Refused,
        };
        let mut timeouts = Timeouts::default();
        for (protocol, states, timeout) in [
            (TCP, &[Opening][..], self.tcp_timeout_syn_sent),
            (TCP, &[Answered], self.tcp_timeout_syn_recv),
            (TCP, &[Open], self.tcp_timeout_established),
            (
                TCP,
                &[ClientClosed, BackendClosed],
                self.tcp_timeout_fin_wait,
            ),
            (TCP, &[Finished], self.tcp_timeout_time_wait),
            (TCP, &[Refused, Aborted], self.tcp_timeout_close),
            (UDP, &[Opening, Answered], self.udp_timeout),
            (UDP, &[Open], self.udp_timeout_stream),
            (SCTP, &[Opening], self.sctp_timeout_cookie_wait),
            (SCTP, &[Answered], self.sctp_timeout_cookie_echoed),
            (SCTP, &[Open], self.sctp_timeout_established),
            (
                SCTP,
                &[ClientClosed, BackendClosed, Finished],
                self.sctp_timeout_shutdown,
            ),
            (SCTP, &[Refused, Aborted], self.sctp_timeout_closed),
        ] {
            for &state in states {
                timeouts.0[timeout_index(protocol, state)] = timeout.seconds();
            }
        }
        timeouts
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &str) -> Result<Settings, String> {
        let all = std::iter::once("run").chain(arguments.split_whitespace());
        let line = Line::try_parse_from(all).map_err(|error| error.to_string())?;
        Ok(line.options.settings(0))
    }

    fn defaults() -> Settings {
        Settings {
            limits: Limits::for_memory(0),
            ..Settings::default()
        }
    }

    #[test]
    fn without_options_all_is_as_usual() {
        assert_eq!(parse(""), Ok(defaults()));
    }

    #[test]
    fn each_timeout_goes_to_its_states() {
        use State::{
            Aborted, Answered, BackendClosed, ClientClosed, Finished, Open, Opening, Refused,
        };
        for (name, protocol, states) in [
            ("tcp-timeout-syn-sent", TCP, &[Opening][..]),
            ("tcp-timeout-syn-recv", TCP, &[Answered]),
            ("tcp-timeout-established", TCP, &[Open]),
            ("conntrack-tcp-timeout-established", TCP, &[Open]),
            ("tcp-timeout-fin-wait", TCP, &[ClientClosed, BackendClosed]),
            (
                "conntrack-tcp-timeout-close-wait",
                TCP,
                &[ClientClosed, BackendClosed],
            ),
            ("tcp-timeout-time-wait", TCP, &[Finished]),
            ("tcp-timeout-close", TCP, &[Refused, Aborted]),
            ("udp-timeout", UDP, &[Opening, Answered]),
            ("conntrack-udp-timeout", UDP, &[Opening, Answered]),
            ("udp-timeout-stream", UDP, &[Open]),
            ("conntrack-udp-timeout-stream", UDP, &[Open]),
            ("sctp-timeout-cookie-wait", SCTP, &[Opening]),
            ("sctp-timeout-cookie-echoed", SCTP, &[Answered]),
            ("sctp-timeout-established", SCTP, &[Open]),
            (
                "sctp-timeout-shutdown",
                SCTP,
                &[ClientClosed, BackendClosed, Finished],
            ),
            ("sctp-timeout-closed", SCTP, &[Refused, Aborted]),
        ] {
            let mut expect = defaults();
            for &state in states {
                expect.timeouts.0[timeout_index(protocol, state)] = 77;
            }
            assert_eq!(parse(&format!("--{name} 77s")), Ok(expect), "{name}");
        }
    }

    #[test]
    fn sizes_follow_each_other_unless_told() {
        for (arguments, expect) in [
            ("", (65_536, 32_768, 32_768)),
            ("--max-connections 100000", (100_000, 50_000, 50_000)),
            ("--max-connections 1024", (1024, 1024, 512)),
            ("--max-unassured-connections 5000", (65_536, 5000, 32_768)),
            (
                "--max-connections 2000 --service-connection-quota 10%",
                (2000, 1024, 200),
            ),
            ("--service-connection-quota 7", (65_536, 32_768, 7)),
        ] {
            let limits = parse(arguments).unwrap().limits;
            let found = (limits.assured, limits.unassured, limits.of_service());
            assert_eq!(found, expect, "{arguments}");
        }
    }

    #[test]
    fn a_bad_value_is_told_with_what_is_accepted() {
        for (arguments, parts) in [
            (
                "--tcp-timeout-established 5",
                ["--tcp-timeout-established", "\"5\"", "from 2s to 24d"],
            ),
            (
                "--conntrack-udp-timeout 0s",
                ["--udp-timeout", "\"0s\"", "from 2s to 24d"],
            ),
            ("--max-connections 12", ["--max-connections", "12", "1024"]),
            (
                "--max-unassured-connections x",
                ["--max-unassured-connections", "'x'", "invalid digit"],
            ),
            (
                "--service-connection-quota 0%",
                ["--service-connection-quota", "\"0%\"", "1% to 100%"],
            ),
        ] {
            let error = parse(arguments).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{arguments}: {part} in {error}");
            }
        }
    }
}
