"""Prints the sizes and versions of structures, as the bindings have them."""

import ctypes

import pynvml as nvml

for name in (
    "nvmlPciInfo_t nvmlPciInfo_v2_t nvmlPciInfoExt_v1_t c_nvmlMemory_t c_nvmlMemory_v2_t c_nvmlBAR1Memory_t "
    "c_nvmlUtilization_t c_nvmlFieldValue_t c_nvmlProcessDetailList_v1_t c_nvmlMarginTemperature_v1_t "
    "c_nvmlTemperature_v1_t c_nvmlUUID_t c_nvmlConfComputeSystemState_t c_nvmlSystemConfComputeSettings_v1_t"
).split():
    if hasattr(nvml, name):
        kind = getattr(nvml, name)
        print(name, ctypes.sizeof(kind), *(getattr(kind, field[0]).offset for field in kind._fields_))
print("nvmlMemory_v2", nvml.nvmlMemory_v2)
