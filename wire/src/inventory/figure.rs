//! The figures: numbers about a device that NVML answers and nothing else needs.
//!
//! A figure's place in the list is its place on the wire. New ones are added at
//! the end, and none is ever removed or moved; [`super::DeviceInfo::figure`]
//! says what a device's figure is, or that it is not known.

/// A number about a device, as NVML gives it (its units and its enumerations).
///
/// The comment of each names the NVML function, without `nvmlDeviceGet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
#[non_exhaustive]
pub enum Figure {
    /// MinorNumber.
    MinorNumber,
    /// Brand.
    Brand,
    /// PciInfo: device and vendor id.
    PciDeviceId,
    /// PciInfo: subsystem id.
    PciSubsystemId,
    /// PersistenceMode.
    PersistenceMode,
    /// DisplayMode.
    DisplayMode,
    /// DisplayActive.
    DisplayActive,
    /// ComputeMode.
    ComputeMode,
    /// PerformanceState.
    PerformanceState,
    /// FanSpeed, percent.
    FanSpeed,
    /// NumFans.
    FanCount,
    /// Temperature of the GPU, degrees Celsius.
    Temperature,
    /// TemperatureThreshold: shutdown.
    ThresholdShutdown,
    /// TemperatureThreshold: slowdown.
    ThresholdSlowdown,
    /// TemperatureThreshold: memory at most.
    ThresholdMemory,
    /// TemperatureThreshold: GPU at most.
    ThresholdGpu,
    /// MarginTemperature: degrees below the nearest limit, signed.
    TemperatureMargin,
    /// PowerUsage, milliwatts.
    PowerUsage,
    /// PowerManagementLimit, milliwatts.
    PowerLimit,
    /// EnforcedPowerLimit, milliwatts.
    PowerLimitEnforced,
    /// PowerManagementDefaultLimit, milliwatts.
    PowerLimitDefault,
    /// PowerManagementLimitConstraints: least, milliwatts.
    PowerLimitLeast,
    /// PowerManagementLimitConstraints: most, milliwatts.
    PowerLimitMost,
    /// PowerManagementMode.
    PowerManagement,
    /// TotalEnergyConsumption, millijoules.
    Energy,
    /// MemoryInfo (v2): what the driver keeps for itself, bytes.
    MemoryReserved,
    /// BAR1MemoryInfo: total, bytes.
    Bar1Total,
    /// BAR1MemoryInfo: free, bytes.
    Bar1Free,
    /// BAR1MemoryInfo: used, bytes.
    Bar1Used,
    /// UtilizationRates: GPU, percent.
    UtilisationGpu,
    /// UtilizationRates: memory, percent.
    UtilisationMemory,
    /// EncoderUtilization, percent.
    UtilisationEncoder,
    /// EncoderUtilization: sampling period, microseconds.
    EncoderPeriod,
    /// DecoderUtilization, percent.
    UtilisationDecoder,
    /// DecoderUtilization: sampling period, microseconds.
    DecoderPeriod,
    /// JpgUtilization, percent.
    UtilisationJpeg,
    /// JpgUtilization: sampling period, microseconds.
    JpegPeriod,
    /// OfaUtilization, percent.
    UtilisationOpticalFlow,
    /// OfaUtilization: sampling period, microseconds.
    OpticalFlowPeriod,
    /// ClockInfo: graphics, MHz. The four kinds of clock are in NVML's order, here and below.
    ClockGraphics,
    /// ClockInfo: streaming multiprocessors, MHz.
    ClockSm,
    /// ClockInfo: memory, MHz.
    ClockMemory,
    /// ClockInfo: video, MHz.
    ClockVideo,
    /// MaxClockInfo: graphics, MHz.
    ClockGraphicsMost,
    /// MaxClockInfo: streaming multiprocessors, MHz.
    ClockSmMost,
    /// MaxClockInfo: memory, MHz.
    ClockMemoryMost,
    /// MaxClockInfo: video, MHz.
    ClockVideoMost,
    /// ApplicationsClock: graphics, MHz.
    ApplicationClockGraphics,
    /// ApplicationsClock: streaming multiprocessors, MHz.
    ApplicationClockSm,
    /// ApplicationsClock: memory, MHz.
    ApplicationClockMemory,
    /// ApplicationsClock: video, MHz.
    ApplicationClockVideo,
    /// DefaultApplicationsClock: graphics, MHz.
    DefaultClockGraphics,
    /// DefaultApplicationsClock: streaming multiprocessors, MHz.
    DefaultClockSm,
    /// DefaultApplicationsClock: memory, MHz.
    DefaultClockMemory,
    /// DefaultApplicationsClock: video, MHz.
    DefaultClockVideo,
    /// CurrentClocksEventReasons, a bit set.
    ClockReasons,
    /// SupportedClocksEventReasons, a bit set.
    ClockReasonsSupported,
    /// AdaptiveClockInfoStatus.
    AdaptiveClock,
    /// EccMode: current.
    EccMode,
    /// EccMode: after the next reboot.
    EccModePending,
    /// DefaultEccMode.
    EccModeDefault,
    /// TotalEccErrors: corrected, since the driver was loaded.
    EccCorrectedVolatile,
    /// TotalEccErrors: corrected, ever.
    EccCorrectedAggregate,
    /// TotalEccErrors: uncorrected, since the driver was loaded.
    EccUncorrectedVolatile,
    /// TotalEccErrors: uncorrected, ever.
    EccUncorrectedAggregate,
    /// RemappedRows: corrected errors.
    RowsCorrected,
    /// RemappedRows: uncorrected errors.
    RowsUncorrected,
    /// RemappedRows: pending.
    RowsPending,
    /// RemappedRows: failed.
    RowsFailed,
    /// MigMode: current.
    MigMode,
    /// MigMode: after the next reset.
    MigModePending,
    /// MaxMigDeviceCount.
    MigDevices,
    /// GpuOperationMode: current.
    OperationMode,
    /// GpuOperationMode: after the next reboot.
    OperationModePending,
    /// VirtualizationMode.
    VirtualisationMode,
    /// GspFirmwareMode: enabled.
    GspFirmware,
    /// GspFirmwareMode: enabled by default.
    GspFirmwareDefault,
    /// Architecture.
    Architecture,
    /// NumGpuCores.
    Cores,
    /// MemoryBusWidth, bits.
    MemoryBusWidth,
    /// BusType.
    BusType,
    /// CurrPcieLinkGeneration.
    PcieGeneration,
    /// CurrPcieLinkWidth.
    PcieWidth,
    /// MaxPcieLinkGeneration.
    PcieGenerationMost,
    /// MaxPcieLinkWidth.
    PcieWidthMost,
    /// GpuMaxPcieLinkGeneration.
    PcieGenerationDevice,
    /// PcieSpeed, MB/s.
    PcieSpeed,
    /// PcieLinkMaxSpeed, MB/s for each lane, as an enumeration.
    PcieSpeedMost,
    /// PcieReplayCounter.
    PcieReplays,
    /// IrqNum.
    Irq,
    /// MultiGpuBoard.
    MultiGpuBoard,
    /// BoardId.
    BoardId,
    /// ModuleId.
    ModuleId,
    /// PowerSource.
    PowerSource,
    /// InforomConfigurationChecksum.
    InforomChecksum,
    /// FieldValues 82: temperature of the memory, degrees Celsius.
    MemoryTemperature,
    /// FieldValues 185: milliwatts, mean of the last second.
    PowerAverage,
    /// FieldValues 186: milliwatts, now.
    PowerInstant,
    /// MaxCustomerBoostClock: graphics, MHz.
    BoostClockGraphics,
    /// MaxCustomerBoostClock: streaming multiprocessors, MHz.
    BoostClockSm,
    /// FieldValues 193: margin at which the GPU shuts down, degrees, signed.
    MarginShutdown,
    /// FieldValues 194: margin at which it slows down, degrees, signed.
    MarginSlowdown,
    /// FieldValues 195: margin at which it slows down for the memory's sake, degrees, signed.
    MarginMemory,
    /// FieldValues 196: margin at which it goes below its base clock, degrees, signed.
    MarginGpu,
    /// RowRemapperHistogram: banks with all their spare rows.
    RowsSpareAll,
    /// RowRemapperHistogram: banks with many.
    RowsSpareMany,
    /// RowRemapperHistogram: banks with some.
    RowsSpareSome,
    /// RowRemapperHistogram: banks with few.
    RowsSpareFew,
    /// RowRemapperHistogram: banks with none.
    RowsSpareNone,
}

