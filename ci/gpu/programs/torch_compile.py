"""torch.compile of a small model: forward, backward and an optimizer step."""

import torch

from report import Report, arguments, close


def train():
    torch.manual_seed(5)
    nn = torch.nn
    model = nn.Sequential(
        nn.Linear(256, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10)
    ).cuda()
    eager = torch.nn.functional.cross_entropy
    images = torch.randn(64, 256).cuda()
    labels = torch.randint(0, 10, (64,)).cuda()
    plain = eager(model(images), labels).item()
    compiled = torch.compile(lambda x, y: eager(model(x), y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad(set_to_none=True)
        loss = compiled(images, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if abs(losses[0] - plain) > 1e-3 * abs(plain):
        raise ValueError(f"compiled {losses[0]}, not compiled {plain}")
    if not losses[-1] < losses[0]:
        raise ValueError(f"the loss does not fall: {losses}")
    return losses


def main():
    report = Report(arguments(__doc__))
    report.check("torch_compile", close(1e-3), train)
    report.finish()


if __name__ == "__main__":
    main()
