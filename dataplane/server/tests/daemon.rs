//! The daemon from outside: real processes, real sockets, and a stand-in for the worker.
//!
//! This program is all three: without arguments it is the tests; with `serve`
//! first it is the daemon; with `worker` first it is what the daemon starts
//! (`/proc/self/exe worker …`), driving nothing. What the stand-in does wrong
//! is chosen by the name of the "driver" it is given, and by what a client
//! writes to its command connection.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of it is a test, though without the attribute")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fusewire_connect::{Config, ConnectError, Opened, Token, open_session, query_server};
use fusewire_server::control::{FromWorker, SessionStats, Staging, ToWorker, WorkerEnd};
use fusewire_server::daemon::{ServeOptions, serve};
use fusewire_wire::hello::{Hello, Lines, PROTOCOL_VERSION, RefusedReason, Welcome};
use fusewire_wire::inventory::{DeviceInfo, Inventory, KNOWN_MEMORY_USED, set_text};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("serve") => serve(serve_options(&args[2..])),
        Some("worker") => stand_in(&args[2..]),
        _ => run_tests(),
    }
}

fn run_tests() -> ExitCode {
    type Test = (&'static str, fn());
    let tests: [Test; 18] = [
        ("a_session_opens_and_closes", a_session_opens_and_closes),
        ("sessions_have_their_own_processes", sessions_have_their_own_processes),
        ("queries_are_answered_with_fresh_figures", queries_are_answered_with_fresh_figures),
        ("tokens_are_checked", tokens_are_checked),
        ("another_version_is_told_both_numbers", another_version_is_told_both_numbers),
        ("garbage_is_refused_and_disturbs_nobody", garbage_is_refused_and_disturbs_nobody),
        ("slow_greetings_hold_nobody_up", slow_greetings_hold_nobody_up),
        ("unknown_sessions_cannot_be_joined", unknown_sessions_cannot_be_joined),
        ("sessions_are_limited", sessions_are_limited),
        ("a_crashed_worker_is_noticed", a_crashed_worker_is_noticed),
        (
            "a_worker_that_is_never_ready_is_reported_in_time",
            a_worker_that_is_never_ready_is_reported_in_time,
        ),
        ("a_bad_driver_is_one_clear_line", a_bad_driver_is_one_clear_line),
        ("a_stop_closes_sessions", a_stop_closes_sessions),
        ("a_stop_does_not_wait_for_stuck_workers", a_stop_does_not_wait_for_stuck_workers),
        ("workers_do_not_outlive_the_daemon", workers_do_not_outlive_the_daemon),
        ("listening_openly_needs_a_decision", listening_openly_needs_a_decision),
        ("no_lockable_memory_is_one_clear_line", no_lockable_memory_is_one_clear_line),
        ("an_idle_daemon_uses_no_processor", an_idle_daemon_uses_no_processor),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

// --- the daemon and its stand-in worker ------------------------------------------------------------

fn serve_options(args: &[String]) -> ServeOptions {
    let get =
        |key: &str| args.iter().find_map(|arg| arg.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
    ServeOptions {
        listen: vec![get("listen").unwrap_or_else(|| "127.0.0.1:0".into())],
        socket_mode: 0o660,
        token: get("token"),
        insecure: get("insecure").is_some(),
        driver: get("driver").map(PathBuf::from),
        warm_workers: get("warm").map_or(1, |n| n.parse().unwrap()),
        max_sessions: get("max").map_or(64, |n| n.parse().unwrap()),
        staging: Staging { slot_bytes: 1 << 20, h2d_slots: 5, d2h_slots: 3, reserved: 0 },
        devices: None,
        image_cache: None,
        cores: None,
        quiet: false,
    }
}

fn stand_in(args: &[String]) -> ExitCode {
    let after = |key: &str| args.iter().position(|arg| arg == key).map(|at| args[at + 1].clone());
    let driver = after("--driver").unwrap_or_default();
    let mut control = WorkerEnd::from_fd(after("--control-fd").unwrap().parse().unwrap()).unwrap();
    let mut refreshed = 0;
    match driver.as_str() {
        "missing" => {
            let text = "the driver missing cannot be loaded: name another with --driver".to_owned();
            control.send(&FromWorker::Failed { text }).unwrap();
            return ExitCode::FAILURE;
        }
        "crashes" => std::process::abort(),
        // The first worker, which tries the driver, leaves a mark; those after it never become ready.
        "hangs-later" if !mark() => loop {
            if control.recv().is_err() {
                return ExitCode::FAILURE;
            }
        },
        _ => {}
    }
    control.send(&ready(refreshed)).unwrap();
    let mut command: Option<TcpStream> = None;
    loop {
        match control.recv() {
            Ok(ToWorker::Refresh) => {
                refreshed += 1;
                control.send(&ready(refreshed)).unwrap();
            }
            Ok(ToWorker::Open { open, socket }) => {
                let mut stream = TcpStream::from(socket);
                let welcome = Welcome {
                    session: open.session,
                    slot_bytes: open.staging.slot_bytes,
                    h2d_slots: open.staging.h2d_slots,
                    d2h_slots: open.staging.d2h_slots,
                    bulk_lanes: open.hello.lanes,
                    ..Welcome::blank()
                };
                assert!(!open.lines.windows(6).any(|line| line == b"token="), "the token came along");
                stream.write_all(&welcome.with_tail(std::process::id().to_string().as_bytes())).unwrap();
                command = Some(stream.try_clone().unwrap());
                let reporter = WorkerEnd::from_fd(dup(&control)).unwrap();
                std::thread::spawn(move || talk(stream, &reporter));
            }
            Ok(ToWorker::Join { hello, socket, .. }) => {
                let welcome = Welcome { session: hello.session, ..Welcome::blank() };
                let mut stream = TcpStream::from(socket);
                stream.write_all(&welcome.with_tail(b"")).unwrap();
                stream.write_all(&[hello.lane as u8]).unwrap();
            }
            Ok(ToWorker::Shutdown { reason }) if driver != "stuck" => {
                if let Some(mut stream) = command {
                    stream.write_all(reason.as_bytes()).unwrap();
                }
                let stats = SessionStats::default();
                control.send(&FromWorker::Ended { reason, stats }).unwrap();
                return ExitCode::SUCCESS;
            }
            Ok(ToWorker::Shutdown { .. }) => {}
            Err(_) => return ExitCode::SUCCESS,
        }
    }
}

/// A session of the stand-in: one letter, one act.
fn talk(mut stream: TcpStream, control: &WorkerEnd) {
    let mut bytes_in = 0;
    let mut letter = [0];
    let reason = loop {
        match stream.read(&mut letter) {
            Ok(1) if letter[0] == b'c' => std::process::abort(),
            Ok(1) => {
                bytes_in += 1;
                stream.write_all(&letter).unwrap();
            }
            _ => break "the program ended",
        }
    };
    let stats = SessionStats { bytes_in, ..SessionStats::default() };
    control.send(&FromWorker::Ended { reason: reason.into(), stats }).unwrap();
    std::process::exit(0);
}

fn ready(refreshed: u64) -> FromWorker {
    let mut device = DeviceInfo::new_zeroed();
    set_text(&mut device.name, "Stand-in");
    device.memory_used = refreshed;
    device.known = KNOWN_MEMORY_USED;
    FromWorker::Ready { inventory: Inventory::new(vec![device]).to_bytes() }
}

fn dup(control: &WorkerEnd) -> i32 {
    use std::os::fd::{AsFd, IntoRawFd};
    control.as_fd().try_clone_to_owned().unwrap().into_raw_fd()
}

/// True for the first process that asks, among those of one daemon.
fn mark() -> bool {
    let daemon = std::os::unix::process::parent_id();
    std::fs::File::create_new(std::env::temp_dir().join(format!("fusewire-mark-{daemon}"))).is_ok()
}

// --- what the tests stand on -----------------------------------------------------------------------

/// Enough for whatever happens at once, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(20);

struct Daemon {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn start(args: &[&str]) -> Self {
        let mut child = command(args).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line));
        });
        let mut daemon = Self { child, address: ([0, 0, 0, 0], 0).into(), log };
        let line = daemon.line("listening on ");
        daemon.address = line.rsplit(' ').next().unwrap().parse().unwrap();
        daemon
    }

    /// The first line of the log with `text` in it, waiting for it.
    fn line(&self, text: &str) -> String {
        let since = Instant::now();
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(since.elapsed() < SOON, "no {text:?} in {:#?}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn config(&self) -> Config {
        Config::for_server(&self.address.to_string()).unwrap()
    }

    fn open(&self) -> Opened {
        open_session(&self.config()).unwrap()
    }

    fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < limit, "the daemon still runs: {:#?}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(std::env::temp_dir().join(format!("fusewire-mark-{}", self.child.id())));
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("serve").args(args);
    command
}

/// Runs a daemon that is expected not to start; gives its exit code and its only line.
fn refuses_to_start(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let mut lines: Vec<&str> = text.lines().filter(|line| line.starts_with("fusewire:")).collect();
    let line = lines.pop().unwrap_or_default().to_owned();
    assert!(lines.is_empty(), "more than one line: {text}");
    (output.status.code(), line)
}

/// Reads to the end of the connection: a refusal.
fn refusal(mut stream: TcpStream) -> (RefusedReason, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let (welcome, tail) = Welcome::read_from_prefix(&bytes).unwrap();
    (RefusedReason::from_code(welcome.status).unwrap(), String::from_utf8(tail.to_vec()).unwrap())
}

fn refused(result: Result<Opened, ConnectError>) -> (RefusedReason, String) {
    match result {
        Err(ConnectError::Refused { reason, text, .. }) => (reason, text),
        other => panic!("not refused: {other:?}"),
    }
}

fn pid(opened: &Opened) -> i32 {
    std::str::from_utf8(&opened.tail).unwrap().parse().unwrap()
}

fn gone(pid: i32) -> bool {
    // A zombie is gone too: it holds nothing.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn wait_gone(pid: i32) {
    wait_until(&format!("process {pid} still runs"), || gone(pid));
}

/// Waits for what happens soon, and says `otherwise` if it does not.
fn wait_until(otherwise: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < SOON, "{otherwise}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// --- the tests -------------------------------------------------------------------------------------

fn a_session_opens_and_closes() {
    let daemon = Daemon::start(&[]);
    let mut opened = daemon.open();
    assert_eq!(opened.welcome.slot_bytes, 1 << 20);
    assert_eq!((opened.welcome.h2d_slots, opened.welcome.d2h_slots), (5, 3));
    assert_eq!(opened.bulk.len(), 4);
    for (lane, stream) in opened.bulk.iter_mut().enumerate() {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), lane);
    }
    opened.command.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    opened.command.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
    let pid = pid(&opened);
    let line = daemon.line("opened");
    assert!(line.contains("127.0.0.1:") && line.contains("daemon") && line.contains("gpu 0"), "{line}");
    assert!(
        !line.contains(&format!("{:016x}", opened.welcome.session[0])),
        "the session's name was written down"
    );
    drop(opened);
    let line = daemon.line(" closed: ");
    assert!(line.contains("5 B in") && line.ends_with("the program ended"), "{line}");
    wait_gone(pid);
}

