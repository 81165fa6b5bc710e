//! What kube-proxy's iptables mode makes of Services: one list of all, and chains
//! for each Service and each endpoint.

use std::fmt::Write as _;

use super::services::{POD_CIDR, Service, port_name};
use crate::lab::Protocol;

/// All tables, for `iptables-restore`; they take the place of earlier ones.
pub(super) fn ruleset(services: &[Service]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in services {
        for &protocol in &service.protocols {
            add_chains(&mut chains, &mut rules, service, protocol);
        }
    }
    format!("{FILTER}{NAT_CHAINS}{chains}{NAT_RULES}{rules}{NAT_END}")
}

const FILTER: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT_CHAINS: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
";

const NAT_RULES: &str = "\
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
";

const NAT_END: &str = "\
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
";

fn add_chains(chains: &mut String, rules: &mut String, service: &Service, protocol: Protocol) {
    let proto = port_name(protocol);
    let (name, port) = (&service.name, service.port);
    let (cluster_ip, target) = (service.cluster_ip, service.target_port);
    // Names end in a hash of 16 places.
    let id = format!("{:0>16}", format!("{proto}{cluster_ip}").replace('.', "X"));
    let comment = format!("-m comment --comment \"bench/{name}:{proto} cluster IP\"");
    let to = |address| format!("-m {proto} -p {proto} -d {address} --dport {port}");
    // Writing to a String cannot fail.
    let _ = writeln!(chains, ":KUBE-SVC-{id} - [0:0]");
    let _ = writeln!(
        rules,
        "-A KUBE-SERVICES {comment} {} -j KUBE-SVC-{id}",
        to(cluster_ip)
    );
    if let Some(external) = service.external_ip {
        let comment = format!("-m comment --comment \"bench/{name}:{proto} external IP\"");
        let _ = writeln!(chains, ":KUBE-EXT-{id} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES {comment} {} -j KUBE-EXT-{id}",
            to(external)
        );
        let _ = writeln!(rules, "-A KUBE-EXT-{id} -j KUBE-MARK-MASQ");
        let _ = writeln!(rules, "-A KUBE-EXT-{id} -j KUBE-SVC-{id}");
    }
    let _ = writeln!(
        rules,
        "-A KUBE-SVC-{id} {comment} {} ! -s {POD_CIDR} -j KUBE-MARK-MASQ",
        to(cluster_ip)
    );
    let count = service.endpoints.len();
    for (number, endpoint) in service.endpoints.iter().enumerate() {
        let address = endpoint.address;
        let sep = format!("KUBE-SEP-{}{id}", (b'A' + number as u8) as char);
        let comment =
            format!("-m comment --comment \"bench/{name}:{proto} -> {address}:{target}\"");
        let _ = writeln!(chains, ":{sep} - [0:0]");
        let draw = match count - number {
            1 => String::new(),
            left => format!(
                "-m statistic --mode random --probability {:.10} ",
                1.0 / left as f64
            ),
        };
        let _ = writeln!(rules, "-A KUBE-SVC-{id} {comment} {draw}-j {sep}");
        let _ = writeln!(rules, "-A {sep} -s {address} -j KUBE-MARK-MASQ");
        let _ = writeln!(
            rules,
            "-A {sep} -m {proto} -p {proto} -j DNAT --to-destination {address}:{target}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::services::{services, tests::BACKENDS};
    use super::*;

    #[test]
    fn chains_of_two_services() {
        let all = services(4, &BACKENDS);
        let text = ruleset(&all[..2]);
        let parts = [
            ":KUBE-SVC-0000tcp10X96X0X1 - [0:0]\n",
            "-A KUBE-SERVICES -m comment --comment \"bench/service-1:tcp cluster IP\" \
             -m tcp -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-0000tcp10X96X0X1\n",
            "-m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-A0000tcp10X96X0X1\n",
            "10.128.1.5:8080\" -j KUBE-SEP-C0000tcp10X96X0X1\n",
            "-A KUBE-SEP-C0000tcp10X96X0X1 -m tcp -p tcp -j DNAT --to-destination 10.128.1.5:8080\n",
            "-d 203.0.113.1 --dport 80 -j KUBE-EXT-0000udp10X96X0X2\n",
        ];
        for part in parts {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
        let chains = text.lines().filter_map(|line| line.strip_prefix(':'));
        let names = chains.filter_map(|line| line.split(' ').next());
        assert!(names.into_iter().all(|name| name.len() <= 28));
    }
}
