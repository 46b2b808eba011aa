//! Copies between host and device, one size at a time.
//!
//! Copies of one measurement are issued together, `depth` of them, and then waited for; a figure is bytes over
//! wall time from the first call to the end of the wait. They go through the buffers from front to back, so
//! that small ones do not all hit the same memory.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::driver::{DeviceMemory, Driver, Handle, PinnedMemory};
use crate::error::{Context, Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Memory {
    Pinned,
    Pageable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    H2d,
    D2h,
    /// Half of it each way at once; the figure is the sum.
    Both,
}

/// What is in the memory that is copied: a link that compresses must not be measured with zeros unless that is
/// wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    /// Nothing can compress it.
    Random,
    Zeros,
    /// 8-bit images, normalised, as 32-bit floats: three planes of at most 256 values.
    Pixels,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) memory: Memory,
    pub(crate) direction: Direction,
    /// Of one copy.
    pub(crate) bytes: usize,
    /// Copies that are issued before they are waited for; without it, as many as are worth it.
    pub(crate) depth: Option<usize>,
    /// Milliseconds between the end of such copies and the next, which do not count.
    pub(crate) pause_ms: f64,
    pub(crate) seconds: f64,
}

/// Bytes under way at most, unless one copy is larger.
const TOGETHER: usize = 256 << 20;
const DEEPEST: usize = 64;

#[derive(Debug)]
pub(crate) struct Copies<'a> {
    driver: &'a Driver,
    streams: [Handle; 2],
    // For each direction a buffer on each side, so that both at once share nothing.
    device: [DeviceMemory<'a>; 2],
    pinned: [PinnedMemory<'a>; 2],
    pageable: [Vec<u8>; 2],
    bytes: usize,
}

/// The start of a host buffer, for another thread.
#[derive(Clone, Copy)]
struct Start(*mut u8);
// SAFETY: only one thread uses a buffer at a time; `Copies::run` sees to it.
unsafe impl Send for Start {}

impl<'a> Copies<'a> {
    pub(crate) fn new(driver: &'a Driver, bytes: usize, content: Content) -> Result<Copies<'a>> {
        if bytes == 0 {
            return Err(Error::Usage("buffers of no length".into()));
        }
        let pinned = [driver.pinned_memory(bytes)?, driver.pinned_memory(bytes)?];
        for memory in &pinned {
            // SAFETY: the driver has just given this memory to us, and no copy uses it yet. Filling it as raw
            // memory first makes it initialised.
            let whole = unsafe {
                memory.start.write_bytes(0, memory.bytes);
                std::slice::from_raw_parts_mut(memory.start, memory.bytes)
            };
            fill(whole, content);
        }
        let mut pageable = [vec![0; bytes], vec![0; bytes]];
        pageable.iter_mut().for_each(|memory| fill(memory, content));
        let copies = Copies {
            driver,
            streams: [driver.stream()?, driver.stream()?],
            device: [driver.device_memory(bytes)?, driver.device_memory(bytes)?],
            pinned,
            pageable,
            bytes,
        };
        // The device's half of it holds the same, so that both ways carry what was asked for.
        // SAFETY: the sources are as long as the buffers and stay until the streams were waited for.
        unsafe {
            for place in 0..2 {
                let source = copies.pinned[place].start;
                driver.to_device(&copies.device[place], 0, source, bytes, copies.streams[place])?;
                driver.synchronize(copies.streams[place])?;
            }
        }
        Ok(copies)
    }

    pub(crate) fn run(&mut self, request: &Request) -> Result<Value> {
        if request.bytes == 0 || request.bytes > self.bytes {
            return Err(Error::Usage(format!(
                "copies of {} bytes with buffers of {}",
                request.bytes, self.bytes
            )));
        }
        let time =
            Duration::try_from_secs_f64(request.seconds).usage(|| format!("{} seconds", request.seconds))?;
        let pause = Duration::try_from_secs_f64(request.pause_ms / 1e3)
            .usage(|| format!("a pause of {} ms", request.pause_ms))?;
        let depth = request.depth.unwrap_or(TOGETHER / request.bytes).clamp(1, DEEPEST);
        let hosts = match request.memory {
            Memory::Pinned => [Start(self.pinned[0].start), Start(self.pinned[1].start)],
            Memory::Pageable => {
                let [first, second] = &mut self.pageable;
                [Start(first.as_mut_ptr()), Start(second.as_mut_ptr())]
            }
        };
        let lane = |place: usize, to_device: bool| Lane {
            driver: self.driver,
            stream: self.streams[place],
            device: &self.device[place],
            host: hosts[place],
            whole: self.bytes,
            each: request.bytes,
            to_device,
        };
        let (up, down) = (lane(0, true), lane(1, false));
        let batch: &dyn Fn(usize) -> Result<usize> = &|depth| match (request.direction, request.memory) {
            (Direction::H2d, _) => up.batch(depth),
            (Direction::D2h, _) => down.batch(depth),
            (Direction::Both, Memory::Pinned) => {
                for place in 0..depth {
                    up.issue(place)?;
                    down.issue(place)?;
                }
                up.wait()?;
                down.wait()?;
                Ok(2 * depth * request.bytes)
            }
            // Each of these calls may wait for its copy, so it takes two threads to have both under way.
            (Direction::Both, Memory::Pageable) => std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    self.driver.enter()?;
                    down.batch(depth)
                });
                let mine = up.batch(depth);
                let theirs =
                    other.join().map_err(|_| Error::Failed("the other direction's thread".into()))?;
                Ok(mine? + theirs?)
            }),
        };
        batch(1)?;
        let (mut rates, mut bytes) = (Vec::new(), 0);
        let begin = Instant::now();
        while rates.is_empty() || begin.elapsed() < time {
            std::thread::sleep(pause);
            let start = Instant::now();
            let moved = batch(depth)?;
            rates.push(moved as f64 / start.elapsed().as_nanos() as f64);
            bytes += moved;
        }
        // Bytes in a nanosecond are decimal gigabytes in a second.
        rates.sort_by(f64::total_cmp);
        Ok(json!({
            "gbs": rates[rates.len() / 2],
            "best_gbs": rates[rates.len() - 1],
            "bytes": bytes,
            "depth": depth,
        }))
    }
}

