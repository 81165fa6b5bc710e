//! What a SYN flood does to those who were there before, and to those who come.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{AsyncTcp, Entrance, Family, Load, LoadOptions, LoadReport};
use tokio::runtime::{Builder, Runtime};

use crate::{
    publish::publish,
    stage::{Stage, Way},
    strangers::{Flood, NOWHERE},
};

/// Of those who connect during the flood, which keeps all of two cores busy: the
/// kernel itself drops what it has no time for. Those who are connected lose nothing.
const SHARE: f64 = 0.6;
const ASSURED: usize = 200;
/// Those who connect, a second.
const RATE: u64 = 50;
const CALM: Duration = Duration::from_secs(3);
/// Three SYNs have had their time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The machine is busy with the flood.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_million_strangers_disturb_nobody() {
    for xdp in ["native", "off"] {
        check(xdp, 500_000);
    }
}

#[test]
#[ignore = "takes minutes"]
fn ten_million_strangers_disturb_nobody() {
    check("native", 10_000_000);
}

fn check(xdp: &str, strangers: u64) {
    // Far fewer than strangers, whatever memory the machine has.
    let room = ["--max-unassured-connections", "65536"];
    let stage = Stage::new(0, false, &["--xdp", xdp, room[0], room[1]]);
    let router = &stage.lab.router().netns;
    for network in NOWHERE {
        router
            .ip(&format!("route add blackhole {network}\n"))
            .unwrap();
    }
    publish(&stage, "a");
    let client = &stage.lab.client().netns;
    let frontends = [
        stage.address(Way::NodePort, Family::V4),
        stage.address(Way::LoadBalancer, Family::V6),
    ];
    let options = LoadOptions {
        kept: ASSURED / frontends.len(),
        fresh: 0,
        payload: 100,
        pause: Duration::from_millis(200),
        limit: LIMIT,
    };
    let loads = frontends.map(|to| Load::start(client, to, options.clone()).unwrap());
    for load in &loads {
        let are_open = |report: &LoadReport| report.exchanges > 2 * options.kept as u64;
        assert!(load.wait_for(LIMIT, are_open), "{:?}", load.report());
    }

    let arrivals = Arrivals::new(client, &frontends);
    let before = arrivals.count(|| thread::sleep(CALM));
    let held = loads.each_ref().map(|load| load.report().exchanges);
    let mut flood = Flood::new(&stage.lab, &frontends);
    let mut took = Ok(Duration::ZERO);
    let during = arrivals.count(|| took = flood.run(strangers));
    let took = took.unwrap();
    let after = arrivals.count(|| thread::sleep(CALM));

    let rate = strangers as f64 / took.as_secs_f64();
    eprintln!("xdp {xdp}: {strangers} SYNs in {took:.1?}, {rate:.0} a second");
    eprintln!("connects before {before:?}, during {during:?}, after {after:?}");
    for (load, held) in loads.into_iter().zip(held) {
        let report = load.stop();
        let more = report.exchanges - held;
        eprintln!("{} connections, {more} exchanges since", report.connections);
        assert_eq!(report.failures, Vec::<String>::new());
        assert_eq!(report.connections, options.kept as u64);
        assert!(more > report.connections, "{more}");
    }
    let status = stage.agent.status().unwrap();
    eprintln!("{}", status["counters"]);
    assert_eq!(before.share(), 1.0, "{before:?}");
    assert!(during.share() >= SHARE, "{during:?}");
    assert_eq!(after.share(), 1.0, "{after:?}");
    // Most of them got as far as the program.
    let hook = match xdp {
        "off" => "tc_ingress",
        _ => "xdp",
    };
    let opened = status["counters"][hook]["opened"].as_u64().unwrap();
    assert!(opened > strangers / 2, "{opened}");
}

/// Clients that connect, ask once and leave, at a steady rate.
struct Arrivals {
    runtime: Runtime,
    netns: Entrance,
    frontends: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Served {
    asked: u64,
    answered: u64,
}

impl Served {
    fn share(self) -> f64 {
        self.answered as f64 / self.asked as f64
    }
}

impl Arrivals {
    fn new(netns: &Entrance, frontends: &[SocketAddr]) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self {
            runtime: runtime.unwrap(),
            netns: netns.clone(),
            frontends: frontends.to_vec(),
        }
    }

    /// How many were served of those who came while `work` went on.
    fn count(&self, work: impl FnOnce()) -> Served {
        let stop = AtomicBool::new(false);
        let answered = Arc::new(AtomicU64::new(0));
        thread::scope(|scope| {
            let arrive = scope.spawn(|| self.arrive(&stop, &answered));
            work();
            stop.store(true, Ordering::Relaxed);
            let asked = arrive.join().unwrap();
            Served {
                asked,
                answered: answered.load(Ordering::Relaxed),
            }
        })
    }

    fn arrive(&self, stop: &AtomicBool, answered: &Arc<AtomicU64>) -> u64 {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for (number, &to) in (0_u32..).zip(self.frontends.iter().cycle()) {
            let due = start + Duration::from_secs(number.into()) / RATE as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (netns, answered) = (self.netns.clone(), Arc::clone(answered));
            tasks.push(self.runtime.spawn(async move {
                let connected = AsyncTcp::connect(&netns, to, PATIENCE).await;
                let Ok(mut connection) = connected else {
                    return;
                };
                if connection.exchange(b"hello").await.is_ok() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let asked = tasks.len() as u64;
        for task in tasks {
            self.runtime.block_on(task).unwrap();
        }
        asked
    }
}
