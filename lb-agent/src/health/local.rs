//! Service ports without a local endpoint, counted per Service so that a
//! change costs no more than its Service.

use std::collections::BTreeMap;

use super::metrics::{Metrics, NoLocalEndpoints};
use crate::model::{Family, ObjectName};

/// In the order of [`Family::ALL`].
pub(super) type Counts = [NoLocalEndpoints; Family::ALL.len()];

#[derive(Debug, Default)]
pub(super) struct LocalCounts {
    /// Those that count.
    by_service: BTreeMap<ObjectName, Counts>,
    sums: Counts,
}

impl LocalCounts {
    pub(super) fn update(&mut self, service: &ObjectName, counts: Counts, metrics: &Metrics) {
        let before = self.by_service.remove(service).unwrap_or_default();
        if counts != Counts::default() {
            self.by_service.insert(service.clone(), counts);
        }
        if counts == before {
            return;
        }
        for (index, family) in Family::ALL.into_iter().enumerate() {
            let (sum, old, new) = (&mut self.sums[index], before[index], counts[index]);
            sum.internal = sum.internal + new.internal - old.internal;
            sum.external = sum.external + new.external - old.external;
            metrics.set_no_local_endpoints(family, *sum);
        }
    }
}
