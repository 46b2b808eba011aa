//! How a stand-in library is linked: shared by the build scripts of `shim/cuda` and `shim/nvml`.
//!
//! A bare machine has glibc and nothing else, so the unwinder of GCC, which Rust's standard library asks
//! for as `libgcc_s.so.1`, is linked in from its static archive: a linker script of that name lies first
//! on the search path of the library (and of nothing else).
//!
//! Used by `#[path = "../build_support.rs"] mod build_support;`.

use std::{env, error::Error, fs, path::PathBuf};

/// Makes the package's cdylib carry this SONAME, bind its own calls to itself whatever else is loaded,
/// stay in memory after `dlclose` (its threads run in it), and need only glibc.
pub(crate) fn link_as(soname: &str) -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("OUT_DIR")?).join("link");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc -lc )\n")?;
    println!("cargo::rustc-cdylib-link-arg=-L{}", folder.display());
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions,-z,nodelete");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--no-undefined");
    Ok(())
}
