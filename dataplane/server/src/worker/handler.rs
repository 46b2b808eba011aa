//! The worker's side of the op table: one method an operation, each a line that says where it is done.

use fusewire_wire::digest::Digest;
use fusewire_wire::ops::table::*;
use fusewire_wire::ops::{Answer, Call, Nothing, Replies, Status, SyncRecord};

use super::fences::Purpose;
use super::gpu::Gpu;

type Sync<R> = Result<Answer<<R as SyncRecord>::Reply>, Status>;
type Async = Result<(), Status>;

/// The answer of an operation that returns nothing.
const DONE: Answer<Nothing> = Answer::Now(Nothing {}, Vec::new());

fn now<R>(reply: R) -> Result<Answer<R>, Status> {
    Ok(Answer::of(reply))
}

/// Answered already, or by the GPU in its time.
fn later(reply: Option<Nothing>) -> Result<Answer<Nothing>, Status> {
    Ok(reply.map_or(Answer::Later, Answer::of))
}

impl Gpu {
    /// A load's answer: its logs come back even when it fails.
    fn logged(
        &mut self,
        call: Call,
        result: Result<Answer<Nothing>, (Status, Vec<u8>)>,
    ) -> Result<Answer<Nothing>, Status> {
        result.or_else(|(status, logs)| {
            self.out.reply(call.number, status, &[], &logs);
            Ok(Answer::Later)
        })
    }
}

impl Replies for Gpu {
    fn reply(&mut self, number: u64, status: Status, fixed: &[u8], tail: &[u8]) {
        self.out.reply(number, status, fixed, tail);
    }

    fn failed(&mut self, number: u64, status: Status) {
        let sticky = self.contexts.get(self.concerned).is_ok_and(|context| context.lost.is_some());
        self.out.failed(number, self.concerned, status, sticky);
    }
}

impl Handler for Gpu {
    fn primary_retain(&mut self, _: Call, r: &PrimaryRetain, _: &[u8]) -> Sync<PrimaryRetain> {
        self.primary_retain(r)?;
        Ok(DONE)
    }

    fn primary_release(&mut self, _: Call, r: &PrimaryRelease, _: &[u8]) -> Async {
        self.primary_release(r.context)
    }

    fn primary_reset(&mut self, call: Call, r: &PrimaryReset, _: &[u8]) -> Sync<PrimaryReset> {
        later(self.primary_reset(call, r.context)?)
    }

    fn ctx_create(&mut self, _: Call, r: &CtxCreate, _: &[u8]) -> Sync<CtxCreate> {
        self.ctx_create(r)?;
        Ok(DONE)
    }

    fn ctx_destroy(&mut self, _: Call, r: &CtxDestroy, _: &[u8]) -> Async {
        self.ctx_destroy(r.context)
    }

    fn ctx_synchronize(&mut self, call: Call, r: &CtxSynchronize, _: &[u8]) -> Sync<CtxSynchronize> {
        later(self.ctx_synchronize(call, r.context)?)
    }

    fn ctx_set_limit(&mut self, _: Call, r: &CtxSetLimit, _: &[u8]) -> Sync<CtxSetLimit> {
        self.ctx_set_limit(r)?;
        Ok(DONE)
    }

    fn ctx_get_limit(&mut self, _: Call, r: &CtxGetLimit, _: &[u8]) -> Sync<CtxGetLimit> {
        now(LimitReply { value: self.ctx_get_limit(r.context, r.limit)? })
    }

    fn ctx_set_cache_config(&mut self, _: Call, r: &CtxSetCacheConfig, _: &[u8]) -> Async {
        self.ctx_set_cache_config(r.context, r.config)
    }

    fn ctx_reset_persisting_l2(&mut self, _: Call, r: &CtxResetPersistingL2, _: &[u8]) -> Async {
        self.ctx_reset_persisting_l2(r.context)
    }

    fn ctx_enable_peer(&mut self, _: Call, r: &CtxEnablePeer, _: &[u8]) -> Sync<CtxEnablePeer> {
        self.ctx_enable_peer(r)?;
        Ok(DONE)
    }

