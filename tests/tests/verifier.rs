//! The verifier gets through every program with room to spare.

use std::{fs, io};

use lb_tests::verifier::{LIMIT, Table, kernel, measure};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verifier.md");

/// Another kernel may need more for the same program.
const MOST: u32 = LIMIT / 10 * 7;
/// Percentage by which a figure may differ from the document's.
const TOLERANCE: u32 = 20;

#[test]
fn programs_leave_room_and_are_as_documented() {
    let programs = measure().unwrap();
    for program in &programs {
        let instructions = program.statistics.instructions;
        let row = Table::row(program);
        assert!(instructions <= MOST, "{row}: {instructions} instructions");
    }
    let (documented_on, rows) = match fs::read_to_string(DOCUMENT) {
        Ok(text) => Table::read(&text).unwrap(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => panic!("{DOCUMENT}: {error}"),
    };
    if documented_on != kernel().unwrap() {
        return;
    }
    let names: Vec<String> = programs.iter().map(Table::row).collect();
    let documented: Vec<&String> = rows.keys().collect();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    assert_eq!(documented, sorted, "{REMEDY}");
    for (name, program) in names.iter().zip(&programs) {
        let (is, was) = (program.statistics.instructions, rows[name]);
        let off = is.abs_diff(was) * 100;
        assert!(
            off <= was * TOLERANCE,
            "{name}: {is} instructions, documented are {was}; {REMEDY}"
        );
    }
}

const REMEDY: &str = "run `cargo xtask verifier --write`";
