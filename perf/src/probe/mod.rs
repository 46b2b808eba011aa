//! What a measuring process runs: the CUDA driver, found as any program finds it, and nothing else between.
//!
//! The very same program is run natively and under `fusewire run`; it cannot tell which. One JSON request a
//! line on stdin, one JSON answer a line on stdout; a request that fails is answered with `error`. The end of
//! stdin ends it.

mod calls;
mod copies;
pub(crate) mod driver;

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Context, Result};
use driver::Driver;

/// What the measuring processes run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The library to load
    #[arg(long, default_value = "libcuda.so.1")]
    library: String,
    /// Run one kernel, say so, and end
    #[arg(long)]
    first_kernel: bool,
    /// Make one call so many times, and end
    #[arg(long, value_name = "N", requires = "what")]
    repeat: Option<u64>,
    /// Which call
    #[arg(long, value_enum)]
    what: Option<What>,
}

/// What can be asked of a probe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// The duration of single calls, one after the other.
    Calls { what: calls::What, seconds: f64 },
    /// The same at a fixed rate, each from the moment at which it should have begun.
    OpenLoop { what: calls::What, per_second: f64, seconds: f64 },
    /// Copies of one size.
    Copies(copies::Request),
    /// Launches and small copies from one moment of the monotonic clock to another.
    For { from: f64, until: f64 },
    /// Memory for copies up to this size, with these contents.
    Buffers { bytes: usize, content: copies::Content },
}

pub(crate) use calls::{LONGEST, What};
pub(crate) use copies::{Content, Direction, Memory, Request as CopyRequest};

pub(crate) fn run(args: &Args) -> Result<()> {
    let driver = Driver::open(&args.library)?;
    // This runs the kernel once.
    let mut calls = calls::Calls::new(&driver)?;
    let mut copies = None;
    let mut out = std::io::stdout();
    let mut answer = |value: &Value| -> Result<()> {
        writeln!(out, "{value}").and_then(|()| out.flush()).failed(|| "the answer cannot be written".into())
    };
    if let (Some(count), Some(what)) = (args.repeat, args.what) {
        return calls.repeat(what, count);
    }
    if args.first_kernel {
        return answer(&json!({}));
    }
    answer(&json!({ "gpu": driver.name()?, "cuda": driver.version()? }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.failed(|| "stdin".into())?;
        if line.trim().is_empty() {
            continue;
        }
        let done = match serde_json::from_str(&line) {
            Err(error) => Err(crate::error::Error::Usage(format!("{line:?} is not a request: {error}"))),
            Ok(Request::Calls { what, seconds }) => calls.closed(what, seconds),
            Ok(Request::OpenLoop { what, per_second, seconds }) => calls.open(what, per_second, seconds),
            Ok(Request::For { from, until }) => calls.between(from, until),
            Ok(Request::Buffers { bytes, content }) => {
                // The old ones first: both together might not fit.
                drop(copies.take());
                copies::Copies::new(&driver, bytes, content).map(|made| {
                    copies = Some(made);
                    json!({})
                })
            }
            Ok(Request::Copies(request)) => match &mut copies {
                None => Err(crate::error::Error::Usage("copies were asked for before buffers".into())),
                Some(copies) => copies.run(&request),
            },
        };
        answer(&done.unwrap_or_else(|error| json!({ "error": error.to_string() })))?;
    }
    Ok(())
}
