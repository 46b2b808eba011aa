//! The seeds of the fuzz target `ops`, and every operation with every length of body, as ordinary tests.

use fusewire_wire::ops::known::Known;
use fusewire_wire::ops::snapshot::{Attribute, Device, DeviceSnapshot, Snapshot};
use fusewire_wire::ops::table::{FunctionInfo, OPS, ParameterInfo};
use zerocopy::FromZeros;

#[path = "../fuzz/checks/ops.rs"]
mod checks;

#[test]
fn every_operation_with_every_length_of_body() {
    for op in OPS {
        for length in 0..=op.fixed_bytes + 9 {
            for byte in [0, 0x55, 0xff] {
                let mut data = op.code.to_le_bytes().to_vec();
                data.resize(2 + length, byte);
                checks::check(&data);
            }
        }
    }
}

#[test]
fn every_code_with_and_without_a_body() {
    for code in 0..=u16::MAX {
        checks::check(&code.to_le_bytes());
        checks::check(&[&code.to_le_bytes()[..], &[0xa5; 200]].concat());
    }
}

#[test]
fn the_seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/ops");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        for cut in 0..=data.len() {
            checks::check(&data[..cut]);
        }
        seen += 1;
    }
    assert!(seen >= 3, "{seen} seeds in {folder}");
}

/// `cargo test -p fusewire-wire --test op_corpus -- --ignored`: writes the seeds anew.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/ops");
    std::fs::create_dir_all(folder).unwrap();
    let device =
        Device { info: DeviceSnapshot::new_zeroed(), attributes: vec![Attribute { id: 1, value: 1024 }] };
    let snapshot = Snapshot {
        driver_version: 13000,
        devices: vec![device],
        errors: vec![(2, "CUDA_ERROR_OUT_OF_MEMORY".into(), "out of memory".into())],
    };
    let write = |name: &str, code: u16, body: &[u8]| {
        std::fs::write(format!("{folder}/{name}"), [&code.to_le_bytes()[..], body].concat()).unwrap();
    };
    write("snapshot", 0, &snapshot.encode());
    let mut kernels = Vec::new();
    for name in ["add", "eightlen"] {
        let parameters = vec![ParameterInfo { offset: 0, bytes: 8 }];
        Known { name: name.into(), info: FunctionInfo::default(), parameters }.append(&mut kernels);
    }
    write("known", 0, &kernels);
    write("reply", 0x8001, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    for op in OPS.iter().filter(|op| matches!(op.name, "Launch" | "CopyIn" | "ModuleLoad" | "BlobNamed")) {
        write(op.name, op.code, &vec![0x11; op.fixed_bytes + 16]);
    }
}
