//! The command from outside: what it prints, what it passes on, how it exits.

#![allow(clippy::unwrap_used, reason = "all of it is a test; the helpers lack the attribute")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use fusewire_wire::hello::{Hello, Welcome};
use fusewire_wire::inventory::{DeviceInfo, Inventory, set_text};
use zerocopy::{FromBytes, FromZeros};

fn fusewire(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fusewire"));
    command.args(args);
    let mine = ["FUSEWIRE_SERVER", "FUSEWIRE_TOKEN", "FUSEWIRE_TOKEN_FILE"];
    for name in mine.into_iter().chain(["LD_PRELOAD", "LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH"]) {
        command.env_remove(name);
    }
    command
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A folder that is gone when the test is.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fusewire-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// With a stand-in for the stand-ins: some harmless library that this very process uses.
    fn with_libraries(name: &str, libraries: &[&str]) -> Self {
        let folder = Self::new(name);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let harmless = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
        let harmless = harmless.into_iter().find(|path| path.contains("libgcc_s")).unwrap();
        for library in libraries {
            fs::copy(harmless, folder.0.join(library)).unwrap();
        }
        folder
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that answers queries and nothing else.
fn server(sessions: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut fixed = [0; size_of::<Hello>()];
            stream.read_exact(&mut fixed).unwrap();
            let hello = Hello::read_from_bytes(&fixed).unwrap();
            stream.read_exact(&mut vec![0; hello.tail_len as usize]).unwrap();
            let mut gpu = DeviceInfo::new_zeroed();
            set_text(&mut gpu.name, "NVIDIA H200");
            gpu.compute_major = 9;
            let mut inventory = Inventory::new(vec![gpu]);
            inventory.header.cuda_version = 13000;
            (inventory.header.sessions, inventory.header.max_sessions) = (sessions, 2);
            set_text(&mut inventory.header.server, env!("CARGO_PKG_VERSION"));
            stream.write_all(&Welcome::blank().with_tail(&inventory.to_bytes())).unwrap();
        }
    });
    address
}

