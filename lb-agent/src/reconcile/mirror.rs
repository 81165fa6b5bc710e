//! What the map of frontends holds in the kernel.

use foldhash::{HashMap, HashSet};
use lb_common::{Frontend, FrontendKey, Slice};

use super::adopt::NOBODY;

/// Most are backends themselves, which are all alike.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    endpoints: HashSet<FrontendKey>,
    others: HashMap<FrontendKey, Frontend>,
}

impl Mirror {
    pub(super) fn get(&self, key: &FrontendKey) -> Option<Frontend> {
        if self.endpoints.contains(key) {
            return Some(endpoint(key));
        }
        self.others.get(key).copied()
    }

    pub(super) fn insert(&mut self, key: FrontendKey, frontend: Frontend) {
        if frontend == endpoint(&key) {
            self.others.remove(&key);
            self.endpoints.insert(key);
        } else {
            self.endpoints.remove(&key);
            self.others.insert(key, frontend);
        }
    }

    pub(super) fn remove(&mut self, key: &FrontendKey) {
        self.endpoints.remove(key);
        self.others.remove(key);
    }

    pub(super) fn contains(&self, key: &FrontendKey) -> bool {
        self.endpoints.contains(key) || self.others.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.endpoints.iter().chain(self.others.keys())
    }
}

impl FromIterator<(FrontendKey, Frontend)> for Mirror {
    fn from_iter<I: IntoIterator<Item = (FrontendKey, Frontend)>>(frontends: I) -> Self {
        let mut this = Self::default();
        for (key, frontend) in frontends {
            this.insert(key, frontend);
        }
        this
    }
}

/// The record of a backend's own address.
fn endpoint(key: &FrontendKey) -> Frontend {
    Frontend {
        check: key.check(),
        service: NOBODY,
        inside: Slice::REJECT.pack(),
        outside: Slice::REJECT.pack(),
        affinity_seconds: 0,
        sources: 0,
        flags: Frontend::ENDPOINT,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::Address;

    use super::*;

    #[test]
    fn every_record_comes_back_as_it_was() {
        let key = FrontendKey::any_port(Address::from(std::net::IpAddr::from([10, 0, 0, 1])));
        let alike = endpoint(&key);
        let checked = Frontend { check: 1, ..alike };
        let other = Frontend {
            service: 7,
            ..alike
        };
        let mut mirror = Mirror::default();
        for record in [alike, other, checked, alike, Frontend::default()] {
            mirror.insert(key, record);
            assert_eq!(mirror.get(&key), Some(record));
            assert_eq!(mirror.keys().count(), 1);
        }
        mirror.remove(&key);
        assert!(!mirror.contains(&key) && mirror.get(&key).is_none());
    }
}
