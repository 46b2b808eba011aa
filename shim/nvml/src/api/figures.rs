//! Functions that give one figure, or a few, and do nothing else.

use fusewire_wire::inventory::Figure;

use crate::status::{INVALID_ARGUMENT, NOT_SUPPORTED, Status, answer};
use crate::types::{Device, MarginTemperature, TemperatureV1, versioned};
use crate::{device, out};

/// One 32-bit figure.
macro_rules! one {
    ($(fn $name:ident = $figure:ident;)+) => {$(
        /// # Safety
        /// `to` is NULL or points to an unsigned int.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, to: *mut u32) -> Status {
            // SAFETY: as the caller promises.
            answer(|| unsafe { device::put_figure(device, to, Figure::$figure) })
        }
    )+};
}

/// One 64-bit figure.
macro_rules! one_wide {
    ($(fn $name:ident = $figure:ident;)+) => {$(
        /// # Safety
        /// `to` is NULL or points to an unsigned long long.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, to: *mut u64) -> Status {
            answer(|| {
                let value = device::figure(device, Figure::$figure)?;
                // SAFETY: as the caller promises.
                unsafe { out::put(to, value) }
            })
        }
    )+};
}

/// Two 32-bit figures.
macro_rules! two {
    ($(fn $name:ident = $first:ident, $second:ident;)+) => {$(
        /// # Safety
        /// `first` and `second` are NULL or each point to an unsigned int.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, first: *mut u32, second: *mut u32) -> Status {
            answer(|| {
                if second.is_null() {
                    return Err(INVALID_ARGUMENT);
                }
                // SAFETY: as the caller promises.
                unsafe {
                    device::put_figure(device, first, Figure::$first)?;
                    device::put_figure(device, second, Figure::$second)
                }
            })
        }
    )+};
}

/// One 32-bit figure of those that a number chooses from.
macro_rules! chosen {
    ($(fn $name:ident = $table:expr;)+) => {$(
        /// # Safety
        /// `to` is NULL or points to an unsigned int.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, which: u32, to: *mut u32) -> Status {
            // SAFETY: as the caller promises.
            answer(|| unsafe { put_chosen(device, which, to, &$table) })
        }
    )+};
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
unsafe fn put_chosen(device: Device, which: u32, to: *mut u32, table: &[Figure]) -> Result<(), Status> {
    device::index(device)?;
    let unknown = if which < 4 { NOT_SUPPORTED } else { INVALID_ARGUMENT };
    let figure = table.get(which as usize).ok_or(unknown)?;
    // SAFETY: as the caller promises.
    unsafe { device::put_figure(device, to, *figure) }
}

const CLOCKS: [Figure; 4] = [Figure::ClockGraphics, Figure::ClockSm, Figure::ClockMemory, Figure::ClockVideo];
const APPLICATION_CLOCKS: [Figure; 4] = [
    Figure::ApplicationClockGraphics,
    Figure::ApplicationClockSm,
    Figure::ApplicationClockMemory,
    Figure::ApplicationClockVideo,
];
const DEFAULT_CLOCKS: [Figure; 4] = [
    Figure::DefaultClockGraphics,
    Figure::DefaultClockSm,
    Figure::DefaultClockMemory,
    Figure::DefaultClockVideo,
];

