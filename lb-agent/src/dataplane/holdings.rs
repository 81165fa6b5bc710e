//! How many assured connections each Service has, as the programs count them.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use lb_common::Holdings;

use super::{Dataplane, DataplaneError};

impl Dataplane {
    /// Removes what is counted for a Service that is gone. To be called when it
    /// has held nothing for a while.
    pub fn forget_holdings(&mut self, service: u32) -> Result<(), DataplaneError> {
        let mut holdings = self.holdings()?;
        match holdings.remove(&service) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Counts anew what the programs count, and has agents to come believe it, or
    /// not if it fails.
    pub(super) fn recount_holdings(&mut self) {
        if let Err(error) = self.try_recount() {
            tracing::warn!(%error, "connections of Services not counted");
            self.pins.discard("HOLDINGS");
            self.connections.miscounted = true;
        }
    }

    /// Connections that begin or end in between make it wrong by as many.
    fn try_recount(&mut self) -> Result<(), DataplaneError> {
        let mut counts: HashMap<u32, u64> = HashMap::new();
        let tables = self.connection_table()?;
        for table in [tables.overflow, tables.sets] {
            table.for_each_forward(|_, connection, is_assured| {
                *counts.entry(connection.service).or_default() += u64::from(is_assured);
            })?;
        }
        let mut holdings = self.holdings()?;
        let held: HashMap<u32, Holdings> = holdings.iter().filter_map(Result::ok).collect();
        for &service in held.keys() {
            counts.entry(service).or_default();
        }
        for (service, connections) in counts {
            let before = held.get(&service).copied().unwrap_or_default();
            if before.connections != connections {
                let record = Holdings {
                    connections,
                    ..before
                };
                holdings.insert(service, record, 0).map_err(failed)?;
            }
        }
        if self.connections.miscounted {
            let pinned = self.connections.holdings.pin(self.pins.of("HOLDINGS"));
            pinned.map_err(|error| {
                failed(MapError::PinError {
                    name: Some("HOLDINGS".to_owned()),
                    error,
                })
            })?;
            self.connections.miscounted = false;
        }
        Ok(())
    }

    fn holdings(&mut self) -> Result<BpfHashMap<&mut MapData, u32, Holdings>, DataplaneError> {
        BpfHashMap::try_from(&mut self.connections.holdings).map_err(failed)
    }
}

fn failed(source: MapError) -> DataplaneError {
    DataplaneError::Map {
        map: "HOLDINGS",
        source,
    }
}
