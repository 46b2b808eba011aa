//! `clients`: several sessions on one GPU, against as many local processes.
//!
//! All processes of one side work at the same time, from one moment to another; the other side's wait. What
//! counts is what they get done together, and how evenly it is shared.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::result::{Figure, Side};
use crate::rig::child::Child;
use crate::rig::link::Link;
use crate::rig::recorder::Recorder;
use crate::rig::session::Place;
use crate::rig::{Rig, RigArgs};
use crate::suite::train::{self, Model, Precision};
use crate::suite::{self, Links};

const READY_LIMIT: Duration = Duration::from_secs(400);

/// Several sessions on one GPU, against as many local processes.
///
/// A figure is the work of all processes of a side together; the shares of each are beside it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rig: RigArgs,
    #[command(flatten)]
    links: Links,
    /// Numbers of sessions
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2,4,8,16", value_parser = clap::value_parser!(u32).range(1..=256))]
    sessions: Vec<u32>,
    /// train: training steps, in images; calls: 20 launches and a copy of 64 KiB each, in such rounds
    #[arg(long, value_enum, default_value = "train")]
    work: Work,
    /// What is trained
    #[arg(long, value_enum, default_value = "resnet50")]
    model: Model,
    /// In which precision
    #[arg(long, value_enum, default_value = "fp32")]
    precision: Precision,
    /// Batch size; twice the largest number of sessions must fit into the GPU's memory
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Seconds of one round on one side [default: 4; 1 with --quick]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Let cuDNN choose algorithms by rule, not by trial; processes then prepare at the same time
    #[arg(long)]
    no_autotune: bool,
    /// Python with PyTorch and torchvision
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    Train,
    Calls,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let seconds = args.seconds.unwrap_or(if args.rig.quick { 1.0 } else { 4.0 });
    if !(seconds > 0.0 && seconds <= 120.0) {
        return Err(Error::Usage("--seconds is not between 0 and 120".into()));
    }
    let rig = Rig::new(&args.rig)?;
    let mut recorder = Recorder::new(&args.rig, "clients");
    let baseline = Place::baseline(&rig, &mut recorder)?;
    suite::describe(&rig, baseline.as_ref(), &mut recorder)?;
    let program = match args.work {
        Work::Train => {
            let words: &[&str] = if args.no_autotune { &["--no-autotune"] } else { &[] };
            train::program(rig.work(), &args.python, words)?
        }
        Work::Calls => suite::probe()?,
    };
    let mut counts = args.sessions.clone();
    counts.sort_unstable();
    counts.dedup();
    let mut native = Crowd::new(&rig, &program, baseline.as_ref(), args);
    for link in &args.links.links {
        let place = match Place::start(&rig, *link, &mut recorder) {
            Ok(place) => place,
            Err(error @ Error::Unsupported(_)) => {
                recorder.say(&format!("{error}; it is left out"));
                continue;
            }
            Err(error) => {
                recorder.problem(link.name, &error.to_string());
                continue;
            }
        };
        let mut remote = Crowd::new(&rig, &program, Some(&place), args);
        for count in &counts {
            if !recorder.time_left() {
                recorder.say(&format!("{count} sessions: no time is left"));
                continue;
            }
            match one_count(&mut native, &mut remote, *count as usize, args, seconds) {
                Ok((native, remote)) => recorder.add(figure(args, *count, link, native, remote))?,
                Err(error) => {
                    recorder.problem(link.name, &format!("{count} sessions: {error}"));
                    break;
                }
            }
        }
    }
    recorder.finish()
}

fn one_count(
    native: &mut Crowd<'_>,
    remote: &mut Crowd<'_>,
    count: usize,
    args: &Args,
    seconds: f64,
) -> Result<(Side, Side)> {
    native.grow(count)?;
    remote.grow(count)?;
    let (mut at_home, mut away) = (Vec::new(), Vec::new());
    for round in 0..args.rig.rounds(4, 2) {
        // Who is first changes.
        if round % 2 == 0 {
            at_home.push(native.work(count, seconds)?);
            away.push(remote.work(count, seconds)?);
        } else {
            away.push(remote.work(count, seconds)?);
            at_home.push(native.work(count, seconds)?);
        }
    }
    let side = |rounds: Vec<Vec<f64>>| {
        let totals = rounds.iter().map(|rates| rates.iter().sum()).collect();
        let shares: Vec<Vec<f64>> = rounds.iter().map(|rates| shares(rates)).collect();
        Side::of(totals, json!({ "shares": shares }))
    };
    Ok((side(at_home), side(away)))
}

