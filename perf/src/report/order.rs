//! The order in which results are shown: by what they are, not by when they came.

use std::cmp::Ordering;

use super::distinct;
use crate::result::Figure;
use crate::rig::link;

/// Puts the figures of each suite into order: cases as a reader counts (2 before 32, 64K before 1M), links as they are
/// listed everywhere. Suites stay as they came, and so do the cases of `latency`, from the simplest call on.
pub(super) fn sort(figures: &mut [Figure]) {
    let all: Vec<&Figure> = figures.iter().collect();
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<String>>();
    let suites = owned(distinct(&all, |figure| &figure.suite));
    let calls = owned(distinct(&all, |figure| &figure.case));
    let place = |of: &[String], name: &str| of.iter().position(|seen| seen == name);
    let link =
        |figure: &Figure| link::ALL.iter().position(|link| link.name == figure.link).unwrap_or(usize::MAX);
    figures.sort_by(|a, b| {
        let cases = match a.suite.as_str() {
            "latency" => place(&calls, &a.case).cmp(&place(&calls, &b.case)),
            _ => cases(&a.case, &b.case),
        };
        place(&suites, &a.suite).cmp(&place(&suites, &b.suite)).then(cases).then(link(a).cmp(&link(b)))
    });
}

/// Two cases, word by word: a shorter one before those that go on, numbers before words.
fn cases(a: &str, b: &str) -> Ordering {
    let key = |case: &str| -> Vec<(u64, String)> {
        case.split(' ').map(|word| (number(word).unwrap_or(u64::MAX), word.to_owned())).collect()
    };
    key(a).cmp(&key(b))
}

/// A number, such as `32`, `64K` or `x16`.
fn number(word: &str) -> Option<u64> {
    let word = word.strip_prefix('x').unwrap_or(word).trim_end_matches(',');
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let found = units.iter().find_map(|(unit, shift)| word.strip_suffix(unit).map(|rest| (rest, *shift)));
    let (digits, shift) = found.unwrap_or((word, 0));
    digits.parse::<u32>().ok().map(|number| u64::from(number) << shift)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::report::tests::figure;

    #[test]
    fn cases_come_as_a_reader_counts() {
        let mut names = ["b 32", "b 2 item", "b 128", "b 2", "a 1M", "a 64K", "a 4K", "c 8 x16", "c 8 x4"];
        names.sort_by(|a, b| cases(a, b));
        assert_eq!(names, ["a 4K", "a 64K", "a 1M", "b 2", "b 2 item", "b 32", "b 128", "c 8 x4", "c 8 x16"]);
    }

    #[test]
    fn suites_and_calls_stay_as_they_came_and_links_do_not() {
        let mut figures = [
            figure("train", "a 128", "100g", 1.0, Value::Null),
            figure("latency", "launch", "tcp", 1.0, Value::Null),
            figure("train", "a 2", "shm", 1.0, Value::Null),
            figure("train", "a 128", "shm", 1.0, Value::Null),
            figure("latency", "clock", "shm", 1.0, Value::Null),
            figure("latency", "launch", "shm", 1.0, Value::Null),
        ];
        sort(&mut figures);
        let shown: Vec<String> =
            figures.iter().map(|figure| format!("{} {}", figure.case, figure.link)).collect();
        assert_eq!(shown, ["a 2 shm", "a 128 shm", "a 128 100g", "launch shm", "launch tcp", "clock shm"]);
    }
}
