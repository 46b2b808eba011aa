"""Images are sent once: what a server has, it is not sent again, and kernels it has told of are not asked for."""

import json
import os
import pathlib
import sys
import tempfile

import pytest

from harness import Server, run

LOAD = """
import sys, driver
from ctypes import byref, c_char_p, c_void_p
driver.start()
# Six kernels more than are told of unasked, and enough text to be worth a name.
more = "".join(f".visible .entry more_{n}() {{ ret; }}\\n" for n in range(6))
image = (driver.KERNELS + more + "//" + "x" * 100000).encode()
library = c_void_p()
driver.call("cuLibraryLoadData", byref(library), c_char_p(image), None, None, 0, None, None, 0)
for n in range(2):
    kernel = c_void_p()
    driver.call("cuLibraryGetKernel", byref(kernel), library, b"add")
memory = driver.alloc(256)
driver.to_device(memory, bytes(256))
driver.add(kernel, memory, 5, 64)
assert driver.from_device(memory, 4) == (5).to_bytes(4, "little")
"""


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="fusewire-images-") as folder:
        yield pathlib.Path(folder)


def load(server, **options):
    """Bytes sent for the image, and how often a kernel was asked for."""
    stats = run(server, LOAD, **options).stats()
    return stats["cuLibraryLoadData"]["bytes_out"], stats["cuLibraryGetKernel"]["sync"]


def test_a_second_start_sends_no_image_and_asks_for_no_kernel(folder):
    with Server("--image-cache", folder) as server:
        first, asked = load(server)
        assert first > 100_000 and asked == 1
        second, asked = load(server)
        assert second < 500 and asked == 0
    # Another daemon with the same folder.
    with Server("--image-cache", folder) as server:
        assert load(server)[0] < 500


def test_an_image_that_was_changed_is_sent_again(folder):
    with Server("--image-cache", folder) as server:
        load(server)
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(b"x" + file.read_bytes()[1:])
        assert load(server)[0] > 100_000
        assert load(server)[0] < 500


def test_other_tokens_have_other_images(folder):
    for token in "one", "two":
        secret = folder / token
        secret.write_text(token)
        with Server("--image-cache", folder / "cache", "--token-file", secret) as server:
            for least, most in (100_000, 200_000), (0, 500):
                sent, _ = load(server, env={"FUSEWIRE_TOKEN": token})
                assert least < sent < most, token


# All is imported before, since the other user may not be able to read it.
AS_USER = "import os, sys, driver, ctypes.util; os.setuid(int(sys.argv[1])); exec(sys.argv[2])"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_users_of_the_host_have_other_images(folder):
    # Where another user can write, which is not so in the folder of a test.
    written = folder / "stats"
    written.mkdir()
    written.chmod(0o777)
    folder.chmod(0o711)
    with Server("--image-cache", folder / "cache", "--socket-mode", "666") as server:
        pathlib.Path(server.folder.name).chmod(0o711)
        for user in 0, 65534:
            for least, most in (100_000, 200_000), (0, 500):
                stats = written / f"{user}-{least}"
                command = [sys.executable, "-c", AS_USER, str(user), LOAD]
                run(server.local, "", command=command, env={"FUSEWIRE_STATS": str(stats)})
                rows = json.loads(stats.read_text())["functions"]
                sent = next(row["bytes_out"] for row in rows if row["name"] == "cuLibraryLoadData")
                assert least < sent < most, user


def test_the_folder_is_bounded(folder):
    with Server("--image-cache", folder, "--image-cache-bytes", "64K") as server:
        for _ in range(2):
            assert load(server)[0] > 100_000
    with Server("--image-cache", folder, "--image-cache-bytes", "0") as server:
        for _ in range(2):
            assert load(server)[0] > 100_000


def test_a_folder_that_cannot_be_used(folder):
    (folder / "file").write_text("")
    with Server("--image-cache", folder / "file") as server:
        assert load(server)[0] > 100_000
        assert server.lines("images are not kept")
