//! Samples the process that it is preloaded into, by processor time, where `perf` cannot be used.
//!
//! With `LD_PRELOAD=libfusewire_sampler.so` and `FUSEWIRE_SAMPLES=FOLDER`, a process with the number PID waits for the
//! file `FOLDER/PID.start`, which holds a number of seconds, samples for so long, and writes `FOLDER/PID.folded`:
//! a line for each stack, outermost function first, with the thread's name before it, as flame graphs are drawn
//! from. Then it waits again. What goes wrong is in `FOLDER/PID.error`. A thread of its own does it all: a worker
//! ends without running anything at exit.
//!
//! It is for recording alone, and no part of what is shipped. It must not change what a process does, but for
//! the signal SIGPROF.

mod masks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process, thread};

use pprof::{ProfilerGuardBuilder, Symbol};

/// Samples for each second of processor time. Not a whole part of the scheduler's clock.
const FREQUENCY: i32 = 997;
/// How often to look whether sampling is to start.
const LOOK: Duration = Duration::from_millis(20);

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    let Some(folder) = env::var_os("FUSEWIRE_SAMPLES") else { return };
    let files = Files::new(Path::new(&folder), process::id());
    let failed = files.error.clone();
    let thread = thread::Builder::new().name("fusewire-sampler".to_owned()).spawn(move || serve(&files));
    if let Err(error) = thread {
        let _ = fs::write(failed, format!("no thread can be made: {error}\n"));
    }
}

struct Files {
    start: PathBuf,
    folded: PathBuf,
    unfinished: PathBuf,
    error: PathBuf,
}

impl Files {
    fn new(folder: &Path, process: u32) -> Self {
        let file = |kind: &str| folder.join(format!("{process}.{kind}"));
        Self {
            start: file("start"),
            folded: file("folded"),
            unfinished: file("unfinished"),
            error: file("error"),
        }
    }
}

/// Does what is asked for, until the process ends.
fn serve(files: &Files) {
    loop {
        thread::sleep(LOOK);
        let Ok(words) = fs::read_to_string(&files.start) else { continue };
        // Made and not yet written.
        if words.trim().is_empty() {
            continue;
        }
        if let Err(error) = sample(files, &words) {
            let _ = fs::write(&files.error, format!("{error}\n"));
        }
    }
}

fn sample(files: &Files, words: &str) -> Result<(), String> {
    fs::remove_file(&files.start).map_err(|error| format!("{}: {error}", files.start.display()))?;
    let seconds = words
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{words:?} is no number of seconds"))?;
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .build()
        .map_err(|error| format!("sampling does not start: {error}"))?;
    thread::sleep(seconds);
    let report = guard.report().build().map_err(|error| format!("samples cannot be read: {error}"))?;
    drop(guard);
    let mut stacks = BTreeMap::new();
    for (sampled, count) in &report.data {
        let thread = plain(&sampled.thread_name_or_id());
        // Outermost first; a frame is one function, and those that the compiler put inside it.
        let own = sampled.frames.iter().take_while(|frame| frame.iter().any(is_sampler)).count();
        let functions = sampled.frames.iter().skip(own).rev().flat_map(|frame| frame.iter().rev());
        let stack = functions.fold(thread, |stack, function| stack + ";" + &plain(&function.name()));
        *stacks.entry(stack).or_insert(0) += *count;
    }
    write(&files.unfinished, &files.folded, &stacks)
}

/// Whether a function is the signal handler's, which is innermost wherever the program was.
fn is_sampler(function: &Symbol) -> bool {
    let (name, file) = (function.name(), function.filename());
    ["pprof::", "perf_signal_handler", "backtrace::backtrace::"].iter().any(|part| name.contains(part))
        || ["/pprof-", "/backtrace-"].iter().any(|part| file.contains(part))
}

/// Whole or not at all: somebody waits for the file.
fn write(unfinished: &Path, folded: &Path, stacks: &BTreeMap<String, isize>) -> Result<(), String> {
    let text: String = stacks.iter().map(|(stack, count)| format!("{stack} {count}\n")).collect();
    fs::write(unfinished, text)
        .and_then(|()| fs::rename(unfinished, folded))
        .map_err(|error| format!("{}: {error}", folded.display()))
}

/// A name without the characters that part names and lines.
fn plain(name: &str) -> String {
    name.replace(';', ":").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Instant;

    use super::*;

    #[inline(never)]
    fn work_hard(until: &AtomicBool) {
        while !until.load(Relaxed) {
            black_box(until);
        }
    }

    /// A thread as the client's are: it takes no signals.
    fn block_signals() {
        let mut all = MaybeUninit::uninit();
        // SAFETY: the first call initialises the set for the second.
        let blocked = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut())
        };
        assert_eq!(blocked, 0);
    }

    #[test]
    fn samples_name_thread_and_function_even_where_signals_are_blocked() {
        static OVER: AtomicBool = AtomicBool::new(false);
        let folder = env::temp_dir().join(format!("fusewire-sampler-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = Files::new(&folder, process::id());
        let busy = thread::Builder::new().name("busy".to_owned()).spawn(|| {
            block_signals();
            work_hard(&OVER);
        });
        let mut text = String::new();
        let hard = |line: &str| line.starts_with("busy;") && line.contains("work_hard");
        // Where all processors are taken, half a second may be too short to be seen at work in.
        for _ in 0..20 {
            fs::write(&files.start, "0.5\n").unwrap();
            let start = Instant::now();
            sample(&files, "0.5\n").unwrap();
            assert!(start.elapsed() >= Duration::from_millis(500) && !files.start.exists());
            text = fs::read_to_string(&files.folded).unwrap();
            if text.lines().any(hard) {
                break;
            }
        }
        OVER.store(true, Relaxed);
        busy.unwrap().join().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(text.lines().any(hard) && !text.contains("pprof"), "{text}");
        for line in text.lines() {
            let (_, count) = line.rsplit_once(' ').unwrap();
            assert!(count.parse::<u32>().unwrap() > 0, "{line}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let folder = env::temp_dir().join(format!("fusewire-sampler-{}-refused", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let files = Files::new(&folder, 1);
        for words in ["soon", "-1", "inf"] {
            fs::write(&files.start, words).unwrap();
            let refused = sample(&files, words).unwrap_err();
            assert!(refused.contains("no number of seconds"), "{refused}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_cannot_part_lines() {
        assert_eq!(plain("a;b\nc"), "a:b c");
    }
}
