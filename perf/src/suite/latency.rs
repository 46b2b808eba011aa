//! `latency`: percentiles of single driver calls, native and over each link in turns.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::probe::{Request, What};
use crate::result::{Figure, Side};
use crate::rig::recorder::Recorder;
use crate::rig::session::{Rounds, Session};
use crate::rig::{Rig, RigArgs};
use crate::stats::Spread;
use crate::suite::{self, Links};

/// Latency of single driver calls, in percentiles.
///
/// Every call is timed by itself. The open-loop cases issue calls at a fixed rate and measure each from the
/// moment at which it should have begun.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rig: RigArgs,
    #[command(flatten)]
    links: Links,
    /// Only these cases; see --list
    #[arg(long, value_name = "CASE,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Print the cases and leave
    #[arg(long)]
    list: bool,
    /// Rates of the open-loop launches, a second
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "100000", value_parser = rate)]
    launch_rates: Vec<f64>,
    /// Rates of the open-loop launches with synchronisation, a second
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10000", value_parser = rate)]
    synchronize_rates: Vec<f64>,
    /// Seconds of one case in one round on one side [default: 0.5; 0.1 with --quick]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err(format!("{text} is not a rate between 0 and 10000000 a second")),
    }
}

const CLOSED: [(&str, What); 7] = [
    ("clock", What::Clock),
    ("launch", What::Launch),
    ("launch_synchronize", What::LaunchSynchronize),
    ("memcpy_dtoh_4", What::ReadWord),
    ("event_query", What::EventQuery),
    ("ctx_get_current", What::CurrentContext),
    ("device_get_attribute", What::DeviceAttribute),
];

const ANSWER_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &Args) -> Result<()> {
    let cases = args.cases()?;
    if args.list {
        cases.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    let rig = Rig::new(&args.rig)?;
    let mut recorder = Recorder::new(&args.rig, "latency");
    let mut session = Session::start(&rig, &args.links.links, &suite::probe()?, &mut recorder)?;
    let rounds = args.rig.rounds(5, 2);
    for (name, request) in cases {
        if !recorder.time_left() {
            recorder.say(&format!("{name}: no time is left"));
            continue;
        }
        let request = serde_json::to_value(&request).failed(|| name.clone())?;
        let links = session.links();
        for taken in session.turns(&links, &request, rounds, ANSWER_LIMIT, &mut recorder)? {
            recorder.add(figure(&name, taken)?)?;
        }
    }
    recorder.finish()
}

impl Args {
    fn cases(&self) -> Result<Vec<(String, Request)>> {
        let seconds = self.seconds.unwrap_or(if self.rig.quick { 0.1 } else { 0.5 });
        if !(seconds > 0.0 && seconds <= 60.0) {
            return Err(Error::Usage(format!("--seconds {seconds} is not between 0 and 60")));
        }
        let mut cases: Vec<(String, Request)> = CLOSED
            .into_iter()
            .map(|(name, what)| (name.to_owned(), Request::Calls { what, seconds }))
            .collect();
        let open = [
            (What::Launch, "launch", &self.launch_rates),
            (What::LaunchSynchronize, "launch_synchronize", &self.synchronize_rates),
        ];
        for (what, name, rates) in open {
            for rate in rates {
                let request = Request::OpenLoop { what, per_second: *rate, seconds: 2.0 * seconds };
                cases.push((format!("{name}_open_{rate}"), request));
            }
        }
        if let Some(unknown) = self.only.iter().find(|name| !cases.iter().any(|(case, _)| case == *name)) {
            return Err(Error::Usage(format!("there is no case {unknown}; see --list")));
        }
        cases.retain(|(name, _)| self.only.is_empty() || self.only.contains(name));
        Ok(cases)
    }
}

fn figure(case: &str, rounds: Rounds) -> Result<Figure> {
    Ok(Figure {
        run: 0,
        suite: String::new(),
        case: case.to_owned(),
        link: rounds.link.name.to_owned(),
        unit: "us".to_owned(),
        larger_is_better: false,
        native: side(&rounds.native)?,
        remote: side(&rounds.remote)?,
        ratio: None,
        about: Default::default(),
    })
}

/// The percentiles of all rounds together; the figure of a round is its median.
fn side(answers: &[Value]) -> Result<Side> {
    let mut whole = empty()?;
    let mut medians = Vec::new();
    let mut rounds = Vec::new();
    for answer in answers {
        let histogram = read(answer)?;
        medians.push(microseconds(histogram.value_at_quantile(0.5)));
        let mut told = percentiles(&histogram);
        for name in ["each_ns", "achieved_per_second"] {
            if let Some(value) = answer.get(name) {
                told[name] = value.clone();
            }
        }
        rounds.push(told);
        whole.add(&histogram).failed(|| "histograms of two rounds".into())?;
    }
    let mut detail = percentiles(&whole);
    let each = answers.iter().filter_map(|answer| answer.get("each_ns")?.as_f64()).collect::<Vec<f64>>();
    if let Some(spread) = Spread::of(&each) {
        detail["each_ns"] = json!(spread.min);
    }
    detail["rounds"] = Value::Array(rounds);
    Ok(Side::of(medians, detail))
}

fn empty() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, crate::probe::LONGEST, 3).failed(|| "a histogram".into())
}

fn read(answer: &Value) -> Result<Histogram<u64>> {
    let mut histogram = empty()?;
    let counts = answer.get("counts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for pair in counts {
        match (pair.get(0).and_then(Value::as_u64), pair.get(1).and_then(Value::as_u64)) {
            (Some(value), Some(count)) => histogram.saturating_record_n(value, count),
            _ => return Err(Error::Failed(format!("a probe answered {pair} for a value and its count"))),
        }
    }
    Ok(histogram)
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// In microseconds; `curve` for plots, as pairs of quantile and value.
fn percentiles(histogram: &Histogram<u64>) -> Value {
    let at = |quantile: f64| microseconds(histogram.value_at_quantile(quantile));
    let curve: Vec<(f64, f64)> =
        [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0]
            .map(|quantile| (quantile, at(quantile)))
            .into();
    json!({
        "count": histogram.len(),
        "mean": histogram.mean() / 1000.0,
        "p50": at(0.5),
        "p99": at(0.99),
        "p99_9": at(0.999),
        "max": microseconds(histogram.max()),
        "curve": curve,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_back_from_what_a_probe_says() {
        // 990 calls of 1 us, 9 of 10 us, one of a millisecond.
        let answer = json!({ "counts": [[1000, 990], [10_000, 9], [1_000_000, 1]] });
        let side = side(&[answer.clone(), answer]).unwrap();
        assert_eq!(side.rounds, [1.0, 1.0]);
        let near = |name: &str, value: f64| {
            let found = side.detail[name].as_f64().unwrap();
            assert!((found - value).abs() <= value * 0.002, "{name}: {found}, not {value}");
        };
        near("p50", 1.0);
        near("p99", 1.0);
        near("p99_9", 10.0);
        near("max", 1000.0);
        assert_eq!(side.detail["count"], 2000);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        assert!(side(&[json!({ "counts": [["a", 1]] })]).is_err());
    }
}
