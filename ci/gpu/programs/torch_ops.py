"""Many small PyTorch checks in one process: copies, streams, graphs, random numbers, and the libraries.

What is deterministic is compared exactly; what libraries may compute with another algorithm from run to
run (those that time themselves, and those with atomics) within a tolerance. Where an answer is known, the
check also proves it, so that two runs cannot agree on nonsense.
"""

import threading

import torch

from report import Report, arguments, close, exact, info

GPU = "cuda"


def expect(condition, text):
    if not condition:
        raise ValueError(text)


def seeded(*shape, dtype=torch.float32):
    """The same numbers in every run, made on the CPU."""
    generator = torch.Generator().manual_seed(sum(shape) + 1)
    return torch.randn(*shape, generator=generator).to(dtype)


def near(left, right, tolerance, what):
    error = (left - right).abs().max().item()
    scale = max(right.abs().max().item(), 1e-30)
    expect(error <= tolerance * scale, f"{what} is off by {error / scale:.3g}")


# Memory and copies


def properties():
    found = torch.cuda.get_device_properties(0)
    names = ["name", "major", "minor", "multi_processor_count", "total_memory", "warp_size", "L2_cache_size"]
    values = {name: getattr(found, name, None) for name in names}
    values["uuid"] = str(getattr(found, "uuid", ""))
    values["count"] = torch.cuda.device_count()
    values["capability"] = list(torch.cuda.get_device_capability())
    values["total"] = torch.cuda.mem_get_info()[1]
    values["bf16"] = torch.cuda.is_bf16_supported()
    return values


def pageable_copies():
    out = []
    for size in (1, 3, 1000, 65_537, 5_000_001):
        source = torch.arange(size, dtype=torch.int32)
        device = source.to(GPU)
        source.zero_()  # The copy must have captured it.
        back = (device * 3 + 1).cpu()
        expect(torch.equal(back, torch.arange(size, dtype=torch.int32) * 3 + 1), f"{size} elements differ")
        out.append(back.sum().item())
    strided = seeded(300, 400)[::2, 10:390:3]
    expect(torch.equal(strided.to(GPU).cpu(), strided), "a strided copy differs")
    columns = strided.to(GPU).t()[5:50].cpu()
    expect(torch.equal(columns, strided.t()[5:50]), "a strided copy back differs")
    return out


