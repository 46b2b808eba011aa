//! One `fusewire serve`, started for one link and ended with it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::rig::Rig;
use crate::rig::child::dies_with_us;
use crate::rig::link::Link;
use crate::rig::shaped::Shaped;

/// The first worker starts the driver, which may take its time on a cold machine.
const START_LIMIT: Duration = Duration::from_secs(150);
const STOP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// What clients are told.
    pub(crate) address: String,
}

impl Server {
    /// Starts a server for a link. Where it refuses the address, the error is `Unsupported`.
    pub(crate) fn start(rig: &Rig, link: &Link, network: Option<&Shaped>) -> Result<Server> {
        let listen = link.listen(rig.work());
        let log = rig.log(&format!("serve-{}", link.name));
        let file = File::create(&log).failed(|| format!("{}", log.display()))?;
        let both = file.try_clone().failed(|| format!("{}", log.display()))?;
        let mut command = Command::new(&rig.fusewire);
        command.args(["serve", "--listen", &listen]);
        if let Some(driver) = &rig.driver {
            command.arg("--driver").arg(driver);
        }
        command.args(&rig.args.serve_option).stdin(Stdio::null()).stdout(file).stderr(both).process_group(0);
        // What an earlier run left in the server's caches is not what this one is to find.
        command.env("XDG_CACHE_HOME", rig.new_folder_name("server-cache"));
        dies_with_us(&mut command);
        if let Some(network) = network {
            // Nobody else is in that network.
            command.arg("--insecure");
            network.server.confine(&mut command);
        }
        let process = command.spawn().failed(|| format!("{} serve", rig.fusewire.display()))?;
        let mut server = Server { process, address: listen };
        server.wait_ready(link, &log)?;
        Ok(server)
    }

    fn wait_ready(&mut self, link: &Link, log: &PathBuf) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            let said = fs::read_to_string(log).unwrap_or_default();
            if let Some(address) = listening_on(&said) {
                self.address = address.to_owned();
                return Ok(());
            }
            let last = said.trim().lines().last().unwrap_or("it said nothing");
            if let Ok(Some(status)) = self.process.try_wait() {
                let text = format!("link {}: the server ended ({status}): {last}", link.name);
                // This is how it speaks of an address that it cannot use.
                return Err(match last.contains("--listen") {
                    true => Error::Unsupported(text),
                    false => Error::Failed(text),
                });
            }
            if Instant::now() > end {
                return Err(Error::Failed(format!(
                    "link {}: the server does not listen after {} s: {last}",
                    link.name,
                    START_LIMIT.as_secs()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        // It closes its sessions and workers first; if it has ended already there is nobody to tell.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let end = Instant::now() + STOP_LIMIT;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.wait();
    }
}

/// The address in the line by which a server says that it is ready.
fn listening_on(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("listening on ")?;
    // A line that is not whole yet could have half an address.
    let (line, _) = rest.split_once('\n')?;
    line.split_whitespace().next().map(|word| word.trim_end_matches([',', ';']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_a_whole_line() {
        assert_eq!(listening_on("gpu0 …\nfusewire: listening on 127.0.0.1:4"), None);
        assert_eq!(listening_on("x\nfusewire: listening on 127.0.0.1:41\n"), Some("127.0.0.1:41"));
        assert_eq!(listening_on("listening on unix:/a/b, mode 600\n"), Some("unix:/a/b"));
    }
}
