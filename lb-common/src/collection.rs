//! How the agent asks `lb_collect` which connections are over: a frame of a
//! header, then [`crate::Tuple`]s that elements of one table have as keys. The
//! socket buffer's mark says which table.

/// Bytes before the first tuple: the program is run on an Ethernet frame.
pub const HEADER: usize = 14;
/// Tuples a run, at most: one page has to hold them.
pub const ROOM: usize = 64;

/// [`HEADER`]'s mark for the table of assured connections that their sets have no
/// room for.
pub const OVERFLOW: u32 = 0;
/// The same for the sets.
pub const SETS: u32 = 1;

/// What becomes of a tuple's element; the program writes it into
/// [`crate::Tuple::reserved`].
pub mod answer {
    use crate::State;

    /// It stays, or was not there.
    pub const STAYS: u8 = 0;

    /// The connection was removed, in this state. A half without the other one
    /// is said to be [`State::Dying`].
    #[inline(always)]
    #[must_use]
    pub const fn removed(state: State) -> u8 {
        1 + state as u8
    }

    /// The state in which the connection was removed, if it was.
    #[must_use]
    pub const fn state(answer: u8) -> Option<State> {
        match answer {
            STAYS => None,
            number => Some(State::from_number(number as u32 - 1)),
        }
    }
}
