"""A virtual screen: the smallest RFB 3.8 server (RFC 6143), for domains that have no device model.

It greets, asks for no authentication, and shows one grey picture to every client. All screens share one thread. What
clients send is read and dropped within fixed sizes, so a hostile client costs one connection.
"""

import asyncio
import contextlib
import struct
import threading
from pathlib import Path

WIDTH, HEIGHT = 64, 48  # pixels; small, because thousands of them are served
_PIXEL = bytes((0x80, 0x80, 0x80, 0))
_FORMAT = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
# length of what follows the type byte of each client message; SetEncodings (2) and ClientCutText (6) go on after it
_MESSAGES = {0: 19, 2: 3, 3: 9, 4: 7, 5: 5, 6: 7}
_MAX_CUT_TEXT = 1 << 20


async def serve_screen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, title: str) -> None:
    """Speak RFB to one client until it leaves or breaks the protocol."""
    try:
        writer.write(b"RFB 003.008\n")
        if not (await reader.readexactly(12)).startswith(b"RFB 003."):
            return
        writer.write(b"\x01\x01")  # one security type: none
        if await reader.readexactly(1) != b"\x01":
            return
        writer.write(struct.pack(">I", 0))
        await reader.readexactly(1)  # shared flag
        name = title.encode()
        writer.write(struct.pack(">HH", WIDTH, HEIGHT) + _FORMAT + struct.pack(">I", len(name)) + name)
        while True:
            await _answer_message(reader, writer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return
    finally:
        writer.close()


async def _answer_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    kind = (await reader.readexactly(1))[0]
    if kind not in _MESSAGES:
        raise ValueError(f"RFB message {kind}")
    body = await reader.readexactly(_MESSAGES[kind])
    if kind == 2:
        await reader.readexactly(4 * struct.unpack(">xH", body)[0])
    elif kind == 6:
        length = struct.unpack(">xxxI", body)[0]
        if length > _MAX_CUT_TEXT:
            raise ValueError("cut text too long")
        await reader.readexactly(length)
    elif kind == 3:
        writer.write(struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0) + _PIXEL * (WIDTH * HEIGHT))


async def serve_terminal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A serial line that echoes what it gets."""
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


class Screens:
    """Unix sockets with a screen or terminal behind each; one thread, started with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: dict[Path, asyncio.Server] = {}

    def open(self, vnc: Path, text: Path, title: str) -> None:
        """Listen on both sockets; nothing happens for one that is listened on already."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="virtual-screens", daemon=True).start()
            asyncio.run_coroutine_threadsafe(self._open(vnc, text, title), self._loop).result(10)

    def close(self, *paths: Path) -> None:
        """Stop listening and remove the sockets."""
        with self._lock:
            if self._loop is not None and any(path in self._servers for path in paths):
                asyncio.run_coroutine_threadsafe(self._close(paths), self._loop).result(10)

    def close_all(self) -> None:
        """Stop listening on everything and end the thread."""
        self.close(*self._servers)
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    async def _open(self, vnc: Path, text: Path, title: str) -> None:
        async def screen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve_screen(reader, writer, title)

        for path, serve in ((vnc, screen), (text, serve_terminal)):
            if path not in self._servers:
                path.unlink(missing_ok=True)
                self._servers[path] = await asyncio.start_unix_server(serve, path)

    async def _close(self, paths: tuple[Path, ...]) -> None:
        for path in paths:
            if (server := self._servers.pop(path, None)) is not None:
                server.close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
