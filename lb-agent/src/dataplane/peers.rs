//! Interfaces whose other end shortcuts lead to.

use aya_obj::generated::bpf_attach_type::{self, BPF_TCX_EGRESS, BPF_TCX_INGRESS};
use lb_common::Interface;

use super::{Dataplane, DataplaneError, bpf};
use crate::interfaces::{self, Peer};

const DIRECTIONS: [bpf_attach_type; 2] = [BPF_TCX_INGRESS, BPF_TCX_EGRESS];

impl Dataplane {
    /// Looks whether somebody else has a TCX program on an interface, of which
    /// nothing tells, and tells the programs.
    pub fn refresh_peers(
        &mut self,
        interfaces: &[interfaces::Interface],
    ) -> Result<(), DataplaneError> {
        let failed = |source| DataplaneError::Map {
            map: "INTERFACES",
            source,
        };
        for interface in interfaces {
            let index = interface.index;
            let is_peer = self.is_peer(interface);
            if is_peer == self.peers.contains(&index) {
                continue;
            }
            let mut record = match self.interfaces.get(&index, 0) {
                Ok(record) => record,
                Err(aya::maps::MapError::KeyNotFound) => continue,
                Err(error) => return Err(failed(error)),
            };
            record.flags &= !Interface::PEER;
            if is_peer {
                record.flags |= Interface::PEER;
                self.peers.insert(index);
            } else {
                self.peers.remove(&index);
            }
            self.interfaces.insert(index, record, 0).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn is_peer(&self, interface: &interfaces::Interface) -> bool {
        match interface.peer {
            Peer::Unreachable => false,
            Peer::Guarded => self.any_peer,
            Peer::Free => self.any_peer || !self.has_other_programs(interface.index),
        }
    }

    /// What is there from before, as long as programs of an earlier agent look
    /// like somebody else's.
    pub(super) fn was_peer(&self, interface: &interfaces::Interface) -> bool {
        let record = self.interfaces.get(&interface.index, 0);
        let was_peer = record.is_ok_and(|record| record.flags & Interface::PEER != 0);
        was_peer && interface.peer != Peer::Unreachable
    }

    /// In doubt there is one.
    fn has_other_programs(&self, interface: u32) -> bool {
        DIRECTIONS.into_iter().any(|direction| {
            let programs = bpf::query_tcx(interface, direction);
            let is_other = |id: &u32| !self.own_programs.contains(id);
            programs.map_or(true, |programs| programs.iter().any(is_other))
        })
    }
}
