"""CuPy: kernels from source, reductions, sorting, linear algebra, FFT and random numbers."""

import cupy
import numpy

from report import Report, arguments, close, exact


def numbers(*shape):
    return numpy.random.default_rng(sum(shape)).standard_normal(shape)


def same(left, right, tolerance, what):
    left = cupy.asnumpy(left)
    error = numpy.abs(left - right).max() / max(numpy.abs(right).max(), 1e-30)
    if not error <= tolerance:
        raise ValueError(f"{what} is off by {error:.3g}")


def raw_kernel():
    kernel = cupy.RawKernel(
        r"""
        extern "C" __global__ void fold(const float *x, float *y, int n) {
            __shared__ float part[256];
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            part[threadIdx.x] = i < n ? x[i] * x[i] : 0.0f;
            __syncthreads();
            for (int half = 128; half > 0; half >>= 1) {
                if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
                __syncthreads();
            }
            if (threadIdx.x == 0) y[blockIdx.x] = part[0];
        }
        """,
        "fold",
    )
    x = numbers(100_000).astype(numpy.float32)
    y = cupy.zeros(391, dtype=cupy.float32)
    kernel((391,), (256,), (cupy.asarray(x), y, x.size))
    same(y.sum(), numpy.square(x.astype(numpy.float64)).sum(), 1e-5, "the sum of squares")
    return [y, kernel.num_regs > 0, kernel.max_threads_per_block]


def elementwise_kernel():
    kernel = cupy.ElementwiseKernel("T x, T y", "T z", "z = x > y ? x - y : y * 2", "choose")
    x, y = numbers(50_000), numbers(50_000)[::-1].copy()
    out = kernel(cupy.asarray(x), cupy.asarray(y))
    same(out, numpy.where(x > y, x - y, y * 2), 0, "the result")
    return out


def reductions():
    x = numbers(300, 400)
    a = cupy.asarray(x)
    kernel = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "root_of_squares")
    same(kernel(a), numpy.sqrt((x * x).sum()), 1e-12, "the norm")
    same(a.sum(axis=1), x.sum(axis=1), 1e-12, "sums of rows")
    # A scan in one pass adds in an order that differs from run to run, natively too: no bit is promised.
    same(a.cumsum(), x.cumsum(), 1e-9, "the running sums")
    return [a.sum(), a.max(axis=0), a.argmin(), kernel(a, axis=0), a.std()]


def sorting():
    x = numbers(70_001)
    a = cupy.asarray(x)
    same(cupy.sort(a), numpy.sort(x), 0, "the sorted numbers")
    return [cupy.sort(a), cupy.argsort(a), cupy.unique((a * 10).astype(int)), cupy.partition(a, 50)[50]]


def linalg():
    x = numbers(120, 120)
    a = cupy.asarray(x)
    same(a @ cupy.linalg.inv(a), numpy.eye(120), 1e-8, "a times its inverse")
    return [
        cupy.linalg.svd(a, compute_uv=False), cupy.linalg.eigvalsh(a + a.T), cupy.linalg.solve(a, a[:, :3]),
        cupy.abs(cupy.linalg.qr(a)[1]), cupy.linalg.cholesky(a @ a.T + cupy.eye(120)), cupy.linalg.norm(a),
    ]


def fft():
    x = numbers(16, 3000)
    out = cupy.fft.fft(cupy.asarray(x))
    same(out, numpy.fft.fft(x), 1e-10, "the FFT")
    return [out, cupy.fft.irfft2(cupy.fft.rfft2(cupy.asarray(x)))]


def random():
    cupy.random.seed(8)
    generator = cupy.random.default_rng(9)
    return [cupy.random.rand(5000), cupy.random.normal(size=5000), generator.integers(0, 1000, 5000)]


def copies():
    """Streams, pinned memory, two-dimensional copies and a memory pool of the driver's own."""
    x = numbers(1000, 500)
    stream = cupy.cuda.Stream(non_blocking=True)
    pinned = cupy.cuda.alloc_pinned_memory(x.nbytes)
    source = numpy.frombuffer(pinned, x.dtype, x.size).reshape(x.shape)
    source[...] = x
    with stream:
        a = cupy.empty_like(cupy.asarray(x))
        a.set(source)
        b = a[::2, 3:400].copy()
        back = b.get(stream=stream)
    stream.synchronize()
    same(back, x[::2, 3:400], 0, "what came back")
    old = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    try:
        total = float((cupy.asarray(x) * 2).sum())
    finally:
        cupy.cuda.set_allocator(old)
    return [b, total]


def main():
    report = Report(arguments(__doc__))
    report.versions = {"cupy": cupy.__version__}
    report.check("cupy_raw_kernel", exact(), raw_kernel)
    report.check("cupy_elementwise_kernel", exact(), elementwise_kernel)
    report.check("cupy_reductions", exact(), reductions)
    report.check("cupy_sorting", exact(), sorting)
    report.check("cupy_linalg", close(1e-8), linalg)
    report.check("cupy_fft", close(1e-10), fft)
    report.check("cupy_random", exact(), random)
    report.check("cupy_copies", exact(), copies)
    report.finish()


main()
