#![no_main]

use fusewire_link::compress::kernel;
use fusewire_wire::palette::Portable;

#[path = "../checks/palette.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::check(data, &Portable);
    checks::check(data, kernel());
});
