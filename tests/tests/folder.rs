//! A folder of manifests as people treat it: garbage, half a file, files that
//! go, and Services that leave their addresses to us.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

#[path = "folder/garbage.rs"]
mod garbage;
#[path = "continuity/site.rs"]
mod site;
#[path = "folder/status.rs"]
mod status;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{AgentProcess, Exchange, Family, LabOptions, Protocol};
use serde_json::{Value, json};

use self::{
    site::{BACKENDS, Site, cluster_ip, service, slices, write},
    status::{Allocations, allocations, problems, services},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// How many backends a Service has, over its ports and families.
fn backends(status: &Value, name: &str) -> Option<usize> {
    let all = services(status);
    let lines = all.get(name)?.iter();
    Some(lines.filter(|line| line.starts_with("backend")).count())
}

#[test]
fn what_is_removed_is_gone() {
    let mut site = Site::new(&[]);
    write(&site.manifests, "more", &[service("more", 11, 0)]);
    write(
        &site.manifests,
        "more-slices",
        &slices(&site.lab, "more", &["b"]),
    );
    let shell = site.lab.pod("shell").unwrap();
    let reaches = |number| {
        let ways = Protocol::ALL.into_iter().flat_map(|protocol| {
            Family::ALL.map(|family| Exchange::new(protocol, cluster_ip(family, number)))
        });
        let answers = ways.map(|way| way.timeout(Duration::from_millis(500)).run_in(&shell.netns));
        answers
            .map(|answer| answer.is_ok())
            .collect::<BTreeSet<bool>>()
    };
    let mut step = |what: &str, more: Option<usize>| {
        site.agent
            .wait_for(what, |status| backends(status, "more") == more)
            .unwrap();
        let some = more.is_some_and(|count| count > 0);
        assert_eq!(reaches(11), BTreeSet::from([some]), "{what}");
        assert_eq!(reaches(10), BTreeSet::from([true]), "{what}");
    };
    step("told of more", Some(4));
    fs::remove_file(site.manifests.join("more-slices.json")).unwrap();
    step("told of no endpoints", Some(0));
    write(
        &site.manifests,
        "more-slices",
        &slices(&site.lab, "more", &["b", "c"]),
    );
    step("told of endpoints again", Some(8));
    fs::remove_file(site.manifests.join("more.json")).unwrap();
    step("told that it is gone", None);
}

/// YAML whose beginnings read well too, each with fewer endpoints.
fn long_slice(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let slice: Value = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .next()
        .unwrap()
        .unwrap();
    let mut lines = vec!["---\n".to_owned()];
    for (key, value) in slice.as_object().unwrap() {
        if key != "endpoints" {
            lines.push(format!("{key}: {value}\n"));
        }
    }
    lines.push("endpoints:\n".to_owned());
    let endpoints = slice["endpoints"].as_array().unwrap().iter();
    lines.extend(endpoints.map(|endpoint| format!("- {endpoint}\n")));
    lines
}

#[test]
fn half_a_file_changes_nothing() {
    let mut site = Site::new(&[]);
    let path = site.manifests.join("web-slices.json");
    let lines = long_slice(&path);
    let [_, v6] = slices(&site.lab, "web", &BACKENDS);
    write(&site.manifests, "web-v6", &[v6]);
    let yaml = site.manifests.join("web-v4.yaml");
    fs::write(&yaml, lines.concat()).unwrap();
    fs::remove_file(&path).unwrap();
    let before = services(&site.agent.status().unwrap());
    let shell = site.lab.pod("shell").unwrap();
    let check = |agent: &AgentProcess, place: &str| {
        assert_eq!(services(&agent.status().unwrap()), before, "{place}");
        let exchange = Exchange::new(Protocol::Tcp, cluster_ip(Family::V4, 10));
        let reply = exchange.timeout(PATIENCE).run_in(&shell.netns);
        reply.unwrap_or_else(|error| panic!("{place}: {error}"));
    };
    // The same objects from other files are no change either.
    thread::sleep(Duration::from_secs(1));
    check(&site.agent, "moved");

    let mut file = File::create(&yaml).unwrap();
    // On its own: it is believed to be done when it rests for a second.
    let writer = thread::spawn(move || {
        for part in lines.concat().as_bytes().chunks(40) {
            file.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    while !writer.is_finished() {
        check(&site.agent, "written slowly");
        thread::sleep(Duration::from_millis(20));
    }
    writer.join().unwrap();
    // A writer that stalls in the middle of a word.
    let mut file = File::create(site.manifests.join("web-v6.json")).unwrap();
    file.write_all(b"{\"apiVersion\": \"disc").unwrap();
    for _ in 0..15 {
        thread::sleep(Duration::from_millis(200));
        check(&site.agent, "stalled");
    }
    // It ends without the rest.
    drop(file);
    let told = |status: &Value| problems(status, "web-v6.json").len() == 1;
    site.agent.wait_for("told of half a file", told).unwrap();
    check(&site.agent, "told of it");
}

#[test]
fn scaling_shows_at_once() {
    const LIMIT: Duration = Duration::from_secs(2);

    let mut site = Site::new(&[]);
    let shell = site.lab.pod("shell").unwrap();
    let to = cluster_ip(Family::V4, 10);
    write(
        &site.manifests,
        "web-slices",
        &slices(&site.lab, "web", &["c"]),
    );
    let is_alone = |status: &Value| backends(status, "web") == Some(4);
    site.agent.wait_for("told of c", is_alone).unwrap();
    // The first of the pods was never there before.
    let scale = |pods: &[&str]| {
        let slices = slices(&site.lab, "web", pods);
        let written = Instant::now();
        write(&site.manifests, "web-slices", &slices);
        let exchange = Exchange::new(Protocol::Tcp, to).timeout(PATIENCE);
        while exchange.run_in(&shell.netns).unwrap().server != pods[0] {
            assert!(written.elapsed() < PATIENCE, "{pods:?} not seen");
        }
        written.elapsed()
    };
    let mut times: Vec<_> = BACKENDS
        .iter()
        .cycle()
        .take(5)
        .map(|pod| scale(&[pod]))
        .collect();
    times.sort();
    println!("{times:?}");
    // The machine may be busy once or twice.
    assert!(times[2] < LIMIT, "{times:?}");

    let burst = (0..1000).map(|number| BACKENDS[number % 2]);
    for pod in burst {
        write(
            &site.manifests,
            "web-slices",
            &slices(&site.lab, "web", &[pod]),
        );
    }
    let time = scale(&["c"]);
    println!("after a burst: {time:?}");
}

/// What both agents have allocated, once they know exactly these Services.
fn allocated(agents: &mut [AgentProcess; 2], names: &[&str]) -> Allocations {
    let names: BTreeSet<_> = names.iter().copied().collect();
    let [first, second] = agents.each_mut().map(|agent| {
        let knows = |status: &Value| {
            let all = allocations(status);
            status["synced"] == true && all.keys().map(String::as_str).eq(names.iter().copied())
        };
        let what = format!("told of {names:?}");
        agent.wait_for(&what, knows).unwrap();
        allocations(&agent.status().unwrap())
    });
    assert_eq!(first, second);
    first
}

#[test]
fn allocations_are_the_same_everywhere_and_stay() {
    let lab = site::lab(&LabOptions::default());
    let manifests = lab.folder().join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    let put = |name: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "type": if name.len() == 1 { "NodePort" } else { "ClusterIP" },
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}],
            },
        });
        write(&manifests, name, &[object]);
    };
    let names = ["f", "f-inner", "k", "k-inner", "u", "u-inner"];
    for name in names {
        put(name);
    }
    let folder = manifests.display().to_string();
    let mut agents = [1, 2].map(|node| {
        let arguments = ["--manifests", &folder];
        lab.start_agent(node, &arguments).unwrap()
    });
    let first = allocated(&mut agents, &names);
    let values: Vec<_> = first.values().flatten().collect();
    let unique: BTreeSet<_> = values.iter().collect();
    // Two addresses each, and two ports of every second.
    assert_eq!((values.len(), unique.len()), (18, 18), "{first:?}");

    for name in ["k", "k-inner"] {
        fs::remove_file(manifests.join(format!("{name}.json"))).unwrap();
    }
    for name in ["a", "g-inner", "z"] {
        put(name);
    }
    let names = ["a", "f", "f-inner", "g-inner", "u", "u-inner", "z"];
    let second = allocated(&mut agents, &names);
    for (name, values) in &first {
        if let Some(now) = second.get(name) {
            assert_eq!(now, values, "{name}");
        }
    }
    agents[0].kill().unwrap();
    agents[1].stop().unwrap();
    for agent in &mut agents {
        agent.start().unwrap();
    }
    assert_eq!(allocated(&mut agents, &names), second);
}
