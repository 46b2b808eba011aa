//! What the environment asks this GPU to be, and to get wrong. The README lists the variables.
//!
//! Read once, at the first call. A value that cannot be understood is reported on stderr and ignored:
//! a test that misspells a switch should see it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::errors::{Code, Res};

pub(crate) struct Config {
    pub(crate) devices: u32,
    pub(crate) memory: u64,
    oom_after: Option<u64>,
    faulty_kernels: BTreeMap<String, Code>,
    slow_calls: BTreeMap<String, Duration>,
    pub(crate) kernel_delay: Option<Duration>,
    /// Machine code is accepted, and its kernels do nothing.
    pub(crate) machine_code: bool,
}

pub(crate) fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| Config {
        devices: number("SOFTGPU_DEVICES").and_then(|n| u32::try_from(n).ok()).map_or(2, |n| n.min(16)),
        memory: number("SOFTGPU_MEMORY").unwrap_or(2 << 30),
        oom_after: number("SOFTGPU_OOM_AFTER"),
        faulty_kernels: pairs("SOFTGPU_FAULT", fault_code),
        slow_calls: pairs("SOFTGPU_SLOW", |text| text.parse().ok().map(Duration::from_millis)),
        kernel_delay: number("SOFTGPU_KERNEL_DELAY_MS").map(Duration::from_millis),
        machine_code: machine_code(),
    })
}

/// The fault that was ordered for a kernel of this name, if any.
pub(crate) fn for_kernel(name: &str) -> Option<Code> {
    config().faulty_kernels.get(name).copied()
}

/// Sleeps if this driver function was ordered to be slow.
pub(crate) fn slow_down(function: &str) {
    let slow = &config().slow_calls;
    if !slow.is_empty()
        && let Some(pause) = slow.get(function)
    {
        std::thread::sleep(*pause);
    }
}

/// Counts device memory handed out, and refuses it once the ordered amount has been reached.
pub(crate) fn hand_out(bytes: u64) -> Res {
    static HANDED_OUT: AtomicU64 = AtomicU64::new(0);
    let Some(limit) = config().oom_after else { return Ok(()) };
    let within = |sofar: u64| sofar.checked_add(bytes).filter(|total| *total <= limit);
    HANDED_OUT
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
        .map(drop)
        .map_err(|_| Code::OUT_OF_MEMORY)
}

fn fault_code(name: &str) -> Option<Code> {
    match name {
        "illegal_address" => Some(Code::ILLEGAL_ADDRESS),
        "misaligned_address" => Some(Code::MISALIGNED_ADDRESS),
        "illegal_instruction" => Some(Code::ILLEGAL_INSTRUCTION),
        "launch_failed" => Some(Code::LAUNCH_FAILED),
        "assert" => Some(Code::ASSERT),
        "ecc" => Some(Code::ECC_UNCORRECTABLE),
        _ => None,
    }
}

fn machine_code() -> bool {
    match std::env::var("SOFTGPU_MACHINE_CODE") {
        Ok(text) if text == "noop" => true,
        Ok(text) => {
            eprintln!("softgpu: SOFTGPU_MACHINE_CODE={text} is not noop; ignored");
            false
        }
        Err(_) => false,
    }
}

fn number(variable: &'static str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let (digits, unit) = match text.trim().as_bytes().last()? {
        b'K' | b'k' => (&text.trim()[..text.trim().len() - 1], 1 << 10),
        b'M' | b'm' => (&text.trim()[..text.trim().len() - 1], 1 << 20),
        b'G' | b'g' => (&text.trim()[..text.trim().len() - 1], 1 << 30),
        _ => (text.trim(), 1),
    };
    let value = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    if value.is_none() {
        eprintln!("softgpu: {variable}={text} is not a number; ignored");
    }
    value
}

/// `name:value` pairs separated by commas.
fn pairs<T>(variable: &'static str, parse: impl Fn(&str) -> Option<T>) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    let Ok(text) = std::env::var(variable) else { return found };
    for item in text.split(',').filter(|item| !item.is_empty()) {
        match item.rsplit_once(':').and_then(|(name, value)| Some((name.trim(), parse(value.trim())?))) {
            Some((name, value)) => drop(found.insert(name.to_owned(), value)),
            None => eprintln!("softgpu: {variable}: \"{item}\" is not name:value; ignored"),
        }
    }
    found
}
