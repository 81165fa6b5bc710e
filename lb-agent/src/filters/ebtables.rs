//! Tables of ebtables-legacy.

use std::{fs, io};

use super::Filter;

/// Asking for the rules of a table would make it where there is none, so its
/// module counts. One that is built into the kernel is not noticed.
const MODULES: [(&str, &str); 3] = [
    ("ebtable_broute", "broute"),
    ("ebtable_filter", "filter"),
    ("ebtable_nat", "nat"),
];

pub(super) fn read() -> io::Result<Vec<Filter>> {
    match fs::read_to_string("/proc/modules") {
        Ok(modules) => Ok(filters(&modules)),
        // A kernel without modules.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn filters(modules: &str) -> Vec<Filter> {
    let loaded = |name| {
        let mut lines = modules.lines();
        lines.any(|line| line.split(' ').next() == Some(name))
    };
    let tables = MODULES.into_iter().filter(|(module, _)| loaded(*module));
    tables
        .map(|(_, table)| Filter::Ebtables { table })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_counts_with_its_module() {
        let modules = "ebtable_filter 16384 0 - Live 0x0000000000000000\n\
            ebtables 49152 2 ebtable_filter,ebtable_nat, Live 0x0000000000000000\n";
        let table = "filter";
        assert_eq!(filters(modules), [Filter::Ebtables { table }]);
        assert_eq!(filters(""), []);
    }
}
