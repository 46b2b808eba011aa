//! Which NVML function gives which figure.

use std::ffi::CStr;

use fusewire_wire::inventory::{DeviceInfo, Figure as F, KNOWN_MEMORY_USED, set_text};

use super::library::{Handle, Nvml};

/// Where a function writes.
enum Shape {
    /// Each figure through a pointer of its own.
    Each,
    /// All into a structure of 32-bit words; the figures start at this one.
    Words(usize),
    /// All into a structure of 64-bit words.
    Wides,
    /// Into a structure of two 32-bit words: this version, then the figure, which is signed.
    Signed(u32),
}

struct Probe {
    function: &'static CStr,
    numbers: &'static [u32],
    shape: Shape,
    figures: &'static [F],
}

/// Larger than any structure that is read.
const WORDS: usize = 32;

macro_rules! probes {
    ($($function:literal $([$($number:literal),*])? $($shape:ident $(($argument:expr))?)? => $($figure:ident),+;)+) => {
        &[$(Probe {
            function: $function,
            numbers: &[$($($number),*)?],
            shape: shape!($($shape $(($argument))?)?),
            figures: &[$(F::$figure),+],
        }),+]
    };
}

macro_rules! shape {
    () => { Shape::Each };
    ($shape:ident $(($argument:expr))?) => { Shape::$shape $(($argument))? };
}

