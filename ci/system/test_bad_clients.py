"""What a server does with a client that breaks the rules: it ends that session with a reason, and no other.

Each test has a bystander: a sound session on the same server, which must notice nothing.
"""

import random
import socket
import struct
import time

import pytest

import wire
from harness import Bystander, Server, alive, until

PROTOCOL = 1  # the reason code of a session that is closed for breaking the protocol
TOP = 1 << 63


@pytest.fixture(scope="module")
def server():
    """One server for all of it: it must bear everything, one after the other."""
    with Server() as server:
        yield server
        assert server.process.poll() is None, server.log()


@pytest.fixture(scope="module")
def bystanding(server):
    bystander = Bystander(server)
    yield bystander
    bystander.done()


@pytest.fixture
def bystander(bystanding):
    """The session that must notice nothing."""
    yield bystanding
    bystanding.check()


@pytest.fixture
def session(server, bystander):
    """A session by hand, beside the bystander's. When the test is over its worker must be gone."""
    session = wire.Session(server)
    pid = int(server.wait_line(f"session {session.name} opened: ").rsplit(" ", 1)[1])
    yield session
    session.close()
    until(lambda: not alive(pid), "the worker of the bad client is gone", 20)


def session_closed(server, session):
    """The line of the log that says how the session ended."""
    return server.wait_line(f"session {session.name} closed: ")


def closed(server, session, *needed):
    """The session was ended for breaking the protocol; the client and the log are told why."""
    reason, text = session.ended()
    assert reason == PROTOCOL, (reason, text)
    line = session_closed(server, session)
    for needle in needed:
        assert needle in text and needle in line, (text, line)
    assert "\n" not in text


# Before a session.


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_as_an_opening(server, bystander, seed):
    source = random.Random(seed)
    for _ in range(10):
        with socket.create_connection(server.address.rsplit(":", 1), timeout=20) as connection:
            try:
                connection.sendall(source.randbytes(source.randrange(1, 5000)))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass  # it may well hang up before it has read everything
        bystander.check()


def test_random_bytes_behind_a_good_opening(server, bystander):
    for seed in range(10):
        session = wire.Session(server)
        try:
            session.raw.sendall(random.Random(seed).randbytes(3000))
        except ConnectionError:
            pass
        reason, _ = session.ended()
        assert reason in (PROTOCOL, None)
        session.close()
        bystander.check()


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
def test_another_version(server, bystander, version):
    with socket.create_connection(server.address.rsplit(":", 1), timeout=20) as connection:
        connection.sendall(wire.hello(version=version))
        fields = wire.WELCOME.unpack(wire.Session.take(connection, wire.WELCOME.size))
        text = wire.Session.take(connection, fields[12]).decode()
        assert fields[1] == wire.VERSION and fields[2] == 1
        assert f"protocol {version}," in text and f"server {wire.VERSION}" in text and "install" in text, text


@pytest.mark.parametrize("opening", [
    pytest.param(wire.hello(tail_len=0xFFFFFFFF), id="a tail of 4 GiB"),
    pytest.param(wire.hello(tail_len=4097), id="a tail too long"),
    pytest.param(wire.hello(role=77), id="an unknown role"),
    pytest.param(wire.hello(lanes=0xFFFFFFFF), id="too many lanes"),
    pytest.param(wire.hello(tail=b"\xff\xfe"), id="a tail that is no text"),
    pytest.param(wire.hello(role=wire.BULK, session=(1, 2)), id="a lane of nobody's session"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100), id="another protocol"),
])
def test_openings_that_make_no_sense(server, bystander, opening):
    with socket.create_connection(server.address.rsplit(":", 1), timeout=20) as connection:
        connection.sendall(opening)
        fields = wire.WELCOME.unpack(wire.Session.take(connection, wire.WELCOME.size))
        assert fields[2] in (4, 5), fields
        assert wire.Session.take(connection, fields[12])


# Frames.


