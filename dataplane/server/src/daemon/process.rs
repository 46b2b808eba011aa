//! Starting a worker process, and telling how one ended.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use super::{Failure, ServeOptions};
use crate::control::{self, DaemonEnd};
use crate::placement::format_cpulist;

/// The descriptor a worker finds its control socket at.
pub(super) const CONTROL_FD: i32 = 3;

/// A worker process and the daemon's end of its control socket.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) control: DaemonEnd,
    child: Child,
}

/// Starts `fusewire worker`, confined to `cores` unless there are none.
pub(super) fn start(options: &ServeOptions, cores: &[u32]) -> Result<Worker, Failure> {
    launch(options, cores).map_err(|error| {
        format!(
            "cannot start a worker process ({error}): check the limits on processes, open files and memory"
        )
    })
}

fn launch(options: &ServeOptions, cores: &[u32]) -> io::Result<Worker> {
    let (control, theirs) = control::pair()?;
    // The running program itself, even if its file has been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("fusewire").arg("worker").args(["--control-fd", &CONTROL_FD.to_string()]);
    if let Some(driver) = &options.driver {
        command.arg("--driver").arg(driver);
    }
    if let Some(images) = &options.image_cache {
        command.arg("--image-cache").arg(&images.folder);
        command.args(["--image-cache-bytes", &images.bytes.to_string()]);
    }
    if !cores.is_empty() {
        command.args(["--cores", &format_cpulist(cores)]);
    }
    if let Some(devices) = &options.devices {
        command.env("CUDA_VISIBLE_DEVICES", devices);
    }
    // A group of its own: Ctrl-C reaches the daemon, which then closes the sessions in order.
    command.process_group(0).stdin(Stdio::null());
    command
        .fd_mappings(vec![FdMapping { parent_fd: theirs, child_fd: CONTROL_FD }])
        .map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))?;
    Ok(Worker { control, child: command.spawn()? })
}

impl Worker {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(describe(status)),
            Err(error) => Some(format!("cannot be waited for ({error})")),
        }
    }

    pub(super) fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
    }

    /// Waits for a process that is about to end.
    pub(super) fn wait_text(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => describe(status),
            Err(error) => format!("cannot be waited for ({error})"),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "exited".to_owned(),
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("unknown");
            format!("was killed by signal {signal} ({name})")
        }
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_described() {
        assert_eq!(describe(ExitStatus::from_raw(0)), "exited");
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), "exited with status 3");
        assert_eq!(describe(ExitStatus::from_raw(11)), "was killed by signal 11 (SIGSEGV)");
    }
}
