//! A PTX parser and interpreter: the arithmetic half of the software GPU.
//!
//! It runs the PTX that NVRTC and nvcc make from ordinary CUDA C, on host
//! memory, one block at a time and every thread of a block cooperatively. It
//! is a test instrument: it aims at right answers and clear faults, never at
//! speed for its own sake, and it never guesses. An instruction it does not
//! know parses, and faults only when a thread reaches it.
//!
//! Lacking: tensor-core instructions, textures and surfaces, 128-bit
//! registers, device-side `malloc`, tensor-map and multicast copies. The
//! example `audit` lists what a given PTX file would miss.
//!
//! What it must never do: panic or take unbounded memory on malformed text
//! (modules come from programs under test), or touch host memory that its
//! [`Memory`] did not resolve.
//!
//! Where to go next: `module` for what a parsed module holds, `parse` and
//! `decode` for how text becomes instructions, `exec` for how they run.

mod alu;
mod decode;
mod exec;
mod inst;
mod lex;
mod module;
mod parse;
mod types;

pub use exec::{Fault, Launch, Memory, Region, run};
pub use module::{Global, Kernel, Module, Param, ParseError, Space};
