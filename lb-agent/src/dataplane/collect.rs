//! Walks over the connection tables, some elements a second, and has the
//! program `lb_collect` remove what is over.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use bytemuck::Zeroable as _;
use lb_common::{
    Connection, Holdings, Life, State, Tuple,
    collection::{self, HEADER, ROOM, answer},
    lifecycle::{TIMEOUTS, UDP, timeout_index},
};

use super::{
    ConnectionTable, Dataplane, DataplaneError, bpf,
    connections::{Table, TableWalk},
    elements::Elements,
    known::Known,
    load::{COLLECT, program},
    settings,
};
use crate::connections::Timeouts;

/// What a call of [`Collector::tick`] did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Connections that were removed, by protocol number and last state. Halves
    /// that had lost the other one are [`State::Dying`].
    pub collected: BTreeMap<(u8, State), u64>,
    /// Connections that are not assured, if a walk has ended.
    pub unassured: Option<u64>,
    /// What Services hold, by number.
    pub holdings: Vec<(u32, Holdings)>,
}

/// One walk at a time; to be called once a second, where it may take a while.
#[derive(Debug)]
pub struct Collector {
    program: OwnedFd,
    rounds: [Round; 2],
    known: Arc<Known>,
    /// The set of keys that this walk makes.
    set: Option<u32>,
    holdings: Elements<u32, Holdings>,
    timeouts: Expectations,
    shortest: u64,
    /// Which table the walk is in.
    at: usize,
}

/// A table, and what this walk has seen of it.
#[derive(Debug)]
struct Round {
    /// As the program knows the table.
    table: u32,
    walk: TableWalk,
    /// What its steps have looked at.
    places: u64,
    /// Connections that are not assured.
    unassured: u64,
    /// Connections that some program was about to remove, in this walk and in
    /// the one before.
    dying: HashSet<Tuple>,
    dying_before: HashSet<Tuple>,
    /// Those of the walk before.
    places_before: u64,
}

/// What the programs go by.
#[derive(Debug)]
struct Expectations {
    timeouts: [u32; TIMEOUTS],
    second: u32,
}

/// What a tick looks at, at least and at most, and no more than one step beyond.
const BUDGET: std::ops::RangeInclusive<u64> = 1 << 12..=1 << 17;

impl Dataplane {
    /// For the connections of this dataplane, from now on.
    pub fn collector(&mut self, timeouts: &Timeouts) -> Result<Collector, DataplaneError> {
        let ConnectionTable { overflow, sets } = self.connection_table()?;
        let second = settings::jiffies_per_second();
        let collect: &mut aya::programs::SchedClassifier = program(&mut self.ebpf, COLLECT)?;
        let copy = collect.fd().map_err(|error| refused(error.into()))?;
        let copy = copy.as_fd().try_clone_to_owned();
        Ok(Collector {
            program: copy.map_err(|error| refused(error.into()))?,
            rounds: [
                Round::new(collection::OVERFLOW, &overflow),
                Round::new(collection::SETS, &sets),
            ],
            known: Arc::clone(&self.connections.known),
            set: None,
            holdings: Elements::open("HOLDINGS", &self.connections.holdings)?,
            timeouts: Expectations {
                timeouts: timeouts.jiffies(second),
                second,
            },
            shortest: timeouts.shortest().into(),
            at: 0,
        })
    }
}

impl Collector {
    /// Goes on with the walk. It reads all tables within the shortest timeout
    /// if it can.
    pub fn tick(&mut self) -> Result<Tick, DataplaneError> {
        let mut tick = Tick::default();
        let known: u64 = self.rounds.iter().map(Round::known).sum();
        let budget = (known / self.shortest).clamp(*BUDGET.start(), *BUDGET.end());
        let mut read = 0;
        while read < budget {
            let before = self.rounds[self.at].places;
            if self.at == 0 && before == 0 {
                self.set = self.known.begin();
            }
            let ended = self.step(&mut tick).inspect_err(|_| self.begin_anew())?;
            read += self.rounds[self.at].places - before;
            if !ended {
                continue;
            }
            if let Some(connections) = self.turn() {
                tick.unassured = Some(connections);
                break;
            }
        }
        self.holdings
            .for_each(|service, holdings| tick.holdings.push((*service, *holdings)))?;
        Ok(tick)
    }

    /// Reads on in the table. `true` at its end.
    fn step(&mut self, tick: &mut Tick) -> Result<bool, DataplaneError> {
        let program = self.program.as_fd();
        let run = |table, keys: &[Tuple]| ask(program, table, keys).map_err(|e| refused(e.into()));
        let round = &mut self.rounds[self.at];
        let (now, _) = run(round.table, &[])?;
        let mut candidates = Vec::new();
        let (known, set) = (&self.known, self.set);
        let note = |key: &Tuple| set.into_iter().for_each(|set| known.note(set, key));
        let ended = round.step(&self.timeouts, now, note, &mut candidates)?;
        for keys in candidates.chunks(ROOM) {
            let (_, answers) = run(round.table, keys)?;
            for (key, state) in keys.iter().zip(answers) {
                if let Some(state) = state {
                    *tick.collected.entry((key.protocol, state)).or_default() += 1;
                }
            }
        }
        Ok(ended)
    }

    /// After a step that failed, who knows what the walk has seen.
    fn begin_anew(&mut self) {
        for round in &mut self.rounds {
            round.walk.begin_anew();
            round.end();
        }
        (self.at, self.set) = (0, None);
    }

