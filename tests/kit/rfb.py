"""A small RFB client: enough to see that a screen is really there."""

import socket
import struct
from pathlib import Path


def greet(path: Path, timeout_s: float = 10) -> tuple[int, int]:
    """Connect to a unix socket, go through the RFB 3.8 handshake; the screen's width and height in pixels."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout_s)
        link.connect(str(path))
        return handshake(link)


def handshake(link: socket.socket) -> tuple[int, int]:
    """The same on a connection that exists, whatever carries it."""
    assert _exactly(link, 12) == b"RFB 003.008\n"
    link.sendall(b"RFB 003.008\n")
    types = _exactly(link, _exactly(link, 1)[0])
    assert 1 in types, f"security types {types!r}"
    link.sendall(b"\x01")
    assert _exactly(link, 4) == bytes(4)
    link.sendall(b"\x01")
    width, height = struct.unpack(">HH", _exactly(link, 24)[:4])
    return width, height


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        assert more, f"the server hung up after {data!r}"
        data += more
    return data
