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
    const FIELDS: [(u32, F); 3] =
        [(82, F::MemoryTemperature), (185, F::PowerAverage), (186, F::PowerInstant)];
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
            _ => continue,
        };
        if status == 0 {
            into.set_figure(figure, value);
        }
    }
}
