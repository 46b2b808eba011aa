//! Whether compressing pays: from what was measured on a lane.
//!
//! Of the link, the rate at which it delivers; of the palette, its rate and what it makes of a byte, which hardly
//! differ from one payload to the next; of the general codec, whose do, by how much its rate on a whole payload
//! differs from that on the few places at which the payload is looked at beforehand.

use super::patience::Patience;
use crate::bulk::Delivery;

/// What the palette is thought to do before it was measured: bytes per second.
const PALETTE_RATE: f64 = 6e9;
/// What the general codec can do at its best.
const GENERAL_BEST: f64 = 4e9;
/// What the other end is thought to take to decode, on the thread that receives: bytes per second that come out. Of
/// the palette, its own writing to memory is what holds it up, so that it hardly depends on the processor.
const PALETTE_DECODE_RATE: f64 = 8e9;
const GENERAL_DECODE_RATE: f64 = 2e9;
/// What the palette makes of a byte of pixels as 32-bit floats, and is thought to make of any before it was seen.
pub(super) const PALETTE_RATIO: f64 = 0.25;
/// What the rate of a burst counts for, in the rate of a link.
const BURST: f64 = 0.05;
/// A measure is far off that is so many times the one before, or less than that part of it.
const FAR_OFF: f64 = 3.0;
/// Share of a measure that is forgotten with each chunk that is left alone.
const FORGET: f64 = 0.005;
/// Bytes after which the rate of a link says something.
const WARM_UP: usize = 4 << 20;
/// Share of the time that compressing must save to be done: where there are cores to spare, and where there are
/// not, so that the codec takes its time from somebody.
const GAIN: f64 = 0.1;
const GAIN_ON_FEW_CORES: f64 = 0.5;
const FEW_CORES: usize = 2;
/// Share of the link's time that a codec may take from somebody for any gain.
const LITTLE: f64 = 0.1;

/// A measure in which the latest counts for a quarter. One that is far off counts as if it were not so far: a thread
/// that lost its core for a moment, or a burst that some buffer took, must not be all that is known for long.
fn mix(old: f64, new: f64) -> f64 {
    0.75 * old + 0.25 * new.clamp(old / FAR_OFF, old * FAR_OFF)
}

/// What a codec has made of some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    pub(super) bytes: usize,
    pub(super) encoded: usize,
    pub(super) seconds: f64,
}

impl Measure {
    /// Seconds for a byte.
    fn cost(self) -> f64 {
        self.seconds.max(1e-9) / self.bytes.max(1) as f64
    }

    pub(super) fn ratio(self) -> f64 {
        self.encoded as f64 / self.bytes.max(1) as f64
    }
}

/// What was measured on a lane, and what follows.
#[derive(Debug)]
pub(super) struct Decision {
    /// Bytes that were to be sent; of the first nothing is known of the link yet.
    bytes: usize,
    /// Share of the time that compressing must save.
    gain: f64,
    /// Seconds that the link takes for a byte, once it has been seen at its limit.
    link: Option<f64>,
    /// The rate that was seen last: one that stays the same was not measured again.
    seen: f64,
    /// Chunks that are queued behind the one that is judged, for each lane.
    behind: f64,
    /// Seconds that the palette takes for a byte, and what it makes of one.
    palette: f64,
    ratio: f64,
    /// How much slower the general codec is on a whole payload than on the places that were looked at.
    general: f64,
    palette_patience: Patience,
    general_patience: Patience,
}

/// Which codecs may be tried on a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) palette: bool,
    pub(super) general: bool,
}

impl Due {
    pub(super) const BOTH: Self = Self { palette: true, general: true };
    const NONE: Self = Self { palette: false, general: false };

    pub(super) fn any(self) -> bool {
        self.palette || self.general
    }
}

impl Default for Decision {
    fn default() -> Self {
        Self {
            bytes: 0,
            gain: GAIN,
            link: None,
            seen: 0.0,
            behind: 0.0,
            palette: 1.0 / PALETTE_RATE,
            ratio: PALETTE_RATIO,
            general: 1.0,
            palette_patience: Patience::default(),
            general_patience: Patience::default(),
        }
    }
}

impl Decision {
    pub(super) fn on_this_host() -> Self {
        let gain = match std::thread::available_parallelism() {
            Ok(cores) if cores.get() > FEW_CORES => GAIN,
            _ => GAIN_ON_FEW_CORES,
        };
        Self { gain, ..Self::default() }
    }