fn sessions_have_their_own_processes() {
    let daemon = Daemon::start(&["warm=0"]);
    let opened: Vec<Opened> = (0..5).map(|_| daemon.open()).collect();
    let mut pids: Vec<i32> = opened.iter().map(pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 5);
    let mut names: Vec<_> = opened.iter().map(|opened| opened.welcome.session).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 5);
}

fn queries_are_answered_with_fresh_figures() {
    let daemon = Daemon::start(&["max=7"]);
    let _session = daemon.open();
    let first = query_server(&daemon.config()).unwrap();
    assert_eq!(first.devices[0].name_text(), "Stand-in");
    assert_eq!((first.header.sessions, first.header.max_sessions), (1, 7));
    // The stand-in counts how often it was asked. Figures stay fresh for a moment, and the next idle worker
    // may just be starting.
    let figure = || query_server(&daemon.config()).unwrap().devices[0].memory_used;
    wait_until("no idle worker was asked", || figure() > 0);
    let before = figure();
    wait_until("figures stay as they were", || figure() > before);
    // With nobody idle to ask, the last figures are given, and soon.
    let daemon = Daemon::start(&["warm=0"]);
    let _session = daemon.open();
    std::thread::sleep(Duration::from_millis(400));
    let since = Instant::now();
    assert_eq!(query_server(&daemon.config()).unwrap().devices.len(), 1);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

fn tokens_are_checked() {
    let daemon = Daemon::start(&["token=secret"]);
    let mut config = daemon.config();
    assert_eq!(refused(open_session(&config)).0, RefusedReason::Authentication);
    assert!(query_server(&config).is_err());
    config.token = Some(Token::new("secreT").unwrap());
    assert_eq!(refused(open_session(&config)).0, RefusedReason::Authentication);
    config.token = Some(Token::new("secret").unwrap());
    let opened = open_session(&config).unwrap();
    assert_eq!(opened.bulk.len(), 4);
    query_server(&config).unwrap();
    let line = daemon.line("refused (not authenticated)");
    assert!(!line.contains("secre"), "{line}");
}

fn another_version_is_told_both_numbers() {
    let daemon = Daemon::start(&[]);
    let mut stream = daemon.raw();
    let hello = Hello { version: 4711, ..Hello::blank() };
    stream.write_all(&hello.with_tail(&Lines::default()).unwrap()).unwrap();
    let (reason, text) = refusal(stream);
    assert_eq!(reason, RefusedReason::Version);
    assert!(text.contains("4711") && text.contains(&PROTOCOL_VERSION.to_string()), "{text}");
}

fn garbage_is_refused_and_disturbs_nobody() {
    let daemon = Daemon::start(&[]);
    let mut opened = daemon.open();
    let oversized = Hello { tail_len: u32::MAX, ..Hello::blank() };
    let no_text = Hello { tail_len: 8, ..Hello::blank() };
    let lanes = Hello { lanes: 9, ..Hello::blank() };
    let role = Hello { role: 77, ..Hello::blank() };
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: gpu1\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        [oversized.as_bytes(), &[b'x'; 10_000]].concat(),
        [no_text.as_bytes(), &[0xff; 8]].concat(),
        lanes.as_bytes().to_vec(),
        role.as_bytes().to_vec(),
    ] {
        let mut stream = daemon.raw();
        // The daemon may hang up before all of it is written.
        let _ = stream.write_all(&bytes);
        assert_eq!(refusal(stream).0, RefusedReason::Malformed);
    }
    for end in [0, 1, 8, 12, 55] {
        let stream = daemon.raw();
        let _ = (&stream).write_all(&Hello::blank().as_bytes()[..end]);
        drop(stream);
    }
    opened.command.write_all(b"x").unwrap();
    opened.command.read_exact(&mut [0]).unwrap();
    daemon.open();
}

