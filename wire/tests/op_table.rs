//! What an op table may not say, and what it may: declarations that must not compile, and one that must.

#[test]
fn an_asynchronous_operation_has_no_output() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/op_table/accepted.rs");
    cases.compile_fail("tests/op_table/asynchronous_with_output.rs");
}