const PROBES: &[Probe] = probes! {
    c"nvmlDeviceGetMinorNumber" => MinorNumber;
    c"nvmlDeviceGetBrand" => Brand;
    c"nvmlDeviceGetPciInfo_v3" Words(7) => PciDeviceId, PciSubsystemId;
    c"nvmlDeviceGetPersistenceMode" => PersistenceMode;
    c"nvmlDeviceGetDisplayMode" => DisplayMode;
    c"nvmlDeviceGetDisplayActive" => DisplayActive;
    c"nvmlDeviceGetComputeMode" => ComputeMode;
    c"nvmlDeviceGetPerformanceState" => PerformanceState;
    c"nvmlDeviceGetFanSpeed" => FanSpeed;
    c"nvmlDeviceGetNumFans" => FanCount;
    c"nvmlDeviceGetTemperature" [0] => Temperature;
    c"nvmlDeviceGetTemperatureThreshold" [0] => ThresholdShutdown;
    c"nvmlDeviceGetTemperatureThreshold" [1] => ThresholdSlowdown;
    c"nvmlDeviceGetTemperatureThreshold" [2] => ThresholdMemory;
    c"nvmlDeviceGetTemperatureThreshold" [3] => ThresholdGpu;
    c"nvmlDeviceGetMarginTemperature" Signed(1 << 24 | 8) => TemperatureMargin;
    c"nvmlDeviceGetPowerUsage" => PowerUsage;
    c"nvmlDeviceGetPowerManagementLimit" => PowerLimit;
    c"nvmlDeviceGetEnforcedPowerLimit" => PowerLimitEnforced;
    c"nvmlDeviceGetPowerManagementDefaultLimit" => PowerLimitDefault;
    c"nvmlDeviceGetPowerManagementLimitConstraints" => PowerLimitLeast, PowerLimitMost;
    c"nvmlDeviceGetPowerManagementMode" => PowerManagement;
    c"nvmlDeviceGetPowerSource" => PowerSource;
    c"nvmlDeviceGetTotalEnergyConsumption" => Energy;
    c"nvmlDeviceGetBAR1MemoryInfo" Wides => Bar1Total, Bar1Free, Bar1Used;
    c"nvmlDeviceGetUtilizationRates" Words(0) => UtilisationGpu, UtilisationMemory;
    c"nvmlDeviceGetEncoderUtilization" => UtilisationEncoder, EncoderPeriod;
    c"nvmlDeviceGetDecoderUtilization" => UtilisationDecoder, DecoderPeriod;
    c"nvmlDeviceGetJpgUtilization" => UtilisationJpeg, JpegPeriod;
    c"nvmlDeviceGetOfaUtilization" => UtilisationOpticalFlow, OpticalFlowPeriod;
    c"nvmlDeviceGetClockInfo" [0] => ClockGraphics;
    c"nvmlDeviceGetClockInfo" [1] => ClockSm;
    c"nvmlDeviceGetClockInfo" [2] => ClockMemory;
    c"nvmlDeviceGetClockInfo" [3] => ClockVideo;
    c"nvmlDeviceGetMaxClockInfo" [0] => ClockGraphicsMost;
    c"nvmlDeviceGetMaxClockInfo" [1] => ClockSmMost;
    c"nvmlDeviceGetMaxClockInfo" [2] => ClockMemoryMost;
    c"nvmlDeviceGetMaxClockInfo" [3] => ClockVideoMost;
    c"nvmlDeviceGetApplicationsClock" [0] => ApplicationClockGraphics;
    c"nvmlDeviceGetApplicationsClock" [1] => ApplicationClockSm;
    c"nvmlDeviceGetApplicationsClock" [2] => ApplicationClockMemory;
    c"nvmlDeviceGetApplicationsClock" [3] => ApplicationClockVideo;
    c"nvmlDeviceGetDefaultApplicationsClock" [0] => DefaultClockGraphics;
    c"nvmlDeviceGetDefaultApplicationsClock" [1] => DefaultClockSm;
    c"nvmlDeviceGetDefaultApplicationsClock" [2] => DefaultClockMemory;
    c"nvmlDeviceGetDefaultApplicationsClock" [3] => DefaultClockVideo;
    c"nvmlDeviceGetMaxCustomerBoostClock" [0] => BoostClockGraphics;
    c"nvmlDeviceGetMaxCustomerBoostClock" [1] => BoostClockSm;
    c"nvmlDeviceGetCurrentClocksThrottleReasons" => ClockReasons;
    c"nvmlDeviceGetSupportedClocksThrottleReasons" => ClockReasonsSupported;
    c"nvmlDeviceGetAdaptiveClockInfoStatus" => AdaptiveClock;
    c"nvmlDeviceGetEccMode" => EccMode, EccModePending;
    c"nvmlDeviceGetDefaultEccMode" => EccModeDefault;
    c"nvmlDeviceGetTotalEccErrors" [0, 0] => EccCorrectedVolatile;
    c"nvmlDeviceGetTotalEccErrors" [0, 1] => EccCorrectedAggregate;
    c"nvmlDeviceGetTotalEccErrors" [1, 0] => EccUncorrectedVolatile;
    c"nvmlDeviceGetTotalEccErrors" [1, 1] => EccUncorrectedAggregate;
    c"nvmlDeviceGetRemappedRows" => RowsCorrected, RowsUncorrected, RowsPending, RowsFailed;
    c"nvmlDeviceGetRowRemapperHistogram" Words(0) =>
        RowsSpareAll, RowsSpareMany, RowsSpareSome, RowsSpareFew, RowsSpareNone;
    c"nvmlDeviceGetMigMode" => MigMode, MigModePending;
    c"nvmlDeviceGetMaxMigDeviceCount" => MigDevices;
    c"nvmlDeviceGetGpuOperationMode" => OperationMode, OperationModePending;
    c"nvmlDeviceGetVirtualizationMode" => VirtualisationMode;
    c"nvmlDeviceGetGspFirmwareMode" => GspFirmware, GspFirmwareDefault;
    c"nvmlDeviceGetArchitecture" => Architecture;
    c"nvmlDeviceGetNumGpuCores" => Cores;
    c"nvmlDeviceGetMemoryBusWidth" => MemoryBusWidth;
    c"nvmlDeviceGetBusType" => BusType;
    c"nvmlDeviceGetCurrPcieLinkGeneration" => PcieGeneration;
    c"nvmlDeviceGetCurrPcieLinkWidth" => PcieWidth;
    c"nvmlDeviceGetMaxPcieLinkGeneration" => PcieGenerationMost;
    c"nvmlDeviceGetMaxPcieLinkWidth" => PcieWidthMost;
    c"nvmlDeviceGetGpuMaxPcieLinkGeneration" => PcieGenerationDevice;
    c"nvmlDeviceGetPcieSpeed" => PcieSpeed;
    c"nvmlDeviceGetPcieLinkMaxSpeed" => PcieSpeedMost;
    c"nvmlDeviceGetPcieReplayCounter" => PcieReplays;
    c"nvmlDeviceGetIrqNum" => Irq;
    c"nvmlDeviceGetMultiGpuBoard" => MultiGpuBoard;
    c"nvmlDeviceGetBoardId" => BoardId;
    c"nvmlDeviceGetModuleId" => ModuleId;
    c"nvmlDeviceGetInforomConfigurationChecksum" => InforomChecksum;
};

