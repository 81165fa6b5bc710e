//! Figures against the number of Services, as SVG.

use std::{fs, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    chart::ChartBuilder,
    element::{Circle, PathElement, Text},
    prelude::{IntoDrawingArea as _, IntoFont as _, IntoLogRange as _, SVGBackend},
    series::LineSeries,
    style::{Color as _, RGBColor, ShapeStyle, WHITE},
};

use super::{Group, Measurement, Summary, groups, report::title, table::grouped};

const SIZE: (u32, u32) = (760, 400);
const LEGEND: (i32, i32) = (600, 60);

/// Told apart by people who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
];

/// Writes a plot for each group with more than one number of Services, and
/// returns the file names, each with the title of its group.
///
/// # Errors
/// The folder cannot be written.
pub fn plots(measurements: &[Measurement], folder: &Path) -> Result<Vec<(String, String)>> {
    fs::create_dir_all(folder)?;
    let mut files = Vec::new();
    for group in groups(measurements) {
        let counts: Vec<u32> = group.services().into_iter().flatten().collect();
        let ([least, .., most], title) = (counts.as_slice(), title(&group)) else {
            continue;
        };
        let name = format!("{}.svg", file_name(&group));
        let svg = draw(&group, &title, &counts, (*least, *most))?;
        fs::write(folder.join(&name), svg)?;
        files.push((name, title));
    }
    Ok(files)
}

/// `Gbit/s` of `One TCP stream` as `one-tcp-stream-gbit-s`.
fn file_name(group: &Group<'_>) -> String {
    let text = format!("{} {}", group.load, group.unit.label()).to_lowercase();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

fn draw(group: &Group<'_>, title: &str, counts: &[u32], ends: (u32, u32)) -> Result<String> {
    let mut svg = String::new();
    let all = group.measurements.iter();
    let tops = all.filter_map(|one| Some(one.summary()?.most));
    let top = tops.fold(0.0, f64::max) * 1.1;
    let failed = |error| anyhow!("drawing {title}: {error}");
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (least, most) = (f64::from(ends.0), f64::from(ends.1));
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(10)
            .margin_right(170)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (least * 0.8..most * 1.25).log_scale(),
                0.0..top.max(f64::MIN_POSITIVE),
            )
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("Services")
            .y_desc(group.unit.label())
            .x_label_formatter(&|value| grouped(value.round() as u32))
            .y_label_formatter(&|value| short(*value))
            .draw()
            .map_err(failed)?;
        for (index, variant) in (0..).zip(group.variants()) {
            let colour = colour(index);
            let points: Vec<(f64, Summary)> = counts
                .iter()
                .filter_map(|&count| {
                    let summary = group.find(variant, Some(count))?.summary()?;
                    Some((f64::from(count), summary))
                })
                .collect();
            let line = ShapeStyle::from(&colour).stroke_width(2);
            chart
                .draw_series(LineSeries::new(
                    points
                        .iter()
                        .map(|(count, summary)| (*count, summary.median)),
                    line,
                ))
                .map_err(failed)?;
            let spread = points.iter().map(|(count, Summary { least, most, .. })| {
                PathElement::new(vec![(*count, *least), (*count, *most)], colour.mix(0.5))
            });
            chart.draw_series(spread).map_err(failed)?;
            let dots = points
                .iter()
                .map(|(count, summary)| Circle::new((*count, summary.median), 3, colour.filled()));
            chart.draw_series(dots).map_err(failed)?;
        }
        // Beside the chart, where plotters' own legend is cut off.
        for (index, variant) in (0..).zip(group.variants()) {
            let (x, y) = (LEGEND.0, LEGEND.1 + index * 20);
            let line = ShapeStyle::from(&colour(index)).stroke_width(2);
            area.draw(&PathElement::new(vec![(x, y), (x + 16, y)], line))
                .map_err(failed)?;
            let font = ("sans-serif", 12).into_font();
            area.draw(&Text::new(variant.to_owned(), (x + 22, y - 6), font))
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Of a variant, by its place.
fn colour(index: i32) -> RGBColor {
    let count = COLOURS.len();
    COLOURS[usize::try_from(index).unwrap_or_default() % count]
}

fn short(value: f64) -> String {
    match value {
        large if large >= 1e6 => format!("{}M", (large / 1e5).round() / 10.0),
        large if large >= 1e3 => format!("{}k", (large / 1e2).round() / 10.0),
        small => format!("{}", (small * 100.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Part, Unit};

    #[test]
    fn a_plot_for_what_has_several_numbers_of_services() {
        let measured = |load: &str, services| Measurement {
            part: Part::Traffic,
            load: load.into(),
            variant: "plain".into(),
            services,
            unit: Unit::GigabitsPerSecond,
            samples: vec![18.0, 20.0, 19.0],
        };
        let all = [
            measured("One TCP stream", Some(10)),
            measured("One TCP stream", Some(10_000)),
            measured("One program", None),
        ];
        let folder = tempfile::tempdir().unwrap();
        let files = plots(&all, folder.path()).unwrap();
        let title = "One TCP stream, Gbit/s (more is better)".to_owned();
        assert_eq!(files, [("one-tcp-stream-gbit-s.svg".to_owned(), title)]);
        let svg = fs::read_to_string(folder.path().join(&files[0].0)).unwrap();
        assert!(svg.contains("plain") && svg.contains("10,000"), "{svg}");
    }
}
