//! Tables for people.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    paths::Row,
    status::{Service, ServicePort, Status},
};
use crate::lab::Lab;

/// Services, their frontends and endpoints, as one node has them.
#[must_use]
pub fn frontends(status: &Status) -> String {
    let mut lines = vec![cells(["SERVICE", "TYPE", "PORT", "FRONTENDS", "ENDPOINTS"])];
    for service in &status.services {
        for port in &service.ports {
            let frontends = port.frontends.iter().map(|frontend| {
                let error = frontend.error.as_deref().map(|error| format!(" ({error})"));
                let socket = SocketAddr::new(frontend.address, frontend.port);
                format!("{} {socket}{}", frontend.kind, error.unwrap_or_default())
            });
            let endpoints = port
                .backends
                .iter()
                .map(|backend| SocketAddr::new(backend.address, backend.port).to_string());
            add_columns(
                &mut lines,
                [service_name(service), service.kind.clone(), port_name(port)],
                &frontends.collect::<Vec<_>>(),
                &endpoints.collect::<Vec<_>>(),
            );
        }
    }
    table(&lines)
}

/// Connections per backend, summed over nodes and families; one line a service
/// port, so that a screen holds it.
#[must_use]
pub fn connections(statuses: &[Status], lab: &Lab) -> String {
    let mut sums: BTreeMap<[String; 3], BTreeMap<String, u64>> = BTreeMap::new();
    for service in statuses.iter().flat_map(|status| &status.services) {
        for port in &service.ports {
            let key = [
                service_name(service),
                port.name.clone(),
                port.protocol.to_string(),
            ];
            let sums = sums.entry(key).or_default();
            for backend in &port.backends {
                let host = lab.host_at(backend.address);
                let name = host.unwrap_or_else(|| backend.address.to_string());
                *sums.entry(name).or_default() += backend.connections;
            }
        }
    }
    let mut lines = vec![cells([
        "SERVICE",
        "PORT",
        "PROTO",
        "CONNECTIONS PER BACKEND",
    ])];
    for (key, sums) in sums {
        let sums: Vec<_> = sums
            .iter()
            .map(|(name, count)| format!("{name}={count}"))
            .collect();
        lines.push([key.as_slice(), &[sums.join(" ")]].concat());
    }
    table(&lines)
}

/// One line a path.
#[must_use]
pub fn rows(rows: &[Row]) -> String {
    let head = [
        "FROM", "TO", "PROTO", "FAMILY", "HOOK", "REPLIES", "BACKENDS", "",
    ];
    let mut lines = vec![cells(head)];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.from.clone(),
            row.to.clone(),
            row.protocol.to_string(),
            row.family.to_string(),
            row.hook.clone(),
            format!("{}/{}", row.replies, row.sent),
            format!("{}/{}", row.seen.len(), row.backends),
            row.error.clone().unwrap_or_default(),
        ]
    }));
    table(&lines)
}

/// Lines of cells, in aligned columns.
#[must_use]
pub fn table(lines: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(Into::into).into()
}

/// Adds one line for each pair of the two lists; only the first is named.
fn add_columns(
    lines: &mut Vec<Vec<String>>,
    names: [String; 3],
    left: &[String],
    right: &[String],
) {
    for place in 0..left.len().max(right.len()).max(1) {
        let mut line = if place == 0 {
            names.clone().into()
        } else {
            vec![String::new(); 3]
        };
        line.extend([left, right].map(|list| list.get(place).cloned().unwrap_or_default()));
        lines.push(line);
    }
}

fn service_name(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.name)
}

fn port_name(port: &ServicePort) -> String {
    match port.name.as_str() {
        "" => format!("{} {}", port.protocol, port.family),
        name => format!("{name} {} {}", port.protocol, port.family),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let table = [
            (
                vec![cells(["A", "B"]), cells(["long", "x"])],
                "A     B\nlong  x\n",
            ),
            (vec![cells(["a", "b"]), vec!["c".into()]], "a  b\nc\n"),
            (vec![], ""),
        ];
        for (lines, expect) in table {
            assert_eq!(super::table(&lines), expect);
        }
    }
}
