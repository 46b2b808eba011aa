//! The interface's types, laid out as `nvml.h` has them.

use std::ffi::{c_char, c_void};

/// `nvmlDevice_t`.
pub type Device = *mut c_void;

/// `nvmlPciInfo_t`, third version.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfo {
    pub bus_id_legacy: [c_char; 16],
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub device_id: u32,
    pub subsystem_id: u32,
    pub bus_id: [c_char; 32],
}

/// The first version, which ends before the subsystem.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoV1 {
    pub bus_id: [c_char; 16],
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub device_id: u32,
}

/// The second version, as far as it is ever written.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoV2 {
    pub first: PciInfoV1,
    pub subsystem_id: u32,
}

/// `nvmlPciInfoExt_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PciInfoExt {
    pub version: u32,
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub device_id: u32,
    pub subsystem_id: u32,
    pub base_class: u32,
    pub sub_class: u32,
    pub bus_id: [c_char; 32],
}

/// `nvmlMemory_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlMemory_v2_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemoryV2 {
    pub version: u32,
    pub total: u64,
    pub reserved: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlBAR1Memory_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bar1Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlUtilization_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Utilization {
    pub gpu: u32,
    pub memory: u32,
}

/// `nvmlFieldValue_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FieldValue {
    pub field: u32,
    pub scope: u32,
    pub timestamp: i64,
    pub latency: i64,
    pub kind: u32,
    pub status: u32,
    pub value: u64,
}

/// `nvmlProcessDetailList_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ProcessDetailList {
    pub version: u32,
    pub mode: u32,
    pub count: u32,
    pub entries: *mut c_void,
}

/// `nvmlTemperature_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TemperatureV1 {
    pub version: u32,
    pub sensor: u32,
    pub temperature: i32,
}

/// `nvmlMarginTemperature_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MarginTemperature {
    pub version: u32,
    pub margin: i32,
}

/// `nvmlUUID_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Uuid {
    pub version: u32,
    /// 1: text; 2: bytes.
    pub kind: u32,
    pub value: [u8; 41],
}

/// `nvmlSystemConfComputeSettings_v1_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ConfidentialSettings {
    pub version: u32,
    pub environment: u32,
    pub feature: u32,
    pub tools: u32,
    pub multi_gpu: u32,
}

/// `nvmlConfComputeSystemState_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ConfidentialState {
    pub environment: u32,
    pub feature: u32,
    pub tools: u32,
}

/// What the `version` member of a structure has to be: its size and its number.
#[must_use]
pub const fn versioned<T>(number: u32) -> u32 {
    size_of::<T>() as u32 | number << 24
}
