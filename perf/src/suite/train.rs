//! `train`: steps of ResNet-50 and Inception-v3, native and over each link in turns.
//!
//! A case is one model in one precision at one batch size. It is prepared natively once and stays there while
//! one group of links after the other takes turns with it: all links at once would not fit into the GPU's
//! memory at large batches.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::result::{Figure, Side};
use crate::rig::link::Link;
use crate::rig::recorder::Recorder;
use crate::rig::session::{Rounds, Session};
use crate::rig::{Rig, RigArgs};
use crate::suite::Links;

const SCRIPT: &str = include_str!("../../scripts/train.py");

/// Preparing compiles nothing, but tries algorithms and fills memory with images.
const PREPARE_LIMIT: Duration = Duration::from_secs(300);
const ROUND_LIMIT: Duration = Duration::from_secs(300);

/// Training steps of ResNet-50 and Inception-v3.
///
/// Needs Python with PyTorch and torchvision. A figure is milliseconds a step; the ratio is native / remote,
/// the median of the rounds' own ratios.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rig: RigArgs,
    #[command(flatten)]
    links: Links,
    #[command(flatten)]
    cases: Cases,
}

/// What is trained, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Cases {
    /// Models
    #[arg(long, value_enum, value_delimiter = ',', default_value = "resnet50,inception_v3")]
    models: Vec<Model>,
    /// fp32, or bf16 (autocast, channels-last)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "fp32,bf16")]
    precisions: Vec<Precision>,
    /// Batch sizes [default: 2,32,128,256; with --quick 32]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    batches: Vec<u32>,
    /// Without and with `.item()` after every step
    #[arg(long, value_enum, value_delimiter = ',', default_value = "no,yes")]
    item: Vec<Item>,
    /// Seconds of one round on one side, natively [default: 1; 0.5 with --quick]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// How often all processes are started anew, and the rounds taken again: where a process has its memory on the
    /// GPU decides some thousandths of its speed, for as long as it lives
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
    /// Steps of one round instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: Option<u32>,
    /// Links that are prepared at the same time as native; fewer need less of the GPU's memory
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    at_once: u32,
    /// Let cuDNN choose algorithms by rule, not by trial
    #[arg(long)]
    no_autotune: bool,
    /// Python with PyTorch and torchvision
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Model {
    Resnet50,
    InceptionV3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    Fp32,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Item {
    No,
    Yes,
}

impl Model {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Model::Resnet50 => "resnet50",
            Model::InceptionV3 => "inception_v3",
        }
    }
}

impl Precision {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    model: Model,
    precision: Precision,
    batch: u32,
}

impl Case {
    fn name(self) -> String {
        format!("{} {} {}", self.model.name(), self.precision.name(), self.batch)
    }

    fn with_item(self, item: bool) -> String {
        format!("{}{}", self.name(), if item { " item" } else { "" })
    }

    fn prepare(self) -> Value {
        json!({
            "do": "prepare", "model": self.model.name(), "precision": self.precision.name(), "batch": self.batch,
        })
    }
}

impl Cases {
    fn all(&self, quick: bool) -> Vec<Case> {
        let batches = match (self.batches.is_empty(), quick) {
            (false, _) => self.batches.clone(),
            (true, true) => vec![32],
            (true, false) => vec![2, 32, 128, 256],
        };
        let mut cases = Vec::new();
        for model in &self.models {
            for precision in &self.precisions {
                for batch in &batches {
                    cases.push(Case { model: *model, precision: *precision, batch: *batch });
                }
            }
        }
        cases
    }

    /// How many steps take a round's time natively.
    fn count(&self, quick: bool, ms: f64) -> u32 {
        let seconds = self.seconds.unwrap_or(if quick { 0.5 } else { 1.0 });
        self.steps.unwrap_or_else(|| ((seconds * 1000.0 / ms.max(0.01)) as u32).clamp(3, 2000))
    }
}

/// The command line of the training program, which is put into the folder for work.
pub(crate) fn program(work: &Path, python: &str, words: &[&str]) -> Result<Vec<OsString>> {
    let script = work.join("train.py");
    fs::write(&script, SCRIPT).failed(|| format!("{}", script.display()))?;
    let mut program: Vec<OsString> = vec![python.into(), script.into()];
    program.extend(words.iter().map(OsString::from));
    Ok(program)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rig = Rig::new(&args.rig)?;
    measure(&rig, "train", &args.links.links, &args.cases, &|_, _| {})
}

/// Trains all cases over all links. `finish` adds to a figure what the command knows besides.
pub(crate) fn measure(
    rig: &Rig,
    suite: &'static str,
    links: &[Link],
    cases: &Cases,
    finish: &dyn Fn(&Link, &mut Figure),
) -> Result<()> {
    let quick = rig.args.quick;
    if cases.seconds.is_some_and(|seconds| !(seconds > 0.0 && seconds <= 120.0)) {
        return Err(Error::Usage("--seconds is not between 0 and 120".into()));
    }
    let mut recorder = Recorder::new(&rig.args, suite);
    let words: &[&str] = if cases.no_autotune { &["--no-autotune"] } else { &[] };
    let program = program(rig.work(), &cases.python, words)?;
    let mut taken = Taken::new();
    for _ in 0..cases.starts {
        if !recorder.time_left() {
            break;
        }
        let mut session = Session::start(rig, links, &program, &mut recorder)?;
        recorder.say("all processes are ready");
        for case in cases.all(quick) {
            if !recorder.time_left() {
                recorder.say(&format!("{}: no time is left", case.name()));
                continue;
            }
            one_case(rig, case, cases, &mut session, &mut taken, &mut recorder, finish)?;
        }
    }
    recorder.finish()
}

