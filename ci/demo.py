"""CuPy as it is on PyPI, on a GPU that is not in this machine. Every result is compared with NumPy's.

Part of ci/demo and of the system tests. CUPY_COMPILE_WITH_PTX=1 has CuPy make PTX, which the software GPU
understands; on an NVIDIA GPU it works with and without.
"""

import time

import cupy
import numpy

start = time.monotonic()


def say(what):
    print(f"  {time.monotonic() - start:6.1f} s  {what}", flush=True)


def same(what, ours, theirs, tolerance=0.0):
    """Compares a CuPy result with NumPy's: bit for bit, or within a relative tolerance where rounding may differ."""
    ours, theirs = cupy.asnumpy(ours), numpy.asarray(theirs)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (what, ours.dtype, theirs.dtype)
    if tolerance:
        numpy.testing.assert_allclose(ours, theirs, rtol=tolerance, err_msg=what)
    else:
        numpy.testing.assert_array_equal(ours, theirs, err_msg=what)
    say(f"{what}: as NumPy")


name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
say(f"CuPy {cupy.__version__}, cudart {cupy.cuda.runtime.runtimeGetVersion()}, on {name}")

numbers = numpy.arange(1, 5001, dtype=numpy.float32)
x, y = cupy.asarray(numbers), cupy.asarray(numbers[::-1].copy())

same("arithmetic on float32", x * 2 + y, numbers * 2 + numbers[::-1])
same("division and powers", x / y + x**2, numbers / numbers[::-1] + numbers**2, 1e-6)
same("integers", cupy.arange(5000) % 7 * 3 - 1, numpy.arange(5000) % 7 * 3 - 1)
same("comparison and selection", cupy.where(x > y, x, -y), numpy.where(numbers > numbers[::-1], numbers, -numbers[::-1]))
same("mathematics", cupy.sqrt(x) + cupy.exp(-x / 1000) * cupy.sin(x),
     numpy.sqrt(numbers) + numpy.exp(-numbers / 1000) * numpy.sin(numbers), 1e-4)
same("slices and broadcasting", x.reshape(50, 100)[::2, 1:] + y[:99], numbers.reshape(50, 100)[::2, 1:] + numbers[::-1][:99])
same("half precision", x.astype(cupy.float16) / 3, numbers.astype(numpy.float16) / numpy.float16(3), 1e-3)

same("sum", x.sum(), numbers.sum(), 1e-6)
same("sum along an axis", x.reshape(50, 100).sum(axis=0), numbers.reshape(50, 100).sum(axis=0), 1e-6)
same("maximum and its place", cupy.stack([y.max().astype(cupy.int64), y.argmax()]), [5000, 0])
same("mean in double precision", x.astype(cupy.float64).mean(), numbers.astype(numpy.float64).mean())

scaled = cupy.ElementwiseKernel("float32 x, float32 y, float32 a", "float32 z", "z = x > y ? a * x : y", "scaled")
same("an ElementwiseKernel", scaled(x, y, 0.5),
     numpy.where(numbers > numbers[::-1], numpy.float32(0.5) * numbers, numbers[::-1]))

histogram = cupy.RawKernel(r"""
extern "C" __global__ void histogram(const unsigned *values, int count, unsigned *bins) {
    __shared__ unsigned mine[16];
    if (threadIdx.x < 16) mine[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        atomicAdd(&mine[values[i] * 2654435761u >> 28], 1u);
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&bins[threadIdx.x], mine[threadIdx.x]);
}
""", "histogram")
values = numpy.arange(20000, dtype=numpy.uint32)
bins = cupy.zeros(16, dtype=cupy.uint32)
histogram((8,), (64,), (cupy.asarray(values), numpy.int32(values.size), bins))
expected = numpy.bincount(values * numpy.uint32(2654435761) >> numpy.uint32(28), minlength=16).astype(numpy.uint32)
same("a RawKernel with shared memory, barriers and atomics", bins, expected)

stream, event = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Event()
with stream:
    doubled = x * 2
    event.record()
event.synchronize()
same("a stream and an event", doubled, numbers * 2)
say("all results are right")
