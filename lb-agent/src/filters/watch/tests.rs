//! With real rules, in a network namespace that goes with the test.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use tokio::{
    runtime,
    sync::watch as channel,
    time::{sleep, timeout},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

type Receiver = channel::Receiver<Option<Filters>>;

fn run(program: &str, arguments: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{program}: {input}");
}

fn nft(commands: &str) {
    run("nft", &["-f", "-"], commands);
}

async fn expect(filters: &mut Receiver, expect: &[&str]) {
    let shown = |filters: &Option<Filters>| match filters {
        Some(filters) if filters.error.is_none() => {
            let found = filters.found.iter().map(ToString::to_string);
            found.collect()
        }
        other => vec![format!("{other:?}")],
    };
    let reached = filters.wait_for(|filters| shown(filters) == expect);
    if timeout(PATIENCE, reached).await.is_err() {
        assert_eq!(shown(&filters.borrow()), expect);
    }
}

/// A thread has a network namespace of its own, which ends with it.
fn in_a_namespace(test: impl AsyncFnOnce(Receiver) + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, filters) = channel::channel(None);
            let watcher = tokio::spawn(watch(sender));
            test(filters).await;
            timeout(PATIENCE, watcher).await.unwrap().unwrap();
        });
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn chains_of_nftables_come_and_go() {
    in_a_namespace(async |mut filters| {
        expect(&mut filters, &[]).await;
        nft("add table ip t
add chain ip t pass { type filter hook forward priority 0; policy accept; }
add chain ip t in { type filter hook input priority 0; policy drop; }
add chain ip t any
add rule ip t any drop
add rule ip t in accept
add table arp t
add chain arp t in { type filter hook input priority 0; policy drop; }
add table bridge t
add chain bridge t out { type filter hook output priority 0; policy drop; }
");
        expect(&mut filters, &[]).await;
        nft("add rule ip t pass tcp dport 1 drop\n");
        let pass = "nftables ip t pass at forward";
        expect(&mut filters, &[pass]).await;
        nft("add table inet u
add chain inet u first { type filter hook prerouting priority -300; }
add rule inet u first counter
add chain inet u last { type filter hook postrouting priority 300; policy drop; }
add chain bridge t in { type filter hook input priority 0; policy drop; }
add table ip6 t
add chain ip6 t nat { type nat hook postrouting priority 100; }
add rule ip6 t nat masquerade
add table netdev t
add chain netdev t in { type filter hook ingress device lo priority 0; policy drop; }
");
        let all = [
            "nftables bridge t in at input",
            "nftables inet u first at prerouting",
            "nftables inet u last at postrouting",
            pass,
            "nftables ip6 t nat at postrouting",
            "nftables netdev t in at ingress",
        ];
        expect(&mut filters, &all).await;
        nft(
            "delete table inet u\ndelete table bridge t\ndelete table ip6 t\ndelete table netdev t\n",
        );
        expect(&mut filters, &[pass]).await;
        nft("flush chain ip t pass\n");
        expect(&mut filters, &[]).await;
    });
}

/// What iptables-nft makes at a mere look is empty.
#[test]
fn what_iptables_writes_into_nftables_counts() {
    in_a_namespace(async |mut filters| {
        expect(&mut filters, &[]).await;
        run("iptables-nft", &["-A", "INPUT", "-j", "DROP"], "");
        run("iptables-nft", &["-P", "FORWARD", "DROP"], "");
        expect(&mut filters, &["nftables ip filter FORWARD at forward"]).await;
        run("iptables-nft", &["-P", "FORWARD", "ACCEPT"], "");
        expect(&mut filters, &[]).await;
    });
}

#[test]
fn chains_of_iptables_legacy_come_and_go() {
    in_a_namespace(async |mut filters| {
        expect(&mut filters, &[]).await;
        for (program, table, arguments, found) in [
            ("iptables-legacy", "filter", "-A INPUT -j DROP", None),
            ("iptables-legacy", "filter", "-N any", None),
            ("iptables-legacy", "filter", "-A any -j DROP", None),
            (
                "iptables-legacy",
                "filter",
                "-P FORWARD DROP",
                Some("FORWARD"),
            ),
            ("iptables-legacy", "filter", "-P FORWARD ACCEPT", None),
            (
                "iptables-legacy",
                "filter",
                "-A FORWARD -j any",
                Some("FORWARD"),
            ),
            ("iptables-legacy", "filter", "-F FORWARD", None),
            ("iptables-legacy", "nat", "-L", None),
            (
                "iptables-legacy",
                "nat",
                "-A POSTROUTING -j MASQUERADE",
                Some("POSTROUTING"),
            ),
            ("iptables-legacy", "nat", "-F", None),
            ("iptables-legacy", "raw", "-A OUTPUT -j ACCEPT", None),
            ("ip6tables-legacy", "filter", "-A INPUT -j DROP", None),
            (
                "ip6tables-legacy",
                "filter",
                "-P FORWARD DROP",
                Some("FORWARD"),
            ),
            ("ip6tables-legacy", "filter", "-P FORWARD ACCEPT", None),
            (
                "ip6tables-legacy",
                "mangle",
                "-A PREROUTING -j ACCEPT",
                Some("PREROUTING"),
            ),
            (
                "ip6tables-legacy",
                "mangle",
                "-D PREROUTING -j ACCEPT",
                None,
            ),
        ] {
            let arguments: Vec<&str> = ["-w", "-t", table]
                .into_iter()
                .chain(arguments.split(' '))
                .collect();
            run(program, &arguments, "");
            let found = found.map(|chain| format!("{program} {table} {chain}"));
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            expect(&mut filters, &found).await;
        }
    });
}

#[test]
fn policies_of_ipsec_come_and_go() {
    let ip = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        run("ip", &arguments, "");
    };
    in_a_namespace(async move |mut filters| {
        expect(&mut filters, &[]).await;
        if !xfrm::is_there() {
            eprintln!("this kernel has no xfrm (CONFIG_XFRM_USER): only its answer is tested");
            return;
        }
        let between = "src 10.9.0.0/16 dst 10.10.0.0/16";
        for (direction, found) in [
            ("in", &[][..]),
            ("out", &["an xfrm policy (IPsec)"]),
            ("fwd", &["an xfrm policy (IPsec)"]),
        ] {
            let policy = format!("{between} dir {direction} action block");
            ip(&format!("xfrm policy add {policy}"));
            sleep(2 * TICK).await;
            expect(&mut filters, found).await;
            ip("xfrm policy flush");
            expect(&mut filters, &[]).await;
        }
    });
}