@pytest.mark.parametrize("bytes_", [
    pytest.param(wire.frame(wire.BATCH, seq=1, records=1, size=0xFFFFFFF8), id="4 GiB"),
    pytest.param(wire.frame(wire.BATCH, seq=1, records=1, size=(16 << 20) + 8), id="16 MiB and a word"),
    pytest.param(wire.frame(wire.BATCH, seq=1, records=0xFFFFFFFF, size=64), id="more records than bytes"),
    pytest.param(wire.frame(wire.BATCH, bytes(8), seq=1, records=0), id="bytes without records"),
    pytest.param(wire.frame(wire.BATCH, seq=1, records=1, size=0), id="records without bytes"),
    pytest.param(wire.frame(wire.BATCH, bytes(12), seq=1, records=1), id="not a multiple of eight"),
    pytest.param(wire.frame(9), id="an unknown kind"),
    pytest.param(wire.frame(wire.ACK, magic=0x1234), id="a wrong magic"),
    pytest.param(wire.frame(wire.ACK, flags=0x80), id="unknown flags"),
    pytest.param(wire.frame(wire.ACK, reserved=1), id="a reserved field"),
    pytest.param(wire.frame(wire.ACK, bytes(8)), id="an acknowledgement with a payload"),
    pytest.param(wire.frame(wire.ACK, ack=1 << 63), id="an acknowledgement of what was never sent"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8)), seq=5, records=1), id="a gap"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8)), seq=TOP, records=1), id="batch 2^63"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8), size=4), seq=1, records=1), id="a short record"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8), size=0), seq=1, records=1), id="an empty record"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8), size=24), seq=1, records=1), id="a long record"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8), size=0xFFFFFFF8), seq=1, records=1),
                 id="a record of 4 GiB"),
    pytest.param(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8), size=15), seq=1, records=1), id="an odd record"),
])
def test_malformed_frames(server, session, bytes_):
    session.raw.sendall(bytes_)
    closed(server, session)


def test_a_truncated_frame(server, session):
    whole = wire.frame(wire.BATCH, wire.record(0x0203, bytes(8)), seq=1, records=1)
    session.raw.sendall(whole[:-5])
    session.raw.shutdown(socket.SHUT_WR)
    session.ended()
    session_closed(server, session)


@pytest.mark.parametrize("cut", [1, 2, 16, 31, 32, 40])
def test_a_client_that_goes_in_the_middle_of_a_frame(server, session, cut):
    session.raw.sendall(wire.frame(wire.BATCH, wire.record(0x0203, bytes(8)), seq=1, records=1)[:cut])
    session.close()
    session_closed(server, session)


def test_a_batch_that_never_ends(server, session, bystander):
    """A frame of the greatest size whose bytes trickle in: it costs no one else anything."""
    session.raw.sendall(wire.frame(wire.BATCH, seq=1, records=1, size=16 << 20))
    end = time.monotonic() + 3
    while time.monotonic() < end:
        session.raw.sendall(b"\0")
        bystander.check()
        time.sleep(0.02)


def test_batches_without_end(server, session, bystander):
    """Batch upon batch, never reading an answer: the server stops reading rather than grow or die."""
    context = session.context()
    batch = b"".join(wire.record(0x0204, struct.pack("<Q", context)) for _ in range(1000))
    session.raw.settimeout(0.2)
    sent, end = 0, time.monotonic() + 5
    while time.monotonic() < end:
        session.seq += 1
        bytes_ = wire.frame(wire.BATCH, batch, seq=session.seq, ack=session.heard, records=1000)
        try:
            session.raw.sendall(bytes_)
            sent += len(bytes_)
        except (TimeoutError, ConnectionError):
            break
    bystander.check()


# Records.


@pytest.mark.parametrize("op", [0, 1, 0x01FF, 0x0411 - 1, 0x7FFF, 0x8001, 0xFFFF])
def test_unknown_operations(server, session, op):
    session.batch(wire.record(op, bytes(32)))
    closed(server, session, f"{op:#06x}")


def test_records_too_short_for_their_operation(server, session):
    session.batch(wire.record(0x0601, bytes(8)))
    closed(server, session)


@pytest.mark.parametrize("handle", [0, 1, 2, 0x10, 0xDEADBEEF00, TOP, (1 << 64) - 1])
def test_forged_handles(server, session, handle):
    """Of a context, a stream and a function: the operation fails, or the session ends. Nothing else happens."""
    context = session.context()
    for op, fixed in [
        (0x0204, struct.pack("<Q", handle)),
        (0x0404, struct.pack("<Q", handle)),
        (0x0514, struct.pack("<QQQiI", handle, context, 0, 32, 0)),
    ]:
        try:
            assert session.ask(op, fixed) != 0
        except wire.Ended as end:
            assert end.reason == PROTOCOL
            return


