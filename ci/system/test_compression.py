"""Bulk data compressed on its way: fewer bytes on the link, the same in memory."""

import json
import pathlib

import pytest

from harness import run

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
        # The third copy does not begin with a whole word, and goes as it is.
        carried -= noise + pixels - 3
        # A copy so small is cut into chunks of 64 KiB, each of which has a table or two of 1 KiB.
        assert 2 * pixels * 0.25 < carried < 2 * pixels * 0.28, bulk


@pytest.mark.parametrize("when", ["off", "auto"])
def test_nothing_is_compressed_where_it_does_not_pay(server, when):
    _, _, bulk = copied(server, when)
    assert bulk["sent"] == bulk["out"] and bulk["received"] == bulk["in"], bulk


def test_a_wrong_setting(server):
    client = run(server, "", env={"FUSEWIRE_COMPRESS": "maybe"}, code=1)
    assert "FUSEWIRE_COMPRESS" in client.errors, client.errors
