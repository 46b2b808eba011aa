//! `gate`: instructions of the hot paths, against committed ceilings.
//!
//! Time wobbles; instructions under callgrind do not. Each path is run N and 2N times, and the difference counts,
//! so that what happens once falls out. Driver calls are counted in the stand-in itself, in the calling thread,
//! between entry and return; the session behind them is a real one, with the software GPU.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::rig::link;
use crate::rig::recorder::Recorder;
use crate::rig::session::Place;
use crate::rig::{Rig, RigArgs};
use crate::suite;

/// Count instructions of the hot paths, against committed ceilings.
///
/// Needs valgrind, `cargo build --release -p fusewire-cuda -p fusewire-instructions`, and any build of `fusewire`
/// and the software GPU.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the client library and `fusewire-instructions`, which are counted
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    bin: PathBuf,
    /// Folder of `fusewire` and libsoftgpu.so, for the other end
    #[arg(long, value_name = "DIR", default_value = "target/debug")]
    server_bin: PathBuf,
    /// The ceilings
    #[arg(long, value_name = "FILE", default_value = "perf/ceilings.json")]
    ceilings: PathBuf,
    /// Only these paths
    #[arg(long, value_name = "PATH,...", value_delimiter = ',', value_parser = known)]
    only: Vec<String>,
    /// Write what is counted now, and a little room, as the new ceilings
    #[arg(long)]
    update: bool,
}

