//! The duration of single driver calls: each by the clock, into a histogram.
//!
//! A reading of the clock is part of every figure; what it costs is measured too (`Clock`). Calls that cost
//! little more than that are also timed by the thousand (`each_ns`), where the clock does not count.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::driver::{DeviceMemory, Driver, Handle};
use crate::error::{Context, Error, Result};

const EMPTY: &str = "\
.version 7.0
.target sm_75
.address_size 64
.visible .entry nothing() { ret; }
";

/// Launches in a row before the stream is waited for, outside what is timed: far fewer than the hardware's
/// queue holds, so that none of them waits for room.
const BURST: u32 = 200;
/// Calls timed together for `each_ns`.
const MANY: u32 = 1000;
const WARM_UP: u32 = 200;
/// CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
const ATTRIBUTE: i32 = 16;
/// A minute in nanoseconds: no call takes longer and is still worth a figure.
pub(crate) const LONGEST: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum What {
    Clock,
    Launch,
    LaunchSynchronize,
    /// With nothing to wait for.
    Synchronize,
    ReadWord,
    EventQuery,
    CurrentContext,
    DeviceAttribute,
}

#[derive(Debug)]
pub(crate) struct Calls<'a> {
    driver: &'a Driver,
    kernel: Handle,
    stream: Handle,
    event: Handle,
    word: DeviceMemory<'a>,
}

impl<'a> Calls<'a> {
    pub(crate) fn new(driver: &'a Driver) -> Result<Calls<'a>> {
        let kernel = driver.kernel(EMPTY, "nothing")?;
        let calls = Calls {
            driver,
            kernel,
            stream: driver.stream()?,
            event: driver.event()?,
            word: driver.device_memory(4096)?,
        };
        calls.driver.launch(calls.kernel, calls.stream)?;
        calls.driver.record(calls.event, calls.stream)?;
        calls.driver.wait_event(calls.event)?;
        Ok(calls)
    }

    #[inline]
    fn once(&self, what: What) -> Result<()> {
        match what {
            What::Clock => Ok(()),
            What::Launch => self.driver.launch(self.kernel, self.stream),
            What::LaunchSynchronize => {
                self.driver.launch(self.kernel, self.stream)?;
                self.driver.synchronize(self.stream)
            }
            What::Synchronize => self.driver.synchronize(self.stream),
            What::ReadWord => self.driver.read_word(&self.word).map(drop),
            What::EventQuery => match self.driver.query(self.event)? {
                true => Ok(()),
                false => Err(Error::Failed("an event that was waited for is not finished".into())),
            },
            What::CurrentContext => self.driver.current(),
            What::DeviceAttribute => {
                black_box(self.driver.attribute(ATTRIBUTE)?);
                Ok(())
            }
        }
    }

    /// So many times, untimed.
    pub(crate) fn repeat(&self, what: What, count: u64) -> Result<()> {
        (0..count).try_for_each(|_| self.once(what))
    }

    /// One after the other, for about so many seconds.
    pub(crate) fn closed(&mut self, what: What, seconds: f64) -> Result<Value> {
        let mut histogram = histogram()?;
        let end = Instant::now() + limit(seconds)?;
        for _ in 0..WARM_UP {
            self.once(what)?;
        }
        self.driver.synchronize(self.stream)?;
        // Rates of burst and clock: the end is looked for once a burst.
        while Instant::now() < end {
            for _ in 0..BURST {
                let start = Instant::now();
                self.once(what)?;
                histogram.saturating_record(nanoseconds(start.elapsed()));
            }
            if what == What::Launch {
                self.driver.synchronize(self.stream)?;
            }
        }
        let mut answer = told(&histogram);
        if let Some(each) = self.each(what)? {
            answer["each_ns"] = json!(each);
        }
        Ok(answer)
    }

    /// Nanoseconds of a call among many, for those that do not wait: the best of some attempts.
    fn each(&self, what: What) -> Result<Option<f64>> {
        let count = match what {
            What::EventQuery | What::CurrentContext | What::DeviceAttribute => MANY,
            What::Launch => BURST,
            What::Clock | What::LaunchSynchronize | What::Synchronize | What::ReadWord => return Ok(None),
        };
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let start = Instant::now();
            for _ in 0..count {
                self.once(what)?;
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(count));
            self.driver.synchronize(self.stream)?;
        }
        Ok(Some(best))
    }

    /// At a fixed rate. Each call is measured from when it should have begun, so that one slow call also tells
    /// on those that had to wait behind it.
    pub(crate) fn open(&mut self, what: What, per_second: f64, seconds: f64) -> Result<Value> {
        let limit = limit(seconds)?;
        if !(per_second > 0.0 && per_second <= 1e8) {
            return Err(Error::Usage(format!("{per_second} calls a second cannot be measured")));
        }
        let mut histogram = histogram()?;
        for _ in 0..WARM_UP {
            self.once(what)?;
        }
        self.driver.synchronize(self.stream)?;
        let interval = 1e9 / per_second;
        let start = Instant::now();
        let mut done = 0_u64;
        loop {
            let due = Duration::from_nanos((done as f64 * interval) as u64);
            if due >= limit {
                break;
            }
            while start.elapsed() < due {
                std::hint::spin_loop();
            }
            self.once(what)?;
            let now = start.elapsed();
            histogram.saturating_record(nanoseconds(now - due));
            done += 1;
            // What cannot be kept up is cut off; what it took until then tells.
            if now > 2 * limit {
                break;
            }
        }
        let took = start.elapsed().as_secs_f64();
        self.driver.synchronize(self.stream)?;
        let mut answer = told(&histogram);
        answer["achieved_per_second"] = json!(done as f64 / took);
        Ok(answer)
    }

    /// Rounds of some launches and a copy, from one moment of the monotonic clock to another.
    pub(crate) fn between(&mut self, from: f64, until: f64) -> Result<Value> {
        const BYTES: usize = 64 << 10;
        let device = self.driver.device_memory(BYTES)?;
        let host = self.driver.pinned_memory(BYTES)?;
        let now = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
        };
        while now() < from {
            std::hint::spin_loop();
        }
        let start = now();
        let mut rounds = 0_u64;
        while now() < until {
            // SAFETY: the source is that long, is not written to, and outlives the wait below.
            unsafe { self.driver.to_device(&device, 0, host.start, BYTES, self.stream)? };
            for _ in 0..20 {
                self.driver.launch(self.kernel, self.stream)?;
            }
            self.driver.synchronize(self.stream)?;
            rounds += 1;
        }
        Ok(json!({ "steps": rounds, "seconds": now() - start }))
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, 3).failed(|| "a histogram".into())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LONGEST).max(1)
}

fn limit(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).usage(|| format!("{seconds} seconds"))
}

/// A histogram as it goes over: value and count, for what was seen.
fn told(histogram: &Histogram<u64>) -> Value {
    let counts: Vec<(u64, u64)> =
        histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    json!({ "counts": counts })
}
