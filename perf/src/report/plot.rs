//! `plot`: SVG files of results. What a plot is of stands in its title; nothing is left out of one but what was
//! not measured.

use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde_json::Value;

use super::{distinct, load};
use crate::error::{Context, Error, Result};
use crate::result::{Figure, File, Side};
use crate::stats::Spread;

/// SVG plots of results.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Results, joined as `merge` does
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The folder for the plots
    #[arg(long, value_name = "DIR", default_value = "target/perf")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = load(&args.files)?;
    let plots = plots(&file);
    if plots.is_empty() {
        return Err(Error::Usage("there is nothing to plot in these files".into()));
    }
    std::fs::create_dir_all(&args.out).usage(|| format!("{}", args.out.display()))?;
    for plot in plots {
        let path = args.out.join(format!("{}.svg", plot.name));
        plot.draw(&path)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// A scale, and how what is on it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Linear,
    /// Powers of ten.
    Log,
    /// Shares of all calls, ever closer to all of them: 1 / (1 - q), by powers of ten.
    Quantile,
    /// Bytes, by powers of two.
    Bytes,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(1e-6).log10(),
            // The last quantile is the maximum, which has no place of its own: just beyond the others.
            Scale::Quantile => -(1.0 - value).max(1e-6).log10(),
            Scale::Bytes => value.max(1.0).log2(),
        }
    }

    fn text(self, place: f64) -> String {
        match self {
            Scale::Linear => format!("{place:.2}"),
            Scale::Log => plain(10_f64.powf(place)),
            Scale::Quantile => format!("{} %", plain(100.0 * (1.0 - 10_f64.powf(-place)))),
            Scale::Bytes => {
                let (power, units) = (place.round() as i32, ["", "K", "M", "G"]);
                let unit = (power / 10).clamp(0, 3);
                format!("{}{}", 2_f64.powi(power - 10 * unit), units[unit as usize])
            }
        }
    }
}

/// As many places as it takes.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[derive(Debug)]
struct Plot {
    /// Of its file.
    name: String,
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    /// Names of the whole numbers on the x axis, if it has such.
    cases: Vec<String>,
}

#[derive(Clone, Debug)]
struct Axis {
    name: String,
    scale: Scale,
}

#[derive(Debug)]
struct Series {
    name: String,
    points: Vec<Point>,
    /// Joined by a line.
    line: bool,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    y: f64,
    /// From the least to the largest.
    reach: Option<(f64, f64)>,
}

fn axis(name: &str, scale: Scale) -> Axis {
    Axis { name: name.to_owned(), scale }
}

/// Everything that can be drawn of a file.
fn plots(file: &File) -> Vec<Plot> {
    let all: Vec<&Figure> = file.figures.iter().collect();
    let of = |suite: &str| all.iter().copied().filter(|figure| figure.suite == suite).collect::<Vec<_>>();
    let mut plots = Vec::new();
    let latency = of("latency");
    for case in distinct(&latency, |figure| &figure.case) {
        plots.extend(percentiles(case, &latency));
    }
    plots.extend(bandwidths(&of("bandwidth")));
    for suite in ["train", "matrix", "coldstart"] {
        plots.extend(ratios(suite, &of(suite)));
    }
    plots.extend(clients(&of("clients")));
    plots
}

/// Latency over the share of calls.
fn percentiles(case: &str, figures: &[&Figure]) -> Option<Plot> {
    let figures: Vec<&&Figure> = figures.iter().filter(|figure| figure.case == case).collect();
    let curve = |name: &str, side: &Side| {
        let pairs = side.detail.get("curve").and_then(Value::as_array)?;
        let points = pairs.iter().filter_map(|pair| {
            Some(Point { x: pair.get(0)?.as_f64()?, y: pair.get(1)?.as_f64()?, reach: None })
        });
        Some(Series { name: name.to_owned(), points: points.collect(), line: true })
    };
    let mut series: Vec<Series> =
        figures.first().and_then(|first| curve("native", &first.native)).into_iter().collect();
    series.extend(figures.iter().filter_map(|figure| curve(&figure.link, &figure.remote)));
    (!series.is_empty()).then(|| Plot {
        name: file_name(&format!("latency {case}")),
        title: format!("Latency of {case}"),
        x: axis("share of calls", Scale::Quantile),
        y: axis("microseconds", Scale::Log),
        series,
        cases: Vec::new(),
    })
}

/// A plot for each kind of memory and direction.
fn bandwidths(figures: &[&Figure]) -> Vec<Plot> {
    let kind = |figure: &Figure| {
        let word = |name: &str| figure.about.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        format!("{} {}", word("memory"), word("direction"))
    };
    let mut kinds: Vec<String> = figures.iter().map(|figure| kind(figure)).collect();
    kinds.dedup();
    kinds
        .iter()
        .map(|wanted| {
            let figures: Vec<&Figure> =
                figures.iter().copied().filter(|figure| kind(figure) == *wanted).collect();
            Plot {
                name: file_name(&format!("bandwidth {wanted}")),
                title: format!("Copies, {wanted}"),
                x: axis("bytes of a copy", Scale::Bytes),
                y: axis("GB/s", Scale::Log),
                series: lines(&figures, "bytes"),
                cases: Vec::new(),
            }
        })
        .collect()
}

