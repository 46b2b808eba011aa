//! The remote side's mount namespace, in which neither the GPU nor NVIDIA's driver can be seen: otherwise a
//! program could find the real driver, and the measurement would be of nothing.
//!
//! The work is done by `ci/gpu/hide.sh`, which is carried inside this program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};

const SCRIPT: &str = include_str!("../../../ci/gpu/hide.sh");

/// Where the libraries of a driver may lie, beside what the loader's cache names.
const FOLDERS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];
/// Names of the driver's libraries begin so.
const DRIVER: [&str; 4] = ["libcuda.so", "libnvidia-", "libcudadebugger.so", "libnvcuvid.so"];

#[derive(Debug)]
pub(crate) struct Hiding {
    script: PathBuf,
    work: PathBuf,
}

impl Hiding {
    pub(crate) fn new(work: &Path, also: &[PathBuf]) -> Result<Hiding> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Unsupported(
                "hiding the GPU from the remote side needs root: run as root, or measure with --no-hide"
                    .into(),
            ));
        }
        let work = work.join("hide");
        let script = work.join("hide.sh");
        let named = || format!("{}", work.display());
        fs::create_dir(&work).failed(named)?;
        fs::write(&script, SCRIPT).failed(named)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).failed(named)?;
        let mut list = String::new();
        for path in paths(also) {
            if let Some(path) = path.to_str() {
                list.push_str(path);
                list.push('\n');
            }
        }
        fs::write(work.join("hidden-paths"), list).failed(named)?;
        Ok(Hiding { script, work })
    }

    /// What goes before a command line.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            ["unshare", "--mount", "--propagation", "private"].map(OsString::from).into();
        words.extend([self.script.clone().into(), self.work.clone().into(), "--".into()]);
        words
    }
}

/// Every folder and file of NVIDIA's driver that a program could load or open by name.
fn paths(also: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: BTreeSet<PathBuf> = also.iter().cloned().collect();
    found.extend(["/usr/local/nvidia", "/proc/driver/nvidia"].map(PathBuf::from));
    if let Ok(output) = Command::new("/sbin/ldconfig").arg("-p").output() {
        found.extend(in_cache(&String::from_utf8_lossy(&output.stdout)));
    }
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        path.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect();
    folders.extend(FOLDERS.map(PathBuf::from));
    let toolkits = entries(Path::new("/usr/local")).into_iter();
    folders.extend(toolkits.filter(|path| name_begins(path, "cuda")).map(|path| path.join("compat")));
    for folder in folders {
        let driver = |path: &PathBuf| name_begins(path, "libcuda.so") || name_begins(path, "libnvidia-ml.so");
        found.extend(entries(&folder).into_iter().filter(driver));
    }
    found.into_iter().filter(|path| path.exists()).collect()
}

/// The driver's libraries in what `ldconfig -p` prints.
fn in_cache(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines().filter_map(|line| {
        let (name, path) = line.trim().split_once(" => ")?;
        DRIVER.iter().any(|start| name.starts_with(start)).then(|| PathBuf::from(path.trim()))
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map_or(Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
}

fn name_begins(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_libraries_are_found_in_the_loaders_cache() {
        let text = "3 libs found in cache\n\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/libnvidia-ml.so.1\n\
                    \tlibcudart.so.13 (libc6,x86-64) => /lib/libcudart.so.13\n\
                    \tlibcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1\n";
        let found: Vec<_> = in_cache(text).collect();
        assert_eq!(found, ["/lib/libnvidia-ml.so.1", "/usr/lib/libcuda.so.1"].map(PathBuf::from));
    }
}
