//! Peers: which devices reach each other is known from the snapshot.

use fusewire_wire::ops::table::{CtxDisablePeer, CtxEnablePeer};

use crate::abi::result::{CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_INVALID_VALUE};
use crate::abi::types::{CUcontext, CUdevice, CUresult};
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current, handles};

use super::arguments::give;

fn reaches(runtime: &Runtime, device: CUdevice, peer: CUdevice) -> Result<bool, CUresult> {
    let (device, peer) = (runtime.device(device)?, runtime.device(peer)?);
    let bit = u32::try_from(peer.remote).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?;
    Ok(device.remote != peer.remote && device.snapshot.info.peers.checked_shr(bit).unwrap_or(0) & 1 != 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(can: *mut i32, device: CUdevice, peer: CUdevice) -> CUresult {
    runtime::call(counter!("cuDeviceCanAccessPeer"), |runtime| {
        let found = reaches(runtime, device, peer)?;
        // SAFETY: the program's pointer, for one value.
        unsafe { give(can, i32::from(found)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetP2PAttribute(
    value: *mut i32,
    attribute: u32,
    device: CUdevice,
    peer: CUdevice,
) -> CUresult {
    runtime::call(counter!("cuDeviceGetP2PAttribute"), |runtime| {
        let found = reaches(runtime, device, peer)?;
        if device == peer {
            return Err(CUDA_ERROR_INVALID_DEVICE);
        }
        // CU_DEVICE_P2P_ATTRIBUTE_*: rank, access, native atomics, arrays, partial atomics. Atomics are not
        // promised: what the hardware does between two cards is not known here.
        let value_of = match attribute {
            1 => 0,
            2 => i32::from(found),
            3..=5 => 0,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        // SAFETY: the program's pointer, for one value.
        unsafe { give(value, value_of) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxEnablePeerAccess(peer: CUcontext, flags: u32) -> CUresult {
    runtime::call(counter!("cuCtxEnablePeerAccess"), |runtime| {
        if flags != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let context = current::sound_context()?.handle;
        let peer = handles::context(peer)?.handle;
        runtime.session.call(&CtxEnablePeer { context, peer, flags, reserved: 0 }, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxDisablePeerAccess(peer: CUcontext) -> CUresult {
    runtime::call(counter!("cuCtxDisablePeerAccess"), |runtime| {
        let context = current::sound_context()?.handle;
        let peer = handles::context(peer)?.handle;
        runtime.session.call(&CtxDisablePeer { context, peer }, &[]).map(drop)
    })
}
