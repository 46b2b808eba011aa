//! The seeds of the palette's fuzz target, and damaged copies of them, with what this processor gets.

#![allow(clippy::unwrap_used)]

use fusewire_link::compress::kernel;

#[path = "../../../wire/fuzz/checks/palette.rs"]
mod checks;

#[test]
fn the_seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wire/fuzz/seeds/palette");
    for entry in std::fs::read_dir(folder).unwrap() {
        let mut data = std::fs::read(entry.unwrap().path()).unwrap();
        checks::check(&data, kernel());
        for at in 0..data.len().min(300) {
            data[at] ^= 0x81;
            checks::check(&data, kernel());
            data[at] ^= 0x81;
        }
    }
}
