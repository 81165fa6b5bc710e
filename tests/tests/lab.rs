//! The lab without any agent: plain routing, as a cluster has it before
//! Services.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_tests::lab::{
    CLIENT, Capture, Exchange, Family, Host, Lab, LabOptions, Load, LoadOptions, Protocol,
    TcpClient, payload,
};

const PORT: u16 = 8080;

/// The machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

const BOTH: [(Protocol, u16); 2] = [(Protocol::Tcp, PORT), (Protocol::Udp, PORT)];

fn lab() -> Result<Lab> {
    let lab = Lab::new(&LabOptions::default())?;
    for (node, name) in [(1, "a"), (1, "b"), (2, "c")] {
        let pod = lab.add_pod(node, name)?;
        lab.serve(&pod, &BOTH)?;
    }
    Ok(lab)
}

/// Every protocol and family, with payloads from one byte up.
fn check(from: &Host, to: &Host) {
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            let (ip_header, mtu) = match family {
                Family::V4 => (20, 1500),
                Family::V6 => (40, 1500),
            };
            let largest = match protocol {
                Protocol::Tcp => 64 * 1024,
                Protocol::Udp => mtu - ip_header - 8,
            };
            for length in [1, 31, 1000, largest] {
                let exchange = Exchange::new(protocol, to.socket(family, PORT)).payload(length);
                let what = format!("{} to {} {protocol} {family} {length}", from.name, to.name);
                let reply = exchange.run_in(&from.netns);
                let reply = reply.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(reply.server, to.name, "{what}");
                assert_eq!(reply.client, from.address(family), "{what}");
            }
        }
    }
}

#[test]
fn every_place_reaches_every_other_with_good_checksums() {
    let lab = lab().unwrap();
    for node in lab.nodes() {
        lab.serve(node, &BOTH).unwrap();
    }
    let router = Capture::start(&lab.router().netns, &["lan0", "node1", "node2"]).unwrap();
    let node = Capture::start(&lab.node(1).netns, &["veth-a", "veth-b", "eth0"]).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name).unwrap());
    for (from, to) in [
        (&a.host, &b.host),
        (&a.host, &c.host),
        (&c.host, &a.host),
        (lab.node(1), &a.host),
        (lab.node(1), &c.host),
        (&a.host, lab.node(1)),
        (&a.host, lab.node(2)),
        (lab.client(), lab.node(1)),
        (lab.client(), lab.node(2)),
        (lab.client(), &c.host),
        (&c.host, lab.client()),
    ] {
        if to.name == "client" {
            lab.serve(to, &BOTH).unwrap();
        }
        check(from, to);
    }
    for (place, capture) in [("router", router), ("node1", node)] {
        let recording = capture.stop().unwrap();
        let report = recording.checksums();
        assert_eq!(recording.lost, 0, "{place}");
        for bad in &report.bad {
            eprintln!("{place}: {bad}");
        }
        assert!(report.bad.is_empty(), "{place}");
        assert!(report.checked > 100, "{place}: {report:?}");
    }
}

#[test]
fn what_stands_for_a_nic_finishes_its_checksums() {
    let lab = lab().unwrap();
    let a = lab.pod("a").unwrap();
    let outside = Capture::start(&lab.router().netns, &["lan0"]).unwrap();
    let inside = Capture::start(&lab.node(1).netns, &["veth-a"]).unwrap();
    let to = a.socket(Family::V4, PORT);
    lab.client().exchange(Protocol::Udp, to).unwrap();
    let finished = |capture: Capture| {
        let frames = capture.stop().unwrap().frames;
        let is_udp = |bytes: &[u8]| bytes[12..14] == [8, 0] && bytes[23] == 17;
        let udp = frames.iter().filter(|frame| is_udp(&frame.bytes));
        udp.map(|frame| frame.finished).collect::<Vec<_>>()
    };
    assert_eq!(finished(outside), [true, true]);
    assert_eq!(
        finished(inside),
        [true, false],
        "a pod leaves it to the veth"
    );
}

#[test]
fn kept_connections_transfer_both_ways() {
    let lab = lab().unwrap();
    let [a, c] = ["a", "c"].map(|name| lab.pod(name).unwrap());
    let to = c.socket(Family::V6, PORT);
    let mut client = a
        .netns
        .run(|| TcpClient::connect(to, None, Duration::from_secs(2)))
        .unwrap();
    let port = client.local_addr().unwrap().port();
    for length in [1, 5000, 65536] {
        let reply = client.exchange(&payload(length)).unwrap();
        assert_eq!((reply.server.as_str(), reply.port), ("c", port));
    }
    client.download(1 << 20).unwrap();
    client.exchange(b"still here").unwrap();

    let options = LoadOptions {
        kept: 1000,
        fresh: 2,
        ..LoadOptions::default()
    };
    let load = Load::start(&lab.client().netns, to, options).unwrap();
    let reached = load.wait_for(PATIENCE, |report| {
        report.connections > 1000 && report.exchanges > 2000
    });
    let report = load.stop();
    assert_eq!(report.failures, [""; 0]);
    assert!(reached, "{report:?}");
}

