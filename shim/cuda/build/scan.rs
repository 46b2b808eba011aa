//! What the sources have: exported functions, found in the syntax tree of `src/api` and `src/abi`.
//!
//! A function counts if it is a plain `#[unsafe(no_mangle)] pub unsafe extern "C" fn cu…` item, or if a
//! macro invoked at the top of a file is given tokens of the form `fn cu…(…) -> …` (the macro then has to
//! export it).

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{FnArg, Item, Type, parse::Parser, punctuated::Punctuated};

/// An implemented function.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) safe: bool,
    /// Relative to `src`.
    pub(crate) file: String,
}

pub(crate) struct Argument {
    /// As written, to be used in the same file.
    pub(crate) tokens: String,
    /// Size in bytes, `S` or `f` as in `functions.txt`; `None` where the type is not known here.
    pub(crate) size: Option<String>,
}

#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) functions: BTreeMap<String, Function>,
    /// Every file seen (relative to `src`), and whether it has its `variants!` line.
    pub(crate) files: BTreeMap<String, bool>,
}

impl Sources {
    /// From the folder of the package.
    pub(crate) fn read(package: &Path) -> Result<Self, Box<dyn Error>> {
        let root = package.join("src");
        let sizes = Sizes::read(&root.join("abi/types.rs"))?;
        let mut sources = Self::default();
        for folder in ["abi", "api"] {
            for path in rust_files(&root.join(folder))? {
                sources.read_file(&path, &root, &sizes)?;
            }
        }
        Ok(sources)
    }

    fn read_file(&mut self, path: &Path, root: &Path, sizes: &Sizes) -> Result<(), Box<dyn Error>> {
        let file = path.strip_prefix(root)?.display().to_string();
        let mut has_line = false;
        let mut found = Vec::new();
        for item in parse(path)?.items {
            match item {
                Item::Fn(function) if is_exported(&function) => {
                    found.push((
                        function.sig.ident.to_string(),
                        function.sig.inputs,
                        function.sig.unsafety.is_none(),
                    ));
                }
                Item::Macro(invoked) if invoked.mac.path.is_ident("macro_rules") => {}
                Item::Macro(invoked) => {
                    let name = invoked.mac.path.segments.last().map(|last| last.ident.to_string());
                    if name.as_deref() == Some("variants") {
                        has_line = true;
                        check_line(&file, &invoked.mac.tokens)?;
                    } else {
                        found.extend(in_macro(invoked.mac.tokens)?);
                    }
                }
                _ => {}
            }
        }
        for (name, inputs, safe) in found {
            let arguments = inputs.iter().map(|input| argument(input, sizes)).collect();
            let function = Function { name: name.clone(), arguments, safe, file: file.clone() };
            if let Some(other) = self.functions.insert(name, function) {
                return Err(format!("{} is in {file} and in {}", other.name, other.file).into());
            }
        }
        self.files.insert(file, has_line);
        Ok(())
    }
}

/// `variants!` includes what was made for the file it names: it has to name its own.
fn check_line(file: &str, tokens: &TokenStream) -> Result<(), Box<dyn Error>> {
    let named: syn::LitStr = syn::parse2(tokens.clone())?;
    if file.strip_prefix("api/") == Some(&named.value()) {
        return Ok(());
    }
    Err(format!("src/{file}: variants!({:?}) names another file", named.value()).into())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(files) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(path: &Path) -> Result<syn::File, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    Ok(syn::parse_file(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

fn is_exported(function: &syn::ItemFn) -> bool {
    let exported =
        function.attrs.iter().any(|attribute| attribute.to_token_stream().to_string().contains("no_mangle"));
    exported && function.sig.abi.is_some() && function.sig.ident.to_string().starts_with("cu")
}

type Signature = (String, Punctuated<FnArg, syn::Token![,]>, bool);

/// Finds `fn cuName ( … )` in the tokens that a macro is given, at any depth outside function bodies.
fn in_macro(tokens: TokenStream) -> Result<Vec<Signature>, Box<dyn Error>> {
    let mut found = Vec::new();
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, tree) in trees.iter().enumerate() {
        if let TokenTree::Group(group) = tree {
            found.extend(in_macro(group.stream())?);
        }
        let Some([TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Group(inputs)]) =
            trees.get(index..index + 3)
        else {
            continue;
        };
        if keyword == "fn"
            && name.to_string().starts_with("cu")
            && inputs.delimiter() == Delimiter::Parenthesis
        {
            let inputs = Punctuated::parse_terminated.parse2(inputs.stream())?;
            found.push((name.to_string(), inputs, false));
        }
    }
    Ok(found)
}

fn argument(input: &FnArg, sizes: &Sizes) -> Argument {
    match input {
        FnArg::Typed(typed) => {
            Argument { tokens: typed.ty.to_token_stream().to_string(), size: sizes.of(&typed.ty) }
        }
        FnArg::Receiver(_) => Argument { tokens: "Self".to_owned(), size: None },
    }
}

/// The sizes of types by name: the primitive ones, and the aliases and structures of `types.rs`.
struct Sizes(BTreeMap<String, Type>);

impl Sizes {
    fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let items = parse(path)?.items.into_iter();
        Ok(Self(
            items
                .filter_map(|item| match item {
                    Item::Type(alias) => Some((alias.ident.to_string(), *alias.ty)),
                    _ => None,
                })
                .collect(),
        ))
    }

    fn of(&self, kind: &Type) -> Option<String> {
        let size = match kind {
            Type::Ptr(_) | Type::Reference(_) | Type::BareFn(_) => "8",
            Type::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                match name.as_str() {
                    "CUstream" => "S",
                    "f32" | "c_float" => "f",
                    "u8" | "i8" | "c_char" | "c_uchar" | "c_schar" => "1",
                    "u16" | "i16" | "c_short" | "c_ushort" => "2",
                    "u32" | "i32" | "c_int" | "c_uint" => "4",
                    "Option" | "u64" | "i64" | "usize" | "isize" | "c_long" | "c_ulong" | "c_longlong"
                    | "c_ulonglong" | "CUmemLocation" => "8",
                    "CUipcMemHandle" | "CUipcEventHandle" => "64",
                    _ => return self.of(self.0.get(&name)?),
                }
            }
            _ => return None,
        };
        Some(size.to_owned())
    }
}
