//! What the build script makes of sources, and what it refuses. (That its output compiles and works is
//! seen in the library itself.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the build script's main is not here")]

#[path = "../build/plan.rs"]
mod plan;
#[path = "../build/scan.rs"]
mod scan;
#[path = "../build/table.rs"]
mod table;
#[path = "../build/write.rs"]
mod write;

use std::fs;

const FUNCTIONS: &str = "\
# A comment.
cuInit cuInit 2000 - 4
cuMemcpy cuMemcpy 4000 - 8,8,8
cuMemcpy_ptds cuMemcpy 7000 ptds 8,8,8
cuOld cuOld 2000 - S,f
cuOld_ptsz cuOld 7000 ptsz S,f
cuOld_v2 cuOld 3000 - S,f
cuOld_v2_ptsz cuOld 7000 ptsz S,f
";

struct Outcome {
    implemented: Vec<String>,
    stubs: Vec<String>,
    problems: Vec<String>,
    remarks: Vec<String>,
    abi: String,
    variants: String,
}

/// Runs the build script's parts over a package whose `src/api/copy.rs` is this.
fn build(source: &str) -> Result<Outcome, String> {
    let package = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = package.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("abi/functions.txt", FUNCTIONS);
    put("abi/aliases.txt", "cuOld cuOld_v2\n");
    put("src/abi/types.rs", "pub type CUstream = *mut c_void; pub type CUdeviceptr = u64;");
    put("src/api/copy.rs", source);
    let interface = table::Interface::read(package.path()).unwrap();
    let sources = scan::Sources::read(package.path()).map_err(|error| error.to_string())?;
    let plan = plan::Plan::make(&interface, &sources);
    let out = package.path().join("out");
    fs::create_dir_all(&out).unwrap();
    write::interface(&out, &interface, &plan).unwrap();
    write::variants(&out, &sources, &plan).unwrap();
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Ok(Outcome {
        implemented: own(&plan.implemented),
        stubs: own(&plan.stubs),
        abi: fs::read_to_string(out.join("abi.rs")).unwrap(),
        variants: fs::read_to_string(out.join("api/copy.rs")).unwrap(),
        problems: plan.problems,
        remarks: plan.remarks,
    })
}

const COPY: &str = "#[unsafe(no_mangle)] pub unsafe extern \"C\" \
    fn cuMemcpy(to: CUdeviceptr, from: CUdeviceptr, size: usize) -> CUresult { 0 }\n";
const OLD: &str = "#[unsafe(no_mangle)] pub unsafe extern \"C\" \
    fn cuOld_v2(stream: CUstream, value: f32) -> CUresult { 0 }\n";
const LINE: &str = "crate::abi::variants!(\"copy.rs\");\n";

#[test]
fn what_is_missing_becomes_stubs_variants_and_old_names() {
    let outcome = build(&format!("{COPY}{OLD}{LINE}")).unwrap();
    assert_eq!(outcome.problems, Vec::<String>::new());
    assert_eq!(outcome.stubs, ["cuInit"]);
    assert_eq!(
        outcome.implemented,
        ["cuMemcpy", "cuMemcpy_ptds", "cuOld", "cuOld_ptsz", "cuOld_v2", "cuOld_v2_ptsz"]
    );
    assert!(outcome.abi.contains("fn cuInit() -> u32 { not_supported(0) }"));
    let position = |text: &str| outcome.abi.find(text).unwrap();
    assert!(
        position("version: 2000, per_thread: false, address: address::cuOld ")
            < position("version: 3000, per_thread: false, address: address::cuOld_v2 ")
    );

    let body = |name: &str| {
        let start = outcome.variants.find(&format!("fn {name}(")).unwrap();
        outcome.variants[start..].split("\n}").next().unwrap().to_owned()
    };
    let substituted = "cuOld_v2(crate::abi::per_thread::substitute(a0), a1, )";
    assert!(body("cuOld_ptsz").contains(substituted));
    assert!(body("cuOld_v2_ptsz").contains(substituted));
    assert!(body("cuOld").contains("cuOld_v2(a0, a1, )"));
    assert!(body("cuMemcpy_ptds").contains("let _guard = crate::abi::per_thread::enter();"));
}

#[test]
fn what_the_sources_write_themselves_is_not_made() {
    let own = OLD.replace("cuOld_v2", "cuOld_v2_ptsz");
    let outcome = build(&format!("{OLD}{own}{LINE}")).unwrap();
    assert!(!outcome.variants.contains("fn cuOld_v2_ptsz"));
    assert!(outcome.implemented.contains(&"cuOld_v2_ptsz".to_owned()));
}

#[test]
fn functions_inside_an_invoked_macro_count_but_not_those_of_a_definition() {
    let source = "macro_rules! m { () => { fn cuInit(flags: u32) -> CUresult { 0 } } }
        entries! { fn cuMemcpy(a: u64, b: u64, c: usize) -> CUresult { 0 } }";
    let outcome = build(&format!("{source}{LINE}")).unwrap();
    assert_eq!(outcome.implemented, ["cuMemcpy", "cuMemcpy_ptds"]);
}

#[test]
fn a_function_that_is_not_exported_does_not_count() {
    let outcome = build("pub fn cuInit(flags: u32) -> CUresult { 0 }").unwrap();
    assert_eq!(outcome.implemented, Vec::<String>::new());
}

#[test]
fn a_signature_that_differs_from_the_interface_is_refused() {
    for (right, wrong, said) in [
        ("size: usize", "size: u32", "parameter 3 is `u32` (size 4), the interface's has size 8"),
        (", size: usize", "", "has 2 parameters, the interface's has 3"),
        ("size: usize", "size: CUstream", "parameter 3 is `CUstream` (size S)"),
    ] {
        let outcome = build(&format!("{}{LINE}", COPY.replace(right, wrong))).unwrap();
        assert!(outcome.problems.iter().any(|problem| problem.contains(said)), "{:?}", outcome.problems);
    }
    let outcome = build(&format!("{}{LINE}", OLD.replace("f32", "u32"))).unwrap();
    assert!(outcome.problems[0].contains("src/api/copy.rs: cuOld_v2"), "{:?}", outcome.problems);
}

#[test]
fn a_file_without_its_line_or_with_anothers_is_refused() {
    let outcome = build(COPY).unwrap();
    assert!(outcome.problems[0].contains("needs `crate::abi::variants!(\"copy.rs\");`"));
    let said = build(&format!("{COPY}crate::abi::variants!(\"other.rs\");")).err().unwrap();
    assert!(said.contains("names another file"), "{said}");
}

#[test]
fn a_function_twice_is_refused_and_an_unknown_one_remarked_on() {
    assert!(build(&format!("{COPY}{COPY}{LINE}")).err().unwrap().contains("cuMemcpy is in"));
    let outcome = build(&format!("{}{LINE}", COPY.replace("cuMemcpy", "cuTypo"))).unwrap();
    assert!(outcome.remarks[0].contains("cuTypo is not in abi/functions.txt"));
}
