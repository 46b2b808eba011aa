//! Confidential computing: off. Programs (NCCL) take a refusal here for a broken machine.

use crate::status::{Status, answer};
use crate::types::{ConfidentialSettings, ConfidentialState, versioned};
use crate::{out, session};

/// # Safety
/// `to` is NULL or points to an `nvmlConfComputeSystemState_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetConfComputeState(to: *mut ConfidentialState) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, ConfidentialState { environment: 0, feature: 0, tools: 0 }) }
    })
}

/// # Safety
/// `to` is NULL or points to an `nvmlSystemConfComputeSettings_t` of its version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetConfComputeSettings(to: *mut ConfidentialSettings) -> Status {
    answer(|| {
        session::check()?;
        let version = versioned::<ConfidentialSettings>(1);
        // SAFETY: as the caller promises.
        unsafe {
            out::check_version(to, version)?;
            out::put(to, ConfidentialSettings { version, environment: 0, feature: 0, tools: 0, multi_gpu: 0 })
        }
    })
}

/// # Safety
/// `to` is NULL or points to an unsigned int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetConfComputeGpusReadyState(to: *mut u32) -> Status {
    answer(|| {
        session::check()?;
        // SAFETY: as the caller promises.
        unsafe { out::put(to, 0) }
    })
}
