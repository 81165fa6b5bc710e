//! Traffic through whole nodes.

use anyhow::Result;

use super::{Measurement, Options, Progress};

pub(crate) const EXPLANATION: &str = "";

pub(crate) fn run(_: &Options, _: &mut Progress) -> Result<Vec<Measurement>> {
    Ok(Vec::new())
}
