//! The machine a result was measured on: what a reader must know to compare, and nothing that names it.

use std::fs;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Name of the GPU, as the native driver gives it.
    pub(crate) gpu: Option<String>,
    /// Version of the driver.
    pub(crate) driver: Option<String>,
    pub(crate) cores: usize,
    /// Major and minor version only.
    pub(crate) kernel: String,
}

impl Machine {
    /// Asks the system and `nvidia-smi`; the GPU stays open where there is none.
    pub(crate) fn describe() -> Machine {
        let (gpu, driver) = smi().unzip();
        Machine {
            gpu,
            driver,
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: major_minor(&rustix::system::uname().release().to_string_lossy()),
        }
    }
}

fn smi() -> Option<(String, String)> {
    let found = ["nvidia-smi", "/usr/local/nvidia/bin/nvidia-smi"].into_iter().find_map(|program| {
        Command::new(program)
            .args(["--query-gpu=name,driver_version", "--format=csv,noheader,nounits"])
            .output()
            .ok()
            .filter(|output| output.status.success())
    })?;
    let text = String::from_utf8(found.stdout).ok()?;
    let (name, version) = text.lines().next()?.split_once(',')?;
    Some((name.trim().to_owned(), version.trim().to_owned()))
}

/// "6.18" of "6.18.44-custom".
fn major_minor(release: &str) -> String {
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let mut parts = release.split('.');
    match (parts.next().map(number), parts.next().map(number)) {
        (Some(major), Some(minor)) if !minor.is_empty() => format!("{major}.{minor}"),
        (Some(major), _) => major,
        _ => String::new(),
    }
}

/// The commit of the folder this runs in, if it is a checkout.
pub(crate) fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Now, in UTC.
pub(crate) fn date() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// Whether there is anything of NVIDIA's to hide from a client here.
pub(crate) fn has_gpu() -> bool {
    fs::exists("/dev/nvidiactl").unwrap_or(false) || fs::exists("/proc/driver/nvidia").unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_known_by_major_and_minor_only() {
        assert_eq!(major_minor("6.18.44-vendor-v669"), "6.18");
        assert_eq!(major_minor("6.1-rc3"), "6.1");
        assert_eq!(major_minor("7"), "7");
    }
}
