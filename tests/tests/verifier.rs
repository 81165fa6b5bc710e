//! The verifier gets through every program with room to spare.

use std::{fs, io};

use lb_agent::dataplane::Dataplane;
use lb_tests::verifier::{LIMIT, Program, STACK_LIMIT, Stack, Table, kernel, measure};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verifier.md");

/// Another kernel may need more for the same program.
const MOST: u32 = LIMIT / 10 * 7;
/// Percentage by which a figure may differ from the document's.
const TOLERANCE: u32 = 20;

#[test]
fn programs_leave_room_and_are_as_documented() {
    let programs = measure().unwrap();
    let stacks = Stack::read(Dataplane::object()).unwrap();
    for program in &programs {
        let instructions = program.statistics.instructions;
        let row = Table::row(program);
        assert!(instructions <= MOST, "{row}: {instructions} instructions");
        if program.traced {
            assert_frames_cover(program, &stacks[&program.name]);
        }
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

#[test]
fn every_chain_of_calls_fits_the_stack_of_linux_6_1() {
    let stacks = Stack::read(Dataplane::object()).unwrap();
    for stack in stacks.values() {
        let chain = stack.deepest();
        let bytes = chain.bytes();
        assert!(
            bytes <= STACK_LIMIT,
            "{chain}: {bytes} of {STACK_LIMIT} bytes with each rounded up to 32"
        );
    }
}

/// With a trace, the verifier finds every function in use and takes none out.
fn assert_frames_cover(program: &Program, Stack(frames): &Stack) {
    let row = Table::row(program);
    let seen = &program.statistics.stack;
    assert_eq!(frames.len(), seen.len(), "{row}: functions");
    for (frame, seen) in frames.iter().zip(seen) {
        let (function, bytes) = (&frame.function, frame.bytes);
        assert!(bytes >= *seen, "{row}: {function} {bytes}, but {seen} seen");
    }
}

const REMEDY: &str = "run `cargo xtask verifier --write`";