    /// By what the next chunk, of so many bytes, should be compressed.
    pub(super) fn due(&mut self, bytes: usize, delivery: &dyn Fn() -> Option<Delivery>) -> Due {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < WARM_UP {
            return Due::NONE;
        }
        let mut due =
            Due { palette: self.palette_patience.is_over(), general: self.general_patience.is_over() };
        // Looked at before each chunk, or a pause would seem to be the link's.
        let Some(seen) = delivery() else { return Due::NONE };
        self.behind = seen.behind;
        if seen.rate != self.seen {
            self.seen = seen.rate;
            // Seconds are averaged, not rates: single ones are far too high, when buffers on the way take a burst.
            let cost = 1.0 / seen.rate.max(1.0);
            self.link = match self.link {
                Some(link) if seen.is_limit => Some(mix(link, cost)),
                // It may have become faster, or not.
                Some(link) => Some(link + BURST * (cost - link).min(0.0)),
                None => seen.is_limit.then_some(cost),
            };
        }
        if !due.any() {
            return Due::NONE;
        }
        // What is not used is not measured either: what was is forgotten, and tried again one day.
        if !self.palette_pays() {
            self.palette += FORGET * (1.0 / PALETTE_RATE - self.palette);
            self.ratio += FORGET * (PALETTE_RATIO - self.ratio);
            due.palette = false;
        }
        if !self.pays(1.0 / GENERAL_BEST, GENERAL_DECODE_RATE, 0.0) {
            self.general += FORGET * (1.0 - self.general);
            due.general = false;
        }
        due
    }

    /// Whether bytes arrive sooner if they are compressed first, a byte in so many seconds, sent then, and decoded at
    /// last. All three are under way at once, with one chunk each: a chunk alone takes the time of all, and each one
    /// behind it only that of the slowest. Lanes that share a link need not ask each other: each sees its share of the
    /// link, and what is left of a core for it.
    fn pays(&self, codec: f64, decode_rate: f64, ratio: f64) -> bool {
        self.link.is_some_and(|cost| {
            let stages = [codec, ratio * cost, 1.0 / decode_rate];
            let alone: f64 = stages.iter().sum();
            let behind_another = stages.iter().copied().fold(0.0, f64::max);
            let gain = if codec < LITTLE * cost { GAIN } else { self.gain };
            alone + self.behind * behind_another < (1.0 - gain) * (1.0 + self.behind) * cost
        })
    }

    /// Whether the next chunk will be looked at.
    #[cfg(test)]
    pub(super) fn is_curious(&self) -> bool {
        self.palette_patience.will_be_over() || self.general_patience.will_be_over()
    }

    pub(super) fn link(&self) -> Option<f64> {
        self.link
    }

    pub(super) fn palette_pays(&self) -> bool {
        self.pays(self.palette, PALETTE_DECODE_RATE, self.ratio)
    }

    pub(super) fn general_pays(&self, estimate: Measure) -> bool {
        self.pays(estimate.cost() * self.general, GENERAL_DECODE_RATE, estimate.ratio())
    }

    pub(super) fn learn_palette(&mut self, whole: Measure) {
        self.palette = mix(self.palette, whole.cost());
        self.ratio = mix(self.ratio, whole.ratio());
        self.palette_patience.rewarded();
    }

    pub(super) fn learn_general(&mut self, estimate: Measure, whole: Measure) {
        self.general = mix(self.general, whole.cost() / estimate.cost());
        self.general_patience.rewarded();
    }

    /// The palette was tried on a chunk of so many bytes, and was of no use. It was not at fault: only the data are
    /// judged, by leaving some alone.
    pub(super) fn palette_in_vain(&mut self, bytes: usize, seconds: f64) {
        self.palette_patience.in_vain(seconds, self.link.unwrap_or(1.0) * bytes as f64);
    }