fn slow_greetings_hold_nobody_up() {
    let daemon = Daemon::start(&[]);
    let slow: Vec<TcpStream> = (0..100)
        .map(|index| {
            let mut stream = daemon.raw();
            stream.write_all(&b"FUSEWIRE"[..index % 8]).unwrap();
            stream
        })
        .collect();
    let since = Instant::now();
    daemon.open();
    let opened = since.elapsed();
    // What is slow has 5 s, and nobody else waits for it.
    assert!(opened < Duration::from_secs(4), "{opened:?}");
    for stream in slow {
        let (reason, text) = refusal(stream);
        assert_eq!(reason, RefusedReason::Malformed);
        assert!(text.contains("within 5 s"), "{text}");
    }
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

fn unknown_sessions_cannot_be_joined() {
    let daemon = Daemon::start(&[]);
    let opened = daemon.open();
    let [first, second] = opened.welcome.session;
    for (role, session) in [(1, [first, second ^ 1]), (1, [0, 0]), (0, [first ^ 1, second])] {
        let mut stream = daemon.raw();
        stream.write_all(Hello { role, session, ..Hello::blank() }.as_bytes()).unwrap();
        assert_eq!(refusal(stream).0, RefusedReason::UnknownSession);
    }
}

fn sessions_are_limited() {
    let daemon = Daemon::start(&["max=2"]);
    let first = daemon.open();
    let _second = daemon.open();
    let (reason, text) = refused(open_session(&daemon.config()));
    assert_eq!(reason, RefusedReason::NoCapacity);
    assert!(text.contains("all 2 sessions"), "{text}");
    drop(first);
    // Its place is free as soon as the front has heard of it, which may be after the line in the log.
    wait_until("its place is not given to another", || open_session(&daemon.config()).is_ok());
}

fn a_crashed_worker_is_noticed() {
    let daemon = Daemon::start(&["max=1"]);
    let mut opened = daemon.open();
    opened.command.write_all(b"c").unwrap();
    let since = Instant::now();
    // However the connection ends, it ends, and with nothing more from the worker. Where a core is dumped, the
    // kernel first writes that.
    let mut rest = Vec::new();
    let _ = opened.command.read_to_end(&mut rest);
    assert!(rest.is_empty());
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let line = daemon.line(" closed: ");
    assert!(line.contains("SIGABRT"), "{line}");
    // Its place is free again, as soon as the front has heard of it, too.
    wait_until("its place is not given to another", || open_session(&daemon.config()).is_ok());
}

fn a_worker_that_is_never_ready_is_reported_in_time() {
    let daemon = Daemon::start(&["driver=hangs-later"]);
    let _first = daemon.open();
    let mut config = daemon.config();
    // The server uses nine tenths of it.
    config.timeout = Duration::from_secs(6);
    let (reason, text) = refused(open_session(&config));
    assert_eq!(reason, RefusedReason::NoCapacity);
    assert!(text.contains("no worker became ready"), "{text}");
}

fn a_bad_driver_is_one_clear_line() {
    let (code, line) = refuses_to_start(&mut command(&["driver=missing"]));
    assert_eq!(code, Some(1));
    assert!(line.contains("missing") && line.contains("--driver"), "{line}");
    let (code, line) = refuses_to_start(&mut command(&["driver=crashes"]));
    assert_eq!(code, Some(1));
    assert!(line.contains("crashes") && line.contains("SIGABRT"), "{line}");
}

fn a_stop_closes_sessions() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start(&[]);
        let mut opened = daemon.open();
        daemon.signal(signal);
        let status = daemon.wait(SOON);
        assert_eq!(status.code(), Some(0));
        let mut said = String::new();
        opened.command.read_to_string(&mut said).unwrap();
        assert_eq!(said, "server is shutting down");
        assert!(daemon.line(" closed: ").ends_with("server is shutting down"));
        assert!(matches!(open_session(&daemon.config()), Err(ConnectError::Connect { .. })));
    }
}