/// What each has of the whole.
fn shares(rates: &[f64]) -> Vec<f64> {
    let total: f64 = rates.iter().sum();
    rates.iter().map(|rate| rate / total).collect()
}

fn figure(args: &Args, count: u32, link: &Link, native: Side, remote: Side) -> Figure {
    let mut about = std::collections::BTreeMap::from([("sessions".to_owned(), json!(count))]);
    let (case, unit) = match args.work {
        Work::Calls => (format!("calls x{count}"), "rounds/s"),
        Work::Train => {
            let (model, precision) = (args.model.name(), args.precision.name());
            about.insert("model".into(), json!(model));
            about.insert("precision".into(), json!(precision));
            about.insert("batch".into(), json!(args.batch));
            (format!("{model} {precision} {} x{count}", args.batch), "images/s")
        }
    };
    Figure {
        run: 0,
        suite: String::new(),
        case,
        link: link.name.to_owned(),
        unit: unit.to_owned(),
        larger_is_better: true,
        native,
        remote,
        ratio: None,
        about,
    }
}

/// The processes of one side. They stay, so that a larger number needs only the rest of them.
struct Crowd<'a> {
    rig: &'a Rig,
    program: &'a [OsString],
    place: Option<&'a Place>,
    args: &'a Args,
    members: Vec<Child>,
}

impl<'a> Crowd<'a> {
    fn new(rig: &'a Rig, program: &'a [OsString], place: Option<&'a Place>, args: &'a Args) -> Crowd<'a> {
        Crowd { rig, program, place, args, members: Vec::new() }
    }

    /// Starts those that are missing, all at once, and has them prepare: one after the other where they try out
    /// algorithms, which they would not be fast at together.
    fn grow(&mut self, count: usize) -> Result<()> {
        let old = self.members.len();
        for place in old..count {
            let name = format!("client-{place}");
            self.members.push(Child::start(self.rig, &name, self.program, self.place)?);
        }
        for member in self.members.iter_mut().skip(old) {
            member.hear(READY_LIMIT)?;
        }
        if self.args.work == Work::Train {
            let request = json!({
                "do": "prepare", "model": self.args.model.name(), "precision": self.args.precision.name(),
                "batch": self.args.batch,
            });
            if self.args.no_autotune {
                for member in self.members.iter_mut().skip(old) {
                    member.tell(&request);
                }
                for member in self.members.iter_mut().skip(old) {
                    member.hear(READY_LIMIT)?;
                }
            } else {
                for member in self.members.iter_mut().skip(old) {
                    member.ask(&request, READY_LIMIT)?;
                }
            }
        }
        Ok(())
    }

    /// Has the first so many work for so many seconds; what each got done in a second.
    fn work(&mut self, count: usize, seconds: f64) -> Result<Vec<f64>> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let from = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9 + 0.1;
        let request = json!({ "do": "for", "from": from, "until": from + seconds });
        let each = match self.args.work {
            Work::Train => f64::from(self.args.batch),
            Work::Calls => 1.0,
        };
        let members = self.members.get_mut(..count).unwrap_or_default();
        members.iter_mut().for_each(|member| member.tell(&request));
        let limit = READY_LIMIT.max(Duration::try_from_secs_f64(seconds * 20.0).failed(|| "a limit".into())?);
        members
            .iter_mut()
            .map(|member| {
                let answer = member.hear(limit)?;
                let number = |name: &str| answer.get(name).and_then(Value::as_f64);
                match (number("steps"), number("seconds")) {
                    (Some(steps), Some(seconds)) if steps > 0.0 && seconds > 0.0 => {
                        Ok(steps * each / seconds)
                    }
                    _ => Err(Error::Failed(format!("{}: nothing was done: {answer}", member.side))),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_whole() {
        assert_eq!(shares(&[1.0, 3.0]), [0.25, 0.75]);
    }
}