one! {
    fn nvmlDeviceGetMinorNumber = MinorNumber;
    fn nvmlDeviceGetBrand = Brand;
    fn nvmlDeviceGetPersistenceMode = PersistenceMode;
    fn nvmlDeviceGetDisplayMode = DisplayMode;
    fn nvmlDeviceGetDisplayActive = DisplayActive;
    fn nvmlDeviceGetComputeMode = ComputeMode;
    fn nvmlDeviceGetPerformanceState = PerformanceState;
    fn nvmlDeviceGetPowerState = PerformanceState;
    fn nvmlDeviceGetFanSpeed = FanSpeed;
    fn nvmlDeviceGetNumFans = FanCount;
    fn nvmlDeviceGetPowerUsage = PowerUsage;
    fn nvmlDeviceGetPowerManagementLimit = PowerLimit;
    fn nvmlDeviceGetEnforcedPowerLimit = PowerLimitEnforced;
    fn nvmlDeviceGetPowerManagementDefaultLimit = PowerLimitDefault;
    fn nvmlDeviceGetPowerManagementMode = PowerManagement;
    fn nvmlDeviceGetPowerSource = PowerSource;
    fn nvmlDeviceGetAdaptiveClockInfoStatus = AdaptiveClock;
    fn nvmlDeviceGetDefaultEccMode = EccModeDefault;
    fn nvmlDeviceGetMaxMigDeviceCount = MigDevices;
    fn nvmlDeviceGetVirtualizationMode = VirtualisationMode;
    fn nvmlDeviceGetArchitecture = Architecture;
    fn nvmlDeviceGetNumGpuCores = Cores;
    fn nvmlDeviceGetMemoryBusWidth = MemoryBusWidth;
    fn nvmlDeviceGetBusType = BusType;
    fn nvmlDeviceGetCurrPcieLinkGeneration = PcieGeneration;
    fn nvmlDeviceGetCurrPcieLinkWidth = PcieWidth;
    fn nvmlDeviceGetMaxPcieLinkGeneration = PcieGenerationMost;
    fn nvmlDeviceGetMaxPcieLinkWidth = PcieWidthMost;
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration = PcieGenerationDevice;
    fn nvmlDeviceGetPcieSpeed = PcieSpeed;
    fn nvmlDeviceGetPcieLinkMaxSpeed = PcieSpeedMost;
    fn nvmlDeviceGetPcieReplayCounter = PcieReplays;
    fn nvmlDeviceGetIrqNum = Irq;
    fn nvmlDeviceGetMultiGpuBoard = MultiGpuBoard;
    fn nvmlDeviceGetBoardId = BoardId;
    fn nvmlDeviceGetModuleId = ModuleId;
    fn nvmlDeviceGetInforomConfigurationChecksum = InforomChecksum;
}

one_wide! {
    fn nvmlDeviceGetTotalEnergyConsumption = Energy;
    fn nvmlDeviceGetCurrentClocksEventReasons = ClockReasons;
    fn nvmlDeviceGetCurrentClocksThrottleReasons = ClockReasons;
    fn nvmlDeviceGetSupportedClocksEventReasons = ClockReasonsSupported;
    fn nvmlDeviceGetSupportedClocksThrottleReasons = ClockReasonsSupported;
}

two! {
    fn nvmlDeviceGetPowerManagementLimitConstraints = PowerLimitLeast, PowerLimitMost;
    fn nvmlDeviceGetEncoderUtilization = UtilisationEncoder, EncoderPeriod;
    fn nvmlDeviceGetDecoderUtilization = UtilisationDecoder, DecoderPeriod;
    fn nvmlDeviceGetJpgUtilization = UtilisationJpeg, JpegPeriod;
    fn nvmlDeviceGetOfaUtilization = UtilisationOpticalFlow, OpticalFlowPeriod;
    fn nvmlDeviceGetEccMode = EccMode, EccModePending;
    fn nvmlDeviceGetMigMode = MigMode, MigModePending;
    fn nvmlDeviceGetGpuOperationMode = OperationMode, OperationModePending;
    fn nvmlDeviceGetGspFirmwareMode = GspFirmware, GspFirmwareDefault;
}