/// A path, and how to run it so many times.
enum How {
    /// `fusewire-instructions WORD N`; everything in that process.
    Protocol(&'static str),
    /// `probe --repeat N --what WORD`; within this function of the stand-in.
    Call(&'static str, &'static str),
}

const PATHS: [(&str, How); 8] = [
    ("encode_launch", How::Protocol("encode")),
    ("parse_record", How::Protocol("parse")),
    ("dispatch_launch", How::Protocol("dispatch")),
    ("cuLaunchKernel", How::Call("launch", "cuLaunchKernel")),
    ("cuEventQuery", How::Call("event_query", "cuEventQuery")),
    ("cuCtxGetCurrent", How::Call("current_context", "cuCtxGetCurrent")),
    ("cuDeviceGetAttribute", How::Call("device_attribute", "cuDeviceGetAttribute")),
    ("cuStreamSynchronize, nothing to wait for", How::Call("synchronize", "cuStreamSynchronize")),
];

/// A multiple of the batch in `perf/instructions`.
const COUNT: u64 = 6400;
/// Ceilings are this much above what was counted: what the compiler inlines changes with code elsewhere.
const ROOM: f64 = 1.15;
/// A launch now and then wakes the thread that sends, and how often is the scheduler's choice.
const ROOM_WITH_WAKES: f64 = 1.25;
/// Buffers may grow now and then; a call that allocates each time, or every fifth time, may not be.
const MOST_ALLOCATIONS: f64 = 0.2;
/// A path that has become cheaper than this share of its ceiling is worth a lower ceiling.
const LOOSE: f64 = 0.7;

fn known(name: &str) -> std::result::Result<String, String> {
    match PATHS.iter().any(|(path, _)| *path == name) {
        true => Ok(name.to_owned()),
        false => {
            Err(format!("there is no path {name}; there are {}", PATHS.map(|(path, _)| path).join(", ")))
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        return Err(Error::Unsupported("valgrind is not installed: `apt-get install valgrind`".into()));
    }
    let ceilings = match args.update {
        true => BTreeMap::new(),
        false => read(&args.ceilings)?,
    };
    let gate = Gate::new(args)?;
    let mut found = BTreeMap::new();
    let mut failed = Vec::new();
    for (path, how) in &PATHS {
        if !args.only.is_empty() && !args.only.iter().any(|name| name == path) {
            continue;
        }
        let (once, twice) = (gate.count(how, COUNT)?, gate.count(how, 2 * COUNT)?);
        let each = (twice.instructions as f64 - once.instructions as f64) / COUNT as f64;
        let allocations = (twice.allocations as f64 - once.allocations as f64) / COUNT as f64;
        let room = if *path == "cuLaunchKernel" { ROOM_WITH_WAKES } else { ROOM };
        found.insert((*path).to_owned(), (each * room).ceil() as u64);
        let verdict = judge(each, ceilings.get(*path).copied());
        println!("{path:42} {each:9.1}  {verdict}", verdict = verdict.text());
        if matches!(verdict, Verdict::Above(_) | Verdict::Unknown) {
            failed.push(*path);
        }
        if allocations > MOST_ALLOCATIONS {
            return Err(Error::Failed(format!("{path}: allocates memory {allocations:.2} times a call")));
        }
    }
    if args.update {
        let mut text = serde_json::to_string_pretty(&found).failed(|| "ceilings".into())?;
        text.push('\n');
        return fs::write(&args.ceilings, text).usage(|| format!("{}", args.ceilings.display()));
    }
    match failed.as_slice() {
        [] => Ok(()),
        paths => Err(Error::Failed(format!(
            "{}: more instructions than {} allows; if that is worth it, `fusewire-perf gate --update` and say why",
            paths.join(", "),
            args.ceilings.display()
        ))),
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Fine(u64),
    Loose(u64),
    Above(u64),
    Unknown,
}

impl Verdict {
    fn text(&self) -> String {
        match self {
            Verdict::Fine(ceiling) => format!("ok, at most {ceiling}"),
            Verdict::Loose(ceiling) => format!("ok, at most {ceiling}, which could be lowered"),
            Verdict::Above(ceiling) => format!("ABOVE {ceiling}"),
            Verdict::Unknown => "has no ceiling".to_owned(),
        }
    }
}

fn judge(each: f64, ceiling: Option<u64>) -> Verdict {
    match ceiling {
        None => Verdict::Unknown,
        Some(ceiling) if each > ceiling as f64 => Verdict::Above(ceiling),
        Some(ceiling) if each < ceiling as f64 * LOOSE => Verdict::Loose(ceiling),
        Some(ceiling) => Verdict::Fine(ceiling),
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path).usage(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).usage(|| format!("{} is no list of ceilings", path.display()))
}

/// What counting needs: a session's other end.
struct Gate {
    rig: Rig,
    place: Place,
    program: PathBuf,
}

impl Gate {
    fn new(args: &Args) -> Result<Gate> {
        let program = args.bin.join("fusewire-instructions");
        if !program.exists() {
            return Err(Error::Usage(format!(
                "{} is not there: cargo build --release -p fusewire-cuda -p fusewire-instructions",
                program.display()
            )));
        }
        let rig = Rig::new(&RigArgs {
            bin: args.server_bin.clone(),
            lib_dir: Some(args.bin.clone()),
            driver: Some(args.server_bin.join("libsoftgpu.so")),
            no_hide: true,
            ..RigArgs::default()
        })?;
        let tcp = link::parse("tcp").map_err(Error::Usage)?;
        let mut recorder = Recorder::new(&rig.args, "gate");
        let place = Place::start(&rig, tcp, &mut recorder)?;
        Ok(Gate { rig, place, program })
    }

    /// What so many times cost.
    fn count(&self, how: &How, times: u64) -> Result<Counted> {
        let out = self.rig.new_folder_name("callgrind");
        let mut counted: Vec<OsString> = vec!["valgrind".into(), "--tool=callgrind".into()];
        let mut file = OsString::from("--callgrind-out-file=");
        file.push(&out);
        counted.push(file);
        let words = match how {
            How::Protocol(word) => {
                counted.extend([self.program.clone().into(), (*word).into(), times.to_string().into()]);
                counted
            }
            How::Call(word, function) => {
                counted.push(format!("--toggle-collect={function}").into());
                counted.extend(suite::probe()?);
                counted.extend(["--repeat", &times.to_string(), "--what", word].map(OsString::from));
                self.rig.wrapped(&counted, &[], Some(&self.place))
            }
        };
        let [first, words @ ..] = words.as_slice() else {
            return Err(Error::Failed("no program is named".into()));
        };
        let output = Command::new(first)
            .args(words)
            // valgrind does not know io_uring; and who spins is counted by luck.
            .envs([("FUSEWIRE_IO_URING", "off"), ("FUSEWIRE_SPIN_US", "0")])
            .stdin(Stdio::null())
            .output()
            .failed(|| first.to_string_lossy().into_owned())?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let last = said.trim().lines().last().unwrap_or("it said nothing");
            return Err(Error::Failed(format!("{words:?} ended with {}: {last}", output.status)));
        }
        let text = fs::read_to_string(&out).failed(|| format!("{}", out.display()))?;
        match totals(&text) {
            Some(0) => Err(Error::Failed(format!("{words:?}: nothing was counted"))),
            Some(instructions) => Ok(Counted { instructions, allocations: allocations(&text) }),
            None => Err(Error::Failed(format!("{}: no totals", out.display()))),
        }
    }
}

struct Counted {
    instructions: u64,
    allocations: u64,
}

/// Calls of the allocator in what callgrind writes. A function has its name only where it is first mentioned.
fn allocations(text: &str) -> u64 {
    const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];
    let mut found = Vec::new();
    let (mut called, mut count) = ("", 0);
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if ALLOCATORS.contains(&name) {
                found.push(number);
            }
            called = if line.starts_with('c') { number } else { "" };
        } else if let Some(calls) = line.strip_prefix("calls=")
            && found.contains(&called)
        {
            count += calls.split_whitespace().next().and_then(|calls| calls.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    count
}

/// The sum in what callgrind writes.
fn totals(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: ")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_read_from_callgrinds_file() {
        assert_eq!(totals("version: 1\nevents: Ir\n\nfn=(1)\n1 2\n\ntotals: 8123\n"), Some(8123));
        assert_eq!(totals("version: 1\n"), None);
    }

    #[test]
    fn calls_of_the_allocator_are_counted_by_whoever_they_are_made() {
        let text = "fn=(1) main\ncfn=(2) malloc\ncalls=3 10\n5 60\ncfn=(3) memcpy\ncalls=100 1\n5 9\n\n\
                    fn=(2)\n1 5\n\nfn=(4) realloc\n1 5\n\nfn=(5) other\ncfn=(4)\ncalls=4 1\ncfn=(2)\ncalls=5 1\n";
        assert_eq!(allocations(text), 12);
        assert_eq!(allocations("fn=(1) main\ntotals: 5\n"), 0);
    }

    #[test]
    fn only_more_than_the_ceiling_fails() {
        assert_eq!(judge(100.0, Some(100)), Verdict::Fine(100));
        assert_eq!(judge(100.1, Some(100)), Verdict::Above(100));
        assert_eq!(judge(50.0, Some(100)), Verdict::Loose(100));
        assert_eq!(judge(1.0, None), Verdict::Unknown);
    }
}
