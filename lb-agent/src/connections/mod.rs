//! How many connections there may be and how long they last, as the operator
//! says; and whether there is still room. Pure.

mod level;
mod limits;
mod options;
mod timeouts;

pub use self::{
    level::Level,
    limits::{Limits, Quota},
    options::Options,
    timeouts::{Timeout, Timeouts},
};

/// What the dataplane is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub limits: Limits,
    pub timeouts: Timeouts,
}
