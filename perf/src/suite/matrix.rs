//! `matrix`: the training table over links of several bandwidths.
//!
//! The question is how much of a link's loss is the link's own. So each figure stands beside a bound: a step
//! cannot be faster than its input comes, min(1, bandwidth of the link / bandwidth that a native step needs),
//! as long as the input travels as it is.

use serde_json::json;

use crate::error::Result;
use crate::result::Figure;
use crate::rig::link::{self, Link};
use crate::rig::shaped::Shaped;
use crate::rig::{Rig, RigArgs};
use crate::suite::train;

/// Training over links of several bandwidths, against native = 1 and the link's own bound.
///
/// Links of limited bandwidth are two network namespaces joined by a veth pair with a tbf queueing discipline
/// on both ends; that needs root. Exit code 3 if this kernel has no such thing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    rig: RigArgs,
    /// Links to measure
    #[arg(long, value_name = "LINK,...", value_delimiter = ',', default_value = "shm,tcp,100g,25g,10g", value_parser = link::parse)]
    links: Vec<Link>,
    #[command(flatten)]
    cases: train::Cases,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rig = Rig::new(&args.rig)?;
    // At once, not after minutes: a machine that cannot shape a link had better say so.
    if let Some(gbit) = args.links.iter().find_map(|link| link.gbit) {
        Shaped::new(gbit)?;
    }
    train::measure(&rig, "matrix", &args.links, &args.cases, &bound)
}

/// Adds what the link itself allows.
fn bound(link: &Link, figure: &mut Figure) {
    let Some(gbit) = link.gbit else { return };
    figure.about.insert("link_gbit".into(), json!(gbit));
    if let Some(bound) = figure.about_f64("needs_gbit").map(|needs| (gbit / needs).min(1.0)) {
        figure.about.insert("bound".into(), json!(bound));
        if let Some(ratio) = figure.ratio {
            figure.about.insert("of_bound".into(), json!(ratio.median / bound));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::result::Side;

    #[test]
    fn the_bound_is_the_links_share_of_what_a_step_needs() {
        let mut figure = Figure {
            run: 0,
            suite: "matrix".into(),
            case: "a".into(),
            link: "10g".into(),
            unit: "ms".into(),
            larger_is_better: false,
            native: Side::of(vec![10.0], Value::Null),
            remote: Side::of(vec![25.0], Value::Null),
            ratio: None,
            about: BTreeMap::from([("needs_gbit".into(), json!(20.0))]),
        }
        .with_ratio();
        bound(&link::parse("10g").unwrap(), &mut figure);
        assert_eq!(figure.about_f64("bound"), Some(0.5));
        assert_eq!(figure.about_f64("of_bound"), Some(0.8));
        bound(&link::parse("100g").unwrap(), &mut figure);
        assert_eq!(figure.about_f64("bound"), Some(1.0));
    }
}
