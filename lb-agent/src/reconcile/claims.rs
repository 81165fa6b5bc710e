//! Which ports want a frontend, and which of them gets it.

use std::collections::{BTreeSet, hash_map::Entry};

use foldhash::HashMap;
use lb_common::FrontendKey;

use crate::compile::{FrontendKind, PortId};

/// Who has it as clusterIP goes first, so that nobody takes it by an external
/// IP; then the first by name.
type Claim = (FrontendKind, PortId);

#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<FrontendKey, Claimants>);

/// Nearly all frontends are wanted by one port.
#[derive(Debug)]
enum Claimants {
    One(Claim),
    #[expect(clippy::box_collection, reason = "all but a few are `One`, and small")]
    Many(Box<BTreeSet<Claim>>),
}

impl Claims {
    pub(super) fn contains(&self, key: &FrontendKey) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn owner(&self, key: &FrontendKey) -> Option<&PortId> {
        let (_, owner) = match self.0.get(key)? {
            Claimants::One(claim) => claim,
            Claimants::Many(claims) => claims.first()?,
        };
        Some(owner)
    }

    pub(super) fn add(&mut self, key: FrontendKey, kind: FrontendKind, port: &PortId) {
        let claim = (kind, port.clone());
        let claimants = match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Claimants::One(claim));
                return;
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        match claimants {
            Claimants::One(first) if *first == claim => {}
            Claimants::One(first) => {
                let claims = BTreeSet::from([first.clone(), claim]);
                *claimants = Claimants::Many(claims.into());
            }
            Claimants::Many(claims) => {
                claims.insert(claim);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &FrontendKey, kind: FrontendKind, port: &PortId) {
        let Some(claimants) = self.0.get_mut(key) else {
            return;
        };
        let claim = (kind, port.clone());
        match claimants {
            Claimants::One(first) if *first == claim => {
                self.0.remove(key);
            }
            Claimants::One(_) => {}
            Claimants::Many(claims) => {
                claims.remove(&claim);
                if claims.len() == 1
                    && let Some(last) = claims.pop_first()
                {
                    *claimants = Claimants::One(last);
                }
            }
        }
    }
}
