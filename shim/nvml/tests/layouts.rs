//! Structures are laid out as NVIDIA's own bindings have them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::mem::offset_of;

use nvidia_ml::types::*;

mod support;

macro_rules! layout {
    ($name:literal: $kind:ty, $($field:tt)+) => {
        ($name, vec![size_of::<$kind>() $(, layout!(@ $kind, $field))+])
    };
    (@ $kind:ty, ($($field:tt)+)) => { offset_of!($kind, $($field)+) };
    (@ $kind:ty, $field:ident) => { offset_of!($kind, $field) };
}

#[test]
fn structures_have_the_bindings_sizes_and_offsets() {
    let Some(output) = support::script("sizes.py", "", &[]) else { return };
    let theirs: BTreeMap<String, Vec<usize>> = support::lines(&output)
        .iter()
        .map(|line| {
            let (name, numbers) = line.split_once(' ').unwrap();
            (name.to_owned(), numbers.split(' ').map(|number| number.parse().unwrap()).collect())
        })
        .collect();
    let ours = [
        layout!("nvmlPciInfo_t": PciInfo, bus_id_legacy domain bus device device_id subsystem_id bus_id),
        layout!("nvmlPciInfoExt_v1_t": PciInfoExt,
            version domain bus device device_id subsystem_id base_class sub_class bus_id),
        layout!("c_nvmlMemory_t": Memory, total free used),
        layout!("c_nvmlMemory_v2_t": MemoryV2, version total reserved free used),
        layout!("c_nvmlBAR1Memory_t": Bar1Memory, total free used),
        layout!("c_nvmlUtilization_t": Utilization, gpu memory),
        layout!("c_nvmlFieldValue_t": FieldValue, field scope timestamp latency kind status value),
        layout!("c_nvmlProcessDetailList_v1_t": ProcessDetailList, version mode count entries),
        layout!("c_nvmlMarginTemperature_v1_t": MarginTemperature, version margin),
        layout!("c_nvmlTemperature_v1_t": TemperatureV1, version sensor temperature),
        layout!("c_nvmlUUID_t": Uuid, version kind value),
        layout!("c_nvmlConfComputeSystemState_t": ConfidentialState, environment feature tools),
        layout!("c_nvmlSystemConfComputeSettings_v1_t": ConfidentialSettings,
            version environment feature tools multi_gpu),
    ];
    for (name, layout) in &ours {
        assert_eq!(theirs.get(*name), Some(layout), "{name}");
    }
    assert_eq!(theirs["nvmlMemory_v2"], [versioned::<MemoryV2>(2) as usize]);
    // The older form ends with reserved words, which are left alone.
    let older = &theirs["nvmlPciInfo_v2_t"];
    let first = |field: usize| offset_of!(PciInfoV2, first) + field;
    assert_eq!(older[1], first(offset_of!(PciInfoV1, bus_id)));
    assert_eq!(older[2], first(offset_of!(PciInfoV1, domain)));
    assert_eq!(older[5], first(offset_of!(PciInfoV1, device_id)));
    assert_eq!(older[6], offset_of!(PciInfoV2, subsystem_id));
    assert!(older[0] >= size_of::<PciInfoV2>());
}
