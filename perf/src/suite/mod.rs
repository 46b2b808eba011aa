//! The measurements, a file each.

pub(crate) mod bandwidth;
pub(crate) mod clients;
pub(crate) mod coldstart;
pub(crate) mod latency;
pub(crate) mod matrix;
pub(crate) mod train;

use std::ffi::OsString;
use std::time::Duration;

use crate::error::{Context, Result};
use crate::rig::Rig;
use crate::rig::child::Child;
use crate::rig::link::{self, Link};
use crate::rig::recorder::Recorder;
use crate::rig::session::Place;

/// The links of a suite, as the command line names them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Links {
    /// Links to measure: shm, tcp, 100g, 25g, 10g; and native, a second native process: where it is told that two
    /// native processes differ by so much, so may any other
    #[arg(long, value_name = "LINK,...", value_delimiter = ',', default_value = "shm,tcp", value_parser = link::parse)]
    pub(crate) links: Vec<Link>,
}

/// The command line of a probe: this very program.
pub(crate) fn probe() -> Result<Vec<OsString>> {
    let program = std::env::current_exe().failed(|| "cannot tell where this program is".into())?;
    Ok(vec![program.into(), "probe".into()])
}

/// Has the native driver say which GPU this is.
fn describe(rig: &Rig, baseline: Option<&Place>, recorder: &mut Recorder) -> Result<()> {
    let ready = Child::start(rig, "describe", &probe()?, baseline)?.hear(READY_LIMIT)?;
    for (name, value) in ready.as_object().into_iter().flatten() {
        recorder.about(name, value.clone());
    }
    Ok(())
}

const READY_LIMIT: Duration = Duration::from_secs(120);
