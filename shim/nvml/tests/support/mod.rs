//! What the tests share: the library, a server that only answers queries, and Python with `nvidia-ml-py`.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use fusewire_wire::hello::{Hello, Opening, Welcome};
use fusewire_wire::inventory::Inventory;
use zerocopy::{FromBytes, IntoBytes};

/// The version of the bindings that the interface's list was made from.
const BINDINGS: &str = "nvidia-ml-py==13.615.71";

/// Cargo puts the library beside the test's own program.
pub(crate) fn library() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libnvidia_ml.so")
}

/// A folder in which the library has the name that programs ask for.
fn library_folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(library(), folder.path().join("libnvidia-ml.so.1")).unwrap();
            folder
        })
        .path()
}

/// Where Python finds the bindings, or why there is nothing to test with.
fn bindings() -> Result<&'static Path, String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(BINDINGS);
        if folder.join("pynvml.py").exists() {
            return Ok(folder);
        }
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"])
            .arg(fresh.path())
            .arg(BINDINGS)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("python3 cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "pip cannot install {BINDINGS}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        // Another test program may have been faster; its folder is as good.
        let _ = std::fs::rename(fresh.path(), &folder);
        if folder.join("pynvml.py").exists() {
            Ok(folder)
        } else {
            Err(format!("{BINDINGS} lacks pynvml.py"))
        }
    });
    found.as_deref().map_err(Clone::clone)
}

/// Python with the bindings, over the library; none, with a message, where there is no Python or no pip.
pub(crate) fn python(arguments: &[&str]) -> Option<Command> {
    match bindings() {
        Ok(folder) => {
            let mut command = Command::new("python3");
            command.args(arguments).stdin(Stdio::null());
            command.env("PYTHONPATH", folder).env("LD_LIBRARY_PATH", library_folder());
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("FUSEWIRE_") {
                    command.env_remove(name);
                }
            }
            Some(command)
        }
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

/// Runs one of the scripts of this folder; gives what it printed.
pub(crate) fn script(name: &str, server: &str, more: &[(&str, &OsStr)]) -> Option<Output> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let mut command = python(&[path.to_str().unwrap()])?;
    Some(command.env("FUSEWIRE_SERVER", server).envs(more.iter().copied()).output().unwrap())
}

/// The lines that a script printed; it must have succeeded.
pub(crate) fn lines(output: &Output) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// Answers queries with an inventory that the test may change.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) inventory: Arc<Mutex<Inventory>>,
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start(inventory: Inventory) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            inventory: Arc::new(Mutex::new(inventory)),
            asked: Arc::default(),
        };
        let (inventory, asked) = (Arc::clone(&server.inventory), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                asked.fetch_add(1, Relaxed);
                answer(stream.unwrap(), &inventory.lock().unwrap().to_bytes());
            }
        });
        server
    }
}

fn answer(mut stream: TcpStream, inventory: &[u8]) {
    let mut hello = Hello::blank();
    stream.read_exact(hello.as_mut_bytes()).unwrap();
    let hello = Hello::read_from_bytes(hello.as_bytes()).unwrap();
    let mut tail = vec![0; hello.tail_len().unwrap()];
    stream.read_exact(&mut tail).unwrap();
    stream.write_all(&Welcome::blank().with_tail(inventory)).unwrap();
}
