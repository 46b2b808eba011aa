//! Damaged text: parsing must neither panic nor take unbounded time or
//! memory, and what still parses must run to an end or a fault.
#![allow(clippy::unwrap_used)]

mod common;
use common::{Arg, Device};
use proptest::prelude::*;
use softgpu_ptx::Module;
use std::sync::atomic::Ordering;
use std::time::Duration;

const FIXTURES: [&str; 5] = [
    include_str!("../fixtures/basic.ptx"),
    include_str!("../fixtures/hand.ptx"),
    include_str!("../fixtures/hopper.ptx"),
    include_str!("../fixtures/language.ptx"),
    include_str!("../fixtures/math.ptx"),
];

/// Pieces that change structure more often than random bytes do.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ";",
    ",",
    "@",
    "!",
    "|",
    "-",
    "+",
    ":",
    "\"",
    "\0",
    ".reg .b32 %r<4294967295>;",
    ".local .b8 x[500000];",
    "0xffffffffffffffff",
    "call",
    ".entry",
    ".v4",
    "\u{e9}",
    "bra $L__BB0_1;",
];

#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, usize),
    Delete(usize, usize),
    Copy(usize, usize, usize),
    Byte(usize, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..100_000usize;
    prop_oneof![
        (at.clone(), 0..PIECES.len()).prop_map(|(a, p)| Edit::Insert(a, p)),
        (at.clone(), 1..60usize).prop_map(|(a, n)| Edit::Delete(a, n)),
        (at.clone(), at.clone(), 1..200usize).prop_map(|(a, b, n)| Edit::Copy(a, b, n)),
        (at, 32..127u8).prop_map(|(a, b)| Edit::Byte(a, b)),
    ]
}

fn damage(text: &str, edits: &[Edit]) -> String {
    let mut b = text.as_bytes().to_vec();
    for e in edits {
        let n = b.len().max(1);
        match e {
            Edit::Insert(a, p) => {
                let a = a % n;
                b.splice(a..a, PIECES[*p].bytes());
            }
            Edit::Delete(a, k) => {
                let a = a % n;
                let end = (a + k).min(b.len());
                b.drain(a..end);
            }
            Edit::Copy(a, from, k) => {
                let (a, from) = (a % n, from % n);
                let piece = b[from..(from + k).min(b.len())].to_vec();
                b.splice(a..a, piece);
            }
            Edit::Byte(a, v) => {
                let a = a % n;
                if a < b.len() {
                    b[a] = *v;
                }
            }
        }
    }
    String::from_utf8_lossy(&b).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_modules_parse_or_are_refused(
        which in 0..FIXTURES.len(),
        edits in prop::collection::vec(edit(), 1..12),
    ) {
        let _ = Module::parse(&damage(FIXTURES[which], &edits));
    }

    #[test]
    fn any_text_parses_or_is_refused(text in "\\PC{0,400}") {
        let _ = Module::parse(&text);
        let _ = Module::parse(&format!(".version 8.5\n.target sm_90\n{text}"));
        let _ = Module::parse(&format!(
            ".version 8.5\n.target sm_90\n.entry k() {{ .reg .b32 %r<9>; {text} }}"
        ));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Kernels of damaged modules, with pointers that mean something.
    #[test]
    fn damaged_kernels_end_or_fault(
        which in prop::sample::select(vec![0usize, 1, 2]),
        edits in prop::collection::vec(edit(), 1..6),
    ) {
        let text = damage(FIXTURES[which], &edits);
        if let Ok(m) = Module::parse(&text)
            && m.globals().iter().all(|g| g.size < 1 << 16 && g.relocs.is_empty())
        {
            let d = Device::new(&text);
            let p = d.put(&[1u32; 4096]);
            let cancel = &d.cancel;
            let (ended, waits) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|s| {
                s.spawn(move || {
                    // Ends with the launches, or ends them.
                    if waits.recv_timeout(Duration::from_millis(300)).is_err() {
                        cancel.store(true, Ordering::Relaxed);
                    }
                });
                for k in d.module.kernels() {
                    if k.param_bytes > 256 {
                        continue;
                    }
                    let args: Vec<Arg<'_>> = (0..32).map(|_| Arg::Ptr(p)).collect();
                    let _ = d.launch(&k.name, 2, 64, 256, &args);
                }
                let _ = ended.send(());
            });
        }
    }
}

#[test]
fn deep_nesting_is_refused_or_parsed_in_bounded_time() {
    for piece in ["{", "(", "[", "@", "!"] {
        let deep = piece.repeat(200_000);
        let _ = Module::parse(&format!(".version 8.5\n.entry k() {{ {deep} }}"));
        let _ = Module::parse(&format!(".version 8.5\n.global .b8 x[1] = {deep}"));
        let _ = Module::parse(&format!(".version 8.5\n.entry k{deep}"));
    }
    let labels: String = (0..20_000).map(|i| format!("L{i}: bra L{};\n", i + 1)).collect();
    let _ = Module::parse(&format!(".version 8.5\n.entry k() {{ {labels} }}"));
}