/// One direction: a stream with a buffer at both ends.
struct Lane<'a> {
    driver: &'a Driver,
    stream: Handle,
    device: &'a DeviceMemory<'a>,
    host: Start,
    whole: usize,
    each: usize,
    to_device: bool,
}

impl Lane<'_> {
    fn issue(&self, place: usize) -> Result<()> {
        let offset = place % (self.whole / self.each) * self.each;
        // SAFETY: offset + each is within the host buffer, which is `whole` long; only this lane uses it, and
        // it outlives the lane, which waits for its stream at the end of every batch.
        unsafe {
            let host = self.host.0.add(offset);
            match self.to_device {
                true => self.driver.to_device(self.device, offset, host, self.each, self.stream),
                false => self.driver.to_host(host, self.device, offset, self.each, self.stream),
            }
        }
    }

    fn wait(&self) -> Result<()> {
        self.driver.synchronize(self.stream)
    }

    fn batch(&self, depth: usize) -> Result<usize> {
        for place in 0..depth {
            self.issue(place)?;
        }
        self.wait()?;
        Ok(depth * self.each)
    }
}

// SAFETY: a lane is used by one thread at a time; the handles may be used by any, and its host buffer is its
// own.
unsafe impl Sync for Lane<'_> {}

/// Fills memory. Not secret, only hard to compress: xorshift.
fn fill(memory: &mut [u8], content: Content) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    match content {
        Content::Zeros => memory.fill(0),
        Content::Random => {
            for words in memory.chunks_mut(8) {
                let word = next().to_le_bytes();
                words.copy_from_slice(&word[..words.len()]);
            }
        }
        Content::Pixels => {
            // One plane of a 224 by 224 image after the other, with the usual means and deviations.
            const PLANE: usize = 224 * 224;
            let scale = [(0.485_f32, 0.229_f32), (0.456, 0.224), (0.406, 0.225)];
            for (place, words) in memory.chunks_mut(4).enumerate() {
                let (mean, deviation) = scale[place / PLANE % 3];
                let pixel = (next() >> 56) as f32;
                let word = ((pixel / 255.0 - mean) / deviation).to_le_bytes();
                words.copy_from_slice(&word[..words.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pixels_are_few_values_and_random_bytes_are_not() {
        let distinct = |content| {
            let mut memory = vec![0; 4 * 224 * 224];
            fill(&mut memory, content);
            memory.chunks(4).map(<[u8]>::to_vec).collect::<HashSet<_>>().len()
        };
        assert_eq!(distinct(Content::Zeros), 1);
        assert_eq!(distinct(Content::Pixels), 256);
        assert!(distinct(Content::Random) > 50_000);
    }

    #[test]
    fn what_is_no_multiple_of_a_word_is_filled_to_its_end() {
        for content in [Content::Random, Content::Pixels] {
            let mut memory = vec![0; 1003];
            fill(&mut memory, content);
            assert!(memory[996..].iter().any(|byte| *byte != 0), "{content:?}");
        }
    }
}
