use std::{collections::BTreeMap, os::unix::fs::symlink, time::Duration};

use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::model::{ObjectName, Service, Slice};

/// A folder that is followed, and what its source has said so far.
struct Fixture {
    dir: TempDir,
    changes: Receiver<Change>,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<ObjectName, Slice>,
    node: Option<Node>,
    problems: Vec<String>,
    removals: usize,
}

impl Fixture {
    /// After the first scan.
    async fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let (sender, changes) = channel(16);
        tokio::spawn(folder(options(dir.path()), sender));
        let mut fixture = Self {
            dir,
            changes,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            node: None,
            problems: Vec::new(),
            removals: 0,
        };
        while fixture.receive().await != Change::Synced {}
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The next change that says something of an object.
    async fn next(&mut self) -> Change {
        loop {
            let change = self.changes.recv().await.expect("a running source");
            if change != Change::Whole {
                return change;
            }
        }
    }

    async fn receive(&mut self) -> Change {
        let Ok(change) = tokio::time::timeout(Duration::from_secs(20), self.next()).await else {
            panic!("nothing came: {:?} {:?}", self.names(), self.problems);
        };
        match change.clone() {
            Change::Service(name, Some(service)) => {
                self.services.insert(name.to_string(), service);
            }
            Change::Service(name, None) => {
                self.services
                    .remove(&name.to_string())
                    .expect("a known Service");
                self.removals += 1;
            }
            Change::Slice(name, Some(slice)) => {
                self.slices.insert(name, slice);
            }
            Change::Slice(name, None) => {
                self.slices.remove(&name).expect("a known slice");
                self.removals += 1;
            }
            Change::Node(node) => self.node = Some(node),
            Change::Problems(problems) => {
                let prefix = format!("{}/", self.dir.path().display());
                let lines = problems
                    .iter()
                    .map(|line| line.to_string().replace(&prefix, ""));
                self.problems = lines.collect();
            }
            Change::Synced | Change::Whole => {}
        }
        change
    }

    async fn until(&mut self, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            self.receive().await;
        }
    }

    async fn nothing_for(&mut self, time: Duration) {
        let change = tokio::time::timeout(time, self.next()).await;
        assert!(change.is_err(), "{change:?}");
    }

    fn names(&self) -> Vec<&str> {
        self.services.keys().map(String::as_str).collect()
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
        endpoints
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }
}

fn options(dir: &Path) -> FolderOptions {
    FolderOptions {
        dirs: vec![dir.to_owned()],
        allocations: None,
        service_cidrs: Vec::new(),
        node: Node {
            name: "n1".to_owned(),
            internal_ips: Vec::new(),
            zone: Some("z1".to_owned()),
            pod_cidrs: Vec::new(),
        },
    }
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  ports:\n  - port: 80\n"
    )
}

fn pod(name: &str, app: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nstatus:\n  podIP: {ip}\n  conditions: [{{type: Ready, status: \"True\"}}]\n"
    )
}

fn documents(documents: &[String]) -> String {
    documents.join("---\n")
}

#[tokio::test]
async fn edits_and_removals() {
    let two = documents(&[service("web"), pod("web-1", "web", "10.1.0.1")]);
    let mut folder = Fixture::new(&[
        ("web.yaml", &two),
        (".hidden.yaml", "x"),
        ("notes.txt", "x"),
    ])
    .await;
    assert_eq!(folder.names(), ["default/web"]);
    assert_eq!(folder.endpoints(), ["10.1.0.1"]);
    assert_eq!(folder.problems, Vec::<String>::new());
    assert_eq!(folder.node, Some(options(Path::new("")).node));
    let address = folder.services["default/web"].cluster_ips.clone();

    folder.write(
        "web.yaml",
        &documents(&[two, pod("web-2", "web", "10.1.0.2")]),
    );
    let change = folder.receive().await;
    assert!(matches!(change, Change::Slice(_, Some(_))), "{change:?}");
    assert_eq!(folder.endpoints(), ["10.1.0.1", "10.1.0.2"]);
    folder.nothing_for(Duration::from_millis(200)).await;

    fs::create_dir(folder.path("sub")).unwrap();
    folder.write("sub/db.json", r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {"ports": [{"port": 1}]}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}}]}"#);
    folder
        .until(|folder| folder.names() == ["default/db", "default/web"])
        .await;
    assert_eq!(
        folder.node.as_ref().map(|node| node.pod_cidrs.len()),
        Some(1)
    );

    fs::remove_file(folder.path("web.yaml")).unwrap();
    folder
        .until(|folder| folder.names() == ["default/db"] && folder.slices.is_empty())
        .await;
    folder.write("web.yaml", &service("web"));
    folder.until(|folder| folder.services.len() == 2).await;
    assert_eq!(folder.services["default/web"].cluster_ips, address);
    fs::remove_dir_all(folder.path("sub")).unwrap();
    folder
        .until(|folder| folder.names() == ["default/web"])
        .await;
}

