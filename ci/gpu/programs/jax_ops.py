"""JAX: jit of a product, convolutions, FFT, SVD, random numbers, a gradient and a training step."""

import os

# The card is shared with the other checks.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy

from report import Report, arguments, close, exact


def numbers(*shape):
    return numpy.random.default_rng(sum(shape)).standard_normal(shape, dtype=numpy.float32)


def near(left, right, tolerance, what):
    error = numpy.abs(numpy.asarray(left) - right).max() / numpy.abs(right).max()
    if not error <= tolerance:
        raise ValueError(f"{what} is off by {error:.3g}")


def device():
    found = jax.devices()[0]
    if found.platform not in ("gpu", "cuda"):
        raise ValueError(f"JAX runs on {found}, not on a GPU")
    return [found.device_kind, len(jax.devices())]


def matmul():
    a, b = numbers(512, 700), numbers(700, 300)
    out = jax.jit(lambda x, y: jnp.tanh(x @ y / 30))(a, b)
    near(out, numpy.tanh(a @ b / 30), 5e-3, "the product")
    return out


def convolution():
    x, w = numbers(4, 16, 40, 40), numbers(32, 16, 3, 3)
    return jax.jit(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"))(x, w)


def fft():
    x = numbers(32, 1000)
    out = jax.jit(jnp.fft.rfft)(x)
    near(out, numpy.fft.rfft(x), 1e-4, "the FFT")
    return out


def svd():
    a = numbers(150, 100)
    values = jax.jit(lambda a: jnp.linalg.svd(a, compute_uv=False))(a)
    near(values, numpy.linalg.svd(a, compute_uv=False), 1e-4, "the singular values")
    return values


def random():
    key = jax.random.key(42)
    return [jax.random.normal(key, (10_000,)), jax.random.permutation(key, 1000), jax.random.bits(key, (1000,))]


def training():
    w = jnp.asarray(numbers(64, 10)) * 0.1
    x, y = numbers(256, 64), numpy.arange(256) % 10

    @jax.jit
    def step(w):
        def loss(w):
            return -jnp.mean(jax.nn.log_softmax(x @ w)[jnp.arange(256), y])

        value, gradient = jax.value_and_grad(loss)(w)
        return value, w - 0.5 * gradient

    losses = []
    for _ in range(20):
        value, w = step(w)
        losses.append(float(value))
    if not losses[-1] < losses[0]:
        raise ValueError(f"the loss does not fall: {losses}")
    return losses


def loops():
    """A scan, a sort and a callback to Python, which XLA does in ways of its own."""
    x = numbers(1000)
    total, parts = jax.jit(lambda x: jax.lax.scan(lambda c, v: (c * 0.9 + v, c), 0.0, x))(x)
    shape = jax.ShapeDtypeStruct((1000,), numpy.float32)
    doubled = jax.jit(lambda x: jax.pure_callback(lambda v: numpy.asarray(v) * 2, shape, x))(x)
    near(doubled, x * 2, 0, "the callback's result")
    return [total, parts, jnp.sort(x)]


def main():
    report = Report(arguments(__doc__))
    report.versions = {"jax": jax.__version__}
    report.check("jax_device", exact(), device)
    report.check("jax_matmul", close(5e-3), matmul)
    report.check("jax_convolution", close(5e-3), convolution)
    report.check("jax_fft", close(1e-5), fft)
    report.check("jax_svd", close(1e-4), svd)
    report.check("jax_random", exact(), random)
    report.check("jax_training", close(1e-2), training)
    report.check("jax_loops", close(1e-5), loops)
    report.finish()


main()
