//! What kube-proxy's nftables mode makes of Services: sets and verdict maps to
//! look up, and chains for each Service and each endpoint.

use std::fmt::Write as _;

use super::services::{POD_CIDR, Service, port_name};
use crate::lab::Protocol;

/// The whole ruleset, for `nft -f`; it takes the place of an earlier one.
pub(super) fn ruleset(services: &[Service], node: std::net::Ipv4Addr) -> String {
    let mut text = String::from("table ip kube-proxy\ndelete table ip kube-proxy\n");
    text.push_str("table ip kube-proxy {\n");
    let mut cluster_ips = Vec::new();
    let mut service_ips = Vec::new();
    let mut chains = String::new();
    for service in services {
        cluster_ips.push(service.cluster_ip.to_string());
        for &protocol in &service.protocols {
            let (name, port) = (name(service, protocol), service.port);
            let proto = port_name(protocol);
            service_ips.push(format!(
                "{} . {proto} . {port} : goto service-{name}",
                service.cluster_ip
            ));
            if let Some(external) = service.external_ip {
                service_ips.push(format!(
                    "{external} . {proto} . {port} : goto external-{name}"
                ));
                let _ = write!(
                    chains,
                    "chain external-{name} {{\njump mark-for-masquerade\ngoto service-{name}\n}}\n"
                );
            }
            add_chains(&mut chains, service, protocol);
        }
    }
    let _ = write!(
        text,
        "set cluster-ips {{ type ipv4_addr; elements = {{ {} }} }}\n\
         set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }} }}\n\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; \
         elements = {{ {} }} }}\n",
        cluster_ips.join(", "),
        service_ips.join(", "),
    );
    text.push_str(FRAME);
    text.push_str(&chains);
    text.push_str("}\n");
    text
}

/// What does not depend on Services.
const FRAME: &str = "\
map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
map service-nodeports { type inet_proto . inet_service : verdict; }
chain mark-for-masquerade { meta mark set mark or 0x4000; }
chain masquerading {
mark and 0x4000 == 0 return
meta mark set mark xor 0x4000
masquerade fully-random
}
chain reject-chain { reject; }
chain cluster-ips-check { ip daddr @cluster-ips reject; }
chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
chain nodeport-endpoints-check {
ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain services {
ip daddr . meta l4proto . th dport vmap @service-ips
ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}
chain filter-prerouting {
type filter hook prerouting priority -110; policy accept;
ct state new jump firewall-check
}
chain filter-input {
type filter hook input priority 0; policy accept;
ct state new jump nodeport-endpoints-check
ct state new jump service-endpoints-check
}
chain filter-forward {
type filter hook forward priority 0; policy accept;
ct state new jump service-endpoints-check
ct state new jump cluster-ips-check
}
chain filter-output {
type filter hook output priority -110; policy accept;
ct state new jump service-endpoints-check
ct state new jump firewall-check
}
chain filter-output-post-dnat {
type filter hook output priority -90; policy accept;
ct state new jump cluster-ips-check
}
chain nat-prerouting {
type nat hook prerouting priority -100; policy accept;
jump services
}
chain nat-output {
type nat hook output priority -100; policy accept;
jump services
}
chain nat-postrouting {
type nat hook postrouting priority 100; policy accept;
jump masquerading
}
";

fn add_chains(chains: &mut String, service: &Service, protocol: Protocol) {
    let (name, proto) = (name(service, protocol), port_name(protocol));
    let numbered = || service.endpoints.iter().enumerate();
    for (number, endpoint) in numbered() {
        let (address, port) = (endpoint.address, service.target_port);
        // Writing to a String cannot fail.
        let _ = write!(
            chains,
            "chain endpoint-{name}-{number} {{\n\
             ip saddr {address} jump mark-for-masquerade\n\
             meta l4proto {proto} dnat to {address}:{port}\n}}\n"
        );
    }
    let draws = numbered().map(|(number, _)| format!("{number} : goto endpoint-{name}-{number}"));
    let _ = write!(
        chains,
        "chain service-{name} {{\n\
         ip daddr {} {proto} dport {} ip saddr != {POD_CIDR} jump mark-for-masquerade\n\
         numgen random mod {} vmap {{ {} }}\n}}\n",
        service.cluster_ip,
        service.port,
        service.endpoints.len(),
        draws.collect::<Vec<_>>().join(", "),
    );
}

fn name(service: &Service, protocol: Protocol) -> String {
    format!("bench/{}/{}", service.name, port_name(protocol))
}

#[cfg(test)]
mod tests {
    use super::super::services::{services, tests::BACKENDS};
    use super::*;

    #[test]
    fn chains_of_two_services() {
        let all = services(4, &BACKENDS);
        let text = ruleset(&all[..2], [192, 0, 2, 11].into());
        let parts = [
            "set cluster-ips { type ipv4_addr; elements = { 10.96.0.1, 10.96.0.2 } }\n",
            "elements = { 10.96.0.1 . tcp . 80 : goto service-bench/service-1/tcp, \
             10.96.0.2 . udp . 80 : goto service-bench/service-2/udp, \
             203.0.113.1 . udp . 80 : goto external-bench/service-2/udp } }\n",
            "chain endpoint-bench/service-1/tcp-2 {\n\
             ip saddr 10.128.1.5 jump mark-for-masquerade\n\
             meta l4proto tcp dnat to 10.128.1.5:8080\n}\n",
            "chain service-bench/service-1/tcp {\n\
             ip daddr 10.96.0.1 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade\n\
             numgen random mod 3 vmap { 0 : goto endpoint-bench/service-1/tcp-0, \
             1 : goto endpoint-bench/service-1/tcp-1, 2 : goto endpoint-bench/service-1/tcp-2 }\n}\n",
            "chain external-bench/service-2/udp {\njump mark-for-masquerade\n\
             goto service-bench/service-2/udp\n}\n",
        ];
        for part in parts {
            assert!(text.contains(part), "{part}\nin\n{text}");
        }
    }
}
