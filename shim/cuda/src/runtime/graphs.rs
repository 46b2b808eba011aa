//! What the client knows of graphs, executable graphs and their nodes beside what their handles say.
//!
//! Nodes have handles of their own kind, numbered without gaps: the server names the nodes that it lists for
//! the first time from a number that the client gives, and only its answer says how many there were.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use fusewire_wire::ops::table::NODE_HANDLE_STEP;

use crate::abi::result::{CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_UNKNOWN};
use crate::abi::types::CUresult;
use crate::api::copy_rect::Memcpy3D;
use crate::api::graph_node::memset::MemsetParams;

use super::handles;
use super::session::lock;
use super::user_objects;

/// The first handle of a node: aligned, and of no other kind.
const FIRST_NODE: u64 = 0x6 << 44;
/// Names that a list that failed half-way may have used: more than a session may have objects.
const SKIPPED: u64 = 16 << 20;

/// A node of a graph.
pub(crate) struct Node {
    pub(crate) handle: u64,
    pub(crate) graph: u64,
    /// `CUgraphNodeType`, once it is known.
    pub(crate) kind: OnceLock<u32>,
    pub(crate) made: Mutex<Made>,
    /// Kernel parameters as given to the program, which may keep pointers into them.
    pub(crate) kept: Mutex<Vec<Kept>>,
}

/// What the program made a node of.
#[derive(Clone, Copy, Default)]
pub(crate) enum Made {
    /// The driver made it, in a capture.
    #[default]
    Captured,
    Kernel,
    Memcpy(Memcpy3D),
    Memset(MemsetParams),
    /// A host function: its code, its argument.
    Host(usize, usize),
    Event(u64),
    Other,
}

/// Values of kernel parameters, and a pointer to each.
pub(crate) struct Kept {
    pub(crate) function: u64,
    pub(crate) values: Box<[u64]>,
    pub(crate) pointers: Box<[usize]>,
}