def test_a_stale_handle(server, session):
    context = session.context()
    stream = session.stream(context)
    session.batch(wire.record(0x0403, struct.pack("<Q", stream)))
    try:
        assert session.ask(0x0404, struct.pack("<Q", stream)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


def test_a_handle_of_another_kind(server, session):
    context = session.context()
    try:
        assert session.ask(0x0404, struct.pack("<Q", context)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


def test_a_handle_made_twice(server, session):
    context = session.context()
    stream = session.stream(context)
    session.batch(wire.record(0x0401, struct.pack("<QQIi", stream, context, 1, 0)))
    try:
        # The first one may live on, or the session end; but it must not be lost track of.
        session.ask(0x0404, struct.pack("<Q", stream))
    except wire.Ended as end:
        assert end.reason == PROTOCOL


OUTSIDE = [
    pytest.param(lambda session, block: 0, id="null"),
    pytest.param(lambda session, block: 4096, id="low"),
    pytest.param(lambda session, block: session.base - 4096, id="before the window"),
    pytest.param(lambda session, block: block + (2 << 20), id="behind the block"),
    pytest.param(lambda session, block: block + (2 << 20) - 8, id="across the end of the block"),
    pytest.param(lambda session, block: session.base + session.window - 8, id="the end of the window"),
    pytest.param(lambda session, block: 0x7FFF00000000, id="the server's stack"),
    pytest.param(lambda session, block: TOP, id="2^63"),
    pytest.param(lambda session, block: (1 << 64) - 8, id="the top"),
]


def refused(session, number, sync):
    """An asynchronous operation on nonsense failed, or ended the session; nothing was done."""
    try:
        sync()
        assert any(about == number and status != 0 for about, status in session.failed), session.failed
    except wire.Ended as end:
        assert end.reason == PROTOCOL, end


@pytest.mark.parametrize("address", OUTSIDE)
@pytest.mark.parametrize("what", ["in", "out", "within", "set"])
def test_pointers_outside_the_memory_of_the_session(server, session, address, what):
    context = session.context()
    stream = session.stream(context)
    block = session.block(context)
    bad = address(session, block)
    op, fixed = {
        "in": (0x0302, struct.pack("<QQQ", stream, bad, 16) + b"x" * 16),
        "out": (0x0303, struct.pack("<QQQ", stream, bad, 16)),
        "within": (0x0304, struct.pack("<QQQQ", stream, block, bad, 16)),
        "set": (0x0306, struct.pack("<QQQQQII", stream, bad, 0, 16, 1, 1, 1)),
    }[what]
    number = session.batch(wire.record(op, fixed))

    def sync():
        if what == "out":
            session.outcome(number)
        session.ask(0x0404, struct.pack("<Q", stream))

    refused(session, number, sync)


@pytest.mark.parametrize("size", [(1 << 20) * 3, 1 << 40, TOP, (1 << 64) - 1])
@pytest.mark.parametrize("op", [0x0303, 0x0304, 0x0306])
def test_copies_longer_than_the_block(server, session, op, size):
    context = session.context()
    stream = session.stream(context)
    block = session.block(context)
    fixed = {
        0x0303: struct.pack("<QQQ", stream, block, size),
        0x0304: struct.pack("<QQQQ", stream, block, block, size),
        0x0306: struct.pack("<QQQQQII", stream, block, 0, size, 1, 1, 1),
    }[op]
    number = session.batch(wire.record(op, fixed))

    def sync():
        if op == 0x0303:
            session.outcome(number)
        session.ask(0x0404, struct.pack("<Q", stream))

    refused(session, number, sync)


@pytest.mark.parametrize("size", [TOP, (1 << 64) - 1, 1 << 41])
def test_a_copy_in_of_impossible_length(server, session, size):
    context = session.context()
    stream = session.stream(context)
    block = session.block(context)
    for op, fixed in [(0x0302, struct.pack("<QQQ", stream, block, size) + b"x" * 16),
                      (0x0301, struct.pack("<QQQQ", stream, block, size, 0))]:
        number = session.batch(wire.record(op, fixed))
        refused(session, number, lambda: session.ask(0x0404, struct.pack("<Q", stream)))
        break


@pytest.mark.parametrize("size", [0, 1, 4097, TOP, (1 << 64) - 1, 1 << 50])
def test_blocks_of_impossible_size(server, session, size):
    context = session.context()
    try:
        assert session.ask(0x0201, struct.pack("<QQQ", context, session.base, size)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


@pytest.mark.parametrize("address", [0, 4096, TOP, (1 << 64) - (2 << 20), 0x7F0000000000])
def test_blocks_outside_the_window(server, session, address):
    context = session.context()
    try:
        assert session.ask(0x0201, struct.pack("<QQQ", context, address, 2 << 20)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


def test_overlapping_blocks(server, session):
    context = session.context()
    session.block(context)
    try:
        assert session.ask(0x0201, struct.pack("<QQQ", context, session.base, 2 << 20)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


@pytest.mark.parametrize("total", [0, 3, TOP, (1 << 64) - 1])
def test_images_of_impossible_size(server, session, total):
    """A blob says how long it will be; memory must only grow with what has really come."""
    context = session.context()
    blob = session.new()
    session.batch(wire.record(0x0501, struct.pack("<QQ", blob, total) + b"x" * 16))
    try:
        assert session.ask(0x0502, struct.pack("<QQQII", session.new(), context, blob, 0, 0)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


@pytest.mark.parametrize("image", [b"", b"\x7fELF" + b"\xff" * 60, struct.pack("<IHHQ", 0xBA55ED50, 1, 16, TOP),
                                   b"this is not PTX\0", b"\0" * 64,
                                   random.Random(1).randbytes(4000)],
                         ids=["empty", "an ELF header", "a fat binary of 2^63 bytes", "bad PTX", "zeros", "noise"])
def test_images_that_are_none(server, session, image):
    context = session.context()
    blob = session.new()
    try:
        session.batch(wire.record(0x0501, struct.pack("<QQ", blob, len(image)) + image))
        assert session.ask(0x0502, struct.pack("<QQQII", session.new(), context, blob, 0, 0)) != 0
    except wire.Ended as end:
        assert end.reason == PROTOCOL


# Bulk lanes.


@pytest.mark.parametrize("header", [
    pytest.param((0xBAD, 16, 0, 0, 0, 0, 0), id="a wrong magic"),
    pytest.param((wire.CHUNK_MAGIC, 0xFFFFFFFF, 0, 0, 0, 0, 0), id="4 GiB"),
    pytest.param((wire.CHUNK_MAGIC, 16, 7, 0, 0, 0, 0), id="an unknown kind"),
    pytest.param((wire.CHUNK_MAGIC, 16, 1, 0, 0, 0, 0), id="the wrong direction"),
    pytest.param((wire.CHUNK_MAGIC, 16, 0, 0, 0, 5, 0), id="of a copy to the host"),
    pytest.param((wire.CHUNK_MAGIC, 16, 0, 0, TOP, 0, 0), id="chunk 2^63"),
    pytest.param((wire.CHUNK_MAGIC, 16, 0, 0, 0, 0, TOP), id="an offset of 2^63"),
    pytest.param((wire.CHUNK_MAGIC, 16, 0, 16, 0, 0, 0), id="compressed to no less"),
    pytest.param((wire.CHUNK_MAGIC, 16, 0, 0xFFFFFFFF, 0, 0, 0), id="compressed from 4 GiB"),
    pytest.param((wire.CHUNK_MAGIC, 16, 0, 4096, 0, 0, 0), id="compressed by nobody"),
])
def test_malformed_chunks(server, session, header):
    session.lanes[0].sendall(wire.CHUNK.pack(*header) + bytes(16))
    reason, _ = session.ended()
    assert reason in (PROTOCOL, None)
    session_closed(server, session)


def test_chunks_without_credit(server, session):
    try:
        for number in range(session.h2d_slots + 2):
            session.lanes[0].sendall(wire.CHUNK.pack(wire.CHUNK_MAGIC, 16, 0, 0, number, 0, 0) + bytes(16))
    except ConnectionError:
        pass
    reason, _ = session.ended()
    assert reason in (PROTOCOL, None)
    session_closed(server, session)


def test_a_bulk_lane_that_goes(server, session):
    """Without it nothing can be finished: the session ends, within moments."""
    session.context()
    session.lanes[0].close()
    before = time.monotonic()
    session.ended()
    assert time.monotonic() - before < 5
    session_closed(server, session)
