//! Completes the binary interface around the functions that the sources implement.
//!
//! `build/table.rs` reads what the interface is, `build/scan.rs` what the sources have, `build/plan.rs`
//! decides what becomes of every symbol, `build/write.rs` writes the rest. What is written:
//! `OUT_DIR/abi.rs` (included by `src/abi/generated.rs`) and `OUT_DIR/api/<file>` for each source file
//! (included by its `variants!` line).

#[path = "../build_support.rs"]
mod build_support;
#[path = "build/plan.rs"]
mod plan;
#[path = "build/scan.rs"]
mod scan;
#[path = "build/table.rs"]
mod table;
#[path = "build/write.rs"]
mod write;

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["../build_support.rs", "build.rs", "build", "abi", "src/api", "src/abi"] {
        println!("cargo::rerun-if-changed={input}");
    }
    build_support::link_as("libcuda.so.1")?;
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let interface = table::Interface::read(&package)?;
    let sources = scan::Sources::read(&package)?;
    let plan = plan::Plan::make(&interface, &sources);
    for problem in &plan.problems {
        println!("cargo::error={problem}");
    }
    for remark in &plan.remarks {
        println!("cargo::warning={remark}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    write::interface(&out, &interface, &plan)?;
    write::variants(&out, &sources, &plan)
}