/// How many figures there are.
pub const FIGURES: usize = Figure::RowsSpareNone as usize + 1;

impl Figure {
    /// Whether the figure stays what it is for as long as the driver is loaded.
    #[must_use]
    pub fn is_fixed(self) -> bool {
        use Figure as F;
        matches!(
            self,
            F::MinorNumber
                | F::Brand
                | F::PciDeviceId
                | F::PciSubsystemId
                | F::FanCount
                | F::ThresholdShutdown
                | F::ThresholdSlowdown
                | F::ThresholdMemory
                | F::ThresholdGpu
                | F::PowerLimitDefault
                | F::PowerLimitLeast
                | F::PowerLimitMost
                | F::Bar1Total
                | F::ClockGraphicsMost
                | F::ClockSmMost
                | F::ClockMemoryMost
                | F::ClockVideoMost
                | F::DefaultClockGraphics
                | F::DefaultClockSm
                | F::DefaultClockMemory
                | F::DefaultClockVideo
                | F::ClockReasonsSupported
                | F::AdaptiveClock
                | F::EccModeDefault
                | F::MigDevices
                | F::VirtualisationMode
                | F::GspFirmware
                | F::GspFirmwareDefault
                | F::Architecture
                | F::Cores
                | F::MemoryBusWidth
                | F::BusType
                | F::PcieGenerationMost
                | F::PcieWidthMost
                | F::PcieGenerationDevice
                | F::PcieSpeedMost
                | F::Irq
                | F::MultiGpuBoard
                | F::BoardId
                | F::ModuleId
                | F::InforomChecksum
                | F::BoostClockGraphics
                | F::BoostClockSm
        )
    }
}
