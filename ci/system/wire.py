"""A client of the protocol made by hand, that can say what no sound client says.

The layouts are those of wire/src/hello.rs, frame.rs, bulk.rs and ops/table.rs, written down a second time on
purpose: if one of them changes without a new protocol version, these tests fail.
"""

import socket
import struct

VERSION = 1
COMMAND, BULK, QUERY = 0, 1, 2
BATCH, ACK, CLOSE, PING, PONG = range(5)

HELLO = struct.Struct("<8sIIQQQIIII")
WELCOME = struct.Struct("<8sIIQQQIIIIQQII")
FRAME = struct.Struct("<HBBIIIQQ")
RECORD = struct.Struct("<HHI")
CHUNK = struct.Struct("<IIIIQQQ")
FRAME_MAGIC = 0x4657
CHUNK_MAGIC = 0x4B4C5542

REPLY, DONE, FAILED, CREDIT, BARRIER, DATA = range(0x8001, 0x8007)


def hello(role=COMMAND, version=VERSION, session=(0, 0), lane=0, lanes=1, tail=b"", tail_len=None, features=1):
    length = len(tail) if tail_len is None else tail_len
    return HELLO.pack(b"FUSEWIRE", version, role, features, *session, lane, lanes, length, 0) + tail


def record(op, fixed=b"", size=None, flags=0):
    """A record; `size` says another length than it has."""
    body = fixed + bytes(-len(fixed) % 8)
    return RECORD.pack(op, flags, size if size is not None else RECORD.size + len(body)) + body


def frame(kind, payload=b"", seq=0, ack=0, records=0, size=None, magic=FRAME_MAGIC, flags=0, reserved=0):
    length = len(payload) if size is None else size
    return FRAME.pack(magic, kind, flags, records, length, reserved, seq, ack) + payload


class Ended(Exception):
    """The server closed the session, or hung up (then `reason` is None)."""

    def __init__(self, reason, text):
        super().__init__(f"{reason}: {text}")
        self.reason, self.text = reason, text


class Session:
    """A session by hand. `raw` is its command connection, `lanes` its bulk connections."""

    def __init__(self, server, lanes=1):
        host, port = server.address.rsplit(":", 1)
        self.where = (host, int(port))
        self.raw = self.connect()
        self.raw.sendall(hello(lanes=lanes, tail=b"program=a test\npid=0\nhost=here\npatience=20000\n"))
        (magic, version, status, _, first, second, self.slot_bytes, self.h2d_slots, self.d2h_slots, count,
         self.base, self.window, length, _) = WELCOME.unpack(self.take(self.raw, WELCOME.size))
        self.tail = self.take(self.raw, length)
        assert (magic, version, status) == (b"FUSEWIRE", VERSION, 0), (status, self.tail)
        self.session = (first, second)
        # As the server's log has it.
        self.name = f"{first >> 32:08x}"
        self.lanes = [self.join(lane, count) for lane in range(count)]
        self.seq = self.records = self.heard = 0
        self.handle = 0x10000
        self.failed = []

    def connect(self):
        made = socket.create_connection(self.where, timeout=20)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def join(self, lane, lanes):
        made = self.connect()
        made.sendall(hello(role=BULK, session=self.session, lane=lane, lanes=lanes))
        fields = WELCOME.unpack(self.take(made, WELCOME.size))
        text = self.take(made, fields[12])
        assert fields[2] == 0, text
        return made

    @staticmethod
    def take(connection, count):
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise Ended(None, "hung up")
            data += more
        return data

    def new(self):
        """A fresh handle."""
        self.handle += 0x100
        return self.handle

    def batch(self, *records):
        """Sends records in one batch; gives the number of the last."""
        self.seq += 1
        self.records += len(records)
        self.raw.sendall(frame(BATCH, b"".join(records), seq=self.seq, ack=self.heard, records=len(records)))
        return self.records

    def receive(self):
        """The next frame: its kind, and its records or payload."""
        try:
            _, kind, _, count, size, _, seq, _ = FRAME.unpack(self.take(self.raw, FRAME.size))
            payload = self.take(self.raw, size)
        except (ConnectionError, BrokenPipeError) as error:
            raise Ended(None, str(error)) from None
        if kind == CLOSE:
            raise Ended(struct.unpack_from("<I", payload)[0], payload[4:].decode())
        if kind == BATCH:
            self.heard = seq
            records, at = [], 0
            for _ in range(count):
                op, _, length = RECORD.unpack_from(payload, at)
                records.append((op, payload[at + RECORD.size:at + length]))
                at += length
            return kind, records
        return kind, payload

    def until(self, wanted, number):
        """Reads events until the one of kind `wanted` about operation `number`; gives its body."""
        while True:
            kind, records = self.receive()
            for op, body in records if kind == BATCH else []:
                about = struct.unpack_from("<Q", body)[0]
                if op == FAILED:
                    self.failed.append((about, struct.unpack_from("<I", body, 16)[0]))
                if op == wanted and about == number:
                    return body

    def outcome(self, number):
        """Waits until an asynchronous operation is done or has failed, and remembers the latter."""
        while not any(about == number for about, _ in self.failed):
            kind, records = self.receive()
            for op, body in records if kind == BATCH else []:
                about = struct.unpack_from("<Q", body)[0]
                if op == FAILED:
                    self.failed.append((about, struct.unpack_from("<I", body, 16)[0]))
                elif op == DONE and about == number:
                    self.failed.append((about, struct.unpack_from("<I", body, 8)[0]))

    def ask(self, op, fixed, tail=b""):
        """A synchronous operation; gives its status."""
        number = self.batch(record(op, fixed + tail))
        return struct.unpack_from("<QI", self.until(REPLY, number))[1]

    def ended(self):
        """Waits for the end of the session; gives the reason's code and text."""
        try:
            while True:
                self.receive()
        except Ended as end:
            return end.reason, end.text

    # What most tests do.

    def context(self):
        made = self.new()
        assert self.ask(0x0101, struct.pack("<QiI", made, 0, 0)) == 0
        return made

    def stream(self, context):
        made = self.new()
        self.batch(record(0x0401, struct.pack("<QQIi", made, context, 1, 0)))
        return made

    def block(self, context, size=2 << 20, at=0):
        assert self.ask(0x0201, struct.pack("<QQQ", context, self.base + at, size)) == 0
        return self.base + at

    def close(self):
        for connection in [self.raw, *self.lanes]:
            connection.close()
