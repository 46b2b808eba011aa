//! `fusewire run`: puts the stand-ins in a program's way and becomes the program.
//!
//! `LD_LIBRARY_PATH` makes ordinary linking and `dlopen("libcuda.so.1")` find
//! the stand-ins; `LD_PRELOAD` of libcuda.so.1 wins against a program that
//! loads by absolute path or an RPATH, because the loader answers a request for
//! a SONAME it already has. Triton asks the loader's cache instead, unless it is
//! told.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::fail;
use crate::reach::Reach;

/// Run a program on a server's GPUs.
///
/// The program needs neither a GPU nor a driver nor any change. Its exit code
/// is the exit code of this command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusewire run --server gpu1:7543 -- python3 train.py --epochs 3
  fusewire run --server gpu1 --stats -- ./matmul
  FUSEWIRE_SERVER=gpu1 fusewire run nvidia-smi")]
pub(crate) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// At exit, print what was called, sent and waited for
    #[arg(long)]
    stats: bool,
    /// Bulk connections, 1 to 8
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    lanes: Option<u32>,
    /// Where the stand-in libraries are [default: found beside this command]
    #[arg(long, value_name = "DIR")]
    lib_dir: Option<PathBuf>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Becomes the program. Returns only if that fails.
pub(crate) fn run(args: &Args) -> ExitCode {
    let config = match args.reach.config() {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let libraries = match find(args.lib_dir.as_deref()) {
        Ok(libraries) => libraries,
        Err(text) => return fail(&text),
    };
    let [name, arguments @ ..] = args.program.as_slice() else { return fail(&"no program is named") };
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env("FUSEWIRE_SERVER", &config.server)
        .env("LD_LIBRARY_PATH", prepend(libraries.as_os_str(), env::var_os("LD_LIBRARY_PATH")))
        .env("LD_PRELOAD", prepend(libraries.join("libcuda.so.1").as_os_str(), env::var_os("LD_PRELOAD")));
    if let Some(file) = &args.reach.token_file {
        // Absolute, for the program may change its directory before it starts to use CUDA.
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.clone());
        command.env_remove("FUSEWIRE_TOKEN").env("FUSEWIRE_TOKEN_FILE", file);
    }
    if env::var_os("TRITON_LIBCUDA_PATH").is_none_or(|path| path.is_empty()) {
        command.env("TRITON_LIBCUDA_PATH", &libraries);
    }
    if args.stats {
        command.env("FUSEWIRE_STATS", "1");
    }
    if let Some(lanes) = args.lanes {
        command.env("FUSEWIRE_LANES", lanes.to_string());
    }
    let error = command.exec();
    let program = Path::new(name).display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            eprintln!("fusewire: {program} is not found: check its name and PATH");
            ExitCode::from(127)
        }
        _ => {
            eprintln!("fusewire: {program} cannot be executed: {error}");
            ExitCode::from(126)
        }
    }
}

/// The folder that holds the stand-ins under the names that programs ask for.
fn find(lib_dir: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(dir) = lib_dir {
        let dir = fs::canonicalize(dir)
            .map_err(|error| format!("--lib-dir {} cannot be used: {error}", dir.display()))?;
        return named(&dir)
            .ok_or_else(|| format!("--lib-dir {} has neither libcuda.so.1 nor libcuda.so", dir.display()))?;
    }
    let program =
        env::current_exe().map_err(|error| format!("cannot tell where this command is: {error}"))?;
    let here = program.parent().unwrap_or(Path::new("/"));
    let candidates = [here.join("../lib/fusewire"), here.to_owned(), here.join("deps")];
    for candidate in &candidates {
        if let Ok(dir) = fs::canonicalize(candidate)
            && let Some(found) = named(&dir)
        {
            return found;
        }
    }
    let places = candidates.each_ref().map(|dir| dir.display().to_string()).join(", ");
    Err(format!(
        "the stand-in libcuda.so.1 is in none of {places}: build it with `cargo build -p fusewire-cuda \
         -p fusewire-nvml`, or name its folder with --lib-dir DIR"
    ))
}

/// The folder itself if it has the libraries under their run-time names; else,
/// if it has them as cargo leaves them, a private folder with links to them.
fn named(dir: &Path) -> Option<Result<PathBuf, String>> {
    let ready = dir.join("libcuda.so.1");
    // The loader takes these characters for separators, wherever they are.
    let plain = !dir.as_os_str().as_bytes().iter().any(|byte| b": ;".contains(byte));
    if ready.exists() && plain {
        return Some(Ok(dir.to_owned()));
    }
    let first = |names: [&str; 2]| names.map(|name| dir.join(name)).into_iter().find(|path| path.exists());
    let cuda = first(["libcuda.so.1", "libcuda.so"])?;
    let nvml = first(["libnvidia-ml.so.1", "libnvidia_ml.so"]);
    Some(
        links(&cuda, nvml.as_deref())
            .map_err(|error| format!("cannot make links to {} in a private folder: {error}", cuda.display())),
    )
}

fn links(cuda: &Path, nvml: Option<&Path>) -> io::Result<PathBuf> {
    let base = private_folder()?;
    // One folder for each build that is run from, so that two of them do not exchange their libraries.
    let mut name = String::from("lib");
    for byte in cuda.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => name.push(char::from(*byte)),
            _ => name.push('-'),
        }
    }
    name.truncate(200);
    let dir = base.join(name);
    make_private(&dir)?;
    link(cuda, &dir.join("libcuda.so.1"))?;
    link(cuda, &dir.join("libcuda.so"))?;
    if let Some(nvml) = nvml {
        link(nvml, &dir.join("libnvidia-ml.so.1"))?;
    }
    Ok(dir)
}

/// A folder that only this user can write to: what is in it gets loaded into programs.
fn private_folder() -> io::Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for dir in runtime
        .map(|dir| dir.join("fusewire"))
        .into_iter()
        .chain([env::temp_dir().join(format!("fusewire-{user}"))])
    {
        match make_private(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn make_private(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a folder that only this user can write to", dir.display()),
        ));
    }
    Ok(())
}

/// Makes `name` a link to `target`, replacing an older one in a single step,
/// since another `fusewire run` may be using it.
fn link(target: &Path, name: &Path) -> io::Result<()> {
    if fs::read_link(name).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let mut fresh = name.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    symlink(target, &fresh)?;
    fs::rename(&fresh, name)
}

fn prepend(first: &OsStr, rest: Option<OsString>) -> OsString {
    let mut out = first.to_owned();
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        out.push(":");
        out.push(rest);
    }
    out
}
