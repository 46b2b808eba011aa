"""What a program sees when the server is not there, or is not what it should be.

Every time: one line on stderr that says what was tried and what to do, cuInit says CUDA_ERROR_NO_DEVICE in good
time, and the program goes on without a GPU.
"""

import contextlib
import socket
import threading
import time

import pytest

import wire
from harness import Server, free_port, run

PROGRAM = """
import driver
print(driver.code_of(driver.start))
# A program may ask again; it gets the same answer, without a second line.
print(driver.code_of(driver.start))
"""


def refused(address, *needed, within=10, env=None):
    """Runs the program, which must be told no; the one line must hold all of `needed`."""
    before = time.monotonic()
    client = run(address, PROGRAM, env=env, stats=False)
    assert time.monotonic() - before < within
    assert client.out.split() == ["100", "100"], client.out
    [line] = client.complaints()
    assert client.errors.strip() == line, client.errors
    for text in needed:
        assert text in line, line


@contextlib.contextmanager
def listener(behave):
    """A server that calls `behave(connection)` for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    kept.append(connection)
                    behave(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield "{}:{}".format(*listening.getsockname())
        for connection in kept:
            connection.close()


def test_no_server():
    port = free_port()
    refused(f"127.0.0.1:{port}", f"127.0.0.1:{port}", "fusewire serve")


def test_no_such_host():
    refused("no-such-host.invalid:7543", "no-such-host.invalid", "FUSEWIRE_SERVER")


def test_a_server_that_says_nothing():
    with listener(lambda _: None) as address:
        refused(address, address, "FUSEWIRE_CONNECT_TIMEOUT", within=12)


def test_a_server_that_says_nothing_and_an_impatient_user():
    with listener(lambda _: None) as address:
        refused(address, address, "0.5 s", env={"FUSEWIRE_CONNECT_TIMEOUT": "0.5"}, within=5)


def test_a_server_that_hangs_up():
    with listener(lambda connection: connection.close()) as address:
        refused(address, address)


def test_something_else_listens():
    with listener(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        refused(address, address, "not a Fusewire server")


@pytest.mark.parametrize("version", [0, 2, 4711])
def test_a_server_of_another_version(version):
    welcome = wire.WELCOME.pack(b"FUSEWIRE", version, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    with listener(lambda connection: connection.sendall(welcome)) as address:
        refused(address, f"protocol {wire.VERSION}", f"speaks {version}", "install the same")


def test_a_welcome_that_ends_in_the_middle():
    def half(connection):
        connection.recv(1 << 16)
        connection.sendall(wire.WELCOME.pack(b"FUSEWIRE", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0) + b"x" * 50)
        connection.close()

    with listener(half) as address:
        refused(address, address)


def test_a_device_snapshot_that_makes_no_sense():
    def nonsense(connection):
        connection.recv(1 << 16)
        connection.sendall(
            wire.WELCOME.pack(b"FUSEWIRE", 1, 0, 1, 1, 1, 1 << 20, 4, 4, 0, 1 << 44, 1 << 40, 64, 0) + b"\xff" * 64)

    with listener(nonsense) as address:
        refused(address, address)


def test_a_token_that_nobody_asked_for(server):
    run(server, "import driver; driver.start()", env={"FUSEWIRE_TOKEN": "anything"})


def test_a_missing_and_a_wrong_token(tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    with Server("--token-file", file) as server:
        refused(server.address, "token")
        refused(server.address, "token", env={"FUSEWIRE_TOKEN": "wrong"})
        run(server, "import driver; driver.start()", env={"FUSEWIRE_TOKEN": "s3cret"})
        assert "s3cret" not in server.log()