/// Rounds of all starts so far, by case and link.
type Taken = HashMap<(String, &'static str), Rounds>;

/// Enters the rounds of one start, and gives those of all.
fn together<'a>(taken: &'a mut Taken, case: &str, rounds: Rounds) -> &'a Rounds {
    match taken.entry((case.to_owned(), rounds.link.name)) {
        Entry::Vacant(entry) => entry.insert(rounds),
        Entry::Occupied(entry) => {
            let all = entry.into_mut();
            all.native.extend(rounds.native);
            all.remote.extend(rounds.remote);
            all
        }
    }
}

fn one_case(
    rig: &Rig,
    case: Case,
    cases: &Cases,
    session: &mut Session,
    all: &mut Taken,
    recorder: &mut Recorder,
    finish: &dyn Fn(&Link, &mut Figure),
) -> Result<()> {
    let prepared = match session.ask_native(&case.prepare(), PREPARE_LIMIT) {
        Ok(prepared) => prepared,
        Err(error) => {
            recorder.problem("native", &format!("{}: {error}", case.name()));
            return if session.native_alive() { Ok(()) } else { Err(error) };
        }
    };
    let number = |name: &str| prepared.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let count = cases.count(rig.args.quick, number("ms"));
    for group in session.links().chunks(cases.at_once as usize) {
        let mut ready = Vec::new();
        // One after the other: each tries its algorithms with the card to itself.
        for link in group {
            match session.ask_remote(*link, &case.prepare(), PREPARE_LIMIT) {
                Ok(_) => ready.push(*link),
                Err(error) => recorder.problem(link.name, &format!("{}: {error}", case.name())),
            }
        }
        if ready.is_empty() {
            continue;
        }
        let rounds = rig.args.rounds(5, 3);
        for item in cases.item.iter().map(|item| *item == Item::Yes) {
            let steps = json!({ "do": "steps", "count": count, "item": item });
            for taken in session.turns(&ready, &steps, rounds, ROUND_LIMIT, recorder)? {
                let link = taken.link;
                let taken = together(all, &case.with_item(item), taken);
                let mut figure = figure(case, item, count, number("bytes"), taken)?;
                finish(&link, &mut figure);
                recorder.add(figure)?;
            }
        }
        for link in ready {
            // What cannot be asked any more has no memory either.
            let _ = session.ask_remote(link, &json!({ "do": "drop" }), ROUND_LIMIT);
        }
    }
    session.ask_native(&json!({ "do": "drop" }), ROUND_LIMIT).map(drop)
}

fn figure(case: Case, item: bool, count: u32, bytes: f64, rounds: &Rounds) -> Result<Figure> {
    let native = side(&rounds.native)?;
    let mut about = std::collections::BTreeMap::new();
    about.insert("model".to_owned(), json!(case.model.name()));
    about.insert("precision".to_owned(), json!(case.precision.name()));
    about.insert("batch".to_owned(), json!(case.batch));
    about.insert("item".to_owned(), json!(item));
    about.insert("steps_a_round".to_owned(), json!(count));
    about.insert("bytes_a_step".to_owned(), json!(bytes));
    // What the input alone takes of a link if the step is not to wait for it.
    if let Some(ms) = native.median {
        about.insert("needs_gbit".to_owned(), json!(bytes * 8.0 / (ms * 1e6)));
    }
    let figure = Figure {
        run: 0,
        suite: String::new(),
        case: case.with_item(item),
        link: rounds.link.name.to_owned(),
        unit: "ms".to_owned(),
        larger_is_better: false,
        native,
        remote: side(&rounds.remote)?,
        ratio: None,
        about,
    };
    Ok(figure.with_ratio())
}

fn side(answers: &[Value]) -> Result<Side> {
    let times: Option<Vec<f64>> = answers.iter().map(|answer| answer.get("ms")?.as_f64()).collect();
    let times = times.ok_or_else(|| Error::Failed("the training program answered without a time".into()))?;
    Ok(Side::of(times, Value::Null))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cases: Cases,
    }

    fn cases(words: &[&str]) -> Cases {
        Line::parse_from([&["x"], words].concat()).cases
    }

    #[test]
    fn a_slice_is_what_was_asked_for() {
        assert_eq!(cases(&[]).all(false).len(), 2 * 2 * 4);
        let slice = cases(&["--models", "inception_v3", "--batches", "2,32", "--precisions", "bf16"]);
        let names: Vec<String> = slice.all(false).into_iter().map(Case::name).collect();
        assert_eq!(names, ["inception_v3 bf16 2", "inception_v3 bf16 32"]);
    }

    #[test]
    fn a_round_takes_its_time_natively() {
        assert_eq!(cases(&["--seconds", "2"]).count(false, 20.0), 100);
        assert_eq!(cases(&["--steps", "7"]).count(false, 20.0), 7);
        assert_eq!(cases(&[]).count(true, 1e9), 3);
        assert_eq!(cases(&[]).count(true, f64::NAN), 2000);
    }
}
