"""Programs made of driver calls in random order, whose results are decided by CUDA's rules alone.

    python3 random_calls.py SEED [CALLS [THREADS]]

The same seed makes the same calls with any driver, and prints the same lines: what the program saw each time it looked
(checksums of memory, return codes, attributes), and at the end all memory. So two drivers are compared by comparing
what is printed. Nothing is looked at, and nothing touched, before the rules say that it is ready: the program keeps
account of what each stream was given and of what a synchronisation, an event or the legacy stream puts in order, also
through others, and adds what is missing. Nothing more, so that a driver which orders too little shows.

What is no rule of CUDA's is not relied on: that an event on the legacy stream comes behind other streams, for example.
Nor is one that NVIDIA's driver (580) does not keep: a copy of some KiB from pinned memory on a stream that only comes
behind the legacy stream as all blocking ones do reads the memory when it is called. Put behind it by an event it does not.
"""

import ctypes
import random
import sys
import threading
import zlib
from ctypes import byref, c_size_t, c_ubyte, c_uint, c_uint64, c_ushort, c_void_p

import driver
from driver import call

KERNELS = """
.version 8.0
.target sm_80
.address_size 64

// a[i] goes through so many steps of a generator of random numbers, for the first n elements.
.visible .entry churn(.param .u64 a, .param .u32 steps, .param .u32 n)
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<8>;
    .reg .pred %p;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [n];
    setp.ge.u32 %p, %r4, %r5;
    @%p ret;
    ld.param.u64 %rd1, [a];
    mul.wide.u32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r6, [%rd3];
    ld.param.u32 %r5, [steps];
again:
    mad.lo.u32 %r6, %r6, 1664525, 1013904223;
    sub.u32 %r5, %r5, 1;
    setp.ne.u32 %p, %r5, 0;
    @%p bra again;
    st.global.u32 [%rd3], %r6;
    ret;
}

// b[i] = a[i] + i, for the first n elements.
.visible .entry number(.param .u64 a, .param .u64 b, .param .u32 n)
{
    .reg .b64 %rd<5>;
    .reg .b32 %r<7>;
    .reg .pred %p;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [n];
    setp.ge.u32 %p, %r4, %r5;
    @%p ret;
    mul.wide.u32 %rd2, %r4, 4;
    ld.param.u64 %rd1, [a];
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r6, [%rd3];
    add.u32 %r6, %r6, %r4;
    ld.param.u64 %rd1, [b];
    add.s64 %rd4, %rd1, %rd2;
    st.global.u32 [%rd4], %r6;
    ret;
}
"""

LEGACY, PER_THREAD = 0, 1
BLOCKING, NON_BLOCKING = 0, 1
HOST, DEVICE = 1, 2
DEVICE_KIND, PINNED_KIND, PAGEABLE_KIND = "device", "pinned", "pageable"
HOST_FUNCTION = ctypes.CFUNCTYPE(None, c_void_p)

# While a stream is captured no thread may wait for the whole context.
CAPTURES = threading.RLock()


class Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_ = [(end + name, kind) for end in ("src", "dst") for name, kind in (
        ("XInBytes", c_size_t), ("Y", c_size_t), ("MemoryType", c_uint), ("Host", c_void_p), ("Device", c_uint64),
        ("Array", c_void_p), ("Pitch", c_size_t))] + [("WidthInBytes", c_size_t), ("Height", c_size_t)]


class Memory:
    """A buffer, and who may still be using it: (stream, number of the use on that stream, whether it writes)."""

    def __init__(self, kind, size, fill):
        self.kind, self.size, self.uses = kind, size, []
        self.kept, self.is_pooled = None, False
        if kind == DEVICE_KIND:
            self.address = 0
        elif kind == PINNED_KIND:
            self.kept = driver.pinned(size)
            self.address = ctypes.addressof(self.kept)
        else:
            self.kept = (c_ubyte * size)()
            self.address = ctypes.addressof(self.kept)
        if self.kept is not None:
            ctypes.memmove(self.address, fill(size), size)

    @property
    def is_host(self):
        return self.kind != DEVICE_KIND


def later(one, other):
    """What comes behind both."""
    return [max(pair) for pair in zip(one, other)]


