//! What the private tables learn of the runtime.

use std::ffi::c_void;

use crate::abi::hooks::{DeviceIdentity, Hooks};
use crate::abi::result::CUDA_ERROR_INVALID_CONTEXT;
use crate::abi::types::{CUcontext, CUdevice, CUfunction, CUmodule, CUresult, CUstream};
use crate::api::module;
use crate::runtime::images::{self, Options};
use crate::runtime::{self, current, handles};

pub(crate) struct RuntimeHooks;

fn of(context: CUcontext) -> Result<std::sync::Arc<runtime::objects::Context>, CUresult> {
    if context.is_null() {
        current::top().ok_or(CUDA_ERROR_INVALID_CONTEXT)
    } else {
        handles::context(context)
    }
}

fn load(image: &[u8]) -> Result<CUmodule, CUresult> {
    module::load(runtime::enter()?, image, &Options::default())
}

impl Hooks for RuntimeHooks {
    fn current_context(&self) -> Result<CUcontext, CUresult> {
        runtime::enter()?;
        Ok(current::top().map_or(std::ptr::null_mut(), |top| handles::pointer(top.handle)))
    }

    fn primary_context_of(&self, device: CUdevice) -> Result<CUcontext, CUresult> {
        Ok(handles::pointer(runtime::enter()?.device(device)?.primary.handle))
    }

    unsafe fn load_fatbin_wrapper(&self, wrapper: *const c_void) -> Result<CUmodule, CUresult> {
        // SAFETY: the caller's promise.
        load(unsafe { images::read(wrapper) }?)
    }

    unsafe fn load_fatbin_container(&self, container: *const c_void) -> Result<CUmodule, CUresult> {
        // SAFETY: the caller's promise.
        load(unsafe { images::read(container) }?)
    }

    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult> {
        let runtime = runtime::enter()?;
        let identity = |device: &runtime::VisibleDevice| {
            let attribute = |id| device.snapshot.attribute(id).unwrap_or(0);
            // CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, _BUS_ID, _DEVICE_ID.
            DeviceIdentity {
                uuid: device.snapshot.info.uuid,
                pci_domain: attribute(50),
                pci_bus: attribute(33),
                pci_device: attribute(34),
            }
        };
        Ok(runtime.devices.iter().map(identity).collect())
    }

    fn context_device(&self, context: CUcontext) -> Result<CUdevice, CUresult> {
        runtime::enter()?;
        Ok(i32::try_from(of(context)?.device).unwrap_or(0))
    }

    fn context_id(&self, context: CUcontext) -> Result<u64, CUresult> {
        runtime::enter()?;
        Ok(of(context)?.id)
    }

    fn stream_private(&self, _context: CUcontext, stream: CUstream) -> Result<*mut c_void, CUresult> {
        let runtime = runtime::enter()?;
        Ok(handles::pointer(current::stream(runtime, stream)?.handle))
    }

    fn stream_id(&self, _context: CUcontext, private: *mut c_void) -> Result<u64, CUresult> {
        runtime::enter()?;
        Ok(handles::stream(private)?.id)
    }

    fn module_functions(&self, module: CUmodule) -> Result<Vec<CUfunction>, CUresult> {
        let runtime = runtime::enter()?;
        let module = handles::module(module)?;
        let names = module::names(runtime, &module)?;
        names.iter().map(|name| module::find(runtime, &module, name)).collect()
    }
}
