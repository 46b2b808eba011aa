//! What becomes of every symbol of the interface, and what is wrong with the sources.

use std::collections::BTreeMap;

use crate::{
    scan::{Function, Sources},
    table::{Interface, Row},
};

/// A symbol that is made by calling an implemented function.
pub(crate) struct Wrapper<'a> {
    pub(crate) symbol: &'a str,
    pub(crate) target: &'a Function,
    /// Whether NULL means the calling thread's stream.
    pub(crate) per_thread: bool,
}

#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// Symbols in order, each once: their index is what a stub says.
    pub(crate) symbols: Vec<&'a str>,
    pub(crate) implemented: Vec<&'a str>,
    pub(crate) stubs: Vec<&'a str>,
    /// By source file.
    pub(crate) wrappers: BTreeMap<&'a str, Vec<Wrapper<'a>>>,
    pub(crate) problems: Vec<String>,
    pub(crate) remarks: Vec<String>,
}

impl<'a> Plan<'a> {
    pub(crate) fn make(interface: &'a Interface, sources: &'a Sources) -> Self {
        let rows: BTreeMap<&str, &Row> =
            interface.rows.iter().map(|row| (row.symbol.as_str(), row)).collect();
        let mut plan = Self { symbols: rows.keys().copied().collect(), ..Self::default() };
        for (&symbol, row) in &rows {
            if let Some(function) = sources.functions.get(symbol) {
                plan.problems.extend(complaint(function, row));
                plan.implemented.push(symbol);
            } else if let Some((target, per_thread)) = target_of(row, interface, sources) {
                plan.wrappers.entry(&target.file).or_default().push(Wrapper { symbol, target, per_thread });
                plan.implemented.push(symbol);
            } else {
                plan.stubs.push(symbol);
            }
        }
        for function in sources.functions.values() {
            if !rows.contains_key(function.name.as_str()) {
                plan.remarks.push(format!(
                    "src/{}: {} is not in abi/functions.txt: exported, but cuGetProcAddress does not know it",
                    function.file, function.name
                ));
            }
        }
        for (file, wrappers) in &plan.wrappers {
            let Some(own) = file.strip_prefix("api/") else {
                plan.problems.push(format!("src/{file}: {} belongs into src/api", wrappers[0].target.name));
                continue;
            };
            if sources.files.get(*file) != Some(&true) {
                plan.problems.push(format!(
                    "src/{file}: needs `crate::abi::variants!(\"{own}\");` for {} and others",
                    wrappers[0].symbol
                ));
            }
        }
        plan
    }
}

/// The implemented function that a symbol can be made from.
fn target_of<'a>(row: &Row, interface: &Interface, sources: &'a Sources) -> Option<(&'a Function, bool)> {
    let plain = row.variant.as_ref().and_then(|suffix| row.symbol.strip_suffix(suffix.as_str()));
    let name = plain.unwrap_or(&row.symbol);
    let implemented = |name: &str| sources.functions.get(name);
    let target = (if plain.is_some() { implemented(name) } else { None })
        .or_else(|| interface.aliases.get(name).and_then(|newer| implemented(newer)))?;
    Some((target, plain.is_some()))
}

/// Compares a function's parameters with what the interface says of them: what differs would be a crash.
fn complaint(function: &Function, row: &Row) -> Option<String> {
    let place = format!("src/{}: {}", function.file, function.name);
    if function.arguments.len() != row.parameters.len() {
        return Some(format!(
            "{place} has {} parameters, the interface's has {}",
            function.arguments.len(),
            row.parameters.len()
        ));
    }
    for (index, (argument, expected)) in function.arguments.iter().zip(&row.parameters).enumerate() {
        if let Some(size) = &argument.size
            && size != expected
        {
            return Some(format!(
                "{place}: parameter {} is `{}` (size {size}), the interface's has size {expected} (S: CUstream, f: f32)",
                index + 1,
                argument.tokens
            ));
        }
    }
    None
}