fn a_stop_does_not_wait_for_stuck_workers() {
    let mut daemon = Daemon::start(&["driver=stuck"]);
    let opened = daemon.open();
    let pid = pid(&opened);
    daemon.signal(Signal::TERM);
    let since = Instant::now();
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    assert!(since.elapsed() > Duration::from_secs(4), "{:?}", since.elapsed());
    assert!(gone(pid));
}

fn workers_do_not_outlive_the_daemon() {
    let mut daemon = Daemon::start(&[]);
    let opened = daemon.open();
    let pid = pid(&opened);
    daemon.signal(Signal::KILL);
    daemon.wait(SOON);
    wait_gone(pid);
}

fn listening_openly_needs_a_decision() {
    let (code, line) = refuses_to_start(&mut command(&["listen=0.0.0.0:0"]));
    assert_eq!(code, Some(1));
    assert!(line.contains("--token-file") && line.contains("--insecure"), "{line}");
    Daemon::start(&["listen=0.0.0.0:0", "token=x"]);
    let daemon = Daemon::start(&["listen=0.0.0.0:0", "insecure=1"]);
    let taken = format!("listen=127.0.0.1:{}", daemon.address.port());
    let (code, line) = refuses_to_start(&mut command(&[&taken]));
    assert_eq!(code, Some(1));
    assert!(line.contains("in use") && line.contains("--listen"), "{line}");
}

