//! What measuring needs: servers, the processes that take turns, and the result as it grows.
//!
//! [`Rig`] holds the options that all suites share. [`session::Session`] is one measuring run: one native
//! process and one for each link, all started once and told on stdin what to do, round by round, so that
//! native and remote see the same machine at the same time.

pub(crate) mod child;
pub(crate) mod hide;
pub(crate) mod line;
pub(crate) mod link;
pub(crate) mod namespace;
pub(crate) mod recorder;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod shaped;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Context, Error, Result};
use crate::machine;
use hide::Hiding;
use link::Link;
use session::Place;

/// Options of every command that measures.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RigArgs {
    /// Folder of `fusewire`
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    pub(crate) bin: PathBuf,
    /// Folder of the stand-in libraries [default: the folder of `fusewire`]
    #[arg(long, value_name = "DIR")]
    pub(crate) lib_dir: Option<PathBuf>,
    /// Where the result goes [default: target/perf/COMMAND.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Rounds of each measurement; who begins one changes each time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: Option<u32>,
    /// Fewer and shorter rounds
    #[arg(long)]
    pub(crate) quick: bool,
    /// Start no further measurement after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) budget: Option<Duration>,
    /// The commit to name in the result [default: `git rev-parse HEAD`]
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// The driver of the native side, such as target/debug/libsoftgpu.so [default: libcuda.so.1]
    #[arg(long, value_name = "PATH")]
    pub(crate) native_driver: Option<PathBuf>,
    /// Measure against this link instead of native; for trying things out, and said in the result
    #[arg(long, value_name = "LINK", value_parser = link::parse)]
    pub(crate) baseline: Option<Link>,
    /// The server's driver [default: as for the native side]
    #[arg(long, value_name = "PATH")]
    pub(crate) driver: Option<PathBuf>,
    /// One more word for `fusewire serve`; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) serve_option: Vec<String>,
    /// One more variable of the remote side's environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) client_env: Vec<(String, String)>,
    /// Do not hide the GPU and its driver from the remote side (it is done where there is one, and needs root)
    #[arg(long)]
    pub(crate) no_hide: bool,
    /// One more path to hide from the remote side; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(crate) hide: Vec<PathBuf>,
    /// Keep the logs of servers and processes, in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn variable(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text} is not of the form NAME=VALUE")),
    }
}

impl RigArgs {
    /// How many rounds, where the suite has a number of its own.
    pub(crate) fn rounds(&self, usual: u32, quick: u32) -> u32 {
        self.rounds.unwrap_or(if self.quick { quick } else { usual })
    }

    /// The result file of a command.
    pub(crate) fn out(&self, command: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from(format!("target/perf/{command}.json")))
    }
}

/// What is the same for all processes of a measuring run. Its folder goes with it.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) args: RigArgs,
    pub(crate) fusewire: PathBuf,
    pub(crate) lib_dir: PathBuf,
    pub(crate) driver: Option<PathBuf>,
    /// The folder with `libcuda.so.1` for the native side, if that is not the system's.
    native_lib_dir: Option<PathBuf>,
    hiding: Option<Hiding>,
    logs: PathBuf,
    /// For names that are used once.
    names: AtomicU32,
    work: TempDir,
}