/// What does not change while the driver is loaded.
pub(super) fn read_fixed(nvml: &Nvml, device: Handle, into: &mut DeviceInfo) {
    read(nvml, device, into, true);
    let text = |function, object, field: &mut [u8]| {
        if let Some(text) = nvml.text(function, device, object) {
            set_text(field, &text);
        }
    };
    text(c"nvmlDeviceGetSerial", None, &mut into.serial);
    text(c"nvmlDeviceGetVbiosVersion", None, &mut into.vbios);
    text(c"nvmlDeviceGetBoardPartNumber", None, &mut into.part_number);
    text(c"nvmlDeviceGetInforomImageVersion", None, &mut into.inforom_image);
    text(c"nvmlDeviceGetGspFirmwareVersion", None, &mut into.gsp_firmware);
    for (object, field) in (0..).zip(&mut into.inforom) {
        text(c"nvmlDeviceGetInforomVersion", Some(object), field);
    }
}

/// What does.
pub(super) fn read_live(nvml: &Nvml, device: Handle, into: &mut DeviceInfo) {
    read(nvml, device, into, false);
    read_memory(nvml, device, into);
    read_fields(nvml, device, into);
}

fn read(nvml: &Nvml, device: Handle, into: &mut DeviceInfo, fixed: bool) {
    // Those that give figures of both kinds are asked again: the figures' order decides.
    let wanted = |probe: &&Probe| probe.figures.iter().all(|figure| figure.is_fixed()) == fixed;
    for probe in PROBES.iter().filter(wanted) {
        let mut words = [0u64; WORDS];
        if call(nvml, device, probe, &mut words).is_none() {
            continue;
        }
        let word = |index: usize| {
            let pair = words[index / 2];
            if index.is_multiple_of(2) { pair & 0xffff_ffff } else { pair >> 32 }
        };
        for (index, &figure) in probe.figures.iter().enumerate() {
            let value = match probe.shape {
                Shape::Each | Shape::Wides => words[index],
                Shape::Words(skipped) => word(skipped + index),
                Shape::Signed(_) => i64::from(word(1) as u32 as i32).cast_unsigned(),
            };
            into.set_figure(figure, value);
        }
    }
}

fn call(nvml: &Nvml, device: Handle, probe: &Probe, words: &mut [u64; WORDS]) -> Option<()> {
    let first = words.as_mut_ptr();
    if let Shape::Signed(version) = probe.shape {
        words[0] = version.into();
    }
    if let Shape::Each = probe.shape {
        // A function that writes four bytes leaves the upper half of its word zero.
        let mut to = [first; 4];
        for (index, to) in to.iter_mut().enumerate() {
            *to = first.wrapping_add(index);
        }
        nvml.call(probe.function, device, probe.numbers, &to[..probe.figures.len()])
    } else {
        nvml.call(probe.function, device, probe.numbers, &[first])
    }
}

/// Total, reserved and used; with a library that does not tell the two apart, used includes reserved.
fn read_memory(nvml: &Nvml, device: Handle, into: &mut DeviceInfo) {
    let mut words = [0u64; WORDS];
    words[0] = 2 << 24 | 40;
    if nvml.call(c"nvmlDeviceGetMemoryInfo_v2", device, &[], &[words.as_mut_ptr()]).is_some() {
        let [_, total, reserved, _, used, ..] = words;
        (into.memory_total, into.memory_used) = (total, used);
        into.set_figure(F::MemoryReserved, reserved);
    } else if nvml.call(c"nvmlDeviceGetMemoryInfo", device, &[], &[words.as_mut_ptr()]).is_some() {
        let [total, _, used, ..] = words;
        (into.memory_total, into.memory_used) = (total, used);
    } else {
        return;
    }
    into.known |= KNOWN_MEMORY_USED;
}

