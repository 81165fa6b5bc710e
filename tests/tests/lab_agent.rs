//! How the lab starts, watches and ends agents, shown with shell scripts.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{Lab, LabOptions};

fn script(lab: &Lab, body: &str) -> PathBuf {
    let path = lab.folder().join("agent.sh");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("the lab's folder is writable");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    path
}

fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn await_log(read: impl Fn() -> String, lines: usize) -> String {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let log = read();
        if log.lines().count() >= lines || Instant::now() > deadline {
            return log;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_agent_runs_in_its_node_with_its_own_pins() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let path = script(&lab, "echo \"$@\"\nexec sleep 1000");
    let mut agent = lab.start_agent_from(&path, 2, &["--xdp", "off"]).unwrap();
    let id = lab.id();
    let expect = format!(
        "run --node-name node2 --bpffs /sys/fs/bpf/{id}/node2 --socket {} --xdp off\n",
        lab.folder().join("node2.sock").display(),
    );
    assert_eq!(await_log(|| agent.log(), 1), expect);
    let pid = agent.pid().unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let namespace = inode(PathBuf::from(format!("/proc/{pid}/ns/net")));
    assert_eq!(namespace, inode(lab.node(2).netns.path()));

    agent.kill().unwrap();
    assert!(!is_running(pid));
    assert!(agent.kill().is_err());
    agent.start().unwrap();
    assert_eq!(
        await_log(|| agent.log(), 2),
        expect.repeat(2),
        "the log goes on"
    );
    let pid = agent.pid().unwrap();
    drop(agent);
    assert!(!is_running(pid));
}

#[test]
fn an_agent_outlives_the_thread_that_started_it() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let path = script(&lab, "exec sleep 1000");
    let agent = thread::scope(|scope| {
        let starter = scope.spawn(|| lab.start_agent_from(&path, 1, &[]).unwrap());
        starter.join().unwrap()
    });
    thread::sleep(Duration::from_millis(100));
    assert!(is_running(agent.pid().unwrap()));
}

#[test]
fn an_agent_that_fails_is_quoted() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let table = [
        ("echo no such map >&2; exit 3", "exit code 3\nno such map"),
        ("echo killed; kill -9 $$", "signal 9\nkilled"),
    ];
    for (node, (body, expect)) in (1..).zip(table) {
        let path = script(&lab, body);
        let mut agent = lab.start_agent_from(&path, node, &[]).unwrap();
        let error = agent.wait_ready().unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
    let path = script(
        &lab,
        "trap 'exit 4' TERM\necho up\nwhile :; do sleep 0.01; done",
    );
    let mut agent = lab.start_agent_from(&path, 1, &[]).unwrap();
    await_log(|| agent.log(), 2);
    let error = agent.stop().unwrap_err().to_string();
    assert!(error.contains("exit code 4"), "{error}");
}
