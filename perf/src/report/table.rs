//! `table`: results as Markdown, into a page between two markers.
//!
//! Nothing is rounded so that it looks better: four significant figures, and ratios to three places with the
//! whole range of the rounds.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{distinct, load};
use crate::error::{Context, Error, Result};
use crate::result::{Figure, File, Run};
use crate::stats::Spread;

/// Markdown tables of results, printed or put into a page.
///
/// In the page, what is between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Results, joined as `merge` does
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only these suites: latency, bandwidth, train, matrix, clients, coldstart
    #[arg(long, value_name = "SUITE,...", value_delimiter = ',')]
    only: Vec<String>,
    /// The page to put them into, such as README.md [default: print them]
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Which markers
    #[arg(long, value_name = "NAME", default_value = "perf")]
    markers: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = load(&args.files)?;
    let text = tables(&file, &args.only);
    if text.is_empty() {
        return Err(Error::Usage("there are no figures of these suites".into()));
    }
    let Some(page) = &args.page else {
        print!("{text}");
        return Ok(());
    };
    let old = fs::read_to_string(page).usage(|| format!("{} cannot be read", page.display()))?;
    let new = replaced(&old, &args.markers, &text)
        .map_err(|reason| Error::Usage(format!("{}: {reason}", page.display())))?;
    fs::write(page, new).failed(|| format!("{} cannot be written", page.display()))
}

