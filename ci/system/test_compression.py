"""Bulk data and images compressed on their way: fewer bytes on the link, the same in memory."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from harness import Server, run

# Pixels of 8-bit images, normalised as torchvision does it, there and back; and data that cannot be compressed.
COPIES = """
import array, random, driver
from ctypes import c_size_t, c_uint64
driver.start()
rng = random.Random(1)
pixels = array.array("f")
for mean, deviation in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)] * 4:
    colours = [(value / 255 - mean) / deviation for value in range(256)]
    pixels.extend(rng.choices(colours, k=224 * 224))
pixels = pixels.tobytes()
noise = rng.randbytes(3 << 20)
for data in pixels, noise, pixels[1:-2]:
    memory = driver.alloc(len(data))
    driver.to_device(memory, data)
    assert driver.from_device(memory, len(data)) == data
# Asynchronous, from pinned memory and back.
source, target = driver.pinned(len(pixels)), driver.pinned(len(pixels))
source[:] = pixels
stream = driver.stream()
driver.call("cuMemcpyHtoDAsync_v2", c_uint64(memory), source, c_size_t(len(pixels) - 3), stream)
driver.call("cuMemcpyDtoHAsync_v2", target, c_uint64(memory), c_size_t(len(pixels) - 3), stream)
driver.synchronize(stream)
assert bytes(target)[:-3] == pixels[:-3]
print(len(pixels), len(noise))
"""


def copied(server, when):
    """Bytes of pixels and of noise that were copied each way, and what the link carried."""
    # Over TCP in any case: memory that is shared is never compressed.
    client = run(server.address, COPIES, env={"FUSEWIRE_COMPRESS": when})
    pixels, noise = map(int, client.out.split())
    bulk = json.loads(pathlib.Path(client.stats_file.name).read_text())["bulk"]
    assert 3 * pixels + noise - 10 < bulk["out"] <= 3 * pixels + noise and bulk["in"] == bulk["out"], bulk
    return pixels, noise, bulk


def test_pixels_become_a_quarter_and_noise_stays_as_it_is(server):
    pixels, noise, bulk = copied(server, "always")
    for carried in bulk["sent"], bulk["received"]:
        # The third copy does not begin with a whole word: it has no palette, but is repetitive. And copies so small are
        # cut into chunks of 64 KiB, each of which has a table or two of 1 KiB.
        carried -= noise
        assert 2 * pixels * 0.25 + pixels * 0.5 < carried < 2 * pixels * 0.28 + pixels * 0.9, bulk


@pytest.mark.parametrize("when", ["off", "auto"])
def test_nothing_is_compressed_where_it_does_not_pay(server, when):
    _, _, bulk = copied(server, when)
    assert bulk["sent"] == bulk["out"] and bulk["received"] == bulk["in"], bulk


# Rows of a sparse gradient, and batches of padded tokens; so often.
SPARSE = """
import random, struct, sys, driver
driver.start()
rng = random.Random(2)
rows = b"".join(rng.randbytes(256) if rng.random() < 0.1 else bytes(256) for n in range(16 << 10))
tokens = b""
for n in range(1024):
    length = rng.randrange(20, 120)
    tokens += struct.pack(f"<{length}q", *(rng.randrange(50257) for n in range(length))).ljust(4096, bytes(1))
memory = driver.alloc(len(rows))
for n in range(int(sys.argv[1])):
    for data in rows, tokens:
        driver.to_device(memory, data)
        assert driver.from_device(memory, len(data)) == data
"""

# Text that is worth compressing, and what is compressed already.
IMAGE = """
import random, driver
from ctypes import byref, c_char_p, c_void_p
driver.start()
more = "".join(f".visible .entry more_{n}() {{ ret; }}\\n" for n in range(40_000))
image = (driver.KERNELS + more).encode()
library = c_void_p()
driver.call("cuLibraryLoadData", byref(library), c_char_p(image), None, None, 0, None, None, 0)
kernel = c_void_p()
driver.call("cuLibraryGetKernel", byref(kernel), library, b"add")
memory = driver.alloc(256)
driver.to_device(memory, bytes(256))
driver.add(kernel, memory, 5, 64)
assert driver.from_device(memory, 4) == (5).to_bytes(4, "little")
print(len(image))
"""


def carried(address, program, when, *arguments, **options):
    """Bytes of memory that were copied, what the link carried of them, and bytes sent for an image."""
    client = run(address, program, *arguments, env={"FUSEWIRE_COMPRESS": when}, **options)
    stats = json.loads(pathlib.Path(client.stats_file.name).read_text())
    bulk = stats["bulk"]
    assert bulk["out"] == bulk["in"], bulk
    image = sum(row["bytes_out"] for row in stats["functions"] if row["name"] == "cuLibraryLoadData")
    return client, bulk, image


@pytest.mark.parametrize("when, least, most", [("always", 0.05, 0.2), ("off", 1, 1), ("auto", 1, 1)])
def test_sparse_data_and_padded_tokens_shrink(server, when, least, most):
    _, bulk, _ = carried(server.address, SPARSE, when, 1)
    for way in "sent", "received":
        assert least * bulk["out"] <= bulk[way] <= most * bulk["out"], bulk


@pytest.mark.parametrize("when, least, most", [("always", 0.01, 0.25), ("off", 1, 1.01), ("auto", 1, 1.01)])
def test_images_shrink(server, when, least, most):
    client, _, sent = carried(server.address, IMAGE, when)
    assert least < sent / int(client.out) < most, sent


@pytest.fixture
def slow():
    """A link of 400 Mbit/s between two network namespaces: a server in one, and what clients are started under to
    be in the other."""
    if os.geteuid() != 0 or not all(map(shutil.which, ["ip", "tc"])):
        pytest.skip("only root can make a network, with ip and tc")
    names = [f"fusewire-{os.getpid()}-{end}" for end in ("client", "server")]

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("-n", names[0], "link", "add", "fw0", "type", "veth", "peer", "name", "fw1", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network can be made here: {error.stderr}")
        for end, name in enumerate(names):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.66.77.{end + 1}/24", "dev", f"fw{end}")
            ip("-n", name, "link", "set", f"fw{end}", "up")
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", f"fw{end}", "root", "tbf", "rate", "400mbit",
                            "burst", "256k", "latency", "50ms"], check=True)
        within = [["ip", "netns", "exec", name] for name in names]
        with Server("--listen", "10.66.77.2:0", "--insecure", under=within[1]) as server:
            line = server.wait_line("listening on 10.66.77.2")
            yield re.search(r"10\.66\.77\.2:\d+", line).group(), within[0]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_sparse_data_shrinks_by_itself_on_a_slow_link(slow):
    address, within = slow
    _, bulk, _ = carried(address, SPARSE, "auto", 12, under=within)
    # At first nothing is known of the link.
    assert bulk["sent"] < 0.7 * bulk["out"] and bulk["received"] < 0.7 * bulk["in"], bulk
    _, bulk, _ = carried(address, SPARSE, "off", 1, under=within)
    assert bulk["sent"] == bulk["out"] and bulk["received"] == bulk["in"], bulk


def test_an_image_shrinks_by_itself_on_a_link(slow):
    address, within = slow
    client, _, sent = carried(address, IMAGE, "auto", under=within)
    assert 4 * sent < int(client.out), sent
    client, _, sent = carried(address, IMAGE, "off", under=within)
    assert sent > int(client.out)


def test_a_wrong_setting(server):
    client = run(server, "", env={"FUSEWIRE_COMPRESS": "maybe"}, code=1)
    assert "FUSEWIRE_COMPRESS" in client.errors, client.errors
