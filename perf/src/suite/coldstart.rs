//! `coldstart`: from the start of a process to its first kernel, and to its first training step.
//!
//! Every round has a server of its own with empty caches. The first start finds nothing in them, the second
//! what the first has left. Natively both are the same but for the driver's own cache, which is emptied too.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::result::{Figure, Side};
use crate::rig::child::Child;
use crate::rig::link::Link;
use crate::rig::recorder::Recorder;
use crate::rig::session::Place;
use crate::rig::{Rig, RigArgs};
use crate::suite::train::{self, Model, Precision};
use crate::suite::{self, Links};

const LIMIT: Duration = Duration::from_secs(400);

/// From process start to the first kernel and to the first training step.
///
/// A figure is seconds of wall time, from before the process becomes the program (or `fusewire run`) until it says that the work is done;
/// starting Python and importing PyTorch are in it, on both sides. cuDNN's algorithms are chosen by rule, as is
/// PyTorch's default.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rig: RigArgs,
    #[command(flatten)]
    links: Links,
    /// What is started
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kernel,step")]
    only: Vec<What>,
    /// What is trained
    #[arg(long, value_enum, default_value = "resnet50")]
    model: Model,
    /// In which precision
    #[arg(long, value_enum, default_value = "fp32")]
    precision: Precision,
    /// Batch size
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Python with PyTorch and torchvision
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// A program on the driver alone, and one kernel
    Kernel,
    /// Python, PyTorch, a model, and one training step
    Step,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rig = Rig::new(&args.rig)?;
    let mut recorder = Recorder::new(&args.rig, "coldstart");
    let baseline = Place::baseline(&rig, &mut recorder)?;
    suite::describe(&rig, baseline.as_ref(), &mut recorder)?;
    for what in &args.only {
        let (case, program) = match what {
            What::Kernel => {
                let mut program = suite::probe()?;
                program.push("--first-kernel".into());
                ("kernel".to_owned(), program)
            }
            What::Step => {
                let batch = args.batch.to_string();
                let words =
                    ["--no-autotune", "--first-step", args.model.name(), args.precision.name(), &batch];
                (format!("step {}", words[2..].join(" ")), train::program(rig.work(), &args.python, &words)?)
            }
        };
        // Once for nothing: the files of the programs come into memory.
        start(&rig, &program, baseline.as_ref())?;
        for link in &args.links.links {
            if !recorder.time_left() {
                recorder.say(&format!("{case}: no time is left"));
                continue;
            }
            match one_link(&rig, *link, &program, baseline.as_ref(), &mut recorder) {
                Ok(figures) => {
                    for (start, native, remote) in figures {
                        recorder.add(figure(&format!("{case}, {start} start"), link, native, remote))?;
                    }
                }
                Err(error @ Error::Unsupported(_)) => recorder.say(&format!("{error}; it is left out")),
                Err(error) => recorder.problem(link.name, &format!("{case}: {error}")),
            }
        }
    }
    recorder.finish()
}

const STARTS: [&str; 2] = ["first", "second"];

/// Which start, and the seconds that it took natively and over the link, round by round.
type Starts = (&'static str, Vec<f64>, Vec<f64>);

fn one_link(
    rig: &Rig,
    link: Link,
    program: &[OsString],
    baseline: Option<&Place>,
    recorder: &mut Recorder,
) -> Result<[Starts; 2]> {
    let mut figures = STARTS.map(|start| (start, Vec::new(), Vec::new()));
    for round in 0..rig.args.rounds(5, 2) {
        let place = Place::start(rig, link, recorder)?;
        rig.forget_native_cache();
        for (_, native, remote) in &mut figures {
            if round % 2 == 0 {
                native.push(start(rig, program, baseline)?);
                remote.push(start(rig, program, Some(&place))?);
            } else {
                remote.push(start(rig, program, Some(&place))?);
                native.push(start(rig, program, baseline)?);
            }
        }
    }
    Ok(figures)
}

/// Starts a program and gives the seconds until it says that it is done.
fn start(rig: &Rig, program: &[OsString], place: Option<&Place>) -> Result<f64> {
    Child::time_start(rig, "cold", program, place, LIMIT)
}

fn figure(case: &str, link: &Link, native: Vec<f64>, remote: Vec<f64>) -> Figure {
    Figure {
        run: 0,
        suite: String::new(),
        case: case.to_owned(),
        link: link.name.to_owned(),
        unit: "s".to_owned(),
        larger_is_better: false,
        native: Side::of(native, Value::Null),
        remote: Side::of(remote, Value::Null),
        ratio: None,
        about: Default::default(),
    }
}
