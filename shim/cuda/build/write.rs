//! Writes the generated sources.

use std::{error::Error, fmt::Write as _, fs, path::Path};

use crate::{
    plan::{Plan, Wrapper},
    scan::Sources,
    table::Interface,
};

/// `abi.rs`: names, stubs and the look-up table.
pub(crate) fn interface(out: &Path, interface: &Interface, plan: &Plan<'_>) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    writeln!(
        text,
        "/// Every exported function, in order.\npub const SYMBOLS: &[&str] = &{:?};",
        plan.symbols
    )?;
    writeln!(
        text,
        "/// Those that are more than a stub, in order.\npub const IMPLEMENTED: &[&str] = &{:?};",
        plan.implemented
    )?;
    for stub in &plan.stubs {
        let index = plan.symbols.binary_search(stub).map_err(|_| format!("{stub} is not a symbol"))?;
        writeln!(
            text,
            "#[unsafe(no_mangle)]\npub extern \"C\" fn {stub}() -> u32 {{ not_supported({index}) }}"
        )?;
    }
    writeln!(text, "mod address {{\n    unsafe extern \"C\" {{")?;
    for symbol in &plan.symbols {
        writeln!(text, "        pub(super) fn {symbol}();")?;
    }
    writeln!(text, "    }}\n}}")?;
    let mut rows: Vec<_> = interface.rows.iter().collect();
    rows.sort_by_key(|row| (&row.base, row.variant.is_some(), row.version));
    writeln!(
        text,
        "/// In order of name, then legacy before per-thread, then version.\npub(super) static ENTRIES: &[Entry] = &["
    )?;
    for row in rows {
        writeln!(
            text,
            "    Entry {{ base: {:?}, version: {}, per_thread: {}, address: address::{} }},",
            row.base,
            row.version,
            row.variant.is_some(),
            row.symbol
        )?;
    }
    writeln!(text, "];")?;
    Ok(fs::write(out.join("abi.rs"), text)?)
}

/// `api/<file>`: what is made from the functions of one source file.
pub(crate) fn variants(out: &Path, sources: &Sources, plan: &Plan<'_>) -> Result<(), Box<dyn Error>> {
    for file in sources.files.keys().filter(|file| file.starts_with("api/")) {
        let mut text = String::new();
        for wrapper in plan.wrappers.get(file.as_str()).into_iter().flatten() {
            write_wrapper(&mut text, wrapper)?;
        }
        let path = out.join(file);
        fs::create_dir_all(path.parent().unwrap_or(out))?;
        fs::write(path, text)?;
    }
    Ok(())
}

fn write_wrapper(text: &mut String, wrapper: &Wrapper<'_>) -> Result<(), Box<dyn Error>> {
    let arguments = &wrapper.target.arguments;
    let takes_stream = arguments.iter().any(|argument| argument.size.as_deref() == Some("S"));
    let mut parameters = String::new();
    let mut passed = String::new();
    for (index, argument) in arguments.iter().enumerate() {
        write!(parameters, "a{index}: {}, ", argument.tokens)?;
        if wrapper.per_thread && argument.size.as_deref() == Some("S") {
            write!(passed, "crate::abi::per_thread::substitute(a{index}), ")?;
        } else {
            write!(passed, "a{index}, ")?;
        }
    }
    let guard = if wrapper.per_thread && !takes_stream {
        "    let _guard = crate::abi::per_thread::enter();\n"
    } else {
        ""
    };
    let target = &wrapper.target.name;
    let call = if wrapper.target.safe {
        format!("    {target}({passed})\n")
    } else {
        format!(
            "    // SAFETY: the caller's promises are the ones that are asked for.\n    unsafe {{ {target}({passed}) }}\n"
        )
    };
    writeln!(
        text,
        "/// # Safety\n/// As [`{target}`].\n#[allow(clippy::too_many_arguments, non_snake_case, unreachable_pub, reason = \"the interface's\")]\n\
         #[unsafe(no_mangle)]\npub unsafe extern \"C\" fn {}({parameters}) -> u32 {{\n{guard}{call}}}",
        wrapper.symbol
    )?;
    Ok(())
}
