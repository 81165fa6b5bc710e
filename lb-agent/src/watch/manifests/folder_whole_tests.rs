//! When all of a folder has been told.

use super::*;

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