fn clients(figures: &[&Figure]) -> Option<Plot> {
    let unit = &figures.first()?.unit;
    Some(Plot {
        name: "clients".into(),
        title: "Several sessions on one GPU".into(),
        x: axis("sessions", Scale::Linear),
        y: axis(&format!("{unit}, all together"), Scale::Linear),
        series: lines(figures, "sessions"),
        cases: Vec::new(),
    })
}

/// Native and every link over something that figures are about.
fn lines(figures: &[&Figure], about: &str) -> Vec<Series> {
    let point = |figure: &Figure, side: &Side| {
        let spread = Spread::of(&side.rounds)?;
        Some(Point { x: figure.about_f64(about)?, y: spread.median, reach: Some((spread.min, spread.max)) })
    };
    let links = distinct(figures, |figure| &figure.link);
    let mut series = Vec::new();
    if let Some(first) = links.first() {
        let own = figures.iter().filter(|figure| figure.link == *first);
        let points = own.filter_map(|figure| point(figure, &figure.native)).collect();
        series.push(Series { name: "native".into(), points, line: true });
    }
    for link in links {
        let own = figures.iter().filter(|figure| figure.link == link);
        let points = own.filter_map(|figure| point(figure, &figure.remote)).collect();
        series.push(Series { name: link.to_owned(), points, line: true });
    }
    series
}

/// How fast against native, case by case, and the bounds of links that have one.
fn ratios(suite: &str, figures: &[&Figure]) -> Option<Plot> {
    let cases = distinct(figures, |figure| &figure.case);
    let links = distinct(figures, |figure| &figure.link);
    let mut series = Vec::new();
    for (number, link) in links.iter().enumerate() {
        // Side by side, not one over the other.
        let shift = (number as f64 + 1.0) / (links.len() as f64 + 1.0) - 0.5;
        let (mut points, mut bounds) = (Vec::new(), Vec::new());
        for figure in figures.iter().filter(|figure| figure.link == *link) {
            let Some(place) = cases.iter().position(|case| *case == figure.case) else { continue };
            let x = place as f64 + 0.8 * shift;
            if let Some(ratio) = figure.ratio {
                points.push(Point { x, y: ratio.median, reach: Some((ratio.min, ratio.max)) });
            }
            if let Some(bound) = figure.about_f64("bound") {
                bounds.push(Point { x, y: bound, reach: None });
            }
        }
        series.push(Series { name: (*link).to_owned(), points, line: false });
        if !bounds.is_empty() {
            series.push(Series { name: format!("bound of {link}"), points: bounds, line: false });
        }
    }
    (!cases.is_empty()).then(|| Plot {
        name: suite.to_owned(),
        title: format!("{suite}: speed against native = 1"),
        x: axis("", Scale::Linear),
        y: axis("native / remote", Scale::Linear),
        series,
        cases: cases.into_iter().map(str::to_owned).collect(),
    })
}

/// A title as the name of a file.
fn file_name(title: &str) -> String {
    title.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

impl Plot {
    fn draw(&self, path: &Path) -> Result<()> {
        let error = || format!("{}", path.display());
        let width = (260 + 60 * self.cases.len() as u32).max(900);
        let root = SVGBackend::new(path, (width, 520)).into_drawing_area();
        root.fill(&WHITE).failed(error)?;
        let (x, y) = (self.range(|point| vec![point.x], self.x.scale), self.range(reached, self.y.scale));
        // Ratios and rates begin at nothing, so that a small difference does not look like a large one.
        let y = if self.y.scale == Scale::Linear { 0.0..y.end.max(1.05) } else { y };
        let x = if self.cases.is_empty() { x } else { -0.5..self.cases.len() as f64 - 0.5 };
        let labels = if self.cases.is_empty() { 40 } else { 130 };
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(labels)
            .y_label_area_size(70)
            .build_cartesian_2d(x, y)
            .failed(error)?;
        let horizontal = |place: &f64| match self.cases.is_empty() {
            true => self.x.scale.text(*place),
            false => self.case_at(*place),
        };
        let vertical = |place: &f64| self.y.scale.text(*place);
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(&self.x.name).y_desc(&self.y.name);
        mesh.x_label_formatter(&horizontal).y_label_formatter(&vertical);
        mesh.light_line_style(TRANSPARENT);
        let style = ("sans-serif", 12).into_font();
        if !self.cases.is_empty() {
            mesh.x_labels(2 * self.cases.len() + 1).disable_x_mesh();
            mesh.x_label_style(style.transform(FontTransform::Rotate90));
        }
        mesh.draw().failed(error)?;
        for (number, series) in self.series.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let place = |point: &Point, y: f64| (self.x.scale.place(point.x), self.y.scale.place(y));
            let marks: Vec<(f64, f64)> = series.points.iter().map(|point| place(point, point.y)).collect();
            let reaches = series.points.iter().filter_map(|point| {
                let (min, max) = point.reach?;
                Some(PathElement::new(vec![place(point, min), place(point, max)], color))
            });
            chart.draw_series(reaches).failed(error)?;
            if series.line {
                chart.draw_series(LineSeries::new(marks.clone(), color.stroke_width(2))).failed(error)?;
            }
            chart
                .draw_series(marks.iter().map(|mark| Circle::new(*mark, 3, color.filled())))
                .failed(error)?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .position(SeriesLabelPosition::UpperLeft)
            .draw()
            .failed(error)?;
        root.present().failed(error)
    }

    /// The name of a case, at its whole number.
    fn case_at(&self, place: f64) -> String {
        let nearest = place.round();
        let exact = (place - nearest).abs() < 1e-6 && nearest >= 0.0;
        exact.then(|| self.cases.get(nearest as usize).cloned()).flatten().unwrap_or_default()
    }

    /// What an axis has to hold.
    fn range(&self, of: impl Fn(&Point) -> Vec<f64>, scale: Scale) -> std::ops::Range<f64> {
        let places =
            self.series.iter().flat_map(|series| &series.points).flat_map(of).map(|value| scale.place(value));
        let (min, max) = places
            .filter(|place| place.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), place| (min.min(place), max.max(place)));
        if min > max {
            return 0.0..1.0;
        }
        // A range of no length cannot be drawn on.
        let margin = ((max - min) * 0.05).max(0.05);
        min - margin..max + margin
    }
}

