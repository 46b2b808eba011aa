//! The few statistics that results need. Rounds are few, so the median and the whole range are told, not a
//! deviation.

use serde::{Deserialize, Serialize};

/// The middle of some figures and how far they reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of no figures, or of figures that are not numbers.
    pub(crate) fn of(figures: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.to_vec();
        if sorted.is_empty() || sorted.iter().any(|figure| !figure.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let (middle, count) = (sorted.len() / 2, sorted.len());
        let median =
            if count % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, min: sorted[0], max: sorted[count - 1] })
    }
}

/// How good the remote figures are, round by round: 1 is as good as native, larger is better.
///
/// Rounds are paired because the machine of one minute is not the machine of the next.
pub(crate) fn ratios(native: &[f64], remote: &[f64], larger_is_better: bool) -> Option<Spread> {
    let each: Vec<f64> = native
        .iter()
        .zip(remote)
        .map(|(native, remote)| if larger_is_better { remote / native } else { native / remote })
        .collect();
    Spread::of(&each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[5.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 5.0 }));
    }

    #[test]
    fn nothing_and_no_number_have_no_spread() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
        assert_eq!(ratios(&[1.0], &[0.0], false), None);
    }

    #[test]
    fn a_ratio_is_better_when_larger_for_times_and_for_rates() {
        // Twice as slow in both: half as good.
        assert_eq!(ratios(&[10.0, 10.0], &[20.0, 20.0], false).map(|spread| spread.median), Some(0.5));
        assert_eq!(ratios(&[10.0, 10.0], &[5.0, 5.0], true).map(|spread| spread.median), Some(0.5));
    }

    #[test]
    fn rounds_are_paired_before_the_median_is_taken() {
        // The machine was slow in the second round, for both: the ratio does not show it.
        let spread = ratios(&[10.0, 30.0, 10.0], &[20.0, 60.0, 20.0], false);
        assert_eq!(spread, Some(Spread { median: 0.5, min: 0.5, max: 0.5 }));
    }
}
