use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::fs::symlink,
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::model::{ObjectName, Service, Slice};

#[path = "folder_problem_tests.rs"]
mod problems;
#[path = "folder_whole_tests.rs"]
mod whole;

/// A folder that is followed, and what its source has said so far.
struct Fixture {
    dir: TempDir,
    changes: Receiver<Vec<Change>>,
    /// The rest of the last vector.
    rest: VecDeque<Change>,
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
            rest: VecDeque::new(),
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
            match self.rest.pop_front() {
                Some(Change::Whole) => {}
                Some(change) => return change,
                None => self.rest = self.changes.recv().await.expect("a running source").into(),
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

    /// The next vector of changes that says something of an object, whole.
    async fn batch(&mut self) -> Vec<Change> {
        self.rest.retain(|change| *change != Change::Whole);
        assert_eq!(self.rest, []);
        let mut batch = vec![self.receive().await];
        while !matches!(self.rest.front(), None | Some(Change::Whole)) {
            batch.push(self.receive().await);
        }
        batch
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
            eligible: true,
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

/// Makes it older than any that is still being written.
fn age(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    file.set_modified(old).unwrap();
}

fn write_old(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    age(path);
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
        for change in changes.recv().await.unwrap() {
            if let Change::Service(name, Some(service)) = change {
                services.insert(name, service);
            }
        }
        services
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
async fn one_edit_is_one_vector() {
    let slice = |name: &str, ip: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [{ip}]}}]\n"
        )
    };
    let web = service("web").replace("  selector: {app: web}\n", "");
    let text = |slices: &[String]| documents(&[std::slice::from_ref(&web), slices].concat());
    let before = text(&[slice("web-1", "10.1.0.1"), slice("web-2", "10.1.0.2")]);
    let mut folder = Fixture::new(&[("web.yaml", &before)]).await;
    assert_eq!(folder.endpoints(), ["10.1.0.1", "10.1.0.2"]);
    folder.write("web.yaml", &text(&[slice("web-3", "10.1.0.3")]));
    let batch = folder.batch().await;
    assert_eq!(batch.len(), 3, "{batch:?}");
    assert_eq!(folder.endpoints(), ["10.1.0.3"]);
}

#[tokio::test]
async fn a_writer_who_pauses_is_waited_for() {
    use std::io::Write;
    let whole = documents(&[service("a"), service("b")]);
    let mut folder = Fixture::new(&[("web.yaml", &whole)]).await;
    let mut file = fs::File::create(folder.path("web.yaml")).unwrap();
    file.write_all(service("a").as_bytes()).unwrap();
    folder.nothing_for(Duration::from_secs(3)).await;
    file.write_all(&whole.as_bytes()[service("a").len()..])
        .unwrap();
    drop(file);
    folder.nothing_for(Duration::from_millis(500)).await;

    // A link has no writer.
    write_old(&folder.path(".c"), &service("c"));
    fs::hard_link(folder.path(".c"), folder.path("c.yaml")).unwrap();
    let added = tokio::time::timeout(Duration::from_secs(5), folder.receive());
    added.await.expect("the Service of the link");
    assert_eq!(folder.names(), ["default/a", "default/b", "default/c"]);
}
