//! The demo: example Services in a lab, served by the agent.

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use lb_tests::{
    demo::{Cluster, ClusterOptions, Path, Target, connections, frontends, rows},
    lab::{Exchange, Family, LabOptions, Protocol, clean_up_on_signal},
};

/// Longest wait for one reply of the background load, which the view awaits.
const PATIENCE: Duration = Duration::from_millis(200);

/// Brings up a cluster of network namespaces with example Services.
#[derive(Parser)]
struct Options {
    /// Send a bounded load over every path, print one row a path, and end; the
    /// exit code tells whether every row is complete.
    #[arg(long)]
    once: bool,
    /// With --once: print the rows as JSON.
    #[arg(long, requires = "once")]
    json: bool,
    /// With --once: requests per path.
    #[arg(long, default_value_t = 20)]
    requests: usize,
    /// Without --once: requests per second, spread over all paths.
    #[arg(long, default_value_t = 20)]
    load: usize,
    /// Folder with the manifests; a copy is used.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests"))]
    manifests: PathBuf,
    /// Number of nodes.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Reverse path filter of the nodes: 0 off, 1 strict, 2 loose.
    #[arg(long, default_value_t = 0)]
    rp_filter: u8,
    /// More arguments for the agents.
    #[arg(last = true)]
    agent: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    clean_up_on_signal()?;
    let mut cluster = Cluster::start(&ClusterOptions {
        lab: LabOptions {
            nodes: options.nodes,
            rp_filter: options.rp_filter,
            firewall: None,
        },
        manifests: options.manifests,
        agent_arguments: options.agent,
    })?;
    if options.once {
        return once(&cluster, options.requests, options.json);
    }
    show(&mut cluster, options.load)?;
    Ok(ExitCode::SUCCESS)
}

fn once(cluster: &Cluster, requests: usize, json: bool) -> Result<ExitCode> {
    let all = cluster.try_all(requests)?;
    let complete = all.iter().filter(|row| row.is_complete()).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print!("{}", rows(&all));
        println!("{complete} of {} paths complete", all.len());
    }
    let passed = complete == all.len() && !all.is_empty();
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Shows what is there, then follows it until a signal ends the process.
fn show(cluster: &mut Cluster, load: usize) -> Result<()> {
    if let Some(status) = cluster.statuses()?.first() {
        println!("{}", frontends(status));
    }
    println!("{}", commands(cluster)?);
    println!(
        "Manifests to edit, scale and delete: {}\nCtrl-C ends and removes everything.\n",
        cluster.manifests().display()
    );
    let mut turn = 0;
    let mut shown = String::new();
    let mut unreadable = Vec::new();
    loop {
        let ways = cluster.ways()?;
        let failures = send(&ways, turn, load);
        turn += load;
        let statuses = cluster.statuses()?;
        let mut view = connections(&statuses, cluster.lab());
        let problems = statuses.iter().flat_map(|status| &status.problems);
        for problem in problems.chain(&unreadable).chain(&failures) {
            view.push_str(problem);
            view.push('\n');
        }
        present(&view, &mut shown);
        if let Some(problems) = cluster.follow(Duration::from_secs(1))? {
            unreadable = problems;
        }
    }
}

/// Sends one request over each of the next `load` ways.
fn send(ways: &[(Path<'_>, Target)], turn: usize, load: usize) -> Vec<String> {
    let mut failures = Vec::new();
    let next = ways.iter().cycle().skip(turn % ways.len().max(1));
    for (place, target) in next.take(load) {
        let exchange = Exchange::new(target.protocol, target.to).timeout(PATIENCE);
        if let Err(error) = exchange.run_in(&place.host().netns) {
            let from = &place.host().name;
            failures.push(format!(
                "{from} to {} {}: {error}",
                target.service, target.to
            ));
        }
    }
    failures
}

/// On a terminal the new view takes the place of the old one.
fn present(view: &str, shown: &mut String) {
    if view == shown {
        return;
    }
    if stdout().is_terminal() && !shown.is_empty() {
        print!("\x1b[{}A\x1b[J", shown.lines().count());
    }
    print!("{view}");
    view.clone_into(shown);
}

/// Commands that a reader can paste into another terminal.
fn commands(cluster: &Cluster) -> Result<String> {
    let ways = cluster.ways()?;
    let mut text = String::from("Send requests from another terminal:\n");
    for place in cluster.places() {
        for family in Family::ALL {
            let is_wanted = |(from, target): &&(Path<'_>, Target)| {
                from.host().name == place.host().name
                    && target.protocol == Protocol::Tcp
                    && Family::of(target.to.ip()) == family
                    && target.service == "default/kiada"
            };
            if let Some((_, target)) = ways.iter().find(is_wanted) {
                let netns = place.host().netns.path();
                let line = format!(
                    "  nsenter --net={} curl -g 'http://{}/'\n",
                    netns.display(),
                    target.to
                );
                text.push_str(&line);
            }
        }
    }
    Ok(text)
}
