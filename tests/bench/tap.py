"""Count what a nova-compute asks its host for, by listening on the host internal network: plain HTTP, one host's only.

Independent of the driver's own count: a raw socket in the domU sees every packet that leaves for XenAPI's port.
"""

import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from xenstack.cloud import layout, netns

_ALL_PROTOCOLS = 0x0003
_TRANSFER = re.compile(rb"^(?:PUT|GET|CONNECT) /")
_METHOD = re.compile(rb"<methodName>([A-Za-z_.]+)</methodName>")
WAITING = "event.from"
"""The driver's listener asks this all the time, whatever the verbs do: not a verb's round trip."""


class Tap:
    """What was seen so far: XenAPI messages by name, and HTTP transfers. A place in a TCP stream counts once, however
    often it is sent."""

    def __init__(self) -> None:
        self.methods: Counter[str] = Counter()
        self.transfers = 0
        self._seen: set[tuple[int, int]] = set()

    @property
    def round_trips(self) -> int:
        return self.methods.total() - self.methods[WAITING] + self.transfers

    def packet(self, frame: bytes) -> None:
        """Count a frame of Ethernet, if it carries a message's name or the beginning of a transfer."""
        if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
            return
        ip = 14
        tcp = ip + (frame[ip] & 0x0F) * 4
        source, target, place = struct.unpack("!HHI", frame[tcp : tcp + 8])
        if target != layout.XENAPI:
            return
        body = frame[tcp + (frame[tcp + 12] >> 4) * 4 : ip + struct.unpack("!H", frame[ip + 2 : ip + 4])[0]]
        if _TRANSFER.match(body) and self._new(source, place):
            self.transfers += 1
        for name in _METHOD.finditer(body):
            if self._new(source, place + name.start()):
                self.methods[name.group(1).decode()] += 1

    def _new(self, port: int, place: int) -> bool:
        known = (port, place) in self._seen
        self._seen.add((port, place))
        return not known


@contextmanager
def listening(domu_pid: int) -> Iterator[Tap]:
    """Listen in the domU with that first process for the length of the block. Needs root."""
    with netns.inside(domu_pid):
        source = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        source.bind(("himn", _ALL_PROTOCOLS))
    source.settimeout(0.2)
    tap, stop = Tap(), threading.Event()

    def listen() -> None:
        while not stop.is_set():
            try:
                frame, address = source.recvfrom(70_000)
            except TimeoutError:
                continue
            if address[2] == socket.PACKET_OUTGOING:
                tap.packet(frame)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield tap
    finally:
        stop.set()
        listener.join()
        source.close()
