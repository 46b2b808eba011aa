"""Measures, in turns: for each line on stdin, everything once more; the figures go to stdout as one line.

The suite keeps one such process native and one remote, and lets them take turns, so that both see the same
machine at the same time of day. While one measures, the other waits for its next line.

Figures: *_ms of a training step are wall time of the loop over its steps, launches and calls are what the
caller pays, copies are decimal gigabytes a second of wall time.
"""

import ctypes
import json
import statistics
import sys
import time

import torch
import torchvision

from report import arguments

WARM_UP = 8
BURST = 200
EMPTY = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry nothing() { ret; }
"""
TURN = "FIGURES "


class Training:
    """Steps of one model at one batch size."""

    def __init__(self, model, optimizer, batch, bf16):
        self.model, self.optimizer, self.bf16 = model, optimizer, bf16
        self.layout = torch.channels_last if bf16 else torch.contiguous_format
        images = torch.randn(batch, 3, 224, 224).to(memory_format=self.layout)
        self.images = images.pin_memory()
        self.labels = torch.randint(0, 1000, (batch,)).pin_memory()
        self.run(WARM_UP)

    def run(self, steps):
        """Milliseconds a step."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            images = self.images.cuda(non_blocking=True)
            labels = self.labels.cuda(non_blocking=True)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.bf16):
                loss = torch.nn.functional.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1000 / steps


def trainings():
    torch.backends.cudnn.benchmark = True
    made = {}
    for bf16, batches in ((False, (32, 128)), (True, (128,))):
        model = torchvision.models.resnet50(weights=None).cuda()
        if bf16:
            model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for batch in batches:
            name = f"resnet50_{'bf16' if bf16 else 'fp32'}_{batch}_ms"
            made[name] = Training(model, optimizer, batch, bf16)
    return made


class Launches:
    """Driver calls of the empty kernel, without a framework in between."""

    def __init__(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        pointer, unsigned = ctypes.c_void_p, ctypes.c_uint
        self.driver.cuLaunchKernel.argtypes = [pointer] + [unsigned] * 7 + [pointer] * 3
        self.driver.cuStreamSynchronize.argtypes = [pointer]
        module, self.kernel = pointer(), pointer()
        self.must(self.driver.cuModuleLoadData(ctypes.byref(module), EMPTY))
        self.must(self.driver.cuModuleGetFunction(ctypes.byref(self.kernel), module, b"nothing"))
        self.issue(3)

    def must(self, code):
        if code:
            raise RuntimeError(f"the driver answers {code}")

    def issue(self, bursts):
        """Microseconds a launch costs the caller: the median of some bursts."""
        launch, kernel = self.driver.cuLaunchKernel, self.kernel
        costs = []
        for _ in range(bursts):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(BURST):
                code = launch(kernel, 1, 1, 1, 32, 1, 1, 0, None, None, None)
            costs.append((time.perf_counter() - start) * 1e6 / BURST)
            self.must(code)
        torch.cuda.synchronize()
        return statistics.median(costs)

    def round_trip(self, count):
        launch, wait, kernel = self.driver.cuLaunchKernel, self.driver.cuStreamSynchronize, self.kernel
        return median_us(count, lambda: (launch(kernel, 1, 1, 1, 32, 1, 1, 0, None, None, None), wait(None)))


def median_us(count, function):
    costs = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        costs.append(time.perf_counter() - start)
    return statistics.median(costs) * 1e6


def add_issue(bursts):
    x = torch.zeros(16, device="cuda")
    costs = []
    for _ in range(bursts):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(BURST):
            x.add_(1)
        costs.append((time.perf_counter() - start) * 1e6 / BURST)
    torch.cuda.synchronize()
    return statistics.median(costs)


def item(count):
    x = torch.ones(1, device="cuda")
    torch.cuda.synchronize()
    return median_us(count, x.item)


def event_query(count):
    event = torch.cuda.Event()
    event.record()
    torch.cuda.synchronize()
    return median_us(count, event.query)


class Copies:
    def __init__(self, bytes_each):
        self.bytes = bytes_each
        self.host = torch.ones(bytes_each, dtype=torch.uint8).pin_memory()
        self.device = torch.empty(bytes_each, dtype=torch.uint8, device="cuda")
        self.rate(self.device, self.host, 1)
        self.rate(self.host, self.device, 1)

    def rate(self, target, source, times):
        """Gigabytes a second."""
        took = []
        for _ in range(times):
            torch.cuda.synchronize()
            start = time.perf_counter()
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
        return self.bytes / 1e9 / statistics.median(took)


def main():
    args = arguments(__doc__, steps=30)
    steps = 10 if args.quick else args.steps
    models = trainings()
    launches = Launches()
    copies = Copies(256 << 20)
    print(TURN + "{}", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        figures = {}
        for name, training in models.items():
            training.run(2)
            figures[name] = training.run(steps)
        figures["launch_issue_us"] = launches.issue(15)
        figures["add_issue_us"] = add_issue(15)
        figures["launch_sync_us"] = launches.round_trip(500)
        figures["item_us"] = item(500)
        figures["event_query_us"] = event_query(2000)
        figures["pinned_h2d_gbs"] = copies.rate(copies.device, copies.host, 5)
        figures["pinned_d2h_gbs"] = copies.rate(copies.host, copies.device, 5)
        print(TURN + json.dumps(figures), flush=True)


main()