fn reached(point: &Point) -> Vec<f64> {
    let (min, max) = point.reach.unwrap_or((point.y, point.y));
    vec![point.y, min, max]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn figure(suite: &str, case: &str, about: &[(&str, Value)], detail: Value) -> Figure {
        Figure {
            run: 0,
            suite: suite.into(),
            case: case.into(),
            link: "tcp".into(),
            unit: "u".into(),
            larger_is_better: false,
            native: Side::of(vec![1.0, 2.0], detail.clone()),
            remote: Side::of(vec![2.0, 3.0], detail),
            ratio: None,
            about: about
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect::<BTreeMap<_, _>>(),
        }
        .with_ratio()
    }

    fn file(figures: Vec<Figure>) -> File {
        File { figures, ..File::new() }
    }

    #[test]
    fn every_suite_gets_its_plots_and_they_name_what_they_show() {
        let copies = |direction: &str, bytes: u64| {
            let about =
                [("bytes", json!(bytes)), ("memory", json!("pinned")), ("direction", json!(direction))];
            figure("bandwidth", &format!("{direction} {bytes}"), &about, Value::Null)
        };
        let file = file(vec![
            figure("latency", "launch", &[], json!({ "curve": [[0.0, 0.1], [0.5, 0.3], [1.0, 20.0]] })),
            copies("h2d", 4096),
            copies("h2d", 1 << 20),
            copies("d2h", 4096),
            figure("train", "resnet50 fp32 32", &[("bound", json!(0.4))], Value::Null),
            figure("clients", "calls x2", &[("sessions", json!(2))], Value::Null),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        for plot in plots(&file) {
            let path = folder.path().join(&plot.name);
            plot.draw(&path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{}", plot.name);
            assert!(text.contains(&plot.title) && text.contains("tcp"), "{}", plot.name);
            names.push(plot.name);
        }
        let expected = ["latency-launch", "bandwidth-pinned-h2d", "bandwidth-pinned-d2h", "train", "clients"];
        assert_eq!(names, expected);
    }

    #[test]
    fn scales_say_what_they_show() {
        assert_eq!(Scale::Bytes.text(Scale::Bytes.place(4096.0)), "4K");
        assert_eq!(Scale::Bytes.text(Scale::Bytes.place((1 << 30) as f64)), "1G");
        assert_eq!(Scale::Quantile.text(Scale::Quantile.place(0.99)), "99 %");
        assert_eq!(Scale::Log.text(Scale::Log.place(0.1)), "0.1");
    }

    #[test]
    fn every_case_of_a_long_row_is_named() {
        for count in [1, 2, 3, 7, 16, 32] {
            let figures =
                (0..count).map(|number| figure("train", &format!("case{number}."), &[], Value::Null));
            let file = file(figures.collect());
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.svg");
            plots(&file)[0].draw(&path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let missing: Vec<u32> =
                (0..count).filter(|number| !text.contains(&format!("case{number}."))).collect();
            assert!(missing.is_empty(), "of {count}: {missing:?}");
        }
    }

    #[test]
    fn figures_without_rounds_do_not_stop_a_plot() {
        let mut broken = figure("train", "a", &[], Value::Null);
        broken.native = Side::default();
        let file = file(vec![broken.with_ratio()]);
        let folder = tempfile::tempdir().unwrap();
        for plot in plots(&file) {
            plot.draw(&folder.path().join("x.svg")).unwrap();
        }
    }
}