    fn ctx_disable_peer(&mut self, _: Call, r: &CtxDisablePeer, _: &[u8]) -> Sync<CtxDisablePeer> {
        self.ctx_disable_peer(r.context, r.peer)?;
        Ok(DONE)
    }

    fn profiler(&mut self, _: Call, r: &Profiler, _: &[u8]) -> Async {
        self.profiler(r.context, r.start != 0)
    }

    fn block_map(&mut self, call: Call, r: &BlockMap, _: &[u8]) -> Sync<BlockMap> {
        later(self.block_map(call, r)?)
    }

    fn block_unmap(&mut self, call: Call, r: &BlockUnmap, _: &[u8]) -> Async {
        self.block_unmap(call, r)
    }

    fn fence(&mut self, call: Call, r: &Fence, _: &[u8]) -> Async {
        self.contexts.get(r.context)?;
        self.concerned = r.context;
        let purpose = Purpose::Done { number: call.number };
        match r.through {
            0 => self.fence(r.context, purpose),
            through => self.fence_through(r.context, through, purpose),
        }
        Ok(())
    }

    fn mem_info(&mut self, _: Call, r: &MemInfo, _: &[u8]) -> Sync<MemInfo> {
        let (free, total) = self.mem_info(r.context)?;
        now(MemInfoReply { free, total })
    }

    fn vmm_create(&mut self, _: Call, r: &VmmCreate, _: &[u8]) -> Sync<VmmCreate> {
        self.vmm_create(r)?;
        Ok(DONE)
    }

    fn vmm_release(&mut self, _: Call, r: &VmmRelease, _: &[u8]) -> Async {
        self.vmm_release(r.allocation)
    }

    fn vmm_map(&mut self, _: Call, r: &VmmMap, _: &[u8]) -> Sync<VmmMap> {
        self.vmm_map(r)?;
        Ok(DONE)
    }

    fn vmm_unmap(&mut self, _: Call, r: &VmmUnmap, _: &[u8]) -> Sync<VmmUnmap> {
        self.vmm_unmap(r)?;
        Ok(DONE)
    }

    fn vmm_set_access(&mut self, _: Call, r: &VmmSetAccess, _: &[u8]) -> Sync<VmmSetAccess> {
        self.vmm_set_access(r)?;
        Ok(DONE)
    }

    fn host_mirror(&mut self, _: Call, r: &HostMirror, _: &[u8]) -> Sync<HostMirror> {
        self.host_mirror(r)?;
        Ok(DONE)
    }

    fn host_write(&mut self, _: Call, r: &HostWrite, tail: &[u8]) -> Async {
        self.host_write(r, tail)
    }

    fn host_unmirror(&mut self, call: Call, r: &HostUnmirror, _: &[u8]) -> Async {
        self.host_unmirror(call, r)
    }

    fn host_share(&mut self, _: Call, r: &HostShare, _: &[u8]) -> Sync<HostShare> {
        self.host_share(r)?;
        Ok(DONE)
    }

    fn host_unshare(&mut self, call: Call, r: &HostUnshare, _: &[u8]) -> Async {
        self.host_unshare(call, r)
    }

    fn copy_in(&mut self, call: Call, r: &CopyIn, _: &[u8]) -> Async {
        self.copy_in(call, r)
    }

    fn copy_in_inline(&mut self, _: Call, r: &CopyInInline, tail: &[u8]) -> Async {
        self.copy_in_inline(r, tail)
    }

    fn copy_out(&mut self, call: Call, r: &CopyOut, _: &[u8]) -> Async {
        self.copy_out(call, r)
    }

    fn copy_within(&mut self, _: Call, r: &CopyWithin, _: &[u8]) -> Async {
        self.copy_within(r)
    }

    fn copy_rect(&mut self, call: Call, r: &CopyRect, _: &[u8]) -> Async {
        self.copy_rect(call, r)
    }

    fn memset(&mut self, _: Call, r: &Memset, _: &[u8]) -> Async {
        self.memset(r)
    }

    fn stream_create(&mut self, _: Call, r: &StreamCreate, _: &[u8]) -> Async {
        self.stream_create(r)
    }

    fn stream_default(&mut self, _: Call, r: &StreamDefault, _: &[u8]) -> Async {
        self.stream_default(r)
    }

