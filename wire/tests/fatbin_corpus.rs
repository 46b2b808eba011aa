//! Replays the fuzz seeds of the fat binary reader, whole, cut short and damaged, as an ordinary test.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "../fuzz/checks/fatbin.rs"]
mod checks;

use std::path::{Path, PathBuf};

const DAMAGED_COPIES: usize = 200;

fn seeds() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/fatbin");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn the_seeds_themselves() {
    let seeds = seeds();
    assert!(seeds.len() >= 20, "seeds are missing: {} found", seeds.len());
    for (path, image) in seeds {
        println!("{}", path.display());
        checks::check(&image);
    }
}

#[test]
fn seeds_cut_short() {
    for (_, image) in seeds() {
        let step = (image.len() / 100).max(1);
        for length in (0..image.len()).step_by(step).chain(0..image.len().min(150)) {
            checks::check(&image[..length]);
        }
    }
}

#[test]
fn seeds_damaged() {
    for (path, image) in seeds() {
        println!("{}", path.display());
        let mut random = SplitMix(image.len() as u64);
        for _ in 0..DAMAGED_COPIES {
            let mut damaged = image.clone();
            for _ in 0..=random.below(8) {
                // Half of the damage goes where the headers are.
                let within = if random.below(2) == 0 { damaged.len().min(160) } else { damaged.len() };
                let at = random.below(within.max(1));
                let value = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)];
                if let Some(byte) = damaged.get_mut(at) {
                    *byte = value;
                }
            }
            checks::check(&damaged);
        }
    }
}

/// The same numbers in every run.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
