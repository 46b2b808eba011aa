//! The profiler's switch: passed on, since the profiler runs beside the server's driver if anywhere.

use fusewire_wire::ops::table::Profiler;

use crate::abi::types::CUresult;
use crate::runtime::stats::counter;
use crate::runtime::{self, Runtime, current};

fn switch(runtime: &Runtime, start: u32) -> Result<(), CUresult> {
    let context = current::context()?.handle;
    runtime.session.post(&Profiler { context, start, reserved: 0 }, &[]).map(drop)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuProfilerStart() -> CUresult {
    runtime::call(counter!("cuProfilerStart"), |runtime| switch(runtime, 1))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuProfilerStop() -> CUresult {
    runtime::call(counter!("cuProfilerStop"), |runtime| switch(runtime, 0))
}