    fn stream_destroy(&mut self, _: Call, r: &StreamDestroy, _: &[u8]) -> Async {
        self.stream_destroy(r.stream)
    }

    fn stream_synchronize(&mut self, call: Call, r: &StreamSynchronize, _: &[u8]) -> Sync<StreamSynchronize> {
        later(self.stream_synchronize(call, r.stream)?)
    }

    fn stream_query(&mut self, call: Call, r: &StreamQuery, _: &[u8]) -> Sync<StreamQuery> {
        self.stream_query(call, r)?;
        Ok(DONE)
    }

    fn stream_wait_event(&mut self, _: Call, r: &StreamWaitEvent, _: &[u8]) -> Async {
        self.stream_wait_event(r)
    }

    fn stream_wait_value(&mut self, _: Call, r: &StreamWaitValue, _: &[u8]) -> Async {
        self.stream_wait_value(r)
    }

    fn stream_write_value(&mut self, _: Call, r: &StreamWriteValue, _: &[u8]) -> Async {
        self.stream_write_value(r)
    }

    fn stream_mark(&mut self, _: Call, r: &StreamMark, _: &[u8]) -> Async {
        self.stream_mark(r)
    }

    fn stream_set_attribute(&mut self, _: Call, r: &StreamSetAttribute, tail: &[u8]) -> Async {
        self.stream_set_attribute(r, tail)
    }

    fn event_create(&mut self, _: Call, r: &EventCreate, _: &[u8]) -> Async {
        self.event_create(r)
    }

    fn event_destroy(&mut self, _: Call, r: &EventDestroy, _: &[u8]) -> Async {
        self.event_destroy(r.event)
    }

    fn event_record(&mut self, call: Call, r: &EventRecord, _: &[u8]) -> Async {
        self.event_record(call, r)
    }

    fn event_query(&mut self, call: Call, r: &EventQuery, _: &[u8]) -> Sync<EventQuery> {
        self.event_query(call, r)?;
        Ok(DONE)
    }

    fn event_elapsed(&mut self, _: Call, r: &EventElapsed, _: &[u8]) -> Sync<EventElapsed> {
        now(ElapsedReply { milliseconds: self.event_elapsed(r)?, reserved: 0 })
    }

    fn host_func(&mut self, call: Call, r: &HostFunc, _: &[u8]) -> Async {
        self.host_func(call, r.stream)
    }

    fn host_func_done(&mut self, _: Call, r: &HostFuncDone, _: &[u8]) -> Async {
        self.host_func_done(r.function)
    }

    fn blob_part(&mut self, _: Call, r: &BlobPart, tail: &[u8]) -> Async {
        self.blob_part(r, tail)
    }

    fn blob_encoded(&mut self, _: Call, r: &BlobEncoded, tail: &[u8]) -> Async {
        self.blob_encoded(r, tail)
    }

    fn blob_named(&mut self, _: Call, r: &BlobNamed, _: &[u8]) -> Async {
        let digest = Digest::from_words([r.digest_0, r.digest_1, r.digest_2, r.digest_3]);
        self.blobs.named(r.blob, r.bytes, digest)
    }

    fn function_bind(&mut self, _: Call, r: &FunctionBind, tail: &[u8]) -> Async {
        self.function_bind(r, tail)
    }

    fn module_load(&mut self, call: Call, r: &ModuleLoad, tail: &[u8]) -> Sync<ModuleLoad> {
        let result = self.module_load(r, tail);
        self.logged(call, result)
    }

    fn module_unload(&mut self, _: Call, r: &ModuleUnload, _: &[u8]) -> Async {
        self.module_unload(r.module)
    }

    fn module_get_function(
        &mut self,
        _: Call,
        r: &ModuleGetFunction,
        tail: &[u8],
    ) -> Sync<ModuleGetFunction> {
        self.module_get_function(r, tail)
    }

    fn module_get_global(&mut self, _: Call, r: &ModuleGetGlobal, tail: &[u8]) -> Sync<ModuleGetGlobal> {
        now(self.module_get_global(r.module, tail)?)
    }

