//! What follows from the decoded functions of a module: which of them a kernel
//! can reach, and how its shared memory is laid out.

use super::{Env, Header, MAX_LOCAL, MAX_SHARED, Symbol};
use crate::decode::{self, Function};
use crate::module::{Kernel, Module, Param, ParseError};
use rustc_hash::{FxHashMap, FxHashSet};

/// Second pass and layout.
pub(super) fn finish(mut env: Env<'_, '_>, target_sm: u32) -> Result<Module, ParseError> {
    let mut functions: Vec<Function> = Vec::with_capacity(env.headers.len());
    for i in 0..env.headers.len() {
        let f = decode::function(&mut env, i)?;
        if f.frame_bytes > MAX_LOCAL {
            return Err(ParseError {
                line: 0,
                message: format!("{}: {} bytes of local memory", f.name, f.frame_bytes),
            });
        }
        functions.push(f);
    }
    let in_tables: Vec<usize> = env
        .globals
        .iter()
        .flat_map(|g| g.relocs.iter())
        .filter_map(|r| match env.symbols.get(r.1.as_str()) {
            Some(Symbol::Function(i)) => Some(*i),
            _ => None,
        })
        .collect();
    let mut module = Module {
        kernels: Vec::new(),
        by_name: FxHashMap::default(),
        globals: Vec::new(),
        functions: Vec::new(),
        function_names: FxHashMap::default(),
        target_sm,
        uses_printf: functions.iter().any(|f| f.prints),
    };
    for (i, h) in env.headers.iter().enumerate() {
        module.function_names.insert(h.name.to_owned(), i);
        if h.entry && h.body.is_some() {
            let k = kernel(&env, h, i, &functions, &in_tables)?;
            module.by_name.insert(k.name.clone(), module.kernels.len());
            module.kernels.push(k);
        }
    }
    module.globals = env.globals;
    module.functions = functions;
    Ok(module)
}

fn kernel(
    env: &Env<'_, '_>,
    h: &Header<'_, '_>,
    index: usize,
    functions: &[Function],
    in_tables: &[usize],
) -> Result<Kernel, ParseError> {
    let mut reachable = Vec::new();
    let mut seen = FxHashSet::default();
    let mut todo = vec![index];
    let mut tables_done = false;
    while let Some(i) = todo.pop() {
        if !seen.insert(i) {
            continue;
        }
        reachable.push(i);
        if let Some(f) = functions.get(i) {
            todo.extend_from_slice(&f.refers_to);
            if f.calls_indirectly && !tables_done {
                tables_done = true;
                todo.extend_from_slice(in_tables);
            }
        }
    }
    let mut used: Vec<usize> = reachable
        .iter()
        .filter_map(|i| functions.get(*i))
        .flat_map(|f| f.shared_used.iter().copied())
        .collect();
    used.sort_unstable();
    used.dedup();
    let mut offset = 0usize;
    let mut dynamic_align = 16usize;
    let mut shared_offsets = FxHashMap::default();
    for s in &used {
        let Some(v) = env.shared.get(*s) else { continue };
        if v.dynamic {
            dynamic_align = dynamic_align.max(v.align);
            continue;
        }
        offset = offset.next_multiple_of(v.align);
        shared_offsets.insert(*s, offset);
        offset = offset.saturating_add(v.size);
        if offset > MAX_SHARED {
            return Err(ParseError {
                line: 0,
                message: format!("{}: more than {MAX_SHARED} bytes of shared memory", h.name),
            });
        }
    }
    let dynamic = offset.next_multiple_of(dynamic_align);
    for s in used {
        if env.shared.get(s).is_some_and(|v| v.dynamic) {
            shared_offsets.insert(s, dynamic);
        }
    }
    let regs = functions.get(index).map_or(0, |f| f.register_count);
    let max_threads = h.max_threads.unwrap_or(1024).min(1024);
    Ok(Kernel {
        name: h.name.to_owned(),
        params: h.params.iter().map(|p| Param { offset: p.offset, size: p.size, align: p.align }).collect(),
        param_bytes: h.params.last().map_or(0, |p| p.offset + p.size),
        static_shared: offset,
        local_bytes: functions.get(index).map_or(0, |f| f.frame_bytes),
        max_threads,
        required_block: h.required_block,
        required_cluster: h.required_cluster,
        // A compiler fits its registers to the block size that is promised: 65,536 for all its threads.
        num_regs: regs.clamp(16, 255.min(65_536 / max_threads.max(1))),
        dynamic_shared_offset: dynamic,
        function: index,
        reachable,
        shared_offsets,
    })
}
