"""Trains a small network, deterministic: what ten sessions at once each do."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from report import Report, arguments, exact


def train(steps):
    torch.manual_seed(11)
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16 * 16, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10),
    ).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = torch.randn(64, 3, 32, 32).pin_memory()
    labels = torch.randint(0, 10, (64,)).pin_memory()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        output = model(images.cuda(non_blocking=True))
        loss = nn.functional.cross_entropy(output, labels.cuda(non_blocking=True))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise ValueError(f"the loss does not fall: {losses[0]} to {losses[-1]}")
    return losses


def main():
    args = arguments(__doc__, steps=200)
    report = Report(args)
    report.check("small", exact(), train, args.steps)
    report.finish()


main()