    fn module_names(&mut self, _: Call, r: &ModuleNames, _: &[u8]) -> Sync<ModuleNames> {
        let (count, names) = self.module_names(r.module)?;
        Ok(Answer::Now(NamesReply { count, reserved: 0 }, names))
    }

    fn library_load(&mut self, call: Call, r: &LibraryLoad, tail: &[u8]) -> Sync<LibraryLoad> {
        let result = self.library_load(r, tail);
        self.logged(call, result)
    }

    fn library_unload(&mut self, _: Call, r: &LibraryUnload, _: &[u8]) -> Async {
        self.library_unload(r.library)
    }

    fn library_get_kernel(&mut self, _: Call, r: &LibraryGetKernel, tail: &[u8]) -> Sync<LibraryGetKernel> {
        self.library_get_kernel(r, tail)
    }

    fn library_get_global(&mut self, _: Call, r: &LibraryGetGlobal, tail: &[u8]) -> Sync<LibraryGetGlobal> {
        now(self.library_get_global(r, tail)?)
    }

    fn library_get_module(&mut self, _: Call, r: &LibraryGetModule, _: &[u8]) -> Sync<LibraryGetModule> {
        self.library_get_module(r)?;
        Ok(DONE)
    }

    fn library_names(&mut self, _: Call, r: &LibraryNames, _: &[u8]) -> Sync<LibraryNames> {
        let (count, names) = self.library_names(r.library)?;
        Ok(Answer::Now(LibraryNamesReply { count, reserved: 0 }, names))
    }

    fn func_get_attribute(&mut self, _: Call, r: &FuncGetAttribute, _: &[u8]) -> Sync<FuncGetAttribute> {
        now(AttributeReply { value: self.func_get_attribute(r)?, reserved: 0 })
    }

    fn func_set_attribute(&mut self, _: Call, r: &FuncSetAttribute, _: &[u8]) -> Async {
        self.func_set_attribute(r)
    }

    fn func_set_cache_config(&mut self, _: Call, r: &FuncSetCacheConfig, _: &[u8]) -> Async {
        self.func_set_cache_config(r)
    }

    fn occupancy(&mut self, _: Call, r: &Occupancy, _: &[u8]) -> Sync<Occupancy> {
        now(OccupancyReply { blocks: self.occupancy(r)?, reserved: 0 })
    }

    fn occupancy_block_size(
        &mut self,
        _: Call,
        r: &OccupancyBlockSize,
        tail: &[u8],
    ) -> Sync<OccupancyBlockSize> {
        now(self.occupancy_block_size(r, tail)?)
    }

    fn occupancy_shared_mem(
        &mut self,
        _: Call,
        r: &OccupancySharedMem,
        _: &[u8],
    ) -> Sync<OccupancySharedMem> {
        now(SharedMemReply { bytes: self.occupancy_shared_mem(r)? })
    }

    fn occupancy_clusters(&mut self, _: Call, r: &OccupancyClusters, tail: &[u8]) -> Sync<OccupancyClusters> {
        now(ClustersReply { value: self.occupancy_clusters(r, tail)?, reserved: 0 })
    }

    fn link(&mut self, call: Call, r: &Link, tail: &[u8]) -> Sync<Link> {
        let result = self.link(r, tail);
        self.logged(call, result)
    }

    fn launch(&mut self, _: Call, r: &Launch, tail: &[u8]) -> Async {
        self.launch(r, tail)
    }

    fn launch_ex(&mut self, call: Call, r: &LaunchEx, tail: &[u8]) -> Async {
        self.launch_ex(call, r, tail)
    }

    fn capture_begin(&mut self, _: Call, r: &CaptureBegin, _: &[u8]) -> Async {
        self.capture_begin(r.stream, r.mode)
    }

    fn capture_begin_to(&mut self, _: Call, r: &CaptureBeginTo, tail: &[u8]) -> Sync<CaptureBeginTo> {
        self.capture_begin_to(r, tail)?;
        Ok(DONE)
    }

    fn capture_end(&mut self, _: Call, r: &CaptureEnd, _: &[u8]) -> Sync<CaptureEnd> {
        self.capture_end(r.stream, r.graph)?;
        Ok(DONE)
    }

