//! A process that measures: it is told on stdin what to do and answers on stdout, one JSON object a line each
//! way. Lines that are no JSON object are something else the program had to say, and are left alone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::rig::Rig;
use crate::rig::session::Place;

const STOP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Child {
    /// `native`, or the name of the link.
    pub(crate) side: String,
    process: Process,
    stdin: Option<ChildStdin>,
    answers: Receiver<Value>,
    log: PathBuf,
}

impl Child {
    /// Starts a program on one side. `name` is for its log.
    pub(crate) fn start(rig: &Rig, name: &str, program: &[OsString], place: Option<&Place>) -> Result<Child> {
        Child::spawn(rig, name, &rig.wrapped(program, &[], place), place)
    }

    /// Starts a program and gives the seconds until its first answer. Hiding the GPU from the remote side is
    /// done before the clock runs.
    pub(crate) fn time_start(
        rig: &Rig,
        name: &str,
        program: &[OsString],
        place: Option<&Place>,
        limit: Duration,
    ) -> Result<f64> {
        // A shell that says that it is there, waits for a line, and becomes the program.
        let gate = ["sh", "-c", r#"echo '{}'; read -r _; exec "$@""#, "sh"].map(OsString::from);
        let mut child = Child::spawn(rig, name, &rig.wrapped(program, &gate, place), place)?;
        child.hear(limit)?;
        let start = Instant::now();
        child.ask(&Value::Null, limit)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn spawn(rig: &Rig, name: &str, words: &[OsString], place: Option<&Place>) -> Result<Child> {
        let side = place.map_or("native", |place| place.link.name).to_owned();
        let (set, removed) = rig.environment(place.is_none());
        let log = rig.log(&format!("{name}-{side}"));
        let file = File::create(&log).failed(|| format!("{}", log.display()))?;
        let [first, rest @ ..] = words else {
            return Err(Error::Failed("no program is named".into()));
        };
        let mut command = Command::new(first);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).process_group(0);
        for name in removed {
            command.env_remove(name);
        }
        command.envs(set);
        dies_with_us(&mut command);
        if let Some(network) = place.and_then(|place| place.network.as_ref()) {
            network.client.confine(&mut command);
        }
        let mut process =
            command.spawn().usage(|| format!("{} cannot be started", first.to_string_lossy()))?;
        let stdin = process.stdin.take();
        let (sender, answers) = mpsc::channel();
        if let Some(stdout) = process.stdout.take() {
            // Ends with the process, or when nobody listens any more.
            thread::spawn(move || {
                for line in BufReader::new(stdout).split(b'\n').map_while(std::io::Result::ok) {
                    if let Ok(value @ Value::Object(_)) = serde_json::from_slice(&line)
                        && sender.send(value).is_err()
                    {
                        break;
                    }
                }
            });
        }
        Ok(Child { side, process, stdin, answers, log })
    }

    pub(crate) fn tell(&mut self, request: &Value) {
        if let Some(stdin) = &mut self.stdin {
            // If it has ended, the answer that does not come tells.
            let _ = writeln!(stdin, "{request}").and_then(|()| stdin.flush());
        }
    }

    /// The next answer. An answer with `error` in it is an error of that request, and the process goes on.
    pub(crate) fn hear(&mut self, limit: Duration) -> Result<Value> {
        let answer = match self.answers.recv_timeout(limit) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                self.kill();
                return Err(self.lost(&format!("no answer within {} s", limit.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status =
                    self.process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(self.lost(&format!("it ended ({status})")));
            }
        };
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(Error::Failed(format!("{}: {error}", self.side))),
            None => Ok(answer),
        }
    }

    pub(crate) fn ask(&mut self, request: &Value, limit: Duration) -> Result<Value> {
        self.tell(request);
        self.hear(limit)
    }

    /// Whether it can be asked again.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    fn lost(&self, what: &str) -> Error {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.trim().lines().last().unwrap_or("it said nothing").to_owned();
        Error::Failed(format!("{}: {what}: {last}", self.side))
    }

    fn kill(&mut self) {
        // It leads a group of its own, with whatever it started.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input asks it to go.
        self.stdin = None;
        let end = Instant::now() + STOP_LIMIT;
        while self.alive() {
            if Instant::now() > end {
                self.kill();
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What is started does not outlive this program, however that ends.
pub(crate) fn dies_with_us(command: &mut Command) {
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(std::io::Error::from)
    };
    // SAFETY: the closure makes one system call and allocates nothing, which is all that is allowed between
    // fork and exec.
    unsafe { command.pre_exec(set) };
}
