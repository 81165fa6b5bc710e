//! What is pinned outlives the agent, is checked before it is believed, and
//! goes when it is told to.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "pins/answers.rs"]
mod answers;
#[path = "pins/dump.rs"]
mod dump;
#[path = "pins/harm.rs"]
mod harm;
#[path = "pins/kernel.rs"]
mod kernel;
#[path = "pins/loss.rs"]
mod loss;
#[path = "pins/programs.rs"]
mod programs;
#[path = "pins/resize.rs"]
mod resize;
#[path = "continuity/site.rs"]
mod site;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData, MapInfo};
use lb_agent::{compile::frontend_key, model};
use lb_tests::lab::{Family, Lab, TcpClient, agent_binary};

use self::{
    answers::{answered, check_works},
    dump::dump,
    harm::{HARMS, meaning},
    kernel::{Kernel, links, map_path},
    programs::programs,
    site::{BACKENDS, Site, cluster_ip},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// For what will not be answered.
const SOON: Duration = Duration::from_millis(500);

/// Runs the agent's program in node 1 to its end.
fn agent(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = lab.node(1).netns.command(agent_binary().unwrap()).unwrap();
    command.args(arguments).output().unwrap()
}

/// One program a hook, by whatever `tc` and `--xdp native`.
fn expected_programs(site: &Site, tc: &str) -> BTreeMap<String, usize> {
    let kind = if tc == "tcx" { "tcx" } else { "filter" };
    let [a, shell] = ["a", "shell"].map(|name| site.lab.pod(name).unwrap().interface.clone());
    let interfaces = ["eth0", &a, &shell]
        .map(|name| ["ingress", "egress"].map(|hook| (format!("{name} {kind} {hook}"), 1)));
    let mut expect: BTreeMap<_, _> = interfaces.into_iter().flatten().collect();
    expect.insert(format!("lo {kind} egress"), 1);
    expect.insert("eth0 xdp".to_owned(), 1);
    expect
}

/// Attach, stop, restart and clean up.
fn check_life(tc: &str) {
    let mut site = Site::new(&["--xdp", "native", "--tc", tc]);
    let pins = site.lab.pins(1);
    let node = site.lab.node(1);
    let expect = expected_programs(&site, tc);
    assert_eq!(programs(node), expect, "{tc}");
    check_works(&site.lab, "attached");
    let shell = site.lab.pod("shell").unwrap();
    let to = cluster_ip(Family::V4, 10);
    let connect = || TcpClient::connect(to, None, PATIENCE);
    let mut client = shell.netns.run(connect).unwrap();
    let first = client.exchange(b"before").unwrap();

    site.agent.stop().unwrap();
    assert_eq!(programs(node), expect, "{tc}: stopped");
    check_works(&site.lab, "stopped");
    let (before, links_before) = (dump(&pins), links(&pins));

    site.agent.start().unwrap();
    site.agent.wait_ready().unwrap();
    assert_eq!(programs(node), expect, "{tc}: started again");
    check_works(&site.lab, "started again");
    assert_eq!(dump(&pins), before, "{tc}");
    let ids = |links: BTreeMap<String, (u32, u32)>| -> BTreeMap<String, u32> {
        links
            .into_iter()
            .map(|(name, (id, _))| (name, id))
            .collect()
    };
    assert_eq!(ids(links(&pins)), ids(links_before), "{tc}");

    site.agent.kill().unwrap();
    check_works(&site.lab, "killed");
    let again = client.exchange(b"after").unwrap();
    assert_eq!((again.server, again.port), (first.server, first.port));

    let folder = pins.display().to_string();
    let output = agent(&site.lab, &["cleanup", "--bpffs", &folder]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("FRONTENDS"), "{text}");
    assert!(!pins.exists());
    // The kernel detaches when it gets round to it.
    let deadline = Instant::now() + PATIENCE;
    while !programs(node).is_empty() {
        let left = programs(node);
        assert!(Instant::now() < deadline, "{tc}: {left:?}");
    }
    let answers = answered(&site.lab, SOON);
    assert!(answers.iter().all(Result::is_err), "{tc}: {answers:?}");
    let output = agent(&site.lab, &["cleanup", "--bpffs", &folder]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("nothing to remove"), "{text}");
}

#[test]
fn tcx_links_live_until_cleanup() {
    check_life("tcx");
}

#[test]
fn clsact_filters_live_until_cleanup() {
    check_life("clsact");
}

#[test]
fn what_others_wrote_is_undone() {
    let mut site = Site::new(&[]);
    let pins = site.lab.pins(1);
    let expect = meaning(&pins);
    let keys: Vec<_> = [model::Protocol::Tcp, model::Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| {
            Family::ALL.map(|family| {
                let to = cluster_ip(family, 10);
                frontend_key(to.ip(), to.port(), protocol)
            })
        })
        .collect();
    // At once, as long as each has a frontend for itself.
    for harms in HARMS.chunks(keys.len()) {
        site.agent.stop().unwrap();
        let mut kernel = Kernel::open(&pins);
        for ((what, harm), key) in harms.iter().zip(&keys) {
            let before = meaning(&pins);
            harm(&mut kernel, *key);
            assert_ne!(meaning(&pins), before, "{what}: harmless");
        }
        site.agent.start().unwrap();
        site.agent.wait_ready().unwrap();
        assert_eq!(meaning(&pins), expect);
        check_works(&site.lab, "started again");
    }
}

#[test]
fn maps_of_other_layouts_are_not_misread() {
    let mut site = Site::new(&["--xdp", "native"]);
    let pins = site.lab.pins(1);
    site.agent.stop().unwrap();
    let frontends = map_path(&pins, "FRONTENDS");
    // Of another version, in use until this one is attached everywhere.
    let foreign = pins.join("maps").join("FRONTENDS_0123456789abcdef");
    Array::<MapData, u64>::create(7, 0)
        .unwrap()
        .pin(&foreign)
        .unwrap();
    // Named as ours, and something else.
    fs::remove_file(&frontends).unwrap();
    Array::<MapData, u64>::create(7, 0)
        .unwrap()
        .pin(&frontends)
        .unwrap();
    check_works(&site.lab, "the programs hold on to their maps");

    site.agent.start().unwrap();
    site.agent.wait_ready().unwrap();
    check_works(&site.lab, "started again");
    assert!(!foreign.exists());
    let log = site.agent.log();
    let warned = |path: &Path| {
        let path = path.display().to_string();
        log.lines().filter(|line| line.contains(&path)).count()
    };
    assert_eq!((warned(&frontends), warned(&foreign)), (1, 1), "{log}");
    let to = cluster_ip(Family::V4, 10);
    let key = frontend_key(to.ip(), to.port(), model::Protocol::Tcp);
    let backends = Kernel::open(&pins).chosen(&key).len();
    assert_eq!(backends, BACKENDS.len());
}

/// Marks of elements that are not there would take their places for good.
#[test]
fn sets_are_believed_as_a_whole_or_not_at_all() {
    let mut site = Site::new(&[]);
    let pins = site.lab.pins(1);
    let id = |name: &str| MapInfo::from_pin(map_path(&pins, name)).unwrap().id();
    for (lost, distrusted) in [
        ("SETS", &["CONNECTIONS"][..]),
        ("CONNECTIONS", &["SETS"]),
        ("SECRET", &["SETS", "CONNECTIONS"]),
    ] {
        check_works(&site.lab, lost);
        site.agent.stop().unwrap();
        let before: Vec<u32> = distrusted.iter().map(|name| id(name)).collect();
        fs::remove_file(map_path(&pins, lost)).unwrap();
        site.agent.start().unwrap();
        site.agent.wait_ready().unwrap();
        for (name, before) in distrusted.iter().zip(before) {
            assert_ne!(id(name), before, "{lost}: {name}");
        }
        check_works(&site.lab, lost);
    }
}

#[test]
fn a_second_agent_is_refused() {
    let site = Site::new(&[]);
    let pins = site.lab.pins(1);
    let (before, links_before) = (dump(&pins), links(&pins));
    let [folder, manifests, socket] = [
        &pins,
        &site.manifests,
        &site.lab.folder().join("second.sock"),
    ]
    .map(|path| path.display().to_string());
    let arguments = [
        "run",
        "--node-name",
        "node1",
        "--bpffs",
        &folder,
        "--manifests",
        &manifests,
        "--socket",
        &socket,
    ];
    let output = agent(&site.lab, &arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("another agent is at work here"), "{error}");
    assert!(error.contains(&folder), "{error}");
    assert_eq!((dump(&pins), links(&pins)), (before, links_before));
    check_works(&site.lab, "the first goes on");
}
