//! What each way asks of the kernel: map operations and helpers, counted by the
//! kernel's function tracer in an instance of its own.

use std::{fs, path::PathBuf, process};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::gettid,
};
use tempfile::TempDir;

use super::{Measurement, Node, Part, SERVICES, Unit, Way};

/// What is counted, and the functions of the kernel that stand for it.
const CALLS: [(&str, &[&str]); 7] = [
    ("hash lookups", &["__htab_map_lookup_elem"]),
    (
        "hash updates",
        &["htab_map_update_elem", "htab_lru_map_update_elem"],
    ),
    (
        "hash deletes",
        &["htab_map_delete_elem", "htab_lru_map_delete_elem"],
    ),
    ("LPM lookups", &["trie_lookup_elem"]),
    (
        "route lookups",
        &["bpf_xdp_fib_lookup", "bpf_skb_fib_lookup"],
    ),
    (
        "checksum helpers",
        &["bpf_l4_csum_replace", "bpf_csum_diff"],
    ),
    (
        "redirects",
        &[
            "bpf_xdp_redirect",
            "bpf_redirect",
            "bpf_redirect_peer",
            "bpf_redirect_neigh",
        ],
    ),
];

const PACKETS: u32 = 10;

/// Calls of each kind for a packet of each way.
pub(super) fn profile(node: &mut Node, ways: &[Way]) -> Result<Vec<Measurement>> {
    let tracer = Tracer::start().context("the kernel's function tracer")?;
    let mut counted = Vec::new();
    for way in ways {
        node.settle()?;
        // What is remembered for a second is known by then.
        node.replay(way.place, &way.template, 1, way.verdict)?;
        tracer.clear()?;
        node.replay(way.place, &way.template, PACKETS, way.verdict)?;
        counted.push((way, tracer.read()?));
    }
    let measurement = |(name, functions): &(&str, &[&str]), way: &Way, trace: &str| {
        let is_one = |line: &&str| functions.contains(&called(line));
        let calls = trace.lines().filter(is_one).count();
        Measurement {
            part: Part::Program,
            load: format!("{name} of one packet"),
            variant: way.name.clone(),
            services: Some(SERVICES),
            unit: Unit::Count,
            samples: vec![calls as f64 / f64::from(PACKETS)],
        }
    };
    let all = CALLS.iter().flat_map(|call| {
        let of = counted.iter();
        of.map(move |(way, trace)| measurement(call, way, trace))
    });
    Ok(all.collect())
}

/// Name of the function in a line such as
/// `bench-71 [001] ..... 5.25: bpf_redirect <-bpf_prog_x`.
fn called(line: &str) -> &str {
    let call = line.split(" <-").next().unwrap_or_default();
    call.rsplit(' ').next().unwrap_or_default()
}

/// An instance of the tracer that sees this thread only; gone on drop.
struct Tracer {
    instance: PathBuf,
    mounted: TempDir,
}

impl Tracer {
    fn start() -> Result<Self> {
        let mounted = tempfile::tempdir()?;
        let none: Option<&str> = None;
        mount(
            none,
            mounted.path(),
            Some("tracefs"),
            MsFlags::empty(),
            none,
        )?;
        let instance = mounted
            .path()
            .join("instances")
            .join(format!("lb-bench-{}", process::id()));
        let tracer = Self { instance, mounted };
        fs::create_dir(&tracer.instance)?;
        for function in CALLS.iter().flat_map(|(_, functions)| *functions) {
            // Not every kernel has each as a function of its own.
            let _ = fs::OpenOptions::new()
                .append(true)
                .open(tracer.instance.join("set_ftrace_filter"))
                .and_then(|mut file| std::io::Write::write_all(&mut file, function.as_bytes()));
        }
        tracer.write("set_ftrace_pid", &gettid().to_string())?;
        tracer.write("current_tracer", "function")?;
        Ok(tracer)
    }

    fn clear(&self) -> Result<()> {
        self.write("trace", "")
    }

    fn read(&self) -> Result<String> {
        Ok(fs::read_to_string(self.instance.join("trace"))?)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.write("current_tracer", "nop");
        let _ = fs::remove_dir(&self.instance);
        if let Err(error) = umount2(self.mounted.path(), MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.mounted.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_was_called() {
        for (line, expect) in [
            (
                "  bench-71  [001] ..s2.  5.25: bpf_redirect <-bpf_prog_x",
                "bpf_redirect",
            ),
            ("# tracer: function", "function"),
            ("", ""),
        ] {
            assert_eq!(called(line), expect);
        }
    }
}
