//! Completes the interface: every function of `abi/functions.txt` that `src/api` does not have becomes a
//! stub that says it is not supported.
//!
//! What `src/api` has is found by its text: each `fn nvml…` there is an exported function. One that is not
//! exported after all is missed by the test that compares the library's symbols with the list.

#[path = "../build_support.rs"]
mod build_support;

use std::{collections::BTreeSet, env, error::Error, fmt::Write as _, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["../build_support.rs", "build.rs", "abi/functions.txt", "src/api"] {
        println!("cargo::rerun-if-changed={input}");
    }
    build_support::link_as("libnvidia-ml.so.1")?;
    let mut implemented = BTreeSet::new();
    for entry in fs::read_dir("src/api")? {
        let text = fs::read_to_string(entry?.path())?;
        for (at, _) in text.match_indices("fn nvml") {
            let name = text[at + 3..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
            implemented.extend(name.map(str::to_owned));
        }
    }
    let list = fs::read_to_string("abi/functions.txt")?;
    let mut out = String::new();
    let mut known = BTreeSet::new();
    for name in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if !known.insert(name) {
            return Err(format!("functions.txt: {name} is listed twice").into());
        }
        if !implemented.contains(name) {
            writeln!(
                out,
                "#[unsafe(no_mangle)]\npub extern \"C\" fn {name}() -> Status {{ not_supported({name:?}) }}"
            )?;
        }
    }
    for name in implemented.iter().filter(|name| !known.contains(name.as_str())) {
        println!("cargo::error=src/api: {name} is not in abi/functions.txt");
    }
    let all: Vec<&str> = known.into_iter().collect();
    writeln!(
        out,
        "/// Every function of the interface, in order.\npub const FUNCTIONS: &[&str] = &{all:?};"
    )?;
    Ok(fs::write(PathBuf::from(env::var("OUT_DIR")?).join("stubs.rs"), out)?)
}
