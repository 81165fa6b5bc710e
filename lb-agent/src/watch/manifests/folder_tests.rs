use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::fs::symlink,
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::model::{ObjectName, Service, Slice};

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

/// A source that is told nothing but what its test says, and whether all is
/// told by now.
struct Whole {
    dir: TempDir,
    changes: Receiver<Vec<Change>>,
}

impl Whole {
    /// After the first scan, which must not be enough.
    async fn new(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (sender, mut changes) = channel(16);
        tokio::spawn(folder(options(dir.path()), sender));
        let first = changes.recv().await.unwrap();
        assert_eq!(first.last(), Some(&Change::Synced), "{first:?}");
        Self { dir, changes }
    }

    async fn not_for(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(batch) = tokio::time::timeout_at(end, self.changes.recv()).await {
            let batch = batch.expect("a running source");
            assert!(!batch.contains(&Change::Whole), "{batch:?}");
        }
    }

    /// How many Services are told of until it is whole.
    async fn wait(&mut self) -> usize {
        let mut services = 0;
        loop {
            let batch = tokio::time::timeout(Duration::from_secs(5), self.changes.recv());
            let batch = batch.await.expect("to be whole").unwrap();
            let added = |change: &&Change| matches!(change, Change::Service(_, Some(_)));
            services += batch.iter().filter(added).count();
            if let Some(place) = batch.iter().position(|change| *change == Change::Whole) {
                assert_eq!(place, batch.len() - 1, "it comes last");
                return services;
            }
        }
    }
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
async fn whole_only_when_every_document_was_read() {
    let bad_port = service("bad").replace("port: 80", "port: 70000");
    for bad in [&bad_port, "", " \n\n"] {
        let mut source = Whole::new(|dir| {
            write_old(&dir.join("good.yaml"), &service("good"));
            write_old(&dir.join("bad.yaml"), bad);
        })
        .await;
        source.not_for(Duration::from_millis(1500)).await;
        fs::write(source.dir.path().join("bad.yaml"), service("bad")).unwrap();
        assert_eq!(source.wait().await, 1, "{bad:?}");
    }
}

#[tokio::test]
async fn whole_at_once_for_files_that_are_old() {
    let dir = tempfile::tempdir().unwrap();
    write_old(&dir.path().join("good.yaml"), &service("good"));
    let (sender, mut changes) = channel(16);
    tokio::spawn(folder(options(dir.path()), sender));
    let first = changes.recv().await.unwrap();
    assert_eq!(
        first[first.len() - 2..],
        [Change::Synced, Change::Whole],
        "{first:?}"
    );
}

#[tokio::test]
async fn whole_only_when_nobody_writes() {
    use std::io::Write;
    let two = documents(&[service("a"), service("b")]);
    let (first, second) = two.split_at(service("a").len());

    // It was written right before, and nobody will tell that it is done.
    let mut source = Whole::new(|dir| fs::write(dir.join("web.yaml"), &two).unwrap()).await;
    source.not_for(Duration::from_millis(500)).await;
    assert_eq!(source.wait().await, 0);

    // Somebody had begun to write it.
    let mut file = None;
    let mut source = Whole::new(|dir| {
        let file = file.insert(fs::File::create(dir.join("web.yaml")).unwrap());
        file.write_all(first.as_bytes()).unwrap();
    })
    .await;
    let mut file = file.unwrap();
    source.not_for(Duration::from_millis(300)).await;
    file.write_all(second.as_bytes()).unwrap();
    source.not_for(Duration::from_millis(2500)).await;
    drop(file);
    assert_eq!(source.wait().await, 1);

    // One that is new is not told of yet.
    let mut source = Whole::new(|dir| write_old(&dir.join("a.yaml"), "")).await;
    let path = source.dir.path().join("b.yaml");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(service("b").as_bytes()).unwrap();
    fs::write(source.dir.path().join("a.yaml"), service("a")).unwrap();
    source.not_for(Duration::from_millis(1500)).await;
    drop(file);
    assert_eq!(source.wait().await, 1);
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

#[tokio::test]
async fn a_panic_is_an_error() {
    let error = blocking(|| panic!("out of cheese")).await.map(|(): ()| ());
    let line = error.unwrap_err().to_string();
    assert!(
        line.starts_with("looking at the manifests failed: ") && line.contains("out of cheese"),
        "{line}"
    );
}

#[tokio::test]
async fn problems_of_one_file_are_limited() {
    let bad: Vec<String> = (0..50)
        .map(|index| service(&format!("s{index}")).replace("80", "70000"))
        .collect();
    let files = [
        ("many.yaml", documents(&bad)),
        ("twenty.yaml", documents(&bad[..20])),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let folder = Fixture::new(&files).await;
    let of = |file: &str| {
        let lines = folder.problems.iter();
        lines.filter(|line| line.starts_with(file)).count()
    };
    assert_eq!((of("many.yaml"), of("twenty.yaml")), (21, 20));
    assert_eq!(
        folder.problems[0],
        "many.yaml: found 20 problems, which are listed, and 30 more, accepted: documents without any"
    );
}