    fn capture_info(&mut self, _: Call, r: &CaptureInfo, _: &[u8]) -> Sync<CaptureInfo> {
        self.capture_info(r)
    }

    fn capture_update(&mut self, _: Call, r: &CaptureUpdate, tail: &[u8]) -> Sync<CaptureUpdate> {
        self.capture_update(r, tail)?;
        Ok(DONE)
    }

    fn graph_create(&mut self, _: Call, r: &GraphCreate, _: &[u8]) -> Async {
        self.graph_create(r.graph)
    }

    fn graph_destroy(&mut self, _: Call, r: &GraphDestroy, _: &[u8]) -> Async {
        self.graph_destroy(r.graph)
    }

    fn graph_clone(&mut self, _: Call, r: &GraphClone, _: &[u8]) -> Sync<GraphClone> {
        self.graph_clone(r.graph, r.clone)?;
        Ok(DONE)
    }

    fn graph_instantiate(&mut self, _: Call, r: &GraphInstantiate, _: &[u8]) -> Sync<GraphInstantiate> {
        self.graph_instantiate(r)?;
        Ok(DONE)
    }

    fn graph_launch(&mut self, _: Call, r: &GraphLaunch, _: &[u8]) -> Async {
        self.graph_launch(r.exec, r.stream)
    }

    fn graph_upload(&mut self, _: Call, r: &GraphUpload, _: &[u8]) -> Async {
        self.graph_upload(r.exec, r.stream)
    }

    fn graph_exec_destroy(&mut self, _: Call, r: &GraphExecDestroy, _: &[u8]) -> Async {
        self.graph_exec_destroy(r.exec)
    }

    fn graph_exec_update(&mut self, _: Call, r: &GraphExecUpdate, _: &[u8]) -> Sync<GraphExecUpdate> {
        now(self.graph_exec_update(r.exec, r.graph)?)
    }

    fn graph_nodes(&mut self, _: Call, r: &GraphNodes, _: &[u8]) -> Sync<GraphNodes> {
        let (count, made, names) = self.graph_nodes(r)?;
        Ok(Answer::Now(GraphNodesReply { count, made }, names))
    }

    fn graph_edges(&mut self, _: Call, r: &GraphEdges, _: &[u8]) -> Sync<GraphEdges> {
        let (count, made, names) = self.graph_edges(r)?;
        Ok(Answer::Now(GraphEdgesReply { count, made }, names))
    }

    fn node_type(&mut self, _: Call, r: &NodeType, _: &[u8]) -> Sync<NodeType> {
        now(NodeTypeReply { kind: self.node_type(r.node)?, reserved: 0 })
    }

    fn node_neighbours(&mut self, _: Call, r: &NodeNeighbours, _: &[u8]) -> Sync<NodeNeighbours> {
        let (count, made, names) = self.node_neighbours(r)?;
        Ok(Answer::Now(NeighboursReply { count, made }, names))
    }

    fn add_kernel_node(&mut self, _: Call, r: &AddKernelNode, tail: &[u8]) -> Sync<AddKernelNode> {
        self.add_kernel_node(r, tail)?;
        Ok(DONE)
    }

    fn add_memcpy_node(&mut self, _: Call, r: &AddMemcpyNode, tail: &[u8]) -> Sync<AddMemcpyNode> {
        self.add_memcpy_node(r, tail)?;
        Ok(DONE)
    }

    fn add_memset_node(&mut self, _: Call, r: &AddMemsetNode, tail: &[u8]) -> Sync<AddMemsetNode> {
        self.add_memset_node(r, tail)?;
        Ok(DONE)
    }

    fn add_node(&mut self, call: Call, r: &AddNode, tail: &[u8]) -> Sync<AddNode> {
        self.add_plain_node(call, r, tail)?;
        Ok(DONE)
    }

    fn add_dependencies(&mut self, _: Call, r: &AddDependencies, tail: &[u8]) -> Sync<AddDependencies> {
        self.add_dependencies(r, tail)?;
        Ok(DONE)
    }

    fn node_destroy(&mut self, _: Call, r: &NodeDestroy, _: &[u8]) -> Sync<NodeDestroy> {
        self.node_destroy(r.node)?;
        Ok(DONE)
    }

