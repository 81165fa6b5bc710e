//! Frames, and the loaded programs run on them (BPF_PROG_TEST_RUN).

mod answer;
pub mod frame;
mod hook;

pub use answer::{Answer, Content};
pub use hook::{Place, Returned, action, at, test_run};