/// The page with other text between the markers.
fn replaced(page: &str, name: &str, text: &str) -> std::result::Result<String, String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let (before, rest) = page.split_once(&begin).ok_or_else(|| format!("it has no {begin}"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("after {begin} it has no {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

fn tables(file: &File, only: &[String]) -> String {
    let all: Vec<&Figure> = file.figures.iter().collect();
    let mut text = String::new();
    for suite in distinct(&all, |figure| &figure.suite) {
        if !only.is_empty() && !only.iter().any(|name| name == suite) {
            continue;
        }
        let figures: Vec<&Figure> = all.iter().copied().filter(|figure| figure.suite == suite).collect();
        one(&mut text, suite, &figures, &file.runs);
    }
    text
}

fn one(text: &mut String, suite: &str, figures: &[&Figure], runs: &[Run]) {
    let links = distinct(figures, |figure| &figure.link);
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n**{suite}** — {}\n", explained(suite));
    let _ = writeln!(text, "| case | native | {} |", links.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(links.len()));
    for case in distinct(figures, |figure| &figure.case) {
        // A row for each run: what was native in one is nothing to the links of another.
        let of_case = figures.iter().filter(|figure| figure.case == case);
        for run in of_case.map(|figure| figure.run).collect::<BTreeSet<usize>>() {
            let of = |link: &str| figures.iter().find(|f| f.case == case && f.link == link && f.run == run);
            let Some(first) = links.iter().find_map(|link| of(link)) else { continue };
            let cells: Vec<String> =
                links.iter().map(|link| of(link).map_or("–".into(), |figure| cell(figure))).collect();
            let _ = writeln!(text, "| {case} | {} | {} |", native(first), cells.join(" | "));
        }
    }
    let mut used: Vec<usize> = figures.iter().map(|figure| figure.run).collect();
    used.sort_unstable();
    used.dedup();
    let _ = writeln!(text);
    for run in used.iter().filter_map(|run| runs.get(*run)) {
        let _ = writeln!(text, "{}\n", source(run));
    }
}

fn explained(suite: &str) -> &'static str {
    match suite {
        "latency" => "p50 / p99 in microseconds; in brackets one call among many, without the clock",
        "matrix" => {
            "native: time of a step; links: how fast against native (range), and the link's own bound"
        }
        "bandwidth" | "clients" => "native: the rate; links: how much of it (range)",
        _ => "native: the time; links: how fast against native, 1 is as fast (range)",
    }
}

fn native(figure: &Figure) -> String {
    match percentiles(&figure.native.detail) {
        Some(text) => text,
        None => {
            figure.native.median.map_or("–".into(), |median| format!("{} {}", short(median), figure.unit))
        }
    }
}

fn cell(figure: &Figure) -> String {
    if let Some(text) = percentiles(&figure.remote.detail) {
        return text;
    }
    let Some(ratio) = figure.ratio else { return "–".into() };
    let mut text = format!("{:.3} ({:.3}–{:.3})", ratio.median, ratio.min, ratio.max);
    if let Some(bound) = figure.about_f64("bound") {
        let _ = write!(text, ", bound {bound:.3}");
    }
    if let Some((least, most)) = shares(&figure.remote.detail) {
        let _ = write!(text, ", shares {least:.3}–{most:.3}");
    }
    text
}

/// The least and the largest share that one of several sessions had.
fn shares(detail: &Value) -> Option<(f64, f64)> {
    let rounds = detail.get("shares")?.as_array()?;
    let each = rounds.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_f64);
    let spread = Spread::of(&each.collect::<Vec<f64>>())?;
    (spread.max < 1.0).then_some((spread.min, spread.max))
}

fn percentiles(detail: &Value) -> Option<String> {
    let at = |name: &str| detail.get(name).and_then(Value::as_f64);
    let each = at("each_ns").map(|each| format!(" ({} ns)", short(each))).unwrap_or_default();
    Some(format!("{} / {}{each}", short(at("p50")?), short(at("p99")?)))
}

/// Four significant figures.
fn short(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

fn source(run: &Run) -> String {
    let gpu = run.machine.gpu.as_deref().unwrap_or("no GPU named");
    let driver = run.machine.driver.as_ref().map(|version| format!(", driver {version}")).unwrap_or_default();
    let commit = run.commit.as_deref().unwrap_or("unknown");
    let baseline = run.about.get("baseline").and_then(Value::as_str);
    let baseline = baseline.map(|link| format!(" \"Native\" was {link}.")).unwrap_or_default();
    let lines: String = run.about.iter().filter_map(|(name, found)| plain_tcp(name, found)).collect();
    format!(
        "{gpu}{driver}, {} cores, Linux {}, commit `{commit}`, {}: `{}`.{baseline}{lines}",
        run.machine.cores, run.machine.kernel, run.date, run.command
    )
}

/// What plain TCP gets of a link, from a run's `line_LINK`.
fn plain_tcp(name: &str, found: &Value) -> Option<String> {
    let link = name.strip_prefix("line_")?;
    let round_trip = short(found.get("round_trip_us")?.get("p50")?.as_f64()?);
    let goodput = short(found.get("gbit_four_streams")?.as_f64()?);
    let control = found.get("congestion_control").and_then(Value::as_str).filter(|name| !name.is_empty());
    let control = control.map(|name| format!(" ({name})")).unwrap_or_default();
    Some(format!(
        " Plain TCP{control} over {link}: round trip {round_trip} us, {goodput} Gbit/s with four streams."
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machine::Machine;
    use crate::report::tests::figure;

    fn file() -> File {
        let mut bounded = figure("matrix", "a", "10g", 20.0, Value::Null);
        bounded.about.insert("bound".into(), json!(0.625));
        let run = Run {
            command: "fusewire-perf train".into(),
            date: "2026-01-01T00:00:00Z".into(),
            commit: Some("abc".into()),
            machine: Machine { gpu: Some("G".into()), driver: None, cores: 2, kernel: "6.1".into() },
            seconds: 1.0,
            about: Default::default(),
        };
        let figures = vec![
            figure("train", "a", "shm", 10.0, Value::Null),
            figure("train", "a", "tcp", 20.0, Value::Null),
            figure("train", "b", "tcp", 40.0, Value::Null),
            bounded,
            figure("latency", "launch", "tcp", 1.0, json!({ "p50": 0.25, "p99": 123.456 })),
        ];
        File { runs: vec![run], figures, ..File::new() }
    }

    #[test]
    fn a_table_has_a_row_a_case_and_a_column_a_link() {
        let text = tables(&file(), &["train".into()]);
        assert!(text.contains("| case | native | shm | tcp |\n|---|---|---|---|\n"), "{text}");
        assert!(text.contains("| a | 10.00 ms | 1.000 (1.000–1.000) | 0.500 (0.500–0.500) |"), "{text}");
        assert!(text.contains("| b | 10.00 ms | – | 0.250 (0.250–0.250) |"), "{text}");
        assert!(text.contains("`fusewire-perf train`") && text.contains("commit `abc`"), "{text}");
        assert!(!text.contains("latency"), "{text}");
    }

    #[test]
    fn bounds_and_percentiles_are_shown() {
        let text = tables(&file(), &[]);
        assert!(text.contains("0.500 (0.500–0.500), bound 0.625"), "{text}");
        assert!(text.contains("| launch | 0.250 / 123.5 | 0.250 / 123.5 |"), "{text}");
    }

    #[test]
    fn shares_are_told_where_there_are_several() {
        assert_eq!(shares(&json!({ "shares": [[0.4, 0.6], [0.5, 0.5]] })), Some((0.4, 0.6)));
        assert_eq!(shares(&json!({ "shares": [[1.0]] })), None);
        assert_eq!(shares(&Value::Null), None);
    }

    #[test]
    fn what_plain_tcp_gets_of_a_link_is_told() {
        let found = json!({ "round_trip_us": { "p50": 25.04 }, "gbit_four_streams": 9.9 });
        let text = plain_tcp("line_10g", &found).unwrap();
        assert_eq!(text, " Plain TCP over 10g: round trip 25.04 us, 9.900 Gbit/s with four streams.");
        assert_eq!(plain_tcp("torch", &found), None);
        let found = json!({ "round_trip_us": { "p50": 25.0 }, "gbit_four_streams": 9.9, "congestion_control": "bbr" });
        assert!(plain_tcp("line_10g", &found).unwrap().starts_with(" Plain TCP (bbr) over 10g: "));
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = "a\n<!-- perf:begin -->\nold\n<!-- perf:end -->\nz\n";
        let new = replaced(page, "perf", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- perf:begin -->\nnew\n<!-- perf:end -->\nz\n");
        assert_eq!(replaced(&new, "perf", "new\n").unwrap(), new);
        assert!(replaced("a", "perf", "").unwrap_err().contains("perf:begin"));
        assert!(replaced("<!-- perf:begin -->", "perf", "").unwrap_err().contains("perf:end"));
    }
}
