//! What is said on stderr, and what the program's user wants said there: `FUSEWIRE_LOG` and `FUSEWIRE_QUIET`, read
//! once for the life of the process.

use std::env::var_os;
use std::io::Write;
use std::sync::LazyLock;

static QUIET: LazyLock<bool> =
    LazyLock::new(|| var_os("FUSEWIRE_QUIET").is_some_and(|value| !value.is_empty() && value != "0"));
static LEVEL: LazyLock<Level> = LazyLock::new(|| {
    let name = var_os("FUSEWIRE_LOG");
    match name.as_ref().and_then(|name| name.to_str()) {
        Some("trace") => Level::Trace,
        Some("info" | "debug") => Level::Info,
        _ => Level::None,
    }
});

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    None,
    Info,
    Trace,
}

/// Says something, in one line, unless nothing is to be said.
pub fn say(message: &str) {
    if !quiet() {
        // In one piece, so that threads do not mix; and a closed stderr must not become a panic.
        drop(std::io::stderr().write_all(format!("fusewire: {message}\n").as_bytes()));
    }
}

/// `FUSEWIRE_QUIET=1`: nothing is to be said.
#[must_use]
pub fn quiet() -> bool {
    *QUIET
}

/// `FUSEWIRE_LOG=info` and above: what is unusual but not wrong is to be said.
#[must_use]
pub fn informs() -> bool {
    *LEVEL >= Level::Info
}

/// `FUSEWIRE_LOG=trace`: every call and its result is to be said.
#[inline]
#[must_use]
pub fn traces() -> bool {
    *LEVEL == Level::Trace
}
