"""A DataLoader with two worker processes and pinned memory feeds a small network.

The workers are forked after CUDA has started, as in most training programs.
"""

import torch

from report import Report, arguments, close


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 512

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 32, 32, generator=generator), index % 10


def train():
    torch.manual_seed(3)
    torch.backends.cudnn.deterministic = True
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 15 * 15, 10)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    shuffled = torch.Generator().manual_seed(4)
    loader = torch.utils.data.DataLoader(
        Images(), batch_size=32, shuffle=True, num_workers=2, pin_memory=True, generator=shuffled
    )
    losses = []
    for _ in range(3):
        for images, labels in loader:
            if not images.is_pinned():
                raise ValueError("the loader's batches are not pinned")
            loss = nn.functional.cross_entropy(
                model(images.cuda(non_blocking=True)), labels.cuda(non_blocking=True)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    if not sum(losses[-5:]) < sum(losses[:5]):
        raise ValueError(f"the loss does not fall: {losses}")
    return losses


def main():
    report = Report(arguments(__doc__))
    report.check("dataloader", close(1e-3), train)
    report.finish()


if __name__ == "__main__":
    main()
