//! Measurements that belong into one table.

use std::collections::BTreeSet;

use super::{Measurement, Part, Unit};

/// One quantity under one load, of all variants and all numbers of Services.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    pub part: Part,
    pub load: &'a str,
    pub unit: Unit,
    pub measurements: Vec<&'a Measurement>,
}

/// In the order in which they were measured first.
#[must_use]
pub fn groups(measurements: &[Measurement]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for measurement in measurements {
        let Measurement {
            part, load, unit, ..
        } = measurement;
        let is_same =
            |group: &&mut Group<'_>| (group.part, group.load, group.unit) == (*part, load, *unit);
        match groups.iter_mut().find(is_same) {
            Some(group) => group.measurements.push(measurement),
            None => groups.push(Group {
                part: *part,
                load,
                unit: *unit,
                measurements: vec![measurement],
            }),
        }
    }
    groups
}

impl<'a> Group<'a> {
    /// Numbers of Services, ascending.
    #[must_use]
    pub fn services(&self) -> Vec<Option<u32>> {
        let all = self.measurements.iter().map(|one| one.services);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// In the order in which they were measured first.
    #[must_use]
    pub fn variants(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        for measurement in &self.measurements {
            if !names.contains(&measurement.variant.as_str()) {
                names.push(&measurement.variant);
            }
        }
        names
    }

    #[must_use]
    pub fn find(&self, variant: &str, services: Option<u32>) -> Option<&'a Measurement> {
        let mut all = self.measurements.iter();
        let found = all.find(|one| one.variant == variant && one.services == services);
        found.copied()
    }
}
