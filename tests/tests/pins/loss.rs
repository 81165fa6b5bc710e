//! Without a source of Services, nothing is taken away.

use std::{fs, thread, time::Duration};

use lb_tests::{
    api::{Api, Resource},
    lab::LabOptions,
};
use serde_json::{Value, json};

use super::{
    answers::check_works,
    dump::dump,
    kernel::links,
    site::{self, BACKENDS, NODE_PORT, Site, service, slices},
};

#[test]
fn a_lost_server_takes_nothing_away() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lab = site::lab(&LabOptions::default());
    let start = || runtime.block_on(Api::start());
    let mut api = lab.node(1).netns.run(start).unwrap();
    api.put(Resource::Nodes, json!({"metadata": {"name": "node1"}}));
    api.put(Resource::Services, service("web", 10, NODE_PORT));
    for slice in slices(&lab, "web", &BACKENDS) {
        api.put(Resource::EndpointSlices, slice);
    }
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let mut agent = lab.start_agent(1, &["--kubeconfig", &kubeconfig]).unwrap();
    agent.wait_ready().unwrap();
    let pins = lab.pins(1);
    let (before, links_before) = (dump(&pins), links(&pins));
    let check = |what: &str| {
        check_works(&lab, what);
        assert_eq!(dump(&pins), before, "{what}");
    };

    runtime.block_on(api.stop());
    check("the server is gone");
    agent.kill().unwrap();
    agent.start().unwrap();
    agent
        .wait_for("up", |status| status["synced"] == false)
        .unwrap();
    thread::sleep(Duration::from_secs(2));
    check("the agent has never seen a server");
    assert_eq!(agent.status().unwrap()["synced"], false);
    assert_eq!(links(&pins), links_before);

    lab.node(1)
        .netns
        .run(|| runtime.block_on(api.resume()))
        .unwrap();
    agent.wait_ready().unwrap();
    check("the server is back");
}

#[test]
fn a_lost_folder_takes_nothing_away() {
    let mut site = Site::new(&[]);
    let pins = site.lab.pins(1);
    let before = dump(&pins);
    let check = |what: &str| {
        check_works(&site.lab, what);
        assert_eq!(dump(&pins), before, "{what}");
    };
    let elsewhere = site.manifests.with_extension("moved");
    fs::rename(&site.manifests, &elsewhere).unwrap();
    let told = |status: &Value| status["problems"] != json!([]);
    site.agent.wait_for("told of it", told).unwrap();
    check("the folder is gone");

    site.agent.kill().unwrap();
    site.agent.start().unwrap();
    let error = site.agent.wait_ready().unwrap_err().to_string();
    let folder = site.manifests.display().to_string();
    assert!(
        error.contains(&format!("cannot read the manifests in {folder}")),
        "{error}"
    );
    check("the agent has never seen a folder");

    // Such as one that is yet to be mounted.
    fs::create_dir(&site.manifests).unwrap();
    site.agent.kill().unwrap();
    site.agent.start().unwrap();
    site.agent.wait_ready().unwrap();
    check("the agent has never seen a manifest");
    fs::remove_dir_all(&site.manifests).unwrap();
    fs::rename(&elsewhere, &site.manifests).unwrap();
    let has_it_all = |status: &Value| status["services"].as_array().unwrap().len() == 1;
    site.agent.wait_for("told of web", has_it_all).unwrap();
    check("the folder is back");
}