#[tokio::test]
async fn replaced_files() {
    let mut folder = Fixture::new(&[("web.yaml", &service("a"))]).await;
    folder.write(".web.yaml.swp", &service("b"));
    fs::rename(folder.path(".web.yaml.swp"), folder.path("web.yaml")).unwrap();
    folder.until(|folder| folder.names() == ["default/b"]).await;

    fs::remove_file(folder.path("web.yaml")).unwrap();
    folder.until(|folder| folder.names().is_empty()).await;
    for (version, name) in [("..1", "c"), ("..2", "d")] {
        fs::create_dir(folder.path(version)).unwrap();
        folder.write(&format!("{version}/web.yaml"), &service(name));
        symlink(version, folder.path("..data_tmp")).unwrap();
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
        if version == "..1" {
            symlink("..data/web.yaml", folder.path("web.yaml")).unwrap();
        }
        folder
            .until(|folder| folder.names() == [format!("default/{name}")])
            .await;
    }
}

#[tokio::test]
async fn a_half_written_file_changes_nothing() {
    use std::io::Write;
    let whole = documents(&[service("a"), service("b"), pod("a-1", "a", "10.1.0.1")]);
    let mut folder = Fixture::new(&[("web.yaml", &whole)]).await;
    let before = (folder.services.clone(), folder.slices.clone());

    // A slow writer, who stops where what is there is valid.
    let mut file = fs::File::create(folder.path("web.yaml")).unwrap();
    folder.nothing_for(Duration::from_millis(300)).await;
    file.write_all(service("a").as_bytes()).unwrap();
    folder.nothing_for(Duration::from_millis(300)).await;
    file.write_all(&whole.as_bytes()[service("a").len()..])
        .unwrap();
    drop(file);
    folder.nothing_for(Duration::from_millis(300)).await;

    // One who died.
    for cut in [0, 1, 17, 30, 60, 95, whole.len() - 30] {
        folder.write("web.yaml", &whole[..cut]);
        folder.until(|folder| folder.problems.len() == 1).await;
        assert_eq!(
            (&folder.services, &folder.slices),
            (&before.0, &before.1),
            "{:?}",
            &whole[..cut]
        );
        folder.write("web.yaml", &whole);
        folder.until(|folder| folder.problems.is_empty()).await;
    }
    assert_eq!(folder.removals, 0);
}

