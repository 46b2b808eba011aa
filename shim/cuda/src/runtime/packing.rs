//! Whether images are compressed on their way, and doing it.
//!
//! An image is sent once to a host, while the program waits, and mostly before anything is known of the link. PTX and
//! plain machine code shrink to a quarter or a half in less time than 10 Gbit/s take for them; what the compiler has
//! compressed already is found out at a few places. So what shrinks is compressed, unless the link leads no further
//! than this host's memory, or has been seen to be faster than that.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use fusewire_link::compress::Compress;
use fusewire_wire::digest::SMALL_IMAGE_BYTES;
use fusewire_wire::encoded::{self, Codec};
use fusewire_wire::general;

#[derive(Debug)]
pub(crate) struct Packing {
    mode: Compress,
    stays_here: bool,
    /// Seconds that the link takes for a byte, as bulk lanes have seen it last, as bits; 0: not known.
    link: AtomicU64,
}

impl Default for Packing {
    fn default() -> Self {
        Self::new(Compress::Off, true)
    }
}

impl Packing {
    pub(crate) fn new(mode: Compress, stays_here: bool) -> Self {
        Self { mode, stays_here, link: AtomicU64::new(0) }
    }

    /// A bulk lane knows what the link takes for a byte. It sees its share of the link: taking that for the whole
    /// link errs on the side of compressing.
    #[inline]
    pub(crate) fn saw(&self, link: Option<f64>) {
        if let Some(cost) = link {
            self.link.store(cost.to_bits(), Relaxed);
        }
    }

    /// The part of an image as a payload that arrives sooner; `None`: as it is.
    pub(crate) fn pack(&self, part: &[u8]) -> Option<Vec<u8>> {
        if part.len() <= SMALL_IMAGE_BYTES || !self.is_due(part) {
            return None;
        }
        let mut packed = vec![0; encoded::room(part.len())];
        let bytes = encoded::encode(Codec::General, part, &mut packed)?;
        packed.truncate(bytes);
        Some(packed)
    }

    fn is_due(&self, part: &[u8]) -> bool {
        match self.mode {
            Compress::Off => return false,
            Compress::Always => return true,
            Compress::Auto if self.stays_here => return false,
            Compress::Auto => {}
        }
        let since = Instant::now();
        let (looked_at, left) = general::estimate(part);
        let codec = since.elapsed().as_secs_f64() / looked_at.max(1) as f64;
        let ratio = left as f64 / looked_at.max(1) as f64;
        match f64::from_bits(self.link.load(Relaxed)) {
            0.0 => ratio < 1.0,
            link => codec + ratio * link < link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000)
            .flat_map(|n| format!("add.s64 %rd{n}, %rd{}, %rd{};\n", n * 7 % 100, n % 9).into_bytes())
            .collect()
    }

    fn noise() -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as u8
        };
        (0..1 << 20).map(next).collect()
    }

    #[test]
    fn what_shrinks_is_packed_where_the_link_is_slow_or_not_known() {
        let (text, noise) = (text(), noise());
        let packing = Packing::new(Compress::Auto, false);
        let packed = packing.pack(&text).unwrap();
        assert!(3 * packed.len() < text.len(), "{} of {} bytes", packed.len(), text.len());
        let mut back = vec![0; text.len()];
        encoded::decode(&packed, &mut back).unwrap();
        assert!(back == text);
        assert_eq!(packing.pack(&noise), None, "what is compressed already");
        assert_eq!(packing.pack(&text[..SMALL_IMAGE_BYTES]), None, "what is small");
        // So slow, and so fast, that it does not matter how fast this test is.
        packing.saw(Some(1e-3));
        assert!(packing.pack(&text).is_some());
        packing.saw(None);
        assert!(packing.pack(&text).is_some());
        packing.saw(Some(1e-12));
        assert_eq!(packing.pack(&text), None);
        assert_eq!(Packing::new(Compress::Auto, true).pack(&text), None, "on this host");
        assert_eq!(Packing::new(Compress::Off, false).pack(&text), None);
        let always = Packing::new(Compress::Always, true);
        assert!(always.pack(&text).is_some() && always.pack(&noise).is_none());
    }
}
