//! How many connections all servers may have, and which one gives way.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Whoever can reach a port must not use up the descriptors of the agent.
const OF_ALL: usize = 256;
const OF_ONE: usize = 64;

/// Shared by all servers. A connection that comes when all places are taken
/// gets that of the oldest one, so whoever only sits there keeps nobody out.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Held>>);

/// One server's share.
#[derive(Debug)]
pub(super) struct Share {
    server: u64,
    places: Places,
}

/// Dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    places: Places,
    lost: oneshot::Receiver<()>,
}

#[derive(Debug, Default)]
struct Held {
    /// Names servers and places.
    next: u64,
    /// The oldest first.
    by_age: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    server: u64,
    /// Dropped, it tells the holder.
    _lost: oneshot::Sender<()>,
}

impl Places {
    pub(super) fn share(&self) -> Share {
        Share {
            server: self.held().name(),
            places: self.clone(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub(super) fn take(&self) -> Place {
        let (holder, lost) = oneshot::channel();
        let mut held = self.places.held();
        held.make_room(self.server);
        let id = held.name();
        held.by_age.insert(
            id,
            Holder {
                server: self.server,
                _lost: holder,
            },
        );
        Place {
            id,
            places: self.places.clone(),
            lost,
        }
    }
}

impl Place {
    /// Returns when somebody else needs it.
    pub(super) async fn lost(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().by_age.remove(&self.id);
    }
}

impl Held {
    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn make_room(&mut self, server: u64) {
        let own = || self.by_age.iter().filter(|(_, by)| by.server == server);
        let oldest = if own().count() >= OF_ONE {
            own().next().map(|(id, _)| *id)
        } else if self.by_age.len() >= OF_ALL {
            self.by_age.keys().next().copied()
        } else {
            None
        };
        if let Some(id) = oldest {
            self.by_age.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        // Connections to one server after the other; how many of each stay.
        let table: [(&[usize], &[usize]); 5] = [
            (&[64], &[64]),
            (&[65], &[64]),
            (&[64, 64, 64, 64], &[64, 64, 64, 64]),
            (&[64, 64, 64, 64, 1], &[63, 64, 64, 64, 1]),
            (&[10, 64, 64, 64, 64, 20], &[0, 44, 64, 64, 64, 20]),
        ];
        for (connections, expect) in table {
            let places = Places::default();
            let taken = connections.iter().map(|count| {
                let share = places.share();
                (0..*count).map(|_| share.take()).collect::<Vec<_>>()
            });
            let mut taken: Vec<_> = taken.collect();
            for of_server in &mut taken {
                of_server.retain_mut(|place| place.lost.try_recv() == Err(TryRecvError::Empty));
            }
            let stay: Vec<_> = taken.iter().map(Vec::len).collect();
            assert_eq!(stay, expect, "{connections:?}");
            drop(taken);
            assert_eq!(places.held().by_age.len(), 0);
        }
    }
}