#[test]
fn a_load_reports_what_breaks() {
    let lab = lab().unwrap();
    let c = lab.pod("c").unwrap();
    let to = c.socket(Family::V4, PORT);
    let options = LoadOptions {
        kept: 5,
        fresh: 0,
        ..LoadOptions::default()
    };
    let load = Load::start(&lab.client().netns, to, options).unwrap();
    let is_going = load.wait_for(PATIENCE, |report| report.exchanges >= 50);
    assert!(is_going, "{:?}", load.report());
    lab.remove_pod("c").unwrap();
    assert!(load.wait_for(PATIENCE, |report| report.failures.len() == 5));
    assert_eq!(load.stop().failures.len(), 5);
}

#[test]
fn source_ports_can_be_chosen_and_refusals_are_fast() {
    let lab = lab().unwrap();
    let c = lab.pod("c").unwrap();
    for protocol in Protocol::ALL {
        for family in Family::ALL {
            let from = lab.client().socket(family, 40_123);
            let exchange = Exchange::new(protocol, c.socket(family, PORT)).from(from);
            let reply = exchange.run_in(&lab.client().netns).unwrap();
            assert_eq!(SocketAddr::new(reply.client, reply.port), from);
            let started = Instant::now();
            let closed = lab
                .client()
                .exchange(protocol, c.socket(family, 9))
                .unwrap_err();
            assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused);
            assert!(started.elapsed() < Duration::from_secs(1));
        }
    }
}

#[test]
fn curl_is_answered() {
    let lab = lab().unwrap();
    let a = lab.pod("a").unwrap();
    let url = format!("http://{}/quote?x=1", a.socket(Family::V6, PORT));
    let output = lab.client().netns.command("curl").unwrap();
    let output = { output }.args(["-gsS", "-m", "3", &url]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("a {} ", CLIENT.v6)), "{text}");
}

#[test]
fn flushed_neighbours_are_gone_and_found_again() {
    let lab = lab().unwrap();
    let a = lab.pod("a").unwrap();
    let known = || {
        let mut command = lab.node(1).netns.command("ip").unwrap();
        let output = command
            .args(["neigh", "show", "to", "10.244.1.2"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    check(lab.node(1), &a);
    assert!(known().contains("lladdr"), "{}", known());
    lab.flush_neighbours(1).unwrap();
    assert!(!known().contains("lladdr"), "{}", known());
    check(lab.node(1), &a);
}

#[test]
fn strict_filters_and_a_firewall_are_in_place() {
    let firewall = "table inet filter {
        chain forward {
            type filter hook forward priority 0; policy accept;
            ct state invalid drop
            ip saddr 10.244.1.2 ip daddr 10.244.1.3 drop
        }
    }";
    let lab = Lab::new(&LabOptions {
        rp_filter: 1,
        firewall: Some(firewall.into()),
        ..LabOptions::default()
    })
    .unwrap();
    let [a, b, c] = [(1, "a"), (1, "b"), (2, "c")].map(|(node, name)| {
        let pod = lab.add_pod(node, name).unwrap();
        lab.serve(&pod, &BOTH).unwrap();
        pod
    });
    for name in ["all", "eth0", "veth-a"] {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        let value = lab.node(1).netns.run(|| fs::read_to_string(path)).unwrap();
        assert_eq!(value, "1\n", "{name}");
    }
    check(&a, &c);
    check(&c, &b);
    let forbidden = Exchange::new(Protocol::Udp, b.socket(Family::V4, PORT));
    let forbidden = forbidden.timeout(Duration::from_millis(300));
    assert!(forbidden.run_in(&a.netns).is_err());
}

#[test]
fn a_removed_pod_is_gone_and_its_name_is_free() {
    let lab = lab().unwrap();
    let a = lab.pod("a").unwrap();
    let old = a.socket(Family::V4, PORT);
    drop(a);
    lab.remove_pod("a").unwrap();
    let gone = Exchange::new(Protocol::Tcp, old).timeout(Duration::from_millis(300));
    assert!(gone.run_in(&lab.client().netns).is_err());
    assert!(lab.remove_pod("a").is_err());
    let again = lab.add_pod(1, "a").unwrap();
    assert_ne!(again.socket(Family::V4, PORT), old);
    lab.serve(&again, &BOTH).unwrap();
    check(lab.client(), &again);
}

#[test]
fn everything_is_gone_after_the_drop_and_neighbours_live_on() {
    let first = lab().unwrap();
    let second = lab().unwrap();
    let id = first.id();
    let (pins, folder) = (id.pins(), id.folder());
    let traces = || {
        let names = fs::read_dir("/run/netns").unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let prefix = format!("{id}-");
        names.filter(|name| name.starts_with(&prefix)).count()
    };
    assert_eq!(traces(), 7);
    assert!(pins.is_dir() && folder.is_dir());
    check(first.client(), &first.pod("c").unwrap());
    drop(first);
    assert_eq!(traces(), 0);
    assert!(!pins.exists() && !folder.exists());
    check(second.client(), &second.pod("c").unwrap());
}

#[test]
fn a_lab_is_made_fast_and_leaves_the_machine_alone() {
    let before = fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    let started = Instant::now();
    let lab = Lab::new(&LabOptions::default()).unwrap();
    for number in 0..6 {
        lab.add_pod(number % 2 + 1, &format!("pod-{number}"))
            .unwrap();
    }
    let took = started.elapsed();
    assert!(took < PATIENCE / 6, "{took:?}");
    eprintln!("2 nodes and 6 pods in {took:?}");
    assert_eq!(
        fs::read_to_string("/proc/net/dev").unwrap().lines().count(),
        before
    );
    assert!(
        Path::new("/run/netns")
            .join(format!("{}-node2", lab.id()))
            .exists()
    );
}