impl Rig {
    pub(crate) fn new(args: &RigArgs) -> Result<Rig> {
        let fusewire = existing(&args.bin.join("fusewire")).map_err(|error| {
            Error::Usage(format!(
                "{error}: name the folder of `fusewire` with --bin, or `cargo build --release`"
            ))
        })?;
        let lib_dir = match &args.lib_dir {
            Some(folder) => existing(folder)?,
            None => existing(&args.bin)?,
        };
        let native_driver = args.native_driver.as_deref().map(existing).transpose()?;
        let driver = match &args.driver {
            Some(path) => Some(existing(path)?),
            None => native_driver.clone(),
        };
        let work = tempfile::Builder::new()
            .prefix("fusewire-perf-")
            .tempdir()
            .failed(|| "a folder for work".into())?;
        let native_lib_dir = match &native_driver {
            None => None,
            Some(path) => {
                let folder = work.path().join("native");
                std::fs::create_dir(&folder).failed(|| format!("{}", folder.display()))?;
                let link = folder.join("libcuda.so.1");
                std::os::unix::fs::symlink(path, &link).failed(|| format!("{}", link.display()))?;
                Some(folder)
            }
        };
        let hiding = match args.no_hide || !machine::has_gpu() && args.hide.is_empty() {
            true => None,
            false => Some(Hiding::new(work.path(), &args.hide)?),
        };
        let logs = match &args.logs {
            None => work.path().join("logs"),
            Some(folder) => folder.clone(),
        };
        std::fs::create_dir_all(&logs).usage(|| format!("the folder for logs, {}", logs.display()))?;
        Ok(Rig {
            args: args.clone(),
            fusewire,
            lib_dir,
            driver,
            native_lib_dir,
            hiding,
            logs,
            names: AtomicU32::new(0),
            work,
        })
    }

    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// A path in the folder for work that nobody has had before.
    pub(crate) fn new_folder_name(&self, what: &str) -> PathBuf {
        self.work().join(format!("{what}-{}", self.names.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Has the native driver forget what it has compiled.
    pub(crate) fn forget_native_cache(&self) {
        // It may never have made one.
        let _ = std::fs::remove_dir_all(self.work().join("native-cache"));
    }

    /// The whole command line of a program on one side: as it is for native, wrapped for a link. `gate` comes
    /// after what hides the GPU.
    pub(crate) fn wrapped(
        &self,
        program: &[OsString],
        gate: &[OsString],
        place: Option<&Place>,
    ) -> Vec<OsString> {
        let mut words = Vec::new();
        if let (Some(_), Some(hiding)) = (place, &self.hiding) {
            words.extend(hiding.words());
        }
        words.extend_from_slice(gate);
        if let Some(place) = place {
            words.extend([self.fusewire.clone().into(), "run".into(), "--lib-dir".into()]);
            words.extend([self.lib_dir.clone().into(), "--server".into()]);
            words.extend([place.server.address.clone().into(), "--".into()]);
        }
        words.extend_from_slice(program);
        words
    }

    /// What is set in the environment of a side, and what is taken out of it.
    pub(crate) fn environment(&self, native: bool) -> (Vec<(OsString, OsString)>, Vec<OsString>) {
        let mut removed: Vec<OsString> = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.as_encoded_bytes().starts_with(b"FUSEWIRE_"))
            .collect();
        removed.push("LD_PRELOAD".into());
        let mut set: Vec<(OsString, OsString)> =
            [("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")]
                .map(|(name, value)| (name.into(), value.into()))
                .into();
        // What one side compiled is not what the other is measured with.
        let caches = self.work().join(if native { "native-cache" } else { "remote-cache" });
        set.push(("CUDA_CACHE_PATH".into(), caches.into()));
        match (native, &self.native_lib_dir) {
            (true, Some(folder)) => {
                set.push(("LD_PRELOAD".into(), folder.join("libcuda.so.1").into()));
                let mut path = OsString::from(folder);
                if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH") {
                    path.push(":");
                    path.push(rest);
                }
                set.push(("LD_LIBRARY_PATH".into(), path));
            }
            (true, None) => {}
            (false, _) => {
                set.extend(self.args.client_env.iter().map(|(name, value)| (name.into(), value.into())));
            }
        }
        (set, removed)
    }
}

/// The path, absolute, if there is something.
fn existing(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).usage(|| format!("{} cannot be used", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_words_are_checked() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("=b").is_err() && variable("A").is_err());
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(seconds("-1").is_err() && seconds("soon").is_err() && seconds("NaN").is_err());
    }
}
