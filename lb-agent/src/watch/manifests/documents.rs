//! The documents of a file, each on its own: a broken one spoils no other.

use std::path::Path;

use serde_json::Value;

/// A document, or what is wrong with it.
pub(super) struct Document {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) content: Result<Value, Broken>,
}

pub(super) struct Broken {
    /// Such as `line 3`.
    pub(super) place: String,
    pub(super) message: String,
}

/// Documents without content (comments at most) are counted, not returned.
pub(super) fn documents(path: &Path, text: &str) -> Vec<Document> {
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        json(text)
    } else {
        yaml(text)
    }
}

fn json(text: &str) -> Vec<Document> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut documents = Vec::new();
    for (index, value) in values.enumerate() {
        let content = value.map_err(|error| Broken {
            place: format!("line {}", error.line()),
            message: without_place(&error.to_string()),
        });
        documents.push(Document {
            number: index + 1,
            content,
        });
    }
    documents
}

fn yaml(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for (index, chunk) in chunks(text).into_iter().enumerate() {
        let content = match serde_saphyr::from_str::<Value>(&chunk.text) {
            Ok(Value::Null) => continue,
            Ok(value) => Ok(value),
            Err(error) => Err(broken(&error, chunk.first_line)),
        };
        documents.push(Document {
            number: index + 1,
            content,
        });
    }
    documents
}

fn broken(error: &serde_saphyr::Error, first_line: u64) -> Broken {
    let line = error.location().map_or(1, |location| location.line());
    let message = error.without_snippet().to_string();
    Broken {
        place: format!("line {}", first_line + line.max(1) - 1),
        message: without_place(&message),
    }
}

/// The place counts from the beginning of the document, not of the file.
fn without_place(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

struct Chunk {
    /// Line of the file, from 1, that the text begins at.
    first_line: u64,
    text: String,
}

/// Splits where YAML has its marker, `---` at the start of a line, which no
/// scalar can contain.
fn chunks(text: &str) -> Vec<Chunk> {
    let mut chunks = vec![Chunk {
        first_line: 1,
        text: String::new(),
    }];
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let content = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_whitespace()));
        match (content, chunks.last_mut()) {
            (None, Some(chunk)) => chunk.text.push_str(line),
            (rest, _) => chunks.push(Chunk {
                first_line: number,
                text: rest.unwrap_or(line).to_owned(),
            }),
        }
    }
    if is_blank(&chunks[0].text) {
        chunks.remove(0);
    }
    chunks
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expect: &[(usize, &str)]) {
        let found: Vec<(usize, String)> = documents(Path::new(path), text)
            .into_iter()
            .map(|document| {
                let content = match document.content {
                    Ok(value) => value.to_string(),
                    Err(broken) => broken.place,
                };
                (document.number, content)
            })
            .collect();
        let expect: Vec<(usize, String)> = expect
            .iter()
            .map(|(number, text)| (*number, (*text).to_owned()))
            .collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn yaml_documents() {
        check("a.yaml", "", &[]);
        check("a.yaml", "# nothing\n---\n", &[]);
        check(
            "a.yaml",
            "a: 1\n---\nb: 2\n",
            &[(1, "{\"a\":1}"), (2, "{\"b\":2}")],
        );
        check(
            "a.yaml",
            "---\na: 1\n--- # next\nb: 2\n",
            &[(1, "{\"a\":1}"), (2, "{\"b\":2}")],
        );
        check(
            "a.yaml",
            "a: 1\r\n---\r\nb: 2\r\n",
            &[(1, "{\"a\":1}"), (2, "{\"b\":2}")],
        );
        check(
            "a.yaml",
            "a: 1\n---\n# only this\n---\nb: 2",
            &[(1, "{\"a\":1}"), (3, "{\"b\":2}")],
        );
        check("a.yaml", "%YAML 1.2\n---\na: 1\n...\n", &[(1, "{\"a\":1}")]);
        check(
            "a.yml",
            "a: |\n  x\n  ---\n",
            &[(1, "{\"a\":\"x\\n---\\n\"}")],
        );
        check(
            "a.yaml",
            "{\"a\": [1, null, true, \"x\"]}",
            &[(1, "{\"a\":[1,null,true,\"x\"]}")],
        );
        check(
            "a.yaml",
            "a: None\nb: 1.10\n",
            &[(1, "{\"a\":\"None\",\"b\":1.1}")],
        );
        check(
            "a.yaml",
            "a: &x {k: 1}\nb: *x\n",
            &[(1, "{\"a\":{\"k\":1},\"b\":{\"k\":1}}")],
        );
        check(
            "a.yaml",
            "a: 1\n---\nb: [1,\n---\nc: 3\n",
            &[(1, "{\"a\":1}"), (2, "line 3"), (3, "{\"c\":3}")],
        );
        check("a.yaml", "a: 1\nb: \"x\n", &[(1, "line 3")]);
        // As in kubectl, which reads YAML 1.1.
        check(
            "a.yaml",
            "a: yes\nb: n\n",
            &[(1, "{\"a\":true,\"b\":false}")],
        );
        check("a.yaml", "a: 1\na: 2\n", &[(1, "line 2")]);
    }

    #[test]
    fn json_documents() {
        check("a.json", "", &[]);
        check(
            "a.json",
            "{\"a\":1}\n{\"b\":2}",
            &[(1, "{\"a\":1}"), (2, "{\"b\":2}")],
        );
        check(
            "a.json",
            "{\"a\":1}\n{\"b\":",
            &[(1, "{\"a\":1}"), (2, "line 2")],
        );
    }
}