fn no_lockable_memory_is_one_clear_line() {
    // Where a user without privileges can surely read and run it.
    let copy = std::env::temp_dir().join(format!("fusewire-memlock-{}", std::process::id()));
    // By another process: a program that is open for writing cannot be run, and what a test beside this one
    // starts just now would inherit the open file for a moment.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(&copy);
    command.arg("serve");
    if rustix::process::geteuid().is_root() {
        command.uid(65534);
    }
    let none =
        || setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) }).map_err(Into::into);
    // SAFETY: the closure makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(none) };
    let (code, line) = refuses_to_start(&mut command);
    std::fs::remove_file(copy).unwrap();
    assert_eq!(code, Some(1));
    assert!(line.contains("only 0 KiB") && line.contains("512 KiB") && line.contains("ulimit -l"), "{line}");
}

fn an_idle_daemon_uses_no_processor() {
    let daemon = Daemon::start(&[]);
    daemon.open();
    daemon.line(" closed: ");
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // It comes to rest, sooner or later. A tick is 10 ms; one may fall on anything.
    let mut used = Vec::new();
    wait_until("it never rests", || {
        let before = ticks();
        std::thread::sleep(Duration::from_secs(2));
        used.push(ticks() - before);
        used.last().is_some_and(|&used| used <= 1)
    });
}