    /// The same of the general codec.
    pub(super) fn general_in_vain(&mut self, bytes: usize, seconds: f64) {
        self.general_patience.in_vain(seconds, self.link.unwrap_or(1.0) * bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm() -> Decision {
        Decision { bytes: WARM_UP, ..Decision::default() }
    }

    #[test]
    fn slow_links_get_fewer_bytes_and_fast_ones_no_delay() {
        let due = |decision: &mut Decision, rate, is_limit| {
            decision.due(1, &|| Some(Delivery { rate, is_limit, behind: 0.0 })).any()
        };
        assert!(!due(&mut Decision::default(), 1e8, true), "nothing is known yet");
        assert!(due(&mut warm(), 1.5e8, true));
        assert!(!due(&mut warm(), 6e9, true), "faster than the codec");
        assert!(!due(&mut warm(), 1e8, false), "slow because there was little to send");
        assert!(!warm().due(1, &|| None).any(), "nothing is known at all");
        // Once compressed there is less to send, which says nothing against the link.
        let mut decision = warm();
        assert!(due(&mut decision, 2e8, true) && due(&mut decision, 1e7, false));
        assert!(due(&mut decision, 5e9, false), "nor does a burst");
        let faster = |n| 5e9 + f64::from(n);
        assert!((0..60).any(|n| !due(&mut decision, faster(n), false)), "but if it is faster it is seen");
        // A codec that turns out slow, or data that hardly shrink.
        let seen = |rate: f64| Decision { link: Some(1.0 / rate), ..Decision::default() };
        assert!(seen(2e8).palette_pays());
        assert!(!Decision { palette: 1e-8, ..seen(2e8) }.palette_pays());
        assert!(!Decision { ratio: 0.85, ..seen(1.2e9) }.palette_pays());
        // Where cores are few it must gain more, unless it takes next to nothing of them.
        let few = |rate| Decision { gain: GAIN_ON_FEW_CORES, ratio: 0.6, ..seen(rate) };
        assert!(few(2e8).palette_pays() && !few(1e9).palette_pays());
    }

    #[test]
    fn what_is_done_at_once_is_not_added_up() {
        // A lane's share of a quick network: a chunk alone would be there sooner as it is.
        let decision = |behind| Decision { link: Some(1.0 / 3e9), behind, ..Decision::default() };
        assert!(!decision(0.0).palette_pays());
        assert!(decision(8.0).palette_pays());
        // But never faster than the slowest of the three.
        let quick = Decision { link: Some(1.0 / 6e9), behind: 1000.0, ..Decision::default() };
        assert!(!quick.palette_pays());
        let slow_codec = Decision { palette: 1.0 / 3e9, ..decision(1000.0) };
        assert!(!slow_codec.palette_pays());
    }

    #[test]
    fn one_measure_that_is_far_off_changes_little() {
        let at = |rate: f64| Decision {
            bytes: WARM_UP,
            link: Some(1.0 / rate),
            behind: 8.0,
            ..Decision::default()
        };
        // The thread had to wait for its core for 4 ms.
        let mut decision = at(7e8);
        decision.learn_palette(Measure { bytes: 256 << 10, encoded: 64 << 10, seconds: 4e-3 });
        assert!(decision.palette_pays());
        // A buffer took a burst. If it goes on, it is believed.
        let mut decision = at(3.7e9);
        let mut burst = |rate| {
            let _ = decision.due(1, &|| Some(Delivery { rate, is_limit: true, behind: 8.0 }));
            decision.palette_pays()
        };
        assert!(burst(1e12));
        assert!(![2e12, 3e12, 4e12].map(&mut burst)[2]);
    }

    #[test]
    fn each_codec_is_judged_by_itself() {
        let measure = |rate: f64, ratio: f64| Measure {
            bytes: 1 << 20,
            encoded: (ratio * f64::from(1 << 20)) as usize,
            seconds: f64::from(1 << 20) / rate,
        };
        let mut decision = Decision { link: Some(1.0 / 2e8), ..Decision::default() };
        assert!(decision.general_pays(measure(1e9, 0.4)));
        assert!(!decision.general_pays(measure(1e9, 0.9)), "it hardly shrinks");
        assert!(!decision.general_pays(measure(1.5e8, 0.1)), "it takes longer than the link");
        // On whole payloads it is a fifth as fast as it seemed.
        for _ in 0..20 {
            decision.learn_general(measure(1e9, 0.4), measure(2e8, 0.4));
        }
        assert!(!decision.general_pays(measure(1e9, 0.4)) && decision.palette_pays());
        for _ in 0..20 {
            decision.learn_palette(measure(1e8, 0.25));
        }
        assert!(!decision.palette_pays() && decision.general_pays(measure(4e9, 0.4)));
    }

    /// What a training step sends over 100 Gbit/s: each 20 ms 2.4 MB on each of eight lanes. Until the network has
    /// acknowledged some of a burst, what is seen is how the one before it ended.
    #[test]
    fn short_bursts_on_a_fast_link_are_compressed_as_soon_as_it_is_known() {
        const CHUNKS: u32 = 10;
        let mut decision = Decision::default();
        let burst = |decision: &mut Decision, codec: f64, seen: Option<Delivery>| {
            let due = (0..CHUNKS).filter(|_| {
                let due = decision.due(256 << 10, &|| seen).palette;
                if due {
                    let seconds = f64::from(256 << 10) / codec;
                    decision.learn_palette(Measure { bytes: 256 << 10, encoded: 66 << 10, seconds });
                }
                due
            });
            due.count()
        };
        let lane = |n: u32| 1.4e9 + 2e7 * f64::from(n % 7);
        let limit = |n| Some(Delivery { rate: lane(n), is_limit: true, behind: 0.0 });
        // Of a few small things beforehand nothing is learnt.
        assert_eq!(burst(&mut decision, 8e9, Some(Delivery { rate: 3e7, is_limit: false, behind: 0.0 })), 0);
        assert!(burst(&mut decision, 8e9, limit(1)) > 0, "the second step at the latest");
        // From then on there is less to send, and a burst may fit into what the network has room for: then it has
        // come to no limit, and the kernel's measure of it counts only if it is a higher one.
        let due: usize = (2..200)
            .map(|n| {
                let seen = match n % 4 {
                    0 => Some(Delivery { rate: 1.5 * lane(n), is_limit: false, behind: 0.0 }),
                    _ => limit(n),
                };
                burst(&mut decision, 8e9, seen)
            })
            .sum();
        assert_eq!(due, 198 * CHUNKS as usize);
        // A codec that is too slow here is left alone, but for a try now and then.
        let due: usize = (200..400).map(|n| burst(&mut decision, 2e9, limit(n))).sum();
        assert!(due < 100 * CHUNKS as usize / 2, "{due} of {}", 200 * CHUNKS);
    }
}
