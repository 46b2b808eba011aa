//! The functions that are carried, by subject. `build.rs` finds them by their text, and makes stubs of the rest.

pub mod confidential;
pub mod events;
pub mod fields;
pub mod figures;
pub mod find;
pub mod identity;
pub mod init;
pub mod memory;
pub mod peers;
pub mod private;
pub mod processes;
pub mod system;
