"""Triton kernels: addition, softmax, a matrix product."""

import torch
import triton
import triton.language as tl

from report import Report, arguments, close, exact


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)


@triton.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    values = tl.load(x + row * columns + offsets, mask=mask, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * columns + offsets, powers / tl.sum(powers, axis=0), mask=mask)


@triton.jit
def product_kernel(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        left = tl.load(a + rows[:, None] * k + (start + inner)[None, :])
        right = tl.load(b + (start + inner)[:, None] * n + columns[None, :])
        total += tl.dot(left, right)
    tl.store(c + rows[:, None] * n + columns[None, :], total.to(tl.bfloat16))


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).cuda()


def near(left, right, tolerance, what):
    error = (left.double() - right.double()).abs().max().item() / right.double().abs().max().item()
    if not error <= tolerance:
        raise ValueError(f"{what} is off by {error:.3g}")


def addition():
    x, y = seeded(100_003), seeded(100_004)[:100_003]
    out = torch.full_like(x, float("nan"))
    add_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, out, x.numel(), BLOCK=1024)
    near(out, x + y, 0, "the sum")
    return out


def softmax():
    x = seeded(500, 781)
    out = torch.full_like(x, float("nan"))
    softmax_kernel[(500,)](x, out, 781, BLOCK=1024)
    near(out, x.softmax(1), 1e-5, "the softmax")
    return out


def product():
    a, b = seeded(512, 256).bfloat16(), seeded(256, 384).bfloat16()
    out = torch.full((512, 384), float("nan"), device="cuda", dtype=torch.bfloat16)
    product_kernel[(4, 6)](a, b, out, 512, 384, 256, BM=128, BN=64, BK=64, num_warps=4, num_stages=3)
    near(out, a.double() @ b.double(), 1e-2, "the product")
    return out


def main():
    report = Report(arguments(__doc__))
    report.versions = {"triton": triton.__version__}
    report.check("triton_add", exact(), addition)
    report.check("triton_softmax", close(1e-6), softmax)
    report.check("triton_product", close(1e-2), product)
    report.finish()


if __name__ == "__main__":
    main()
