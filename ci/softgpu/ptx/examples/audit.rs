//! Lists the instructions of PTX files that this interpreter lacks:
//! `cargo run -p softgpu-ptx --example audit -- FILE.ptx ...`

use softgpu_ptx::Module;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut clean = true;
    for path in std::env::args().skip(1) {
        let module = match std::fs::read_to_string(&path) {
            Ok(text) => Module::parse(&text).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        match module {
            Ok(m) => {
                println!(
                    "{path}: sm_{}, {} kernels, {} globals",
                    m.target_sm(),
                    m.kernels().count(),
                    m.globals().len()
                );
                for (function, what) in m.unsupported() {
                    clean = false;
                    println!("  {function}: {what}");
                }
            }
            Err(why) => {
                clean = false;
                println!("{path}: {why}");
            }
        }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
