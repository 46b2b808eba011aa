//! The worker: a process that serves one session and is nothing else.
//!
//! * [`start`]: the process, from loading the driver to its end;
//! * [`shard`]: the loop of its one busy thread;
//! * [`gpu`]: what the session has, and the rules for touching it; then, by kind of object, [`contexts`],
//!   [`memory`], [`copies`], [`streams`], [`events`], [`hostfunc`], [`images`] and [`image_cache`], [`modules`],
//!   [`known`], [`launch`], [`graphs`], [`textures`];
//! * [`handler`]: the op table's side, which says where each operation is done;
//! * [`backlog`]: what has to wait before the driver is given it;
//! * [`fences`], [`ranges`], [`handles`], [`pinned`], [`bulk`], [`outgoing`], [`output`],
//!   [`file_work`]: what those stand on.
//!
//! Rules. No thread waits for the GPU. Nothing from the client reaches the driver unchecked: handles are looked
//! up, ranges must be mapped, numbers must be in range. Everything is done in the order in which it came.

mod backlog;
mod bulk;
mod contexts;
mod copies;
mod events;
mod fences;
mod file_work;
mod gpu;
mod graph_edges;
mod graph_params;
mod graphs;
mod handler;
mod handles;
mod hostfunc;
mod image_cache;
mod images;
mod known;
mod launch;
mod memory;
mod modules;
mod outgoing;
mod output;
mod pinned;
mod ranges;
mod shard;
mod start;
mod streams;
mod textures;

pub use start::main;
