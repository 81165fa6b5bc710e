//! Where programs and model part, for a person to read.

use std::fmt;

use super::{model::parse, node::Outcome, place::PLACES, sequence::Sequence};
use crate::packet::Place;

/// Where programs and model part.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Index of the step.
    pub(crate) step: usize,
    pub(crate) place: Place,
    pub(crate) frame: Vec<u8>,
    pub(crate) found: Option<Outcome>,
    pub(crate) expected: Result<Outcome, String>,
}

impl Difference {
    pub(crate) fn at_the_end(sequence: &Sequence, reason: String) -> Self {
        Self {
            step: sequence.steps.len().saturating_sub(1),
            place: PLACES[0],
            frame: Vec::new(),
            found: None,
            expected: Err(reason),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let Self { step, place, .. } = self;
        writeln!(
            f,
            "step {step} at {} {}",
            place.hook.name(),
            place.interface
        )?;
        match parse(&self.frame) {
            Ok(parsed) => writeln!(f, "  {}, mark {:#x}", parsed.flow, parsed.mark)?,
            Err(verdict) => writeln!(f, "  {verdict:?}")?,
        }
        writeln!(f, "  in       {}", hex(&self.frame))?;
        if let Some(found) = &self.found {
            writeln!(f, "  out      {}", hex(&found.bytes))?;
        }
        match &self.expected {
            Ok(expected) => writeln!(f, "  expected {}", hex(&expected.bytes))?,
            Err(reason) => writeln!(f, "  {reason}")?,
        }
        if let (Some(found), Ok(expected)) = (&self.found, &self.expected) {
            writeln!(
                f,
                "  expected {:?}, action {}; found {:?}, action {}",
                expected.verdict, expected.action, found.verdict, found.action
            )?;
        }
        Ok(())
    }
}