/// Those figures that can only be asked for by a field's number.
fn read_fields(nvml: &Nvml, device: Handle, into: &mut DeviceInfo) {
    const FIELDS: [(u32, F); 7] = [
        (82, F::MemoryTemperature),
        (185, F::PowerAverage),
        (186, F::PowerInstant),
        (193, F::MarginShutdown),
        (194, F::MarginSlowdown),
        (195, F::MarginMemory),
        (196, F::MarginGpu),
    ];
    // Of each field: number and scope, two times, type and status, value.
    let mut words = [0u64; FIELDS.len() * 5];
    for (field, (number, _)) in words.chunks_exact_mut(5).zip(FIELDS) {
        field[0] = number.into();
    }
    if nvml.call(c"nvmlDeviceGetFieldValues", device, &[FIELDS.len() as u32], &[words.as_mut_ptr()]).is_none()
    {
        return;
    }
    for (field, (_, figure)) in words.chunks_exact(5).zip(FIELDS) {
        let (kind, status) = (field[3] as u32, field[3] >> 32);
        let value = match kind {
            // Unsigned: int, long, long long.
            1 => field[4] & 0xffff_ffff,
            2 | 3 => field[4],
            // Signed int.
            5 => i64::from(field[4] as u32 as i32).cast_unsigned(),
            _ => continue,
        };
        if status == 0 {
            into.set_figure(figure, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_void};

    use fusewire_wire::inventory::{FIGURES, text_of};
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn each_figure_is_read_once_and_in_a_shape_that_can_be_called() {
        let mut read = vec![F::MemoryReserved, F::MemoryTemperature, F::PowerAverage, F::PowerInstant];
        read.extend([F::MarginShutdown, F::MarginSlowdown, F::MarginMemory, F::MarginGpu]);
        for probe in PROBES {
            read.extend(probe.figures);
            let pointers = if let Shape::Each = probe.shape { probe.figures.len() } else { 1 };
            let shape = (probe.numbers.len(), pointers);
            assert!(matches!(shape, (0, 1 | 2 | 4) | (1 | 2, 1)), "{:?}: {shape:?}", probe.function);
        }
        let count = read.len();
        read.sort_unstable();
        read.dedup();
        assert_eq!((count, read.len()), (FIGURES, FIGURES));
    }

    // A library that has some functions and writes no more than the real one does.

    unsafe extern "C" fn plain() -> u32 {
        0
    }

    unsafe extern "C" fn by_uuid(uuid: *const c_char, to: *mut Handle) -> u32 {
        // SAFETY: called by the code under test with a text and a live handle.
        let right = unsafe { std::ffi::CStr::from_ptr(uuid) } == c"GPU-1";
        // SAFETY: as above.
        unsafe { *to = std::ptr::without_provenance_mut(8) };
        if right { 0 } else { 6 }
    }

    unsafe extern "C" fn temperature(_: Handle, sensor: u32, to: *mut u32) -> u32 {
        // SAFETY: called by the code under test with room for the answer; so are those below.
        unsafe { *to = 40 + sensor };
        0
    }

    unsafe extern "C" fn power(_: Handle, to: *mut u32) -> u32 {
        // SAFETY: as above.
        unsafe { *to = 7 };
        15
    }

    unsafe extern "C" fn ecc_errors(_: Handle, kind: u32, since: u32, to: *mut u64) -> u32 {
        // SAFETY: as above.
        unsafe { *to = 1 << 40 | u64::from(kind * 10 + since) };
        0
    }

    unsafe extern "C" fn rows(_: Handle, a: *mut u32, b: *mut u32, c: *mut u32, d: *mut u32) -> u32 {
        // SAFETY: as above.
        unsafe { (*a, *b, *c, *d) = (1, 2, 3, 4) };
        0
    }

    unsafe extern "C" fn utilisation(_: Handle, to: *mut [u32; 2]) -> u32 {
        // SAFETY: as above.
        unsafe { *to = [98, 12] };
        0
    }

    unsafe extern "C" fn margin(_: Handle, to: *mut [u32; 2]) -> u32 {
        // SAFETY: as above.
        let to = unsafe { &mut *to };
        to[1] = -5i32 as u32;
        if to[0] == 0x0100_0008 { 0 } else { 25 }
    }

    unsafe extern "C" fn memory(_: Handle, to: *mut [u64; 5]) -> u32 {
        // SAFETY: as above.
        let to = unsafe { &mut *to };
        to[1..].copy_from_slice(&[100, 10, 60, 30]);
        if to[0] == 0x0200_0028 { 0 } else { 25 }
    }

    unsafe extern "C" fn pci(_: Handle, to: *mut [u32; 17]) -> u32 {
        // SAFETY: as above.
        let to = unsafe { &mut *to };
        for (index, word) in to.iter_mut().enumerate() {
            *word = index as u32;
        }
        0
    }

    unsafe extern "C" fn fields(_: Handle, count: i32, to: *mut [u64; 5]) -> u32 {
        for index in 0..count as usize {
            // SAFETY: as above.
            let field = unsafe { &mut *to.add(index) };
            let refused = if field[0] == 82 { 3u64 << 32 } else { 0 };
            // An int in a union: what is beside it is not part of it.
            (field[3], field[4]) = match field[0] {
                193 => (5, 0xdead_0000_0000 | u64::from(-8i32 as u32)),
                number => (1 | refused, 0xdead_0000_0000 | number),
            };
        }
        0
    }

    unsafe extern "C" fn serial(_: Handle, to: *mut u8, length: u32) -> u32 {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(c"1650".as_ptr().cast(), to, 5.min(length as usize)) };
        0
    }

    unsafe extern "C" fn inforom(_: Handle, object: u32, to: *mut u8, _: u32) -> u32 {
        // SAFETY: as above.
        unsafe { [b'1' + object as u8, 0].as_ptr().copy_to(to, 2) };
        0
    }

    fn library(name: &CStr) -> Option<*mut c_void> {
        Some(match name.to_bytes() {
            b"nvmlInit_v2" | b"nvmlShutdown" => plain as *mut c_void,
            b"nvmlDeviceGetHandleByUUID" => by_uuid as *mut c_void,
            b"nvmlDeviceGetTemperature" => temperature as *mut c_void,
            b"nvmlDeviceGetPowerUsage" => power as *mut c_void,
            b"nvmlDeviceGetTotalEccErrors" => ecc_errors as *mut c_void,
            b"nvmlDeviceGetRemappedRows" => rows as *mut c_void,
            b"nvmlDeviceGetUtilizationRates" => utilisation as *mut c_void,
            b"nvmlDeviceGetMarginTemperature" => margin as *mut c_void,
            b"nvmlDeviceGetMemoryInfo_v2" => memory as *mut c_void,
            b"nvmlDeviceGetPciInfo_v3" => pci as *mut c_void,
            b"nvmlDeviceGetFieldValues" => fields as *mut c_void,
            b"nvmlDeviceGetSerial" => serial as *mut c_void,
            b"nvmlDeviceGetInforomVersion" => inforom as *mut c_void,
            _ => return None,
        })
    }

    #[test]
    fn figures_are_read_and_what_fails_or_is_missing_stays_unknown() {
        let nvml = Nvml::start(Box::new(library)).unwrap();
        assert!(nvml.handle("GPU-2").is_none());
        let handle = nvml.handle("GPU-1").unwrap();
        let mut device = DeviceInfo::new_zeroed();
        read_fixed(&nvml, handle, &mut device);
        assert_eq!(device.figure(F::Temperature), None, "not fixed");
        read_live(&nvml, handle, &mut device);
        for (figure, value) in [
            (F::Temperature, Some(40)),
            (F::EccCorrectedAggregate, Some(1 << 40 | 1)),
            (F::EccUncorrectedVolatile, Some(1 << 40 | 10)),
            (F::RowsCorrected, Some(1)),
            (F::RowsFailed, Some(4)),
            (F::UtilisationGpu, Some(98)),
            (F::UtilisationMemory, Some(12)),
            (F::TemperatureMargin, Some(-5i64 as u64)),
            (F::MemoryReserved, Some(10)),
            (F::PciDeviceId, Some(7)),
            (F::PciSubsystemId, Some(8)),
            (F::PowerInstant, Some(186)),
            (F::MarginShutdown, Some(-8i64 as u64)),
            (F::MarginGpu, Some(196)),
            (F::MemoryTemperature, None),
            (F::PowerUsage, None),
            (F::Energy, None),
        ] {
            assert_eq!(device.figure(figure), value, "{figure:?}");
        }
        assert_eq!((device.memory_total, device.memory_used, device.utilisation_gpu), (100, 30, 98));
        assert!(device.knows(KNOWN_MEMORY_USED));
        assert_eq!(text_of(&device.serial), "1650");
        assert_eq!(device.inforom.map(|text| text_of(&text)), ["1", "2", "3"]);
        assert_eq!(text_of(&device.vbios), "");
    }

    #[test]
    fn a_library_that_does_not_start_is_an_error() {
        assert!(Nvml::start(Box::new(|_| None)).is_err());
    }
}
