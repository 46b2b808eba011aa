//! What is made of results. Nothing here measures.

pub(crate) mod merge;
mod order;
pub(crate) mod plot;
pub(crate) mod table;

use std::path::PathBuf;

use crate::error::Result;
use crate::result::{Figure, File};

/// Results, joined as `merge` does, in the order in which they are shown.
fn load(paths: &[PathBuf]) -> Result<File> {
    let mut file = File::merge(paths.iter().map(|path| File::load(path)).collect::<Result<Vec<File>>>()?)?;
    order::sort(&mut file.figures);
    Ok(file)
}

/// The different values of something, in the order in which they come.
fn distinct<'a>(figures: &[&'a Figure], of: impl Fn(&'a Figure) -> &'a str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for figure in figures {
        let value = of(figure);
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::result::Side;

    /// A figure in milliseconds, natively 10.
    pub(super) fn figure(suite: &str, case: &str, link: &str, remote: f64, detail: Value) -> Figure {
        Figure {
            run: 0,
            suite: suite.into(),
            case: case.into(),
            link: link.into(),
            unit: "ms".into(),
            larger_is_better: false,
            native: Side::of(vec![10.0], detail.clone()),
            remote: Side::of(vec![remote], detail),
            ratio: None,
            about: Default::default(),
        }
        .with_ratio()
    }
}