def pinned_copies():
    count = 4 << 20
    source = torch.arange(count, dtype=torch.int32).pin_memory()
    back = torch.empty(count, dtype=torch.int32, pin_memory=True)
    stream, other = torch.cuda.Stream(), torch.cuda.Stream()
    done = torch.cuda.Event()
    sums = []
    for turn in range(8):
        with torch.cuda.stream(stream):
            device = source.to(GPU, non_blocking=True)
            device.mul_(turn + 1)
            ready = stream.record_event()
        with torch.cuda.stream(other):
            other.wait_event(ready)
            device.record_stream(other)
            back.copy_(device, non_blocking=True)
            done.record(other)
        done.synchronize()
        expect(done.query(), "a completed event is not complete")
        sums.append(back.long().sum().item())
        expect(sums[-1] == (turn + 1) * count * (count - 1) // 2, f"turn {turn}: the sum is {sums[-1]}")
    return sums


def big_copies():
    generator = torch.Generator().manual_seed(5)
    source = torch.randint(-(2**31), 2**31 - 1, (64 << 20,), dtype=torch.int32, generator=generator)
    expected = source.long().sum().item()
    pageable = source.to(GPU)
    pinned = source.pin_memory().to(GPU, non_blocking=True)
    sums = [pageable.long().sum().item(), pinned.long().sum().item()]
    expect(sums == [expected, expected], f"256 MB went wrong: {sums} instead of {expected}")
    expect(torch.equal(pageable, pinned), "the two copies differ")
    back = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
    back.copy_(pinned, non_blocking=True)
    torch.cuda.synchronize()
    expect(torch.equal(back, source), "256 MB came back changed to pinned memory")
    expect(torch.equal(pageable.cpu(), source), "256 MB came back changed to pageable memory")
    return sums


def memory_statistics():
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    start = torch.cuda.memory_allocated()
    block = torch.ones(300 << 20, dtype=torch.uint8, device=GPU)
    during = torch.cuda.memory_allocated() - start
    reserved = torch.cuda.memory_stats()["reserved_bytes.all.current"]
    total = block.sum(dtype=torch.int64).item()
    del block
    torch.cuda.empty_cache()
    after = torch.cuda.memory_allocated() - start
    expect(torch.cuda.memory_reserved() <= reserved - (300 << 20), "empty_cache gave nothing back")
    expect(after == 0, f"{after} bytes are still allocated")
    return {"allocated": during, "sum": total, "after": after}


def out_of_memory():
    try:
        torch.empty(1 << 42, dtype=torch.uint8, device=GPU)
    except torch.OutOfMemoryError:
        pass
    else:
        raise ValueError("4 TB were allocated")
    return (torch.ones(1000, device=GPU) * 2).sum().item()


# Streams and graphs


def streams():
    left, right = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    value = torch.zeros(1 << 20, device=GPU)
    torch.cuda.synchronize()
    for turn in range(20):
        with torch.cuda.stream(left):
            torch.cuda._sleep(200_000)
            value.add_(1)
            event = left.record_event()
        right.wait_event(event)
        with torch.cuda.stream(right):
            value.mul_(1.5)
        left.wait_stream(right)
    torch.cuda.current_stream().wait_stream(left)
    out = value.clone()
    expected = 0.0
    for _ in range(20):
        expected = (expected + 1) * 1.5
    near(out[:1].cpu().double(), torch.tensor([expected]).double(), 1e-5, "ordered by events, the result")
    return out


def event_times():
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    torch.cuda._sleep(20_000_000)
    end.record()
    early = end.query()
    end.synchronize()
    elapsed = start.elapsed_time(end)
    expect(not early, "an event behind a long kernel was complete at once")
    expect(5 < elapsed < 100, f"20 million clocks took {elapsed} ms")
    expect(torch.cuda.current_stream().query(), "an idle stream is busy")
    return elapsed


def threads():
    results = [None] * 4

    def work(index):
        with torch.cuda.stream(torch.cuda.Stream()):
            x = seeded(256, 256).to(GPU) * (index + 1)
            for _ in range(50):
                x = x * 0.5 + 1
            results[index] = x.sum().item()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expect(None not in results, f"a thread failed: {results}")
    return results


def graph():
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(seeded(*parameter.shape) * 0.05)
    model.to(GPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.zeros(64, 256, device=GPU)
    labels = torch.zeros(64, dtype=torch.long, device=GPU)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        loss = step()
    losses = []
    for turn in range(10):
        images.copy_(seeded(64, 256) + turn * 0.01)
        labels.copy_(torch.arange(64) % 10)
        captured.replay()
        losses.append(loss.item())
    expect(losses[-1] < losses[0], f"training by replay does not learn: {losses}")
    return losses


def graph_random():
    x = torch.zeros(1000, device=GPU)
    torch.cuda.manual_seed(3)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        y = torch.nn.functional.dropout(x + 1, 0.5)
    out = []
    for _ in range(3):
        captured.replay()
        out.append(y.clone())
    expect(not torch.equal(out[0], out[1]), "two replays gave the same random numbers")
    return out


def graph_pinned():
    """A copy from pinned memory in a graph reads it at each replay; one to pinned memory fills it."""
    source = torch.zeros(1 << 16, pin_memory=True)
    back = torch.zeros(1 << 16, pin_memory=True)
    device = torch.zeros(1 << 16, device=GPU)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        device.copy_(source, non_blocking=True)
        device.add_(1)
        back.copy_(device, non_blocking=True)
    for turn in range(5):
        source.fill_(turn)
        captured.replay()
        torch.cuda.synchronize()
        expect((back == turn + 1).all().item(), f"replay {turn} gave {back[0].item()}")
    return back.sum().item()


# Arithmetic and libraries


def elementwise():
    x = seeded(1 << 20).to(GPU)
    out = {
        "sin": x.sin(), "exp": x.exp(), "erf": torch.erf(x), "sum": x.sum(), "softmax": x.view(1024, -1).softmax(1),
        "half": x.half() * 2, "bf16": x.bfloat16() + 1, "double": x.double().sqrt().nan_to_num(0.0),
        "int": (x * 1000).to(torch.int16), "bool": x > 0.5, "max": x.max(), "argmax": x.argmax(), "var": x.var(),
    }
    near(out["sin"].cpu().double(), seeded(1 << 20).double().sin(), 1e-5, "sin")
    return out


def sorting():
    x = seeded(300_001).to(GPU)
    values, order = x.sort(stable=True)
    expect((values[1:] >= values[:-1]).all().item(), "sorted values are out of order")
    whole = (x * 20).to(torch.int64)
    return [values, order, x.topk(100).values, torch.unique(whole), whole.cumsum(0), torch.nonzero(x > 2), x.kthvalue(500).values]


def indexing():
    x = seeded(10_000, 64).to(GPU)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, 10_000, (20_000,), generator=generator).to(GPU)
    added = torch.zeros_like(x).index_add_(0, rows, x[rows])
    return [x[rows], x.gather(0, rows[:64].view(1, -1)), torch.nn.functional.embedding(rows, x), added]


def gemms():
    out = {}
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        a, b = seeded(512, 768, dtype=dtype).to(GPU), seeded(768, 256, dtype=dtype).to(GPU)
        out[str(dtype)] = a @ b
        tolerance = 1e-5 if dtype in (torch.float32, torch.float64) else 2e-2
        near(out[str(dtype)].cpu().double(), a.cpu().double() @ b.cpu().double(), tolerance, f"{dtype} product")
    batch = seeded(32, 64, 128).to(GPU)
    out["bmm"] = batch @ batch.transpose(1, 2)
    torch.backends.cuda.matmul.allow_tf32 = True
    out["tf32"] = seeded(512, 512).to(GPU) @ seeded(512, 512).to(GPU)
    torch.backends.cuda.matmul.allow_tf32 = False
    return out


def convolutions():
    functional = torch.nn.functional
    x = seeded(8, 16, 32, 32).to(GPU).requires_grad_()
    weight = seeded(32, 16, 3, 3).to(GPU).requires_grad_()
    y = functional.conv2d(x, weight, padding=1)
    y.square().mean().backward()
    z = functional.conv_transpose2d(y.detach(), weight.detach(), padding=1)
    near(y.detach().cpu().double(), functional.conv2d(x.detach().cpu().double(), weight.detach().cpu().double(), padding=1), 5e-3, "conv2d")
    lstm = torch.nn.LSTM(32, 64, 2)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.copy_(seeded(*parameter.shape) * 0.1)
    sequence, _ = lstm.to(GPU)(seeded(20, 4, 32).to(GPU))
    return [y, x.grad, weight.grad, z, sequence, functional.batch_norm(y, None, None, training=True)]


def attention(backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (seeded(2, 8, 256 + part, 64)[:, :, :256].to(GPU, torch.bfloat16).requires_grad_() for part in range(3))
    with sdpa_kernel(getattr(SDPBackend, backend)):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    out.float().square().mean().backward()
    scores = (q.detach().double() @ k.detach().double().transpose(-1, -2)) / 8
    mask = torch.ones(256, 256, dtype=torch.bool, device=GPU).tril()
    known = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v.detach().double()
    near(out.detach().double(), known, 2e-2, "attention")
    return [out, q.grad, k.grad, v.grad]


def fft():
    x = seeded(64, 4096).to(GPU)
    spectrum = torch.fft.rfft(x)
    near(torch.fft.irfft(spectrum, n=4096), x, 1e-5, "there and back")
    image = torch.fft.fft2(seeded(8, 120, 250).to(GPU))
    odd = torch.fft.fft(seeded(3, 1009).to(GPU))
    return [spectrum, image, odd]


def sparse():
    dense = seeded(2000, 1500)
    dense[dense.abs() < 1.8] = 0
    right = seeded(1500, 64)
    csr = dense.to_sparse_csr().to(GPU)
    product = csr @ right.to(GPU)
    near(product.cpu().double(), dense.double() @ right.double(), 1e-5, "csr product")
    coo = torch.sparse.mm(dense.to_sparse().to(GPU), right.to(GPU))
    near(coo.cpu().double(), dense.double() @ right.double(), 1e-5, "coo product")
    return [product, coo]


def linalg(name):
    a = seeded(200, 200).double().to(GPU)
    symmetric = a @ a.T + 200 * torch.eye(200, dtype=torch.float64, device=GPU)
    eye = torch.eye(200, dtype=torch.float64, device=GPU)
    linear = torch.linalg
    if name == "svd":
        u, s, vh = linear.svd(a)
        near(u @ s.diag() @ vh, a, 1e-10, name)
        return s
    if name == "qr":
        q, r = linear.qr(a)
        near(q @ r, a, 1e-10, name)
        return r.abs()
    if name == "eigh":
        values, vectors = linear.eigh(symmetric)
        near(vectors @ values.diag() @ vectors.T, symmetric, 1e-10, name)
        return values
    if name == "solve":
        x = linear.solve(symmetric, a)
        near(symmetric @ x, a, 1e-10, name)
        return x
    if name == "cholesky":
        low = linear.cholesky(symmetric)
        near(low @ low.T, symmetric, 1e-10, name)
        return low
    if name == "lstsq":
        return linear.lstsq(seeded(300, 100).double().to(GPU), seeded(300, 4).double().to(GPU)).solution
    inverse = linear.inv(symmetric)
    near(inverse @ symmetric, eye, 1e-9, name)
    return [inverse, linear.slogdet(symmetric).logabsdet]


def random_numbers():
    torch.cuda.manual_seed(1234)
    out = [
        torch.rand(10_001, device=GPU), torch.randn(10_001, device=GPU), torch.randint(0, 1 << 40, (999,), device=GPU),
        torch.randperm(5000, device=GPU), torch.rand(8, 100, device=GPU).multinomial(20),
        torch.empty(777, device=GPU).exponential_(), torch.nn.functional.dropout(torch.ones(5000, device=GPU), 0.3),
    ]
    generator = torch.Generator(device=GPU).manual_seed(99)
    out.append(torch.bernoulli(torch.full((1000,), 0.25, device=GPU), generator=generator))
    state = torch.cuda.get_rng_state()
    again = torch.rand(100, device=GPU)
    torch.cuda.set_rng_state(state)
    expect(torch.equal(again, torch.rand(100, device=GPU)), "a restored generator gives other numbers")
    return out


def transformer():
    block = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(seeded(*parameter.shape) * 0.05)
    block.to(GPU).train()
    x = seeded(8, 96, 128).to(GPU).requires_grad_()
    loss = block(x).square().mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(block.parameters(), 1.0)
    return [loss, norm, x.grad] + [parameter.grad for parameter in block.parameters()]


def expandable_segments():
    """The allocator maps physical memory into one range of addresses as it needs it."""
    torch.cuda.empty_cache()
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    try:
        held = [torch.full((size, 1024), float(n), device=GPU) for n, size in enumerate((1000, 5000, 20_000, 300))]
        held += [part * 2 for part in held]
        del held[1]
        torch.cuda.empty_cache()
        held.append(torch.ones(30_000, 1024, device=GPU))
        return [part.double().sum() for part in held]
    finally:
        torch.cuda.memory._set_allocator_settings("expandable_segments:False")


def main():
    report = Report(arguments(__doc__))
    report.versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    check = report.check
    check("properties", exact(), properties)
    check("pageable_copies", exact(), pageable_copies)
    check("pinned_copies", exact(), pinned_copies)
    check("big_copies", exact(), big_copies)
    check("memory_statistics", exact(), memory_statistics)
    check("out_of_memory", exact(), out_of_memory)
    check("expandable_segments", exact(), expandable_segments)
    check("streams", exact(), streams)
    check("event_times", info(), event_times)
    check("threads", exact(), threads)
    check("graph", exact(), graph)
    check("graph_random", exact(), graph_random)
    check("graph_pinned", exact(), graph_pinned)
    check("elementwise", exact(), elementwise)
    check("sorting", exact(), sorting)
    check("indexing", close(1e-5), indexing)
    check("gemms", close(1e-5), gemms)
    check("convolutions", close(1e-4), convolutions)
    check("attention_flash", close(2e-2), attention, "FLASH_ATTENTION")
    check("attention_efficient", close(2e-2), attention, "EFFICIENT_ATTENTION")
    check("attention_math", close(2e-2), attention, "MATH")
    check("fft", close(1e-6), fft)
    check("sparse", close(1e-5), sparse)
    for name in ("svd", "qr", "eigh", "solve", "cholesky", "lstsq", "inv"):
        check(f"linalg_{name}", close(1e-9), linalg, name)
    check("random_numbers", exact(), random_numbers)
    check("transformer", close(1e-4), transformer)
    report.finish()


main()
