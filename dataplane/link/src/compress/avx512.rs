//! The palette's inner loops for processors with AVX-512: sixteen words at a time.
//!
//! The same as [`fusewire_wire::palette::Portable`], which says what is wanted. Nothing here judges what it is
//! given: it reads and writes within its slices and tables, whatever they hold.

use std::arch::x86_64::*;

use fusewire_wire::palette::{
    BUCKETS, COLOURS, Form, INDEX_BITS, Kernel, OCCUPIED, SLOT_BITS, SLOTS, STRIP, Table, WINDOW_TURN,
};

/// Words in a register.
const LANES: usize = 16;
/// Bytes by which memory is fetched ahead: the processor's own fetching stops at the end of a page.
const AHEAD: usize = 1 << 10;
/// Two registers hold the displacements.
const _: () = assert!(BUCKETS == 2 * LANES && INDEX_BITS == 8);

/// Exists only where the processor has what it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

impl Kernel for Avx512 {
    fn find(&self, form: Form, tables: &[Box<Table>], from: &[u8], to: &mut [u8]) -> usize {
        // SAFETY: AVX-512F was detected.
        unsafe {
            match (form.width, tables) {
                (4, [one]) if form.planes == 1 => find::<4, 1>([one], from, to),
                (2, [one]) if form.planes == 1 => find::<2, 1>([one], from, to),
                (4, [red, green, blue]) if form.planes == 3 => find::<4, 3>([red, green, blue], from, to),
                (2, [red, green, blue]) if form.planes == 3 => find::<2, 3>([red, green, blue], from, to),
                _ => 0,
            }
        }
    }

    fn expand(&self, form: Form, colours: &[[u32; COLOURS]; 3], indices: &[u8], to: &mut [u8]) -> usize {
        // SAFETY: AVX-512F was detected.
        unsafe {
            match (form.width, form.planes) {
                (4, 1) => expand::<4, 1>(colours, indices, to),
                (2, 1) => expand::<2, 1>(colours, indices, to),
                (4, 3) => expand::<4, 3>(colours, indices, to),
                (2, 3) => expand::<2, 3>(colours, indices, to),
                _ => 0,
            }
        }
    }
}

/// A table as the loop wants it.
struct Wanted<'a> {
    entries: &'a [u32; SLOTS],
    multiplier: __m512i,
    displacements: [__m512i; 2],
}

#[target_feature(enable = "avx512f")]
fn find<const WIDTH: usize, const PLANES: usize>(
    tables: [&Table; PLANES],
    from: &[u8],
    to: &mut [u8],
) -> usize {
    const SLOT_MASK: u32 = SLOTS as u32 - 1;
    const {
        assert!(WINDOW_TURN == SLOT_BITS);
    }
    let tables = tables.map(|table| {
        let (halves, _) = table.displacements().as_chunks::<LANES>();
        Wanted {
            entries: table.entries(),
            multiplier: _mm512_set1_epi32(table.multiplier() as i32),
            displacements: [load(&halves[0].map(u32::cast_signed)), load(&halves[1].map(u32::cast_signed))],
        }
    });
    let slot_mask = _mm512_set1_epi32(SLOT_MASK as i32);
    let tag_mask = _mm512_set1_epi32(!SLOT_MASK as i32);
    let occupied = _mm512_set1_epi32(OCCUPIED as i32);
    let mut done = 0;
    let strips = from.chunks_exact(STRIP * PLANES * WIDTH);
    for (strip, places) in strips.zip(to.chunks_exact_mut(STRIP * PLANES)) {
        for line in (0..strip.len()).step_by(64) {
            let ahead = strip.as_ptr().wrapping_add(line + AHEAD).cast();
            #[allow(unused_unsafe, reason = "older compilers want it")]
            // SAFETY: a hint reads nothing, wherever it points.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(ahead);
            }
        }
        let mut difference = _mm512_setzero_si512();
        for part in 0..STRIP / LANES {
            let words = load_words::<WIDTH, PLANES>(&strip[part * LANES * PLANES * WIDTH..]);
            for plane in 0..PLANES {
                let table = &tables[plane];
                let multiplied = _mm512_mullo_epi32(words[plane], table.multiplier);
                let turned = _mm512_rol_epi32::<{ WINDOW_TURN as i32 }>(multiplied);
                let bucket = _mm512_srli_epi32::<{ 32 - BUCKETS.trailing_zeros() }>(turned);
                let [low, high] = table.displacements;
                let displacement = _mm512_permutex2var_epi32(low, bucket, high);
                // (turned ^ displacement) & mask
                let slot = _mm512_ternarylogic_epi32::<0x28>(turned, displacement, slot_mask);
                // SAFETY: a slot is masked to be less than the number of entries.
                let entry = unsafe { _mm512_i32gather_epi32::<4>(slot, table.entries.as_ptr().cast()) };
                // (turned & mask) | occupied
                let tag = _mm512_ternarylogic_epi32::<0xea>(turned, tag_mask, occupied);
                // difference | (entry ^ tag)
                difference = _mm512_ternarylogic_epi32::<0xf6>(difference, entry, tag);
                let place = &mut places[plane * STRIP + part * LANES..][..LANES];
                // SAFETY: sixteen bytes.
                unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(entry)) };
            }
        }
        // The index is in no tag.
        if _mm512_test_epi32_mask(difference, _mm512_set1_epi32(!0 << INDEX_BITS)) != 0 {
            return done;
        }
        done += 1;
    }
    done
}

