//! How many, where it is not known to the last one.

use std::ops::{Add, Mul};

use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    pub least: u64,
    pub most: u64,
}

impl Span {
    pub(crate) const fn exactly(number: u64) -> Self {
        Self {
            least: number,
            most: number,
        }
    }

    /// Either of them.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }
}

impl Add for Span {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            least: self.least + more.least,
            most: self.most + more.most,
        }
    }
}

impl Mul for Span {
    type Output = Self;

    fn mul(self, times: Self) -> Self {
        Self {
            least: self.least * times.least,
            most: self.most * times.most,
        }
    }
}