fn value<'a>(env: &'a str, name: &str) -> Option<&'a str> {
    env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn usage() {
    for args in
        [&[][..], &["fly"], &["run"], &["run", "--lanes", "9", "true"], &["serve", "--slot-bytes", "7"]]
    {
        let (code, _, stderr) = output(&mut fusewire(args));
        assert_eq!(code, 2, "{args:?}: {stderr}");
    }
    let (code, stdout, _) = output(&mut fusewire(&["--help"]));
    assert_eq!(code, 0);
    assert!(stdout.contains("fusewire run --server") && !stdout.contains("worker"), "{stdout}");
    let (code, stdout, _) = output(&mut fusewire(&["--version"]));
    assert_eq!((code, stdout.trim()), (0, concat!("fusewire ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn run_prepares_the_environment_and_becomes_the_program() {
    let libraries = Folder::with_libraries("lib1", &["libcuda.so.1", "libnvidia-ml.so.1"]);
    let token = libraries.0.join("token");
    fs::write(&token, "secret\n").unwrap();
    let arguments = ["run", "--server", "gpu1", "--stats", "--lanes", "2", "--lib-dir", libraries.path()];
    let mut command = fusewire(&arguments);
    command.args(["--token-file", token.to_str().unwrap(), "--", "env"]);
    command.env("LD_LIBRARY_PATH", "/old").env("FUSEWIRE_TOKEN", "other");
    let (code, env, stderr) = output(&mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let dir = fs::canonicalize(&libraries.0).unwrap();
    let dir = dir.to_str().unwrap();
    assert_eq!(value(&env, "FUSEWIRE_SERVER"), Some("gpu1:7543"));
    assert_eq!(value(&env, "LD_LIBRARY_PATH"), Some(format!("{dir}:/old").as_str()));
    assert_eq!(value(&env, "LD_PRELOAD"), Some(format!("{dir}/libcuda.so.1").as_str()));
    assert_eq!(value(&env, "TRITON_LIBCUDA_PATH"), Some(dir));
    assert_eq!((value(&env, "FUSEWIRE_STATS"), value(&env, "FUSEWIRE_LANES")), (Some("1"), Some("2")));
    assert_eq!(value(&env, "FUSEWIRE_TOKEN"), None);
    assert!(value(&env, "FUSEWIRE_TOKEN_FILE").unwrap().ends_with("/token"));

    let mut command = fusewire(&["run", "--server", "gpu1", "--lib-dir", libraries.path(), "--", "env"]);
    let (_, env, _) = output(command.env("TRITON_LIBCUDA_PATH", "/mine"));
    assert_eq!(value(&env, "TRITON_LIBCUDA_PATH"), Some("/mine"), "what the user has set stays");
}

#[test]
fn run_gives_cargos_libraries_their_names() {
    // The blank would end the path in the middle if it got into LD_PRELOAD.
    for (name, libraries) in [
        ("cargo", &["libcuda.so", "libnvidia_ml.so"][..]),
        ("a blank", &["libcuda.so.1", "libnvidia-ml.so.1"]),
    ] {
        let libraries = Folder::with_libraries(name, libraries);
        let home = Folder::new(&format!("home-{}", name.len()));
        let mut command = fusewire(&["run", "--lib-dir", libraries.path(), "env"]);
        command.env("XDG_RUNTIME_DIR", home.path());
        let (code, env, stderr) = output(&mut command);
        assert_eq!((code, stderr.as_str()), (0, ""));
        let dir = Path::new(value(&env, "LD_LIBRARY_PATH").unwrap());
        assert!(dir.starts_with(home.path()), "{}", dir.display());
        for library in ["libcuda.so", "libcuda.so.1", "libnvidia-ml.so.1"] {
            assert!(
                fs::canonicalize(dir.join(library))
                    .unwrap()
                    .starts_with(fs::canonicalize(&libraries.0).unwrap())
            );
        }
        // Again, over what is there already.
        assert_eq!(output(&mut command).0, 0);
    }
}

#[test]
fn run_does_not_trust_a_folder_that_others_can_write_to() {
    let libraries = Folder::with_libraries("lib2", &["libcuda.so"]);
    let home = Folder::new("home2");
    let open = home.0.join("fusewire");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let temporary = Folder::new("tmp2");
    let mut command = fusewire(&["run", "--lib-dir", libraries.path(), "env"]);
    command.env("XDG_RUNTIME_DIR", home.path()).env("TMPDIR", temporary.path());
    let (code, env, _) = output(&mut command);
    assert_eq!(code, 0);
    assert!(Path::new(value(&env, "LD_LIBRARY_PATH").unwrap()).starts_with(temporary.path()), "{env}");
}

#[test]
fn exit_codes_are_the_programs_own_or_a_shells() {
    let libraries = Folder::with_libraries("lib3", &["libcuda.so.1"]);
    let run =
        |program: &[&str]| output(fusewire(&["run", "--lib-dir", libraries.path(), "--"]).args(program));
    assert_eq!(run(&["sh", "-c", "exit 42"]).0, 42);
    let (code, _, stderr) = run(&["no-such-program"]);
    assert_eq!(code, 127, "{stderr}");
    assert!(stderr.contains("no-such-program is not found"), "{stderr}");
    let (code, _, stderr) = run(&[libraries.path()]);
    assert_eq!(code, 126, "{stderr}");
    let (code, _, stderr) = output(&mut fusewire(&["run", "--lib-dir", "/nonexistent", "true"]));
    assert_eq!(code, 1, "{stderr}");
    let (code, _, stderr) = output(&mut fusewire(&["run", "--lib-dir", "/proc", "true"]));
    assert!(code == 1 && stderr.contains("neither libcuda.so.1 nor libcuda.so"), "{stderr}");
}

#[test]
fn gpus() {
    let server = server(1);
    let (code, stdout, _) = output(&mut fusewire(&["gpus", "--server", &server]));
    assert_eq!(code, 0);
    assert!(
        stdout.contains("NVIDIA H200") && stdout.contains("CUDA 13.0") && stdout.contains("9.0"),
        "{stdout}"
    );
    let (code, stdout, _) = output(fusewire(&["gpus", "--json"]).env("FUSEWIRE_SERVER", &server));
    let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &value["gpus"][0]["name"]), (0, &"NVIDIA H200".into()));
    let (code, _, stderr) = output(&mut fusewire(&["gpus", "--server", "127.0.0.1:1"]));
    assert_eq!(code, 1);
    assert!(stderr.starts_with("fusewire: no Fusewire server answers at 127.0.0.1:1"), "{stderr}");
}

#[test]
fn health() {
    let (code, stdout, _) = output(&mut fusewire(&["health", "--json", "--server", &server(1)]));
    let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &value["ok"]), (0, &true.into()), "{stdout}");
    for check in ["server", "version", "driver", "sessions", "memlock", "io_uring"] {
        assert!(stdout.contains(&format!("\"{check}\"")), "{check}: {stdout}");
    }
    let (code, stdout, _) = output(&mut fusewire(&["health", "--server", &server(2)]));
    assert_eq!(code, 1);
    assert!(stdout.contains("FAIL  sessions"), "{stdout}");
    let (code, stdout, _) = output(&mut fusewire(&["health", "--server", "127.0.0.1:1"]));
    assert_eq!(code, 1);
    assert!(stdout.contains("FAIL  server") && stdout.contains("fusewire serve"), "{stdout}");
}

#[test]
fn a_worker_by_hand_is_refused() {
    let (code, _, stderr) = output(&mut fusewire(&["worker", "--control-fd", "3"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("started by the daemon"), "{stderr}");
}