class Program:
    def __init__(self, seed, context, number, has_company):
        self.random = random.Random(seed)
        self.context, self.number, self.has_company = context, number, has_company
        self.lines = []
        self.counter = (c_uint * 1)()
        self.counted = 0
        self.uses_of_counter = Memory(PAGEABLE_KIND, 4, lambda size: bytes(size))
        # The functions must live as long as the streams may call them.
        self.on_host = HOST_FUNCTION(self.count_up)

    def begin(self):
        call("cuCtxSetCurrent", self.context)
        module = driver.module(KERNELS)
        self.churn, self.number_kernel = driver.function(module, "churn"), driver.function(module, "number")
        made = [self.make_stream(flags) for flags in (BLOCKING, BLOCKING, NON_BLOCKING, NON_BLOCKING)]
        self.streams = [c_void_p(self.random.choice([None, 1])), c_void_p(2), *made]
        self.is_blocking = [True, True, True, True, False, False]
        # How much each stream was given, and how much of the others came before the last of that.
        self.given = [0] * len(self.streams)
        self.behind = [[0] * len(self.streams) for _ in self.streams]
        # The same for the legacy stream, when it was last given something.
        self.barrier = [0] * len(self.streams)
        # How much of each is known to be finished.
        self.done = [0] * len(self.streams)
        # Each with what is finished when it is reached, and what must be for that.
        self.events = [[self.make_event(), None, None] for _ in range(6)]
        self.memories = []
        for _ in range(5):
            self.allocate(DEVICE_KIND)
        for kind in (PINNED_KIND, PINNED_KIND, PAGEABLE_KIND, PAGEABLE_KIND):
            self.allocate(kind)
        self.graphs = []

    # --- what is made -------------------------------------------------------------------------------

    def make_stream(self, flags):
        made = c_void_p()
        call("cuStreamCreate", byref(made), flags)
        return made

    def make_event(self):
        made = c_void_p()
        call("cuEventCreate", byref(made), self.random.choice([0, 2]))
        return made

    def bytes(self, size):
        return self.random.randbytes(size)

    def size(self):
        # A record, a batch, a staging slot, a chunk, several chunks.
        most = self.random.choice([64, 5000, 70_000, 300_000, 1_500_000])
        return self.random.randrange(4, most + 1) & ~3

    def allocate(self, kind):
        memory = Memory(kind, self.size(), self.bytes)
        if kind == DEVICE_KIND:
            address = c_uint64()
            stream = self.random.randrange(len(self.streams) + 4)
            if stream < len(self.streams):
                call("cuMemAllocAsync", byref(address), c_size_t(memory.size), self.streams[stream])
                memory.address, memory.is_pooled = address.value, True
                # What comes behind that may use it; it is nothing that the legacy stream puts others behind.
                self.given[stream] += 1
                memory.uses.append((stream, self.given[stream], True))
            else:
                memory.address = driver.alloc(memory.size)
            stream = self.any_stream()
            self.use(memory, stream, True)
            call("cuMemsetD8Async", c_uint64(memory.address), c_ubyte(17), c_size_t(memory.size), self.streams[stream])
        self.memories.append(memory)
        return memory

    # --- the rules ----------------------------------------------------------------------------------

    def before(self, stream):
        """How much of each stream comes before what this one is given next."""
        found = self.past(stream)
        if stream == LEGACY:
            for other in range(len(self.streams)):
                if self.is_blocking[other]:
                    found = later(found, self.past(other))
        elif self.is_blocking[stream]:
            found = later(found, self.barrier)
        return found

    def past(self, stream):
        """How much of each stream has been finished when all that this one was given is."""
        found = list(self.behind[stream])
        found[stream] = self.given[stream]
        return found

    def note(self, memory, stream, writes):
        self.behind[stream] = self.before(stream)
        self.given[stream] += 1
        if stream == LEGACY:
            self.barrier = self.past(stream)
        memory.uses.append((stream, self.given[stream], writes))

    def use(self, memory, stream, writes):
        """Something on a stream is about to use memory: comes after whatever it must come after."""
        self.come_after(memory, stream, writes, self.before)
        self.note(memory, stream, writes)

    def read_by_copy(self, memory, stream):
        """The same of a copy that reads memory of the host: of the order with the legacy stream alone it knows nothing."""
        self.come_after(memory, stream, False, self.past)
        self.note(memory, stream, False)

    def come_after(self, memory, stream, writes, before):
        for other, number, _ in [use for use in memory.uses if use[2] or writes]:
            if number > before(stream)[other]:
                self.order(other, stream)

    def order(self, first, second):
        if self.random.random() < 0.8:
            event = self.random.choice(self.events)
            self.record(event, first)
            call("cuStreamWaitEvent", self.streams[second], event[0], 0)
            self.behind[second] = later(self.behind[second], event[1])
        else:
            self.synchronize(first)

    def record(self, event, stream):
        call("cuEventRecord", event[0], self.streams[stream])
        # It comes behind what comes before it, but puts nothing else there.
        before = self.before(stream)
        self.given[stream] += 1
        event[1] = self.past(stream)
        # On the legacy stream it may wait for others; and with company, others on the legacy stream for more than is known.
        waits = stream == LEGACY or (self.has_company and self.is_blocking[stream])
        event[2] = None if waits else later(before, event[1])

    def finished(self, past):
        self.done = later(self.done, past)
        for memory in [*self.memories, self.uses_of_counter]:
            memory.uses = [use for use in memory.uses if use[1] > past[use[0]]]
        self.behind = [later(behind, past) for behind in self.behind]

    def synchronize(self, stream):
        how = self.random.randrange(4)
        past = self.past(stream)
        if how == 0:
            event = self.random.choice(self.events)
            self.record(event, stream)
            call("cuEventSynchronize", event[0])
        elif how == 1:
            while driver.code_of(call, "cuStreamQuery", self.streams[stream]) == driver.NOT_READY:
                pass
        else:
            call("cuStreamSynchronize", self.streams[stream])
        self.finished(past)

    def synchronize_all(self):
        with CAPTURES:
            call("cuCtxSynchronize")
        self.finished(list(self.given))

    def host_uses(self, memory, writes):
        """The program itself is about to use memory."""
        while uses := [use for use in memory.uses if use[2] or writes]:
            self.synchronize(self.random.choice(uses)[0])

    # --- choices ------------------------------------------------------------------------------------

    def any_stream(self):
        return self.random.randrange(len(self.streams))

    def any(self, *kinds):
        return self.random.choice([memory for memory in self.memories if memory.kind in kinds])

    def part(self, memory, unit=1, most=None):
        """A piece of a buffer: where, and how long."""
        units = memory.size // unit
        if self.random.random() < 0.3 and (most is None or memory.size <= most):
            return memory.address, units * unit
        length = self.random.randint(1, min(units, (most or memory.size) // unit))
        return memory.address + self.random.randint(0, units - length) * unit, length * unit

    def two_parts(self, first, second, most=None):
        _, length = self.part(self.random.choice([first, second]))
        length = min(length, first.size, second.size, most or length)
        place = lambda memory: memory.address + self.random.randint(0, memory.size - length)
        return place(first), place(second), length

    def see(self, *what):
        self.lines.append(" ".join(map(str, what)))

    # --- calls --------------------------------------------------------------------------------------

    def do_memset(self):
        stream, memory = self.any_stream(), self.any(DEVICE_KIND)
        unit = self.random.choice([1, 2, 4])
        address, length = self.part(memory, unit)
        self.use(memory, stream, True)
        value = {1: c_ubyte, 2: c_ushort, 4: c_uint}[unit](self.random.getrandbits(8 * unit))
        call(f"cuMemsetD{8 * unit}Async", c_uint64(address), value, c_size_t(length // unit), self.streams[stream])

    def do_copy_in(self):
        source, memory = self.any(PINNED_KIND, PAGEABLE_KIND), self.any(DEVICE_KIND)
        start, address, length = self.two_parts(source, memory)
        if self.random.random() < 0.3:
            self.host_uses(source, False)
            self.use(memory, LEGACY, True)
            call("cuMemcpyHtoD_v2", c_uint64(address), c_void_p(start), c_size_t(length))
        else:
            stream = self.any_stream()
            if source.kind == PAGEABLE_KIND:
                # Read when the call returns, and free to be changed.
                self.host_uses(source, False)
            else:
                self.read_by_copy(source, stream)
            self.use(memory, stream, True)
            call("cuMemcpyHtoDAsync_v2", c_uint64(address), c_void_p(start), c_size_t(length), self.streams[stream])

    def do_copy_out(self):
        memory, target = self.any(DEVICE_KIND), self.any(PINNED_KIND, PAGEABLE_KIND)
        address, start, length = self.two_parts(memory, target)
        if self.random.random() < 0.3:
            self.host_uses(target, True)
            self.use(memory, LEGACY, False)
            call("cuMemcpyDtoH_v2", c_void_p(start), c_uint64(address), c_size_t(length))
            self.see("out", zlib.crc32(ctypes.string_at(start, length)))
            self.finished(self.past(LEGACY))
        else:
            stream = self.any_stream()
            self.use(target, stream, True)
            self.use(memory, stream, False)
            call("cuMemcpyDtoHAsync_v2", c_void_p(start), c_uint64(address), c_size_t(length), self.streams[stream])

    def do_copy_within(self):
        source, target = self.any(DEVICE_KIND), self.any(DEVICE_KIND)
        if source is target:
            return
        start, address, length = self.two_parts(source, target)
        stream = self.any_stream()
        self.use(source, stream, False)
        self.use(target, stream, True)
        name = self.random.choice(["cuMemcpyDtoDAsync_v2", "cuMemcpyAsync"])
        call(name, c_uint64(address), c_uint64(start), c_size_t(length), self.streams[stream])

    def do_copy_rect(self):
        kinds = self.random.choice([(DEVICE_KIND, DEVICE_KIND), (DEVICE_KIND, PINNED_KIND), (PINNED_KIND, DEVICE_KIND),
                                    (PAGEABLE_KIND, DEVICE_KIND)])
        source, target = self.any(kinds[0]), self.any(kinds[1])
        height = self.random.choice([1, 3, 40])
        width = min(source.size, target.size) // height
        if source is target or width == 0:
            return
        width = self.random.randint(1, width)
        copy = Copy2D(WidthInBytes=width, Height=height)
        for end, memory in (("src", source), ("dst", target)):
            setattr(copy, end + "MemoryType", HOST if memory.is_host else DEVICE)
            setattr(copy, end + ("Host" if memory.is_host else "Device"), memory.address)
            setattr(copy, end + "Pitch", self.random.randint(width, memory.size // height))
        stream = self.any_stream()
        if source.kind == PAGEABLE_KIND:
            self.host_uses(source, False)
        elif source.is_host:
            self.read_by_copy(source, stream)
        else:
            self.use(source, stream, False)
        self.use(target, stream, True)
        call("cuMemcpy2DAsync_v2", byref(copy), self.streams[stream])

    def do_churn(self):
        # On memory of the host too, which kernels use where it is.
        memory, stream = self.any(DEVICE_KIND, DEVICE_KIND, PINNED_KIND), self.any_stream()
        steps = self.random.choice([1, 20, 500])
        address, length = self.part(memory, 4, most=400_000 // steps)
        self.use(memory, stream, True)
        count = length // 4
        driver.launch(self.churn, (count + 127) // 128, 128, c_uint64(address), c_uint(steps), c_uint(count),
                      on=self.streams[stream])

    def do_number(self):
        source, target, stream = self.any(DEVICE_KIND, PINNED_KIND), self.any(DEVICE_KIND, PINNED_KIND), self.any_stream()
        if source is target:
            return
        count = self.random.randint(1, min(source.size, target.size, 200_000) // 4)
        self.use(source, stream, False)
        self.use(target, stream, True)
        driver.launch(self.number_kernel, (count + 127) // 128, 128, c_uint64(source.address),
                      c_uint64(target.address), c_uint(count), on=self.streams[stream])

    def count_up(self, _):
        self.counter[0] += 1

    def do_host_function(self):
        stream = self.any_stream()
        self.use(self.uses_of_counter, stream, True)
        call("cuLaunchHostFunc", self.streams[stream], self.on_host, None)
        self.counted += 1

    def do_look(self):
        memory = self.any(PINNED_KIND, PAGEABLE_KIND)
        self.host_uses(memory, False)
        address, length = self.part(memory)
        self.see("look", zlib.crc32(ctypes.string_at(address, length)))

    def do_write(self):
        memory = self.any(PINNED_KIND, PAGEABLE_KIND)
        self.host_uses(memory, True)
        address, length = self.part(memory)
        ctypes.memmove(address, self.bytes(length), length)

    def do_synchronize(self):
        if self.random.random() < 0.2:
            self.synchronize_all()
            self.host_uses(self.uses_of_counter, False)
            self.see("counted", self.counter[0] - self.counted)
        else:
            self.synchronize(self.any_stream())

    def do_event(self):
        event = self.random.choice(self.events)
        if event[1] is None or self.random.random() < 0.4:
            self.record(event, self.any_stream())
            return
        if self.random.random() < 0.5:
            while driver.code_of(call, "cuEventQuery", event[0]) == driver.NOT_READY:
                pass
        else:
            call("cuEventSynchronize", event[0])
        self.finished(event[1])
        self.see("event", driver.code_of(call, "cuEventQuery", event[0]))

    def do_know(self):
        """An event must be reached that comes before what the program has waited for, in whatever way."""
        known = [event for event in self.events if event[2] and later(event[2], self.done) == self.done]
        if known:
            event = self.random.choice(known)
            self.see("known", driver.code_of(call, "cuEventQuery", event[0]))

    def do_replace(self):
        """Frees a buffer, and makes another: what the old one held must stay out of the new one's way."""
        memory = self.random.choice(self.memories)
        self.drop_graphs(memory)
        if memory.kind == DEVICE_KIND and self.random.random() < 0.5:
            stream = self.any_stream()
            # Nor does this put anything behind other streams.
            self.come_after(memory, stream, True, self.before)
            call("cuMemFreeAsync", c_uint64(memory.address), self.streams[stream])
        else:
            self.host_uses(memory, True)
            if memory.kind == DEVICE_KIND:
                driver.free(memory.address)
            elif memory.kind == PINNED_KIND:
                call("cuMemFreeHost", c_void_p(memory.address))
        self.memories.remove(memory)
        self.allocate(memory.kind)

    def do_ask(self):
        memory = self.any(DEVICE_KIND, PINNED_KIND)
        address, _ = self.part(memory)
        kind, base, size = c_uint(), c_uint64(), c_size_t()
        call("cuPointerGetAttribute", byref(kind), 2, c_uint64(address))
        self.see("is", kind.value)
        # How much a pool takes for an allocation is its own affair.
        if not memory.is_pooled:
            code = driver.code_of(call, "cuMemGetAddressRange_v2", byref(base), byref(size), c_uint64(address))
            self.see("range", code, base.value - memory.address, size.value - memory.size)

    def do_misuse(self):
        """What is refused, and leaves everything as it was."""
        memory, stream = self.any(DEVICE_KIND), self.streams[self.any_stream()]
        wrong = [
            ("cuMemFree_v2", c_uint64(4096)),
            ("cuMemsetD32Async", c_uint64(memory.address + 2), c_uint(1), c_size_t(1), stream),
            ("cuLaunchKernel", self.churn, 1, 1, 1, 4096, 1, 1, 0, stream, None, None),
            ("cuLaunchKernel", self.churn, 0, 1, 1, 32, 1, 1, 0, stream, None, None),
            ("cuMemcpyHtoDAsync_v2", c_uint64(0), b"12345678", c_size_t(8), stream),
            ("cuStreamWaitEvent", stream, c_void_p(0), 0),
            ("cuMemAlloc_v2", byref(c_uint64()), c_size_t(0)),
            ("cuMemAlloc_v2", byref(c_uint64()), c_size_t(1 << 60)),
        ]
        name, *arguments = self.random.choice(wrong)
        self.see(name, driver.code_of(call, name, *arguments))

    def do_capture(self):
        """Records a few calls as a graph."""
        if len(self.graphs) >= 3:
            return
        with CAPTURES:
            self.capture()

    def capture(self):
        # What another thread does on the legacy stream would spoil that of a stream which waits for it.
        stream = self.streams[self.random.choice([4, 5] if self.has_company else [2, 3, 4, 5])]
        uses = []
        call("cuStreamBeginCapture_v2", stream, self.random.choice([1, 2]))
        for _ in range(self.random.randint(1, 5)):
            what = self.random.randrange(4)
            memory = self.any(DEVICE_KIND)
            address, length = self.part(memory, 4, most=100_000)
            if what == 0:
                call("cuMemsetD32Async", c_uint64(address), c_uint(self.random.getrandbits(32)), c_size_t(length // 4),
                     stream)
                uses.append((memory, True))
            elif what == 1:
                driver.launch(self.churn, (length // 4 + 127) // 128, 128, c_uint64(address), c_uint(3),
                              c_uint(length // 4), on=stream)
                uses.append((memory, True))
            elif what == 2:
                other = self.any(DEVICE_KIND)
                if other is not memory:
                    start, to, length = self.two_parts(other, memory)
                    call("cuMemcpyDtoDAsync_v2", c_uint64(to), c_uint64(start), c_size_t(length), stream)
                    uses += [(other, False), (memory, True)]
            else:
                host = self.any(PINNED_KIND)
                start, to, length = self.two_parts(host, memory, most=200_000)
                if self.random.random() < 0.5:
                    call("cuMemcpyHtoDAsync_v2", c_uint64(to), c_void_p(start), c_size_t(length), stream)
                    uses += [(host, False), (memory, True)]
                else:
                    call("cuMemcpyDtoHAsync_v2", c_void_p(start), c_uint64(to), c_size_t(length), stream)
                    uses += [(memory, False), (host, True)]
        graph, executable = c_void_p(), c_void_p()
        call("cuStreamEndCapture", stream, byref(graph))
        call("cuGraphInstantiateWithFlags", byref(executable), graph, c_uint64(0))
        nodes = c_size_t()
        call("cuGraphGetNodes", graph, None, byref(nodes))
        self.see("graph of", nodes.value)
        call("cuGraphDestroy", graph)
        self.graphs.append((executable, uses))

    def do_replay(self):
        if not self.graphs:
            return
        executable, uses = self.random.choice(self.graphs)
        stream = self.any_stream()
        for memory, writes in uses:
            self.use(memory, stream, writes)
        # One graph runs once at a time, wherever it is launched; the driver sees to that.
        call("cuGraphLaunch", executable, self.streams[stream])
        for memory, writes in uses:
            self.note(memory, stream, writes)

    def drop_graphs(self, memory):
        """Graphs that use what is about to go."""
        for graph in [graph for graph in self.graphs if any(used is memory for used, _ in graph[1])]:
            self.graphs.remove(graph)
            for other, _ in graph[1]:
                self.host_uses(other, True)
            call("cuGraphExecDestroy", graph[0])

    CALLS = [(do_memset, 6), (do_copy_in, 12), (do_copy_out, 12), (do_copy_within, 6), (do_copy_rect, 6), (do_churn, 12),
             (do_number, 8), (do_host_function, 2), (do_look, 6), (do_write, 6), (do_synchronize, 5), (do_event, 6), (do_know, 6),
             (do_replace, 3), (do_ask, 2), (do_misuse, 2), (do_capture, 2), (do_replay, 6)]

    def run(self, calls):
        self.begin()
        makers, weights = zip(*self.CALLS)
        for number in range(calls):
            chosen = self.random.choices(makers, weights)[0]
            self.lines.append(f"{self.number}.{number} {chosen.__name__}")
            chosen(self)
        self.synchronize_all()
        self.see("counted", self.counter[0] - self.counted)
        for memory in self.memories:
            if memory.is_host:
                content = ctypes.string_at(memory.address, memory.size)
            else:
                content = driver.from_device(memory.address, memory.size)
            self.see("end", memory.kind, memory.size, zlib.crc32(content))


def main():
    seed, calls, threads = (int(word) for word in [*sys.argv[1:], *["0", "300", "1"][len(sys.argv) - 1:]])
    context = driver.start()
    programs = [Program(f"{seed}.{number}", context, number, threads > 1) for number in range(threads)]
    failures = []

    def body(program):
        try:
            program.run(calls)
        except BaseException as error:
            program.see("failed:", repr(error))
            failures.append(error)

    workers = [threading.Thread(target=body, args=(program,)) for program in programs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for program in programs:
        print("\n".join(program.lines))
    # A driver that takes the program with it on the way has not done the same.
    print("failed" if failures else "done", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
