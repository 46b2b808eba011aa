"""Trains ResNet-50 or Inception-v3 on synthetic data and reports every loss.

--mode deterministic: the losses of two runs are the same bit for bit.
--mode amp: bf16 autocast, channels-last, cudnn.benchmark. The algorithms cuDNN picks may differ between
runs, so only the first losses are comparable, and only roughly.
"""

import math
import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torchvision

from report import Report, arguments, close, exact, info

SIZE = {"resnet50": 224, "inception_v3": 299}
BATCHES = 2


def build(name):
    if name == "inception_v3":
        return torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False)
    return torchvision.models.resnet50(weights=None)


def pinned_batches(name, batch):
    size = SIZE[name]
    return [
        (torch.randn(batch, 3, size, size).pin_memory(), torch.randint(0, 1000, (batch,)).pin_memory())
        for _ in range(BATCHES)
    ]


def loss_of(model, images, labels):
    output = model(images)
    loss = torch.nn.functional.cross_entropy
    if hasattr(output, "aux_logits"):
        return loss(output.logits, labels) + 0.4 * loss(output.aux_logits, labels)
    return loss(output, labels)


def train(args):
    amp = args.mode == "amp"
    steps = min(args.steps, 10) if args.quick else args.steps
    torch.manual_seed(7)
    torch.backends.cudnn.benchmark = amp
    torch.backends.cudnn.deterministic = not amp
    # What has no deterministic form is named on stderr rather than refused.
    torch.use_deterministic_algorithms(not amp, warn_only=True)
    layout = torch.channels_last if amp else torch.contiguous_format
    model = build(args.model).cuda().to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = pinned_batches(args.model, args.batch)
    losses = []
    for step in range(steps):
        images, labels = data[step % BATCHES]
        images = images.cuda(non_blocking=True).to(memory_format=layout)
        labels = labels.cuda(non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=amp):
            loss = loss_of(model, images, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    values = torch.stack(losses).float().cpu().tolist()
    print("losses", " ".join(f"{value:.6f}" for value in values))
    return values


def judged(values):
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"a loss is not finite: {values}")
    if len(values) >= 30 and sum(values[-BATCHES:]) >= sum(values[:BATCHES]):
        raise ValueError(f"the loss does not fall: {values}")
    return values


def main():
    args = arguments(__doc__, model="resnet50", mode="deterministic", steps=50, batch=32)
    report = Report(args)
    report.versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    losses = []
    if args.mode == "deterministic":
        report.check(args.model, exact(), lambda: judged(train(args)))
    else:
        report.check("amp_bf16", close(0.03), lambda: losses.extend(judged(train(args))) or losses[:4])
        report.check("amp_bf16_last", info(), lambda: losses[-1])
    report.finish()


main()
