//! What people put into a folder by mistake.

use std::{fs, thread, time::Duration};

use lb_tests::lab::{Family, Load, LoadOptions};
use serde_json::{Value, json};

use super::{
    PATIENCE,
    site::{NODE_PORT, Site, cluster_ip, service, write},
    status::{problems, services},
};

/// File, content, and all of what its one line says.
const GARBAGE: [(&str, &str, &[&str]); 5] = [
    (
        "truncated.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: half}\nspec:\n  ports: [{port: 80",
        &["document 1", "line "],
    ),
    (
        "type.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: small-c}\n\
         spec: {type: clusterIP, ports: [{port: 80}]}\n",
        &[
            "Service default/small-c: spec.type: found \"clusterIP\"",
            "accepted: ClusterIP, NodePort, LoadBalancer",
        ],
    ),
    (
        "port.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: high}\nspec: {ports: [{port: 70000}]}\n",
        &[
            "Service default/high: spec.ports[0].port: found 70000",
            "65535",
        ],
    ),
    (
        "name.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: Not_A_Label}\nspec: {ports: [{port: 80}]}\n",
        &["metadata.name: found \"Not_A_Label\"", "accepted: "],
    ),
    // Cut where a whole file of the cluster was before.
    (
        "web.json",
        "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"na",
        &["document 1", "line 1"],
    ),
];

/// Exactly one line in the status and one in the log.
fn check_line(site: &Site, status: &Value, file: &str, expect: &[&str]) {
    let told = problems(status, file);
    let log = site.agent.log();
    let logged: Vec<_> = log.lines().filter(|line| line.contains(file)).collect();
    assert_eq!((told.len(), logged.len()), (1, 1), "{told:?} {logged:?}");
    assert!(logged[0].ends_with(&told[0]), "{logged:?} {told:?}");
    for part in expect {
        assert!(told[0].contains(part), "{told:?} lacks {part:?}");
    }
    assert!(told[0].len() < 500, "{told:?}");
}

#[test]
fn garbage_yields_one_line_each_and_changes_nothing() {
    let mut site = Site::new(&["--xdp", "native"]);
    let before = services(&site.agent.status().unwrap());
    let shell = site.lab.pod("shell").unwrap();
    let options = || LoadOptions {
        kept: 20,
        fresh: 2,
        limit: PATIENCE,
        ..LoadOptions::default()
    };
    let node_port = site.lab.node(1).socket(Family::V4, NODE_PORT);
    let loads = [
        (&shell.netns, cluster_ip(Family::V6, 10)),
        (&site.lab.client().netns, node_port),
    ]
    .map(|(netns, to)| Load::start(netns, to, options()).unwrap());

    let zeros = vec![0; 10 << 20];
    fs::write(site.manifests.join("zeros.yaml"), &zeros).unwrap();
    for (file, text, _) in GARBAGE {
        fs::write(site.manifests.join(file), text).unwrap();
    }
    let files = || {
        GARBAGE
            .map(|(file, ..)| file)
            .into_iter()
            .chain(["zeros.yaml"])
    };
    let all = |status: &Value| files().all(|file| !problems(status, file).is_empty());
    site.agent.wait_for("told of all garbage", all).unwrap();
    // Time for a second line, and for damage.
    thread::sleep(Duration::from_secs(1));
    let status = site.agent.status().unwrap();
    for (file, _, expect) in GARBAGE {
        check_line(&site, &status, file, expect);
    }
    check_line(
        &site,
        &status,
        "zeros.yaml",
        &["10485760 bytes", "at most "],
    );
    assert_eq!(services(&status), before);

    write(&site.manifests, "web", &[service("web", 10, NODE_PORT)]);
    for file in files().filter(|file| *file != "web.json") {
        fs::remove_file(site.manifests.join(file)).unwrap();
    }
    let none = |status: &Value| status["problems"] == json!([]);
    site.agent.wait_for("free of problems", none).unwrap();
    assert_eq!(services(&site.agent.status().unwrap()), before);
    for load in loads {
        let goal = load.report().exchanges + 100;
        let goes_on = load.wait_for(PATIENCE, |report| report.exchanges > goal);
        let report = load.stop();
        assert_eq!(report.failures, [""; 0]);
        assert!(goes_on, "{report:?}");
    }
}
