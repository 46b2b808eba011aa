//! Finding and opening the driver.

use std::path::Path;

use libloading::Library;
use libloading::os::unix::{Library as UnixLibrary, RTLD_LOCAL, RTLD_NOW};

use super::{Driver, Status};

/// The name that NVIDIA's driver package installs.
pub const DEFAULT_DRIVER: &str = "libcuda.so.1";

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error(
        "the driver {file} does not exist; --driver must name NVIDIA's libcuda.so.1 or a stand-in for it"
    )]
    Missing { file: String },
    #[error("the driver {file} cannot be loaded: {why}{advice}")]
    NotALibrary { file: String, why: String, advice: &'static str },
    #[error(
        "{file} is not a driver: it has no function {symbol}; --driver must name NVIDIA's libcuda.so.1 or a \
         stand-in for it"
    )]
    NotADriver { file: String, symbol: &'static str },
    #[error("the driver {file} does not work: {call} says {what}; does nvidia-smi work on this machine?")]
    Broken { file: String, call: &'static str, what: String },
}

impl Driver {
    /// Loads the driver from `file`: a path, or a name for the dynamic linker to search.
    ///
    /// # Errors
    /// [`LoadError`], in one line that says what to do.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        let name = file.display().to_string();
        if file.components().count() > 1 && !file.exists() {
            return Err(LoadError::Missing { file: name });
        }
        // SAFETY: runs the library's constructors, which is what naming it as the driver asks for.
        let opened = unsafe { UnixLibrary::open(Some(file), RTLD_NOW | RTLD_LOCAL) };
        let library: Library = match opened {
            Ok(library) => library.into(),
            Err(error) => {
                let advice = if file == Path::new(DEFAULT_DRIVER) {
                    "; is the NVIDIA driver installed? --driver PATH names another"
                } else {
                    "; --driver must name NVIDIA's libcuda.so.1 or a stand-in for it"
                };
                let why =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                return Err(LoadError::NotALibrary { file: name, why, advice });
            }
        };
        Self::from_library(Box::leak(Box::new(library)), &name)
    }

    /// Loads and initialises the driver.
    ///
    /// # Errors
    /// As [`Driver::load`]; and when cuInit or the device count fails.
    pub fn start(file: &Path) -> Result<Self, LoadError> {
        let driver = Self::load(file)?;
        let broken = |call, status: Status| LoadError::Broken {
            file: file.display().to_string(),
            call,
            what: driver.describe(status),
        };
        // SAFETY: plain calls; the count is a live integer.
        let (status, count_status) = unsafe {
            let mut count = 0;
            let status = driver.cuInit(0);
            (status, if status == 0 { driver.cuDeviceGetCount(&raw mut count) } else { 0 })
        };
        match (status, count_status) {
            (0, 0) => Ok(driver),
            (0, status) => Err(broken("cuDeviceGetCount", status)),
            (status, _) => Err(broken("cuInit", status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_driver_is_named_in_one_line() {
        let text = |path: &str| Driver::load(Path::new(path)).err().map(|error| error.to_string()).unwrap();
        assert!(text("/nonexistent/libcuda.so.1").contains("/nonexistent/libcuda.so.1 does not exist"));
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(text(manifest).contains("cannot be loaded"), "{}", text(manifest));
        let libc = text("libc.so.6");
        assert!(libc.contains("libc.so.6 is not a driver: it has no function cuInit"), "{libc}");
        for path in ["/nonexistent/x", manifest, "libc.so.6"] {
            assert_eq!(text(path).lines().count(), 1);
        }
    }
}
