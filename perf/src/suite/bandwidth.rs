//! `bandwidth`: copies between host and device, native and over each link in turns.

use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::probe::{Content, CopyRequest, Direction, Memory, Request};
use crate::result::{Figure, Side};
use crate::rig::recorder::Recorder;
use crate::rig::session::{Rounds, Session};
use crate::rig::{Rig, RigArgs};
use crate::suite::{self, Links};

/// Copies between host and device, by size.
///
/// A figure is decimal gigabytes a second; of both directions at once their sum.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rig: RigArgs,
    #[command(flatten)]
    links: Links,
    /// Sizes of one copy, such as 4K,16M,1G [default: 4K to 1G in steps of 4; with --quick 4K,1M,64M]
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = size)]
    sizes: Vec<Size>,
    /// Kinds of host memory
    #[arg(long, value_enum, value_delimiter = ',', default_value = "pinned,pageable")]
    memory: Vec<Memory>,
    /// Directions
    #[arg(long, value_enum, value_delimiter = ',', default_value = "h2d,d2h,both")]
    directions: Vec<Direction>,
    /// What is in the memory
    #[arg(long, value_enum, default_value = "random")]
    content: Content,
    /// Copies that are issued before they are waited for, 1 to 64 [default: 256M of them, at most 64]
    #[arg(long, value_name = "COPIES", value_parser = clap::value_parser!(u8).range(1..=64))]
    depth: Option<u8>,
    /// Milliseconds between such copies and the next, as in a program that computes meanwhile; they do not count
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pause_ms: f64,
    /// Seconds of one case in one round on one side [default: 0.2; 0.05 with --quick]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size(usize);

const LARGEST: usize = 16 << 30;

/// A number of bytes; K, M and G are powers of 1024, as is usual for memory.
fn size(text: &str) -> std::result::Result<Size, String> {
    let (digits, shift) = match text.as_bytes() {
        [.., b'K' | b'k'] => (&text[..text.len() - 1], 10),
        [.., b'M' | b'm'] => (&text[..text.len() - 1], 20),
        [.., b'G' | b'g'] => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes @ 1..=LARGEST) => Ok(Size(bytes)),
        _ => Err(format!("{text} is not a size between 1 and 16G, such as 4K or 16M")),
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}G", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}M", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}K", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

const ANSWER_LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn run(args: &Args) -> Result<()> {
    let seconds = args.seconds.unwrap_or(if args.rig.quick { 0.05 } else { 0.2 });
    if !(seconds > 0.0 && seconds <= 60.0) {
        return Err(Error::Usage(format!("--seconds {seconds} is not between 0 and 60")));
    }
    if !(0.0..=1000.0).contains(&args.pause_ms) {
        return Err(Error::Usage(format!("--pause-ms {} is not between 0 and 1000", args.pause_ms)));
    }
    let sizes = args.sizes();
    let largest = sizes.iter().max().map_or(0, |size| size.0);
    let rig = Rig::new(&args.rig)?;
    let mut recorder = Recorder::new(&args.rig, "bandwidth");
    let mut session = Session::start(&rig, &args.links.links, &suite::probe()?, &mut recorder)?;
    let buffers = json(&Request::Buffers { bytes: largest, content: args.content })?;
    session.turns(&session.links(), &buffers, 1, ANSWER_LIMIT, &mut recorder)?;
    let rounds = args.rig.rounds(5, 2);
    for memory in &args.memory {
        for direction in &args.directions {
            for size in &sizes {
                let case = format!("{}{}", case(*memory, *direction, *size), args.how());
                if !recorder.time_left() {
                    recorder.say(&format!("{case}: no time is left"));
                    continue;
                }
                let copies = CopyRequest {
                    memory: *memory,
                    direction: *direction,
                    bytes: size.0,
                    depth: args.depth.map(usize::from),
                    pause_ms: args.pause_ms,
                    seconds,
                };
                let request = json(&Request::Copies(copies))?;
                for taken in session.turns(&session.links(), &request, rounds, ANSWER_LIMIT, &mut recorder)? {
                    let mut figure = figure(&case, taken)?;
                    figure.about.insert("bytes".into(), json!(size.0));
                    figure.about.insert("memory".into(), json!(memory));
                    figure.about.insert("direction".into(), json!(direction));
                    figure.about.insert("content".into(), json!(args.content));
                    figure.about.insert("pause_ms".into(), json!(args.pause_ms));
                    recorder.add(figure)?;
                }
            }
        }
    }
    recorder.finish()
}

fn json(request: &Request) -> Result<Value> {
    serde_json::to_value(request).failed(|| "a request".into())
}

fn case(memory: Memory, direction: Direction, size: Size) -> String {
    let memory = match memory {
        Memory::Pinned => "pinned",
        Memory::Pageable => "pageable",
    };
    let direction = match direction {
        Direction::H2d => "h2d",
        Direction::D2h => "d2h",
        Direction::Both => "both",
    };
    format!("{memory} {direction} {size}")
}

impl Args {
    /// What sets a case apart from the usual one: another content, another depth.
    fn how(&self) -> String {
        let content = match self.content {
            Content::Random => "",
            Content::Zeros => ", zeros",
            Content::Pixels => ", pixels",
        };
        let depth = self.depth.map(|depth| format!(", {depth} at a time")).unwrap_or_default();
        let pause = if self.pause_ms > 0.0 { format!(", {} ms apart", self.pause_ms) } else { String::new() };
        format!("{content}{depth}{pause}")
    }

    fn sizes(&self) -> Vec<Size> {
        let mut sizes = match (self.sizes.is_empty(), self.rig.quick) {
            (false, _) => self.sizes.clone(),
            (true, true) => vec![Size(4 << 10), Size(1 << 20), Size(64 << 20)],
            (true, false) => (0..10).map(|step| Size((4 << 10) << (2 * step))).collect(),
        };
        sizes.sort();
        sizes.dedup();
        sizes
    }
}

fn figure(case: &str, rounds: Rounds) -> Result<Figure> {
    Ok(Figure {
        run: 0,
        suite: String::new(),
        case: case.to_owned(),
        link: rounds.link.name.to_owned(),
        unit: "GB/s".to_owned(),
        larger_is_better: true,
        native: side(&rounds.native)?,
        remote: side(&rounds.remote)?,
        ratio: None,
        about: Default::default(),
    })
}

fn side(answers: &[Value]) -> Result<Side> {
    let rates: Option<Vec<f64>> = answers.iter().map(|answer| answer.get("gbs")?.as_f64()).collect();
    let rates = rates.ok_or_else(|| Error::Failed("a probe answered without a rate".into()))?;
    let depth = answers.first().and_then(|answer| answer.get("depth")).cloned().unwrap_or_default();
    Ok(Side::of(rates, json!({ "depth": depth })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [("4K", 4096), ("1m", 1 << 20), ("1G", 1 << 30), ("1000", 1000)] {
            let size = size(text).unwrap();
            assert_eq!(size.0, bytes);
            assert_eq!(size.to_string(), text.to_uppercase());
        }
        for text in ["", "K", "0", "-1", "4KB", "17G", "99999999999999999999G", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
