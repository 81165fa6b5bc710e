//! What runs on the interfaces of a node, as the kernel tells it.

use std::{collections::BTreeMap, ops::Deref};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_tests::lab::Host;

/// Programs by interface and hook, of all interfaces.
pub(crate) fn programs(node: &Host) -> BTreeMap<String, usize> {
    let names = node.netns.run(|| {
        let interfaces = nix::net::if_::if_nameindex().unwrap();
        let names = interfaces.iter();
        let names = names.map(|interface| interface.name().to_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    });
    let mut programs = BTreeMap::new();
    for name in names {
        let tcx = node.netns.run(|| {
            [TcAttachType::Ingress, TcAttachType::Egress]
                .map(|hook| SchedClassifier::query_tcx(&name, hook).unwrap().1.len())
        });
        let link = output(node, "ip", &["-d", "link", "show", "dev", &name]);
        let filters = |hook| {
            let filters = output(node, "tc", &["filter", "show", "dev", &name, hook]);
            filters.matches(" handle ").count()
        };
        for (hook, count) in [
            ("tcx ingress", tcx[0]),
            ("tcx egress", tcx[1]),
            ("filter ingress", filters("ingress")),
            ("filter egress", filters("egress")),
            ("xdp", link.matches("prog/xdp").count()),
        ] {
            if count > 0 {
                programs.insert(format!("{name} {hook}"), count);
            }
        }
    }
    programs
}

fn output(node: &Host, program: &str, arguments: &[&str]) -> String {
    let mut command = node.netns.deref().command(program).unwrap();
    let output = command.args(arguments).output().unwrap();
    // tc refuses a hook of an interface that has no such qdisc.
    String::from_utf8_lossy(&output.stdout).into_owned()
}
