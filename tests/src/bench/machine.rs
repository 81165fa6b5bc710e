//! Where the measurements were taken.

use std::{fmt, fs, process::Command, thread};

use serde::Serialize;

use crate::verifier;

/// What a reader has to know to compare with another machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_mebibytes: u64,
    pub kernel: String,
    pub system: String,
    /// Of what is measured against.
    pub versions: Vec<String>,
    /// Over the last minute, before the first measurement.
    pub load: String,
}

impl Machine {
    /// What is not told stays empty.
    #[must_use]
    pub fn describe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let first = |text: &str| {
            text.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal", ':');
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name", ':'),
            cores: thread::available_parallelism().map_or(0, Into::into),
            memory_mebibytes: first(&memory).parse::<u64>().unwrap_or_default() / 1024,
            kernel: verifier::kernel().unwrap_or_default(),
            system: value(&read("/etc/os-release"), "PRETTY_NAME", '=')
                .trim_matches('"')
                .to_owned(),
            versions: [
                ("nft", "--version"),
                ("iptables", "--version"),
                ("iperf3", "--version"),
            ]
            .into_iter()
            .filter_map(|(program, argument)| version(program, argument))
            .collect(),
            load: first(&read("/proc/loadavg")),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} cores, {} MiB), Linux {}, {}, {}; load average {} before",
            self.processor,
            self.cores,
            self.memory_mebibytes,
            self.kernel,
            self.system,
            self.versions.join(", "),
            self.load,
        )
    }
}

/// Value of the first line that begins with a key.
fn value(text: &str, key: &str, separator: char) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(separator));
    let found = lines.find(|(name, _)| name.trim() == key);
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?;
    // A version, and whatever the program says of it in brackets, aside.
    Some(line.split(" (").next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_keys() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name : other\n";
        assert_eq!(value(text, "model name", ':'), "Some CPU @ 2 GHz");
        assert_eq!(value(text, "MemTotal", ':'), "");
    }
}