    fn node_set_kernel(&mut self, _: Call, r: &NodeSetKernel, tail: &[u8]) -> Sync<NodeSetKernel> {
        self.node_set_kernel(r, tail)?;
        Ok(DONE)
    }

    fn node_get_kernel(&mut self, _: Call, r: &NodeGetKernel, _: &[u8]) -> Sync<NodeGetKernel> {
        self.node_get_kernel(r.node)
    }

    fn node_set_enabled(&mut self, _: Call, r: &NodeSetEnabled, _: &[u8]) -> Sync<NodeSetEnabled> {
        self.node_set_enabled(r.node, r.exec, r.enabled)?;
        Ok(DONE)
    }

    fn graph_dot(&mut self, _: Call, r: &GraphDot, _: &[u8]) -> Sync<GraphDot> {
        self.graph_dot(r.graph, r.flags)
    }

    fn node_set_memcpy(&mut self, _: Call, r: &NodeSetMemcpy, _: &[u8]) -> Sync<NodeSetMemcpy> {
        self.node_set_memcpy(r)?;
        Ok(DONE)
    }

    fn node_set_memset(&mut self, _: Call, r: &NodeSetMemset, _: &[u8]) -> Sync<NodeSetMemset> {
        self.node_set_memset(r)?;
        Ok(DONE)
    }

    fn node_set_object(&mut self, _: Call, r: &NodeSetObject, _: &[u8]) -> Sync<NodeSetObject> {
        self.node_set_object(r)?;
        Ok(DONE)
    }

    fn node_set_attribute(&mut self, _: Call, r: &NodeSetAttribute, tail: &[u8]) -> Sync<NodeSetAttribute> {
        self.node_set_attribute(r.node, r.attribute, tail)?;
        Ok(DONE)
    }

    fn node_get_attribute(&mut self, _: Call, r: &NodeGetAttribute, _: &[u8]) -> Sync<NodeGetAttribute> {
        self.node_get_attribute(r.node, r.attribute).map(|value| Answer::Now(Nothing {}, value))
    }

    fn node_copy_attributes(
        &mut self,
        _: Call,
        r: &NodeCopyAttributes,
        _: &[u8],
    ) -> Sync<NodeCopyAttributes> {
        self.node_copy_attributes(r.destination, r.source)?;
        Ok(DONE)
    }

    fn child_graph(&mut self, _: Call, r: &ChildGraph, _: &[u8]) -> Sync<ChildGraph> {
        self.child_graph(r.node, r.graph).map(|graph| Answer::of(ChildGraphReply { graph }))
    }

    fn node_in_clone(&mut self, _: Call, r: &NodeInClone, _: &[u8]) -> Sync<NodeInClone> {
        self.node_in_clone(r).map(|node| Answer::of(NodeInCloneReply { node }))
    }

    fn array_create(&mut self, _: Call, r: &ArrayCreate, _: &[u8]) -> Sync<ArrayCreate> {
        self.array_create(r)?;
        Ok(DONE)
    }

    fn array_destroy(&mut self, _: Call, r: &ArrayDestroy, _: &[u8]) -> Async {
        self.array_destroy(r.array)
    }

    fn texture_create(&mut self, _: Call, r: &TextureCreate, tail: &[u8]) -> Sync<TextureCreate> {
        now(ObjectReply { object: self.texture_create(r, tail)? })
    }

    fn texture_destroy(&mut self, _: Call, r: &TextureDestroy, _: &[u8]) -> Async {
        self.texture_destroy(r.context, r.object)
    }

    fn surface_create(&mut self, _: Call, r: &SurfaceCreate, tail: &[u8]) -> Sync<SurfaceCreate> {
        now(SurfaceReply { object: self.surface_create(r, tail)? })
    }

    fn surface_destroy(&mut self, _: Call, r: &SurfaceDestroy, _: &[u8]) -> Async {
        self.surface_destroy(r.context, r.object)
    }

    fn tensor_map(&mut self, _: Call, r: &TensorMap, tail: &[u8]) -> Sync<TensorMap> {
        Ok(Answer::Now(Nothing {}, self.tensor_map(r, tail)?))
    }
}