#[tokio::test]
async fn garbage_is_one_line_each() {
    let mut folder = Fixture::new(&[("good.yaml", &service("good"))]).await;
    let before = folder.services.clone();
    let bad_type = service("kiada").replace("spec:\n", "spec:\n  type: clusterIP\n");
    for (name, content, expect) in [
        (
            "a.yaml",
            &b"apiVersion: v1\nkind: Service\nmetadata: {name: [\n"[..],
            "a.yaml, document 1: line 3: found unclosed bracket '[', accepted: a document that is whole",
        ),
        (
            "b.yaml",
            bad_type.as_bytes(),
            "b.yaml, document 1: Service default/kiada: spec.type: found \"clusterIP\", accepted: ClusterIP, NodePort, LoadBalancer or ExternalName",
        ),
        (
            "c.yaml",
            service("c").replace("80", "70000").as_bytes(),
            "c.yaml, document 1: Service default/c: spec.ports[0].port: found 70000, accepted: a port from 1 to 65535",
        ),
        (
            "d.yaml",
            service("My_Service").as_bytes(),
            "d.yaml, document 1: Service: metadata.name: found \"My_Service\", accepted: a DNS label: at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        ),
        (
            "e.yaml",
            &vec![0; 10_000_000],
            "e.yaml: found a file of 10000000 bytes, accepted: at most 8388608 bytes",
        ),
        (
            "f.yaml",
            &vec![0; 1_000_000],
            "f.yaml: found a zero byte at offset 0, accepted: UTF-8 text, YAML or JSON",
        ),
        ("h.yaml", service("good").as_bytes(), ""),
    ] {
        fs::write(folder.path(name), content).unwrap();
        folder.until(|folder| folder.problems.len() == 1).await;
        let expect = match expect {
            "" => {
                "h.yaml, document 1: Service default/good: metadata.name: found the same object as in good.yaml, document 1, accepted: one document for each object"
            }
            line => line,
        };
        assert_eq!(folder.problems, [expect]);
        assert_eq!(folder.services, before);
        fs::remove_file(folder.path(name)).unwrap();
        folder.until(|folder| folder.problems.is_empty()).await;
    }
    let mixed = documents(&[service("x"), bad_type, service("z")]);
    folder.write("mixed.yaml", &mixed);
    folder
        .until(|folder| folder.services.len() == 3 && folder.problems.len() == 1)
        .await;
    assert_eq!(folder.names(), ["default/good", "default/x", "default/z"]);
}

#[tokio::test]
async fn an_object_that_turns_invalid_stays_as_it_was() {
    let mut folder = Fixture::new(&[("web.yaml", &documents(&[service("a"), service("b")]))]).await;
    let before = folder.services["default/a"].clone();
    let broken = service("a").replace("80", "70000");
    folder.write(
        "web.yaml",
        &documents(&[broken, service("b").replace("80", "81")]),
    );
    folder.until(|folder| folder.problems.len() == 1).await;
    assert_eq!(folder.services["default/a"], before);
    assert_eq!(folder.services["default/b"].ports[0].port.get(), 81);
}

#[tokio::test]
async fn a_folder_that_vanishes_removes_nothing() {
    let mut folder = Fixture::new(&[("web.yaml", &service("a"))]).await;
    let moved = tempfile::tempdir().unwrap();
    let (from, to) = (folder.dir.path().to_owned(), moved.path().join("moved"));
    fs::rename(&from, &to).unwrap();
    folder.until(|folder| folder.problems.len() == 1).await;
    assert!(
        folder.problems[0].ends_with(
            ": found No such file or directory (os error 2), accepted: a readable folder"
        ),
        "{:?}",
        folder.problems
    );
    fs::rename(&to, &from).unwrap();
    folder.until(|folder| folder.problems.is_empty()).await;
    assert_eq!((folder.names(), folder.removals), (vec!["default/a"], 0));
    folder.write("web.yaml", &service("b"));
    folder.until(|folder| folder.names() == ["default/b"]).await;
}

#[tokio::test]
async fn errors_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), service("a")).unwrap();
    let absent = dir.path().join("absent");
    let corrupt = dir.path().join("corrupt");
    fs::write(&corrupt, "{").unwrap();
    let base = options(dir.path());
    let two = vec![
        "10.0.0.0/24".parse().unwrap(),
        "10.1.0.0/24".parse().unwrap(),
    ];
    for (options, expect) in [
        (
            FolderOptions {
                dirs: Vec::new(),
                ..base.clone()
            },
            "no folder of manifests is named".to_owned(),
        ),
        (
            FolderOptions {
                dirs: vec![absent.clone()],
                ..base.clone()
            },
            format!(
                "cannot read the manifests in {}: No such file or directory (os error 2)",
                absent.display()
            ),
        ),
        (
            FolderOptions {
                service_cidrs: two,
                ..base.clone()
            },
            "there are two service CIDRs of one IP family; one of each is accepted".to_owned(),
        ),
        (
            FolderOptions {
                allocations: Some(corrupt.clone()),
                ..base.clone()
            },
            format!(
                "the allocations in {} are corrupt (EOF while parsing an object at line 1 column 1); restore the file, or remove it to allocate anew",
                corrupt.display()
            ),
        ),
        (
            FolderOptions {
                allocations: Some(absent.join("file")),
                ..base
            },
            format!(
                "cannot write the allocations to {}: No such file or directory (os error 2); name another file with --allocations",
                absent.join("file").display()
            ),
        ),
    ] {
        let (sender, _receiver) = channel(16);
        assert_eq!(
            folder(options, sender).await.unwrap_err().to_string(),
            expect
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn agents_on_one_folder_agree() {
    let dir = tempfile::tempdir().unwrap();
    let text: Vec<String> = (0..100)
        .map(|index| service(&format!("s{index}")).replace("spec:\n", "spec:\n  type: NodePort\n"))
        .collect();
    fs::write(dir.path().join("all.yaml"), documents(&text)).unwrap();
    let agent = async |dir: &Path| {
        let (sender, mut changes) = channel(16);
        tokio::spawn(folder(options(dir), sender));
        let mut services = BTreeMap::new();
        loop {
            match changes.recv().await.unwrap() {
                Change::Service(name, Some(service)) => services.insert(name, service),
                Change::Synced => return services,
                _ => None,
            };
        }
    };
    let (a, b, c) = tokio::join!(agent(dir.path()), agent(dir.path()), agent(dir.path()));
    assert_eq!((a.len(), &a), (100, &b));
    assert_eq!(a, c);
    let addresses: BTreeSet<_> = a
        .values()
        .flat_map(|service| &service.cluster_ips)
        .collect();
    let ports: BTreeSet<_> = a
        .values()
        .flat_map(|service| &service.ports)
        .map(|port| port.node_port)
        .collect();
    assert_eq!((addresses.len(), ports.len()), (100, 100));
}

#[tokio::test]
async fn whole_only_when_every_document_was_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.yaml"), service("good")).unwrap();
    let bad = dir.path().join("bad.yaml");
    fs::write(&bad, service("bad").replace("port: 80", "port: 70000")).unwrap();
    let (sender, mut changes) = channel(16);
    tokio::spawn(folder(options(dir.path()), sender));
    let mut seen = Vec::new();
    while seen.last() != Some(&Change::Synced) {
        seen.push(changes.recv().await.unwrap());
    }
    assert!(!seen.contains(&Change::Whole));
    assert!(changes.try_recv().is_err(), "nothing hides, but something does");

    fs::write(&bad, service("bad")).unwrap();
    let mut services = 0;
    loop {
        match changes.recv().await.unwrap() {
            Change::Service(_, Some(_)) => services += 1,
            Change::Whole => break,
            _ => {}
        }
    }
    assert_eq!(services, 1, "the object comes first");
}