chosen! {
    fn nvmlDeviceGetClockInfo = CLOCKS;
    fn nvmlDeviceGetMaxClockInfo = [
        Figure::ClockGraphicsMost,
        Figure::ClockSmMost,
        Figure::ClockMemoryMost,
        Figure::ClockVideoMost,
    ];
    fn nvmlDeviceGetApplicationsClock = APPLICATION_CLOCKS;
    fn nvmlDeviceGetDefaultApplicationsClock = DEFAULT_CLOCKS;
    fn nvmlDeviceGetMaxCustomerBoostClock = [Figure::BoostClockGraphics, Figure::BoostClockSm];
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(device: Device, sensor: u32, to: *mut u32) -> Status {
    // There is one sensor, that of the GPU.
    if sensor != 0 {
        return answer(|| device::index(device).and(Err(INVALID_ARGUMENT)));
    }
    // SAFETY: as the caller promises.
    answer(|| unsafe { device::put_figure(device, to, Figure::Temperature) })
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperatureThreshold(
    device: Device,
    which: u32,
    to: *mut u32,
) -> Status {
    const THRESHOLDS: [Figure; 4] =
        [Figure::ThresholdShutdown, Figure::ThresholdSlowdown, Figure::ThresholdMemory, Figure::ThresholdGpu];
    // The kinds that follow these are of fans and notebooks.
    if (4..8).contains(&which) {
        return answer(|| device::index(device).and(Err(NOT_SUPPORTED)));
    }
    // SAFETY: as the caller promises.
    answer(|| unsafe { put_chosen(device, which, to, &THRESHOLDS) })
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClock(device: Device, clock: u32, which: u32, to: *mut u32) -> Status {
    answer(|| {
        let table = match which {
            0 => &CLOCKS,
            1 => &APPLICATION_CLOCKS,
            2 => &DEFAULT_CLOCKS,
            _ => return device::index(device).and(Err(NOT_SUPPORTED)),
        };
        // SAFETY: as the caller promises.
        unsafe { put_chosen(device, clock, to, table) }
    })
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFanSpeed_v2(device: Device, fan: u32, to: *mut u32) -> Status {
    answer(|| {
        if u64::from(fan) >= device::figure(device, Figure::FanCount)? {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: as the caller promises.
        unsafe { device::put_figure(device, to, Figure::FanSpeed) }
    })
}

/// # Safety
/// `to` is NULL or points to an unsigned long long.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: Device,
    kind: u32,
    since: u32,
    to: *mut u64,
) -> Status {
    answer(|| {
        device::index(device)?;
        let figure = match (kind, since) {
            (0, 0) => Figure::EccCorrectedVolatile,
            (0, 1) => Figure::EccCorrectedAggregate,
            (1, 0) => Figure::EccUncorrectedVolatile,
            (1, 1) => Figure::EccUncorrectedAggregate,
            _ => return Err(INVALID_ARGUMENT),
        };
        let value = device::figure(device, figure)?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, value) }
    })
}

/// # Safety
/// The last four are NULL or each point to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: Device,
    corrected: *mut u32,
    uncorrected: *mut u32,
    pending: *mut u32,
    failed: *mut u32,
) -> Status {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe {
            device::put_figure(device, corrected, Figure::RowsCorrected)?;
            device::put_figure(device, uncorrected, Figure::RowsUncorrected)?;
            device::put_figure(device, pending, Figure::RowsPending)?;
            device::put_figure(device, failed, Figure::RowsFailed)
        }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlRowRemapperHistogramValues_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRowRemapperHistogram(device: Device, to: *mut [u32; 5]) -> Status {
    answer(|| {
        let kinds = [
            Figure::RowsSpareAll,
            Figure::RowsSpareMany,
            Figure::RowsSpareSome,
            Figure::RowsSpareFew,
            Figure::RowsSpareNone,
        ];
        let mut banks = [0; 5];
        for (banks, kind) in banks.iter_mut().zip(kinds) {
            *banks = device::figure(device, kind)? as u32;
        }
        // SAFETY: as the caller promises.
        unsafe { out::put(to, banks) }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlTemperature_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperatureV(device: Device, to: *mut TemperatureV1) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises; its version says that it is whole.
        unsafe {
            out::check_version(to, versioned::<TemperatureV1>(1))?;
            if (*to).sensor != 0 {
                return Err(INVALID_ARGUMENT);
            }
            device::put_figure(device, (&raw mut (*to).temperature).cast(), Figure::Temperature)
        }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlMarginTemperature_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMarginTemperature(
    device: Device,
    to: *mut MarginTemperature,
) -> Status {
    answer(|| {
        device::index(device)?;
        // SAFETY: as the caller promises; its version says that it is whole.
        unsafe {
            out::check_version(to, versioned::<MarginTemperature>(1))?;
            device::put_figure(device, (&raw mut (*to).margin).cast(), Figure::TemperatureMargin)
        }
    })
}
