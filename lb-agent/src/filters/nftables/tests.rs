use super::*;

/// What Linux 6.18 sent for `add table ip t`, the chains in `CHAINS` and one
/// rule in the first.
const DUMP: [&str; 2] = [
    "0200000206000100740000000900030070617373000000000c0002000000000000000001\
     140004000800010000000002080002000000000008000500000000010b00070066696c74\
     6572000008000a00000000010800060000000001",
    "02000002060001007400000008000300616e79000c00020000000000000000020800060000000000",
];
/// Where the first one says its family, hook, policy and number of rules, in
/// its last byte.
const FAMILY: usize = 0;
const HOOK: usize = 47;
const POLICY: usize = 63;
const USE: usize = 91;

fn message(dump: &str) -> Message {
    let digits: Vec<u8> = dump.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    Message {
        kind: SUBSYSTEM << 8 | u16::from(NEW_CHAIN),
        body: digits.chunks(2).map(byte).collect(),
    }
}

#[test]
fn a_base_chain_is_known_by_its_hook() {
    let [base, any] = DUMP.map(message);
    let expect = Filter::Nftables {
        family: "ip",
        table: "t".to_owned(),
        chain: "pass".to_owned(),
        hook: "forward",
    };
    assert_eq!(filter(&base), Some(expect));
    assert_eq!(filter(&any), None);
}

#[test]
fn a_chain_counts_if_it_may_do_something_to_forwarded_traffic() {
    const INET: u8 = 1;
    const IP: u8 = 2;
    const ARP: u8 = 3;
    const NETDEV: u8 = 5;
    const BRIDGE: u8 = 7;
    const IP6: u8 = 10;
    const DROP: u8 = 0;
    const PASS: u8 = 1;
    for (family, hook, policy, rules, expect) in [
        (IP, 0, PASS, 1, Some("ip prerouting")),
        (IP, 1, DROP, 1, None),
        (IP, 2, PASS, 1, Some("ip forward")),
        (IP, 2, DROP, 0, Some("ip forward")),
        (IP, 2, PASS, 0, None),
        (IP, 3, DROP, 1, None),
        (IP, 4, PASS, 9, Some("ip postrouting")),
        (IP6, 4, DROP, 9, Some("ip6 postrouting")),
        (INET, 1, DROP, 9, None),
        (INET, 2, DROP, 9, Some("inet forward")),
        (INET, 5, DROP, 9, Some("inet ingress")),
        (BRIDGE, 1, DROP, 9, Some("bridge input")),
        (BRIDGE, 3, DROP, 9, None),
        (NETDEV, 0, DROP, 9, Some("netdev ingress")),
        (NETDEV, 1, DROP, 9, Some("netdev egress")),
        (NETDEV, 2, DROP, 9, None),
        (ARP, 0, DROP, 9, None),
    ] {
        let mut base = message(DUMP[0]);
        for (at, value) in [
            (FAMILY, family),
            (HOOK, hook),
            (POLICY, policy),
            (USE, rules),
        ] {
            base.body[at] = value;
        }
        let found = filter(&base).map(|filter| match filter {
            Filter::Nftables { family, hook, .. } => format!("{family} {hook}"),
            other => other.to_string(),
        });
        assert_eq!(found.as_deref(), expect, "{family} {hook} {policy} {rules}");
    }
}

#[test]
fn what_is_cut_short_is_no_panic() {
    let whole = message(DUMP[0]);
    for length in 0..whole.body.len() {
        let mut message = whole.clone();
        message.body.truncate(length);
        // Whatever it makes of it.
        let _ = filter(&message);
    }
}

#[test]
fn what_changes_no_chain_is_not_listened_to() {
    for (kind, expect) in [
        (0x0a00, true),
        (0x0a03, true),
        (0x0a05, true),
        (0x0a06, true),
        (0x0a08, true),
        // Elements of a set, and the generation.
        (0x0a0c, false),
        (0x0a0f, false),
        (0x0103, false),
    ] {
        let body = Vec::new();
        assert_eq!(matters(&Message { kind, body }), expect, "{kind:04x}");
    }
}
