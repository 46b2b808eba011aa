//! Reader for the images a program hands to the CUDA driver: fat binaries, ELF cubins and PTX text.
//!
//! The driver takes an image as a bare pointer, without a length. Before one can be sent to the GPU
//! host its exact extent must be found ([`image_length`]): a byte too few or too many makes the real
//! loader refuse it. After that the reader lists what a container holds ([`Container`]), leaves out
//! what the far GPU cannot run ([`trim()`]), and guesses whether the code can print ([`uses_printf`]).
//!
//! It must never do I/O, dereference an address, or trust a size found in an image: every size is
//! checked against the bytes that are really there, and an inconsistent image gives a
//! [`FatbinError`] which says where. A caller that gets an error from anything but [`image_length`]
//! can still ship the image whole; the real loader has the last word on what is valid.
//!
//! Start with [`image_kind`] in `kind.rs`; `container.rs` describes the layout.

#![forbid(unsafe_code)]

mod container;
mod decompress;
mod elf;
mod error;
mod kind;
mod length;
mod printf;
mod source;
mod trim;
mod wrapper;

pub use container::{ArchVariant, Compression, Container, Entries, Entry, EntryKind};
pub use error::FatbinError;
pub use kind::{ImageKind, image_kind};
pub use length::{MAX_IMAGE_BYTES, MAX_PTX_BYTES, image_length};
pub use printf::uses_printf;
pub use source::ByteSource;
pub use trim::trim;
pub use wrapper::{MAX_PRELINKED, Wrapper, prelinked_pointers};
