//! What cannot be read, and how it is said.

use super::*;

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