#[target_feature(enable = "avx512f")]
fn expand<const WIDTH: usize, const PLANES: usize>(
    colours: &[[u32; COLOURS]; 3],
    indices: &[u8],
    to: &mut [u8],
) -> usize {
    let mut done = 0;
    let strips = indices.chunks_exact(STRIP * PLANES);
    for (strip, places) in strips.zip(to.chunks_exact_mut(STRIP * PLANES * WIDTH)) {
        for part in 0..STRIP / LANES {
            let mut words = [_mm512_setzero_si512(); PLANES];
            for plane in 0..PLANES {
                let indices = &strip[plane * STRIP + part * LANES..][..LANES];
                // SAFETY: sixteen bytes.
                let indices = unsafe { _mm_loadu_si128(indices.as_ptr().cast()) };
                let indices = _mm512_cvtepu8_epi32(indices);
                // SAFETY: a byte is less than the number of colours.
                words[plane] =
                    unsafe { _mm512_i32gather_epi32::<4>(indices, colours[plane].as_ptr().cast()) };
            }
            store_words::<WIDTH, PLANES>(words, &mut places[part * LANES * PLANES * WIDTH..]);
        }
        done += 1;
    }
    // What was stored past the cache is to be seen before what says that it is there.
    #[allow(unused_unsafe, reason = "older compilers want it")]
    // SAFETY: every processor with AVX-512 has it.
    unsafe {
        _mm_sfence();
    }
    done
}

/// Lanes of two registers, for each of three: the lanes of the first register's and the second's (and 16) that
/// make a first draft; and those of the draft, and of the third register's (and 16), that complete it.
type Shuffle = [[[i32; LANES]; 2]; 3];

/// From three registers of rows to one of each plane.
const APART: Shuffle = {
    let mut all = [[[0; LANES]; 2]; 3];
    let mut plane = 0;
    while plane < 3 {
        let mut lane = 0;
        while lane < LANES {
            let from = 3 * lane + plane;
            let is_late = from >= 2 * LANES;
            all[plane][0][lane] = if is_late { 0 } else { from as i32 };
            all[plane][1][lane] = if is_late { (from - LANES) as i32 } else { lane as i32 };
            lane += 1;
        }
        plane += 1;
    }
    all
};

/// And back.
const TOGETHER: Shuffle = {
    let mut all = [[[0; LANES]; 2]; 3];
    let mut third = 0;
    while third < 3 {
        let mut lane = 0;
        while lane < LANES {
            let (row, plane) = ((third * LANES + lane) / 3, (third * LANES + lane) % 3);
            let is_late = plane == 2;
            all[third][0][lane] = if is_late { 0 } else { (plane * LANES + row) as i32 };
            all[third][1][lane] = if is_late { (LANES + row) as i32 } else { lane as i32 };
            lane += 1;
        }
        third += 1;
    }
    all
};

#[target_feature(enable = "avx512f")]
fn shuffle<const PLANES: usize>(from: [__m512i; PLANES], how: &Shuffle) -> [__m512i; PLANES] {
    let mut to = from;
    if PLANES == 3 {
        for (to, [draft, rest]) in to.iter_mut().zip(how) {
            let [draft, rest] = [load(draft), load(rest)];
            let draft = _mm512_permutex2var_epi32(from[0], draft, from[1]);
            *to = _mm512_permutex2var_epi32(draft, rest, from[2]);
        }
    }
    to
}

#[target_feature(enable = "avx512f")]
fn load(from: &[i32; LANES]) -> __m512i {
    // SAFETY: as long as a register.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// The first sixteen words of each plane.
#[target_feature(enable = "avx512f")]
fn load_words<const WIDTH: usize, const PLANES: usize>(from: &[u8]) -> [__m512i; PLANES] {
    let mut words = [_mm512_setzero_si512(); PLANES];
    for (words, from) in words.iter_mut().zip(from.chunks_exact(LANES * WIDTH)) {
        // SAFETY: sixteen words of four bytes, or of two.
        *words = unsafe {
            if WIDTH == 4 {
                _mm512_loadu_si512(from.as_ptr().cast())
            } else {
                _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()))
            }
        };
    }
    shuffle(words, &APART)
}