    /// Goes to the next table. After the last one, the connections in it.
    fn turn(&mut self) -> Option<u64> {
        let connections = self.rounds[self.at].end();
        self.at = (self.at + 1) % self.rounds.len();
        if self.at == 0
            && let Some(set) = self.set.take()
        {
            self.known.ask(set);
        }
        (self.at == 0).then_some(connections)
    }
}

impl Round {
    fn new(number: u32, table: &Table) -> Self {
        Self {
            table: number,
            walk: table.walk(),
            places: 0,
            unassured: 0,
            dying: HashSet::new(),
            dying_before: HashSet::new(),
            places_before: table.places(),
        }
    }

    /// Reads on. Tells every key to `note`, and adds those of what may be over to
    /// `candidates`. `true` at the end.
    fn step(
        &mut self,
        expect: &Expectations,
        now: u32,
        note: impl Fn(&Tuple),
        candidates: &mut Vec<Tuple>,
    ) -> Result<bool, DataplaneError> {
        let Self {
            table,
            walk,
            places,
            unassured,
            dying,
            dying_before,
            ..
        } = self;
        let step = walk.step(&mut |key, connection, is_assured| {
            note(key);
            let life = Life::unpack(connection.life);
            let may_be_over = if connection.flags & Connection::REPLY != 0 {
                expect.may_be_left(*table, key.protocol, life, now)
            } else {
                *unassured += u64::from(!is_assured);
                match life.state {
                    State::Dying => !dying.insert(*key) || dying_before.contains(key),
                    _ => expect.may_be_over(key.protocol, life, now),
                }
            };
            if may_be_over {
                candidates.push(*key);
            }
        })?;
        *places += step.places;
        Ok(step.ended)
    }

    /// Unassured connections that the walk has seen.
    fn end(&mut self) -> u64 {
        self.places_before = std::mem::take(&mut self.places);
        self.dying_before = std::mem::take(&mut self.dying);
        std::mem::take(&mut self.unassured)
    }

    fn known(&self) -> u64 {
        self.places.max(self.places_before)
    }
}

impl Expectations {
    /// Of UDP, those may be over that are idle for as long as they would wait
    /// for an answer: if their backend is retired.
    fn may_be_over(&self, protocol: u8, life: Life, now: u32) -> bool {
        let state = match protocol {
            UDP => State::Opening,
            _ => life.state,
        };
        let timeout = self.timeout(protocol, life.state);
        life.idle(now) > timeout.min(self.timeout(protocol, state))
    }

    /// Whether the backend's half may have lost the client's.
    fn may_be_left(&self, table: u32, protocol: u8, life: Life, now: u32) -> bool {
        let rest = match table {
            collection::OVERFLOW => self.second,
            _ => self.timeout(protocol, State::Opening),
        };
        life.idle(now) > rest
    }

    fn timeout(&self, protocol: u8, state: State) -> u32 {
        self.timeouts[timeout_index(protocol, state)]
    }
}

/// Has the program remove what is over; in which state each was, if it was. The
/// lower 32 bits of the kernel's jiffies come first.
fn ask(
    program: std::os::fd::BorrowedFd<'_>,
    table: u32,
    keys: &[Tuple],
) -> io::Result<(u32, Vec<Option<State>>)> {
    let mut frame = vec![0; HEADER];
    frame.extend_from_slice(bytemuck::cast_slice(keys));
    let now = bpf::test_run(program, table, &mut frame)?;
    let mut answered = vec![Tuple::zeroed(); keys.len()];
    bytemuck::cast_slice_mut(&mut answered).copy_from_slice(&frame[HEADER..]);
    let states = answered.iter().map(|key| answer::state(key.reserved));
    Ok((now, states.collect()))
}

fn refused(error: anyhow::Error) -> DataplaneError {
    DataplaneError::Program {
        program: COLLECT.to_owned(),
        reason: format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::lifecycle::{SCTP, TCP};

    use super::*;

    #[test]
    fn only_what_may_be_over_is_asked_about() {
        let expect = Expectations {
            timeouts: Timeouts::default().jiffies(100),
            second: 100,
        };
        let now = 50;
        let life = |state, seconds: u32| Life {
            state,
            seen: 50_u32.wrapping_sub(seconds * 100),
        };
        for (protocol, state, seconds, over) in [
            (TCP, State::Open, 432_000, false),
            (TCP, State::Open, 432_001, true),
            (TCP, State::Opening, 121, true),
            (TCP, State::Opening, 119, false),
            (TCP, State::Refused, 11, true),
            // Its backend may be retired.
            (UDP, State::Open, 31, true),
            (UDP, State::Open, 29, false),
            (SCTP, State::Finished, 4, true),
        ] {
            let found = expect.may_be_over(protocol, life(state, seconds), now);
            assert_eq!(found, over, "{protocol} {state:?} {seconds}");
        }
        for (table, protocol, seconds, left) in [
            (collection::OVERFLOW, TCP, 1, false),
            (collection::OVERFLOW, TCP, 2, true),
            (collection::SETS, TCP, 2, false),
            (collection::SETS, TCP, 121, true),
            (collection::SETS, UDP, 31, true),
        ] {
            let found = expect.may_be_left(table, protocol, life(State::Open, seconds), now);
            assert_eq!(found, left, "{table} {protocol} {seconds}");
        }
    }
}
