//! What the interface is: `abi/functions.txt` and `abi/aliases.txt`.

use std::{collections::BTreeMap, error::Error, fs, path::Path};

/// One line of `functions.txt`.
pub(crate) struct Row {
    pub(crate) symbol: String,
    pub(crate) base: String,
    pub(crate) version: i32,
    /// The suffix of a per-thread variant, with its underscore.
    pub(crate) variant: Option<String>,
    /// The size of each parameter in bytes; `S` a stream, `f` a float.
    pub(crate) parameters: Vec<String>,
}

pub(crate) struct Interface {
    pub(crate) rows: Vec<Row>,
    /// From an old name to the newer one that means the same.
    pub(crate) aliases: BTreeMap<String, String>,
}

impl Interface {
    /// From the folder of the package.
    pub(crate) fn read(package: &Path) -> Result<Self, Box<dyn Error>> {
        let rows = lines(&package.join("abi/functions.txt"))?
            .iter()
            .map(|line| row(line))
            .collect::<Result<_, _>>()?;
        let mut aliases = BTreeMap::new();
        for line in lines(&package.join("abi/aliases.txt"))? {
            let (old, new) = line.split_once(' ').ok_or_else(|| format!("aliases.txt: {line}"))?;
            aliases.insert(old.to_owned(), new.to_owned());
        }
        Ok(Self { rows, aliases })
    }
}

fn lines(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

fn row(line: &str) -> Result<Row, Box<dyn Error>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [symbol, base, version, variant, parameters] = words[..] else {
        return Err(format!("functions.txt: {line}").into());
    };
    Ok(Row {
        symbol: symbol.to_owned(),
        base: base.to_owned(),
        version: version.parse()?,
        variant: (variant != "-").then(|| format!("_{variant}")),
        parameters: parameters.split(',').filter(|size| *size != "-").map(str::to_owned).collect(),
    })
}
