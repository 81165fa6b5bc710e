//! What is being done, while it is done.

use std::{io::IsTerminal as _, time::Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on a terminal; elsewhere a line for each stage.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    is_terminal: bool,
}

impl Progress {
    #[must_use]
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            started: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// A part begins, of which every [`Self::step`] is one of `steps`.
    pub fn part(&mut self, name: &str, steps: u64) {
        self.finish();
        if !self.is_terminal {
            return self.say(name);
        }
        self.bar = ProgressBar::new(steps).with_prefix(name.to_owned());
        let template = "{prefix:>8} {bar:24} {pos}/{len} {elapsed}, {eta} left: {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar
            .enable_steady_tick(std::time::Duration::from_millis(500));
    }

    /// Something that takes long begins.
    pub fn stage(&self, what: &str) {
        if self.is_terminal {
            self.bar.set_message(what.to_owned());
        } else {
            self.say(what);
        }
    }

    /// The next measurement begins.
    pub fn step(&self, what: &str) {
        self.bar.inc(1);
        self.bar.set_message(what.to_owned());
    }

    /// Leaves a line that stays.
    pub fn note(&self, what: &str) {
        if self.is_terminal {
            self.bar.suspend(|| eprintln!("{what}"));
        } else {
            self.say(what);
        }
    }

    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn say(&self, what: &str) {
        eprintln!("bench: {:>5.1} s: {what}", self.seconds());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