#[derive(Default)]
struct Graph {
    /// A second name of the graph on the server, which is the one to destroy it by.
    alias: Option<u64>,
    objects: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Exec {
    flags: u64,
    disabled: HashSet<u64>,
    objects: Vec<u64>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Arc<Node>>,
    graphs: HashMap<u64, Graph>,
    execs: HashMap<u64, Exec>,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
static NEXT_NODE: Mutex<u64> = Mutex::new(FIRST_NODE);

/// A handle for a node that the client adds.
pub(crate) fn name_node() -> u64 {
    let mut next = lock(&NEXT_NODE);
    let name = *next;
    *next += NODE_HANDLE_STEP;
    name
}

/// A node was added by the program.
pub(crate) fn add_node(handle: u64, graph: u64, kind: u32, made: Made) {
    let node =
        Node { handle, graph, kind: OnceLock::from(kind), made: Mutex::new(made), kept: Mutex::default() };
    lock(&STATE).nodes.insert(handle, Arc::new(node));
}

/// Lists nodes of a graph: `ask` gives handles, new ones from the number on that it is passed.
///
/// # Errors
/// What `ask` says.
pub(crate) fn list(
    graph: u64,
    ask: impl FnOnce(u64) -> Result<Vec<u64>, CUresult>,
) -> Result<Vec<u64>, CUresult> {
    // Held while the server is asked: nobody else may use the same numbers.
    let mut next = lock(&NEXT_NODE);
    let first = *next;
    let listed = match ask(first) {
        Ok(listed) => listed,
        Err(code) => {
            *next += SKIPPED * NODE_HANDLE_STEP;
            return Err(code);
        }
    };
    let mut state = lock(&STATE);
    for &handle in listed.iter().filter(|handle| **handle >= first) {
        if handle - first > SKIPPED * NODE_HANDLE_STEP {
            return Err(CUDA_ERROR_UNKNOWN);
        }
        *next = (*next).max(handle + NODE_HANDLE_STEP);
        state.nodes.entry(handle).or_insert_with(|| {
            let (made, kept) = (Mutex::default(), Mutex::default());
            Arc::new(Node { handle, graph, kind: OnceLock::new(), made, kept })
        });
    }
    Ok(listed)
}

/// The node behind a program's handle.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` when there is none, or none any more.
pub(crate) fn node(pointer: *mut c_void) -> Result<Arc<Node>, CUresult> {
    lock(&STATE).nodes.get(&handles::number(pointer)).cloned().ok_or(CUDA_ERROR_INVALID_VALUE)
}

pub(crate) fn forget_node(handle: u64) {
    lock(&STATE).nodes.remove(&handle);
}

/// The server has a second name for a graph.
pub(crate) fn alias(graph: u64, alias: u64) {
    lock(&STATE).graphs.entry(graph).or_default().alias = Some(alias);
}

/// A graph goes: the name to destroy it by. Its nodes go with it, and its hold on user objects.
pub(crate) fn forget_graph(graph: u64) -> u64 {
    let mut state = lock(&STATE);
    state.nodes.retain(|_, node| node.graph != graph);
    let Graph { alias, objects } = state.graphs.remove(&graph).unwrap_or_default();
    drop(state);
    for (object, count) in objects {
        // What a graph holds is alive.
        let _ = user_objects::release(object, count);
    }
    alias.unwrap_or(graph)
}

/// A graph holds an object `count` times more.
pub(crate) fn hold(graph: u64, object: u64, count: u64) {
    *lock(&STATE).graphs.entry(graph).or_default().objects.entry(object).or_default() += count;
}

/// A graph lets go of an object `count` times.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` when it holds it less often.
pub(crate) fn let_go(graph: u64, object: u64, count: u64) -> Result<(), CUresult> {
    let mut state = lock(&STATE);
    let held = state.graphs.get_mut(&graph).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let left = held.objects.get_mut(&object).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    *left = left.checked_sub(count).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if *left == 0 {
        held.objects.remove(&object);
    }
    drop(state);
    user_objects::release(object, count)
}

/// One graph takes hold of what another one holds: a clone, or the parent of a child graph.
pub(crate) fn share_objects(from: u64, to: u64) {
    for object in objects_of(from) {
        if user_objects::retain(object, 1).is_ok() {
            hold(to, object, 1);
        }
    }
}

fn objects_of(graph: u64) -> Vec<u64> {
    lock(&STATE).graphs.get(&graph).map(|graph| graph.objects.keys().copied().collect()).unwrap_or_default()
}

/// An executable graph was made of a graph; it holds the user objects, too.
pub(crate) fn add_exec(exec: u64, graph: u64, flags: u64) {
    let objects: Vec<u64> =
        objects_of(graph).into_iter().filter(|object| user_objects::retain(*object, 1).is_ok()).collect();
    lock(&STATE).execs.insert(exec, Exec { flags, disabled: HashSet::new(), objects });
}

/// An executable graph goes: the user objects that its last replay may still use.
pub(crate) fn forget_exec(exec: u64) -> Vec<u64> {
    lock(&STATE).execs.remove(&exec).map(|exec| exec.objects).unwrap_or_default()
}

pub(crate) fn exec_flags(exec: u64) -> u64 {
    lock(&STATE).execs.get(&exec).map_or(0, |exec| exec.flags)
}

pub(crate) fn set_enabled(exec: u64, node: u64, enabled: bool) {
    if let Some(exec) = lock(&STATE).execs.get_mut(&exec) {
        if enabled {
            exec.disabled.remove(&node);
        } else {
            exec.disabled.insert(node);
        }
    }
}

pub(crate) fn is_enabled(exec: u64, node: u64) -> bool {
    lock(&STATE).execs.get(&exec).is_none_or(|exec| !exec.disabled.contains(&node))
}

/// A number for a host function of a graph, which no operation of the session has.
pub(crate) fn name_host_function() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    (1 << 63) | (LAST.fetch_add(1, Relaxed) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::result::CUDA_ERROR_OUT_OF_MEMORY;

    #[test]
    fn listed_nodes_are_named_once_and_go_with_their_graph() {
        let mine = name_node();
        add_node(mine, 0x51, 5, Made::Other);
        let listed = list(0x51, |first| Ok(vec![mine, first, first + NODE_HANDLE_STEP, first])).unwrap();
        assert_eq!(listed.len(), 4);
        assert!(node(handles::pointer(listed[2])).is_ok());
        assert!(name_node() > listed[2], "numbers the server used are not used again");
        assert_eq!(forget_graph(0x51), 0x51);
        for handle in listed {
            assert!(node(handles::pointer(handle)).is_err());
        }
    }

    #[test]
    fn numbers_of_a_failed_list_are_not_used_again() {
        let before = name_node();
        assert!(list(0x52, |_| Err(CUDA_ERROR_OUT_OF_MEMORY)).is_err());
        assert!(name_node() - before > SKIPPED * NODE_HANDLE_STEP);
        assert!(list(0x52, |_| Ok(vec![!15])).is_err(), "beyond what a session may have");
    }

    #[test]
    fn an_alias_is_what_a_graph_is_destroyed_by() {
        alias(0x53, 0x54);
        assert_eq!(forget_graph(0x53), 0x54);
        assert_eq!(forget_graph(0x53), 0x53);
    }

    #[test]
    fn nodes_are_enabled_until_told_otherwise() {
        add_exec(0x61, 0x62, 8);
        assert_eq!(exec_flags(0x61), 8);
        assert!(is_enabled(0x61, 1));
        set_enabled(0x61, 1, false);
        assert!(!is_enabled(0x61, 1) && is_enabled(0x61, 2));
        set_enabled(0x61, 1, true);
        assert!(is_enabled(0x61, 1));
    }
}
