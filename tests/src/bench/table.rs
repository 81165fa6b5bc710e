//! A group of measurements as a table.

use super::{Group, Measurement, Summary};

/// What others are compared with, where it was measured.
const BASES: [&str; 3] = [super::floor::NAME, "plain", "nftables"];

/// Lines of cells, the head first: a row for each variant, a column for each
/// number of Services, then ratios to the bases at each number, and of the
/// largest number to the smallest.
#[must_use]
pub fn table(group: &Group<'_>) -> Vec<Vec<String>> {
    let services = group.services();
    let variants = group.variants();
    let bases: Vec<&str> = BASES
        .into_iter()
        .filter(|base| variants.len() > 1 && variants.contains(base))
        .collect();
    let mut head = vec![String::new()];
    head.extend(services.iter().map(|&number| heading(number)));
    head.extend(bases.iter().map(|base| format!("to {base}")));
    let ends = match services.as_slice() {
        [Some(least), .., Some(most)] => Some((*least, *most)),
        _ => None,
    };
    head.extend(ends.map(|(least, most)| format!("{} to {}", grouped(most), grouped(least))));

    let mut lines = vec![head];
    for variant in variants {
        let find = |services| group.find(variant, services);
        let mut line = vec![variant.to_owned()];
        line.extend(services.iter().map(|&services| spread(find(services))));
        for base in &bases {
            let ratios = services
                .iter()
                .map(|&services| ratio(find(services), group.find(base, services)));
            line.push(ratios.collect::<Vec<_>>().join(" / "));
        }
        line.extend(ends.map(|(least, most)| {
            let [least, most] = [least, most].map(|services| find(Some(services)));
            // Not of the same repetition: of the medians only.
            let median = |one: Option<&Measurement>| Some(one?.summary()?.median);
            match (median(most), median(least)) {
                (Some(most), Some(least)) => format!("{:.2}", most / least),
                _ => MISSING.to_owned(),
            }
        }));
        lines.push(line);
    }
    lines
}

const MISSING: &str = "-";

fn heading(services: Option<u32>) -> String {
    match services {
        Some(1) => "1 Service".to_owned(),
        Some(number) => format!("{} Services", grouped(number)),
        None => "median (spread)".to_owned(),
    }
}

fn spread(measurement: Option<&Measurement>) -> String {
    match measurement.and_then(Measurement::summary) {
        Some(Summary {
            median,
            least,
            most,
        }) => format!("{} ({}..{})", number(median), number(least), number(most)),
        None => MISSING.to_owned(),
    }
}

fn ratio(own: Option<&Measurement>, base: Option<&Measurement>) -> String {
    let ratio = own.zip(base).and_then(|(own, base)| own.ratio(base));
    ratio.map_or_else(
        || MISSING.to_owned(),
        |ratio| format!("{:.2}", ratio.median),
    )
}

/// Three digits that count, at least; large ones in thousands or millions.
fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 999_950.0 => (value / 1e6, "M"),
        large if large >= 9_999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{unit}")
}

/// 1234567 as `1,234,567`.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Part, Unit, groups};

    #[test]
    fn numbers_are_short() {
        let table = [
            (0.123, "0.12"),
            (9.996, "10.0"),
            (23.14, "23.1"),
            (1290.4, "1290"),
            (28_960.0, "29.0k"),
            (304_123.0, "304k"),
            (4_164_000.0, "4.16M"),
        ];
        for (value, expect) in table {
            assert_eq!(number(value), expect);
        }
        assert_eq!(grouped(10_000), "10,000");
    }

    #[test]
    fn variants_are_rows_and_services_are_columns() {
        let measured = |variant: &str, services, samples: &[f64]| Measurement {
            part: Part::Traffic,
            load: "udp from a pod".into(),
            variant: variant.into(),
            services: Some(services),
            unit: Unit::PerCpuSecond,
            samples: samples.into(),
        };
        let all = [
            measured("plain", 10, &[200.0, 100.0, 300.0]),
            measured("nftables", 10, &[100.0, 50.0, 150.0]),
            measured("plain", 1000, &[200.0]),
        ];
        let groups = groups(&all);
        assert_eq!(groups.len(), 1);
        let lines = table(&groups[0]);
        let expect = [
            [
                "",
                "10 Services",
                "1,000 Services",
                "to plain",
                "to nftables",
                "1,000 to 10",
            ],
            [
                "plain",
                "200 (100..300)",
                "200 (200..200)",
                "1.00 / 1.00",
                "2.00 / -",
                "1.00",
            ],
            [
                "nftables",
                "100 (50.0..150)",
                "-",
                "0.50 / -",
                "1.00 / -",
                "-",
            ],
        ];
        assert_eq!(lines, expect);
    }
}
