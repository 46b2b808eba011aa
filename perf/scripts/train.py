"""Training steps, when told: one JSON request a line on stdin, one JSON answer a line on stdout.

    {"do": "prepare", "model": "resnet50", "precision": "fp32", "batch": 32}
    {"do": "steps", "count": 20, "item": false}
    {"do": "for", "from": T, "until": U}    steps from T to U of time.monotonic()
    {"do": "drop"}

One process of this kind runs natively and one over each link. It has no idea which it is, and while another
one measures, it waits for its next line.

Images are what training really sends: 8-bit pixels, normalised, in pinned memory, copied to the GPU in every
step. A step is zero_grad, copy, forward, loss, backward, optimizer; with `item`, loss.item() too.
"""

import json
import sys
import time

START = time.monotonic()

import torch  # noqa: E402
import torchvision  # noqa: E402

MODELS = {
    "resnet50": (224, lambda: torchvision.models.resnet50(weights=None)),
    "inception_v3": (299, lambda: torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False)),
}
PRECISIONS = ("fp32", "bf16")
WARM_UP = 6
# Steps before those that are timed: what the others left in the caches is not part of a step, either.
LEAD_IN = 3
# Batches that take turns, so that no step sends what the last one has sent.
BATCHES = 2
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def pixels(batch, side, layout):
    """8-bit images, normalised as for ImageNet."""
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    images = images.to(torch.float32).div_(255).sub_(MEAN).div_(DEVIATION)
    return images.to(memory_format=layout).pin_memory()


class Training:
    """Steps of one model at one batch size."""

    def __init__(self, model, precision, batch):
        if model not in MODELS or precision not in PRECISIONS or batch < 1:
            raise ValueError(f"cannot train {model} in {precision} with batches of {batch}")
        torch.manual_seed(0)
        self.bf16 = precision == "bf16"
        layout = torch.channels_last if self.bf16 else torch.contiguous_format
        side, make = MODELS[model]
        self.model = make().cuda().to(memory_format=layout).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.data = [
            (pixels(batch, side, layout), torch.randint(0, 1000, (batch,)).pin_memory()) for _ in range(BATCHES)
        ]
        self.done = 0
        images, labels = self.data[0]
        self.bytes = images.nbytes + labels.nbytes

    def step(self, item=False):
        images, labels = self.data[self.done % BATCHES]
        self.done += 1
        self.optimizer.zero_grad(set_to_none=True)
        images = images.cuda(non_blocking=True)
        labels = labels.cuda(non_blocking=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.bf16):
            found = self.model(images)
            loss = torch.nn.functional.cross_entropy(found[0] if isinstance(found, tuple) else found, labels)
            if isinstance(found, tuple):
                loss = loss + 0.4 * torch.nn.functional.cross_entropy(found[1], labels)
        loss.backward()
        self.optimizer.step()
        return loss.item() if item else None

    def steps(self, count, item=False):
        """Milliseconds a step, of the caller's wall time, from idle to idle."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            self.step(item)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1000 / count

    def running_steps(self, count, item=False):
        """Milliseconds a step while training goes on: from the end of one step to that of another, by events.

        The images of the first step after a pause have no step before them during which they could travel. In
        training there is one such step an hour; in a second's round it would be one of ten."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(LEAD_IN):
            self.step(item)
        start.record()
        for _ in range(count):
            self.step(item)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    def run_between(self, begin, end):
        """Steps and seconds from one moment to another."""
        torch.cuda.synchronize()
        time.sleep(max(0.0, begin - time.monotonic()))
        start, count = time.monotonic(), 0
        while time.monotonic() < end:
            self.step()
            count += 1
            # Otherwise the processor could be far ahead when the time is over.
            if count % 4 == 0:
                torch.cuda.synchronize()
        torch.cuda.synchronize()
        return count, time.monotonic() - start


class Program:
    def __init__(self):
        self.training = None

    def answer(self, request):
        what = request.pop("do")
        if what == "prepare":
            self.drop()
            first = time.monotonic()
            self.training = Training(**request)
            self.training.steps(1)
            first = time.monotonic() - first
            self.training.steps(WARM_UP)
            return {
                "ms": self.training.steps(3), "bytes": self.training.bytes, "first_step_s": first,
                "memory": torch.cuda.max_memory_allocated(),
            }
        if what == "drop":
            self.drop()
            return {}
        if self.training is None:
            raise ValueError(f"{what}: nothing is prepared")
        if what == "steps":
            return {"ms": self.training.running_steps(request["count"], request["item"])}
        if what == "for":
            steps, seconds = self.training.run_between(request["from"], request["until"])
            return {"steps": steps, "seconds": seconds}
        raise ValueError(f"{what} is nothing that can be asked")

    def drop(self):
        """Gives its memory back, so that the others have room."""
        self.training = None
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def say(answer):
    print(json.dumps(answer), flush=True)


def first_step(arguments):
    """One step of a model, and when it was done: for `coldstart`."""
    model, precision, batch = arguments
    training = Training(model, precision, int(batch))
    made = time.monotonic()
    training.steps(1)
    say({"step_s": time.monotonic() - START, "made_s": made - START})


def main():
    # Algorithms are chosen by the clock, and the choice could differ from side to side; it is usual practice
    # all the same, and its cost belongs to the first step.
    torch.backends.cudnn.benchmark = "--no-autotune" not in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--no-autotune"]
    if arguments[:1] == ["--first-step"]:
        first_step(arguments[1:])
        return
    torch.cuda.init()
    say({
        "torch": torch.__version__, "torchvision": torchvision.__version__, "cuda_runtime": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(), "gpu": torch.cuda.get_device_name(0),
    })
    program = Program()
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            say(program.answer(json.loads(line)))
        except Exception as error:  # noqa: BLE001 - the other sides go on
            program.training = None
            say({"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]})


if __name__ == "__main__":
    main()