/// Past the cache where the place allows it: what is decoded is more than it holds, and is not read here.
#[target_feature(enable = "avx512f")]
fn store_words<const WIDTH: usize, const PLANES: usize>(words: [__m512i; PLANES], to: &mut [u8]) {
    let words = shuffle(words, &TOGETHER);
    for (words, to) in words.into_iter().zip(to.chunks_exact_mut(LANES * WIDTH)) {
        let is_aligned = to.as_ptr().addr().is_multiple_of(LANES * WIDTH);
        // SAFETY: sixteen words of four bytes, or of two, and aligned where that is asked for.
        unsafe {
            match (WIDTH, is_aligned) {
                (4, true) => _mm512_stream_si512(to.as_mut_ptr().cast(), words),
                (4, false) => _mm512_storeu_si512(to.as_mut_ptr().cast(), words),
                (_, true) => _mm256_stream_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(words)),
                (_, false) => _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(words)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fusewire_wire::palette::{Encoder, Portable, decode_with};

    use super::*;

    fn noise(seed: u64) -> impl FnMut() -> u32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        }
    }

    /// Both encoders' work, decoded by both.
    fn agree(source: &[u8], offset: usize, encoders: &mut [(&'static dyn Kernel, Encoder); 2]) {
        let mut lengths = [None; 2];
        for ((_, encoder), length) in encoders.iter_mut().zip(&mut lengths) {
            let mut out = vec![0; source.len()];
            *length = encoder.encode(source, &mut out);
            let Some(length) = *length else { continue };
            for kernel in [&Portable, kernel()] {
                let mut back = vec![0xa5; offset + source.len() + 64];
                decode_with(kernel, &out[..length], &mut back[offset..][..source.len()]).unwrap();
                assert!(back[offset..][..source.len()] == *source, "{kernel:?}");
                assert!(back[..offset].iter().all(|byte| *byte == 0xa5), "before");
                assert!(back[offset + source.len()..].iter().all(|byte| *byte == 0xa5), "behind");
            }
        }
        assert_eq!(lengths[0], lengths[1]);
    }

    fn kernel() -> &'static dyn Kernel {
        crate::compress::kernel()
    }

    fn encoders() -> [(&'static dyn Kernel, Encoder); 2] {
        [&Portable, kernel()].map(|kernel| (kernel, Encoder::new(kernel)))
    }

    /// Runs of few and of many colours, in planes and interleaved, in words of both widths and at any place, one
    /// after the other through the same encoders.
    #[test]
    fn it_gives_what_the_portable_one_gives() {
        if Avx512::detect().is_none() {
            return;
        }
        let mut next = noise(7);
        let mut encoders = encoders();
        for round in 0..300 {
            let mut source = Vec::new();
            let width = [2, 4][round / 2 % 2];
            let planes = [1, 3][round % 2];
            for _ in 0..next() % 5 + 1 {
                let colours = [1, 3, 60, 200, 256, 256, 256, 300, 100_000][next() as usize % 9];
                let palette = (next() % 4) << 12;
                for row in 0..next() % 9000 {
                    let plane = if planes == 3 { row % 3 } else { 0 };
                    let word = (palette + (plane << 10) + next() % colours).wrapping_mul(0x9e37_79b1);
                    source.extend_from_slice(&word.to_be_bytes()[..width]);
                }
            }
            let cut = (next() as usize % 9).min(source.len());
            agree(&source[cut..], next() as usize % 130, &mut encoders);
        }
    }

    #[test]
    fn pixels_of_both_layouts_become_a_quarter() {
        let mut next = noise(3);
        let mut encoders = encoders();
        for planes in [1, 3] {
            let mut pixel = |at: usize| {
                let channel = if planes == 1 { at / (100 * 100) } else { at } % 3;
                let value = (next() % 256) as f32 / 255.0;
                (value - [0.485, 0.456, 0.406][channel]) / [0.229, 0.224, 0.225][channel]
            };
            let source: Vec<_> = (0..12 * 100 * 100).flat_map(|at| pixel(at).to_le_bytes()).collect();
            agree(&source, 0, &mut encoders);
            agree(&source, 4, &mut encoders);
            let mut out = vec![0; source.len()];
            // Where the tables are known.
            let bytes = encoders[1].1.encode(&source, &mut out).unwrap();
            assert!(bytes * 35 < source.len() * 10, "{bytes} of {}", source.len());
        }
    }

    #[test]
    fn it_expands_as_many_strips_as_there_is_room_for() {
        let Some(avx512) = Avx512::detect() else { return };
        let kernels: [&dyn Kernel; 2] = [&Portable, &avx512];
        let colours = [std::array::from_fn(|n| n as u32 * 3 + 1); 3];
        for form in Form::ALL {
            let words = 5 * STRIP * form.planes;
            let indices: Vec<u8> = (0..words).map(|n| (n * 7) as u8).collect();
            let places: Vec<_> = (0..2 * words + 9).map(|at| at % (form.width * words)).collect();
            for at in places {
                let outs = kernels.map(|kernel| {
                    let mut to = vec![0; at];
                    let strips = kernel.expand(form, &colours, &indices, &mut to);
                    assert_eq!(strips, at / (STRIP * form.row()));
                    to.truncate(strips * STRIP * form.row());
                    to
                });
                assert!(outs[0] == outs[1]);
            }
        }
    }
}
