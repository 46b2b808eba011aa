//! Log lines: `fusewire: …` on stderr, one line each.

/// Where lines go. Cheap to copy; each executor has its own.
#[derive(Clone, Debug)]
pub(super) struct Log {
    quiet: bool,
}

impl Log {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// What is worth knowing when all is well; silent with `--quiet`.
    pub(super) fn info(&self, text: &str) {
        if !self.quiet {
            self.error(text);
        }
    }

    /// What went wrong.
    pub(super) fn error(&self, text: &str) {
        use std::io::Write;
        // One write, so that lines of different threads do not mix. When stderr is gone there is nobody to tell.
        let _ = std::io::stderr().write_all(format!("fusewire: {text}\n").as_bytes());
    }
}

/// Text from outside, made fit for a log line.
pub(super) fn clean(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// The short form of a session's name, for people. The full name lets a
/// connection join the session, so it is never written down.
pub(super) fn short(session: [u64; 2]) -> String {
    format!("{:08x}", session[0] >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_fit_for_people() {
        assert_eq!(clean("a\n\x1bb", 10), "a??b");
        assert_eq!(clean("abcdef", 3), "abc");
        assert_eq!(
            (bytes(0), bytes(999), bytes(1000), bytes(154_000_000)),
            ("0 B".into(), "999 B".into(), "1.0 kB".into(), "154.0 MB".into())
        );
        assert_eq!(bytes(u64::MAX), "18446744.1 TB");
        assert_eq!(short([0x1234_5678_9abc_def0, 1]), "12345678");
    }
}
