"""Prints what NVML says of every device, one answer a line: the function, its number if any, the answer."""

import pynvml as nvml


def show(value):
    if isinstance(value, (list, tuple)):
        return " ".join(map(show, value))
    if hasattr(value, "_fields_"):
        return " ".join(show(getattr(value, field[0])) for field in value._fields_)
    return str(value)


def ask(name, *arguments):
    function = getattr(nvml, "nvml" + name)
    try:
        answer = show(function(*arguments))
    except nvml.NVMLError as error:
        answer = f"error {error.value}"
    number = "".join(f" {argument}" for argument in arguments if isinstance(argument, int))
    print(f"{name}{number}: {answer}")


nvml.nvmlInit()
for name in ("DriverVersion", "NVMLVersion", "CudaDriverVersion"):
    ask("SystemGet" + name)
ask("DeviceGetCount")
ask("UnitGetCount")
for index in range(nvml.nvmlDeviceGetCount()):
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    for name in (
        "Index Name UUID Serial VbiosVersion BoardPartNumber PciInfo CudaComputeCapability MinorNumber Brand "
        "PersistenceMode DisplayActive ComputeMode PerformanceState FanSpeed PowerUsage EnforcedPowerLimit "
        "PowerManagementLimitConstraints TotalEnergyConsumption MemoryInfo BAR1MemoryInfo UtilizationRates "
        "EncoderUtilization EccMode MigMode RemappedRows NumGpuCores Architecture MaxPcieLinkGeneration "
        "ComputeRunningProcesses GraphicsRunningProcesses MPSComputeRunningProcesses AccountingMode"
    ).split():
        ask("DeviceGet" + name, device)
    ask("DeviceGetMemoryInfo", device, nvml.nvmlMemory_v2)
    ask("DeviceGetTotalEccErrors", device, 1, 0)
    for name in "ClockInfo MaxClockInfo TemperatureThreshold".split():
        for kind in range(4):
            ask("DeviceGet" + name, device, kind)
    ask("DeviceGetTemperature", device, 0)
    ask("DeviceGetNvLinkState", device, 0)
    ask("DeviceGetHandleByUUID", nvml.nvmlDeviceGetUUID(device))
    fields = nvml.nvmlDeviceGetFieldValues(device, [83, 186, 91])
    print("Fields:", *(f"{field.fieldId}={field.nvmlReturn}/{field.value.ullVal}" for field in fields))

# Handles: by whatever name, the same device; and nonsense is refused.
first = nvml.nvmlDeviceGetHandleByIndex(0)
bus = nvml.nvmlDeviceGetPciInfo(first).busId
for name in (bus, bus[4:], bus.lower()):
    assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId(name)) == 0, name
assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(first))) == 0
for refused, status in (
    (lambda: nvml.nvmlDeviceGetHandleByIndex(64), nvml.NVML_ERROR_INVALID_ARGUMENT),
    (lambda: nvml.nvmlDeviceGetHandleByUUID("GPU-0"), nvml.NVML_ERROR_NOT_FOUND),
    (lambda: nvml.nvmlDeviceGetHandleByPciBusId("junk"), nvml.NVML_ERROR_INVALID_ARGUMENT),
    (lambda: nvml.nvmlDeviceGetHandleBySerial("0"), nvml.NVML_ERROR_NOT_FOUND),
    (lambda: nvml.nvmlDeviceGetName(None), nvml.NVML_ERROR_INVALID_ARGUMENT),
    (lambda: nvml.nvmlDeviceGetPdi(first), nvml.NVML_ERROR_NOT_SUPPORTED),
    (lambda: nvml.nvmlDeviceGetMaxClockInfo(first, 4), nvml.NVML_ERROR_INVALID_ARGUMENT),
    (lambda: nvml.nvmlEventSetWait_v2(nvml.nvmlEventSetCreate(), 1), nvml.NVML_ERROR_TIMEOUT),
):
    try:
        refused()
    except nvml.NVMLError as error:
        assert error.value == status, error
    else:
        raise AssertionError("not refused")

# Counted: after the last shutdown nothing is answered, and one too many is an error.
nvml.nvmlInit()
nvml.nvmlShutdown()
nvml.nvmlDeviceGetName(first)
nvml.nvmlShutdown()
for late in (lambda: nvml.nvmlDeviceGetName(first), nvml.nvmlShutdown, nvml.nvmlDeviceGetCount):
    try:
        late()
    except nvml.NVMLError as error:
        assert error.value == nvml.NVML_ERROR_UNINITIALIZED, error
    else:
        raise AssertionError("answered after the last shutdown")
