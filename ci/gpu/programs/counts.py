"""Steps of ResNet-50 in steady state, for FUSEWIRE_STATS to count what they wait for.

Two runs that differ only in --steps differ in their counts by the steps alone.
"""

import torch
import torchvision

from report import Report, arguments, info

WARM_UP = 10


def run(args):
    # No trial of algorithms: what it chooses, and so what it allocates, would differ from run to run.
    torch.backends.cudnn.benchmark = False
    model = torchvision.models.resnet50(weights=None).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(32, 3, 224, 224).pin_memory()
    labels = torch.randint(0, 1000, (32,)).pin_memory()
    for step in range(WARM_UP + args.steps):
        if step == WARM_UP:
            torch.cuda.synchronize()
        optimizer.zero_grad(set_to_none=True)
        output = model(images.cuda(non_blocking=True))
        loss = torch.nn.functional.cross_entropy(output, labels.cuda(non_blocking=True))
        loss.backward()
        optimizer.step()
        # In the warm-up too, so that what its first use costs is not among the steps.
        if args.item or step == 0:
            loss.item()
    torch.cuda.synchronize()
    return loss.item()


def main():
    args = arguments(__doc__, steps=20, item=False)
    report = Report(args)
    report.check("counts", info(), run, args)
    report.finish()


main()
