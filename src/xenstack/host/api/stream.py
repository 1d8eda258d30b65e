"""A byte stream to one client, usable from the event loop and, for bulk, from a worker thread.

asyncio's own streams keep bytes in buffers of their own and cannot lend their socket to a thread; an image import wants
to read the socket straight into the storage writer. So these are small: a non-blocking socket, TLS by memory BIOs.
`blocking` lends the stream to a thread; until the thread is done nobody else may touch it.
"""

import asyncio
import contextlib
import select
import socket
import ssl
import time
from typing import Protocol, cast

_TLS_CHUNK = 1 << 16
_GULP = 1 << 19  # the most bytes to wait for before a thread is woken


class Lent(Protocol):
    """The stream in the hands of a thread. Every call ends with TimeoutError after the stream's patience."""

    def recv_into(self, buffer: memoryview) -> int:
        """Bytes read; 0 at the end of the stream."""

    def send(self, data: bytes | memoryview) -> None:
        """Write all of it."""


class Stream:
    """Plain bytes over a socket."""

    def __init__(self, link: socket.socket, *, patience_s: float) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._patience_s = patience_s

    async def recv(self, most: int) -> bytes:
        """Up to `most` bytes; b"" at the end. Errors: OSError."""
        return await self._loop.sock_recv(self._link, most)

    async def send(self, data: bytes) -> None:
        """Write all of it. Errors: OSError, TimeoutError (the client does not read)."""
        async with asyncio.timeout(self._patience_s):
            await self._loop.sock_sendall(self._link, data)

    def blocking(self) -> Lent:
        """The stream for a thread."""
        return _Lent(self._link, self._patience_s)

    async def close(self) -> None:
        """Send what is left and hang up, reading what the client still sends for a moment, so that it gets our answer
        and no reset."""
        try:
            self._link.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(0.5):
                while await self._loop.sock_recv(self._link, 1 << 16):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            self._link.close()


class _Lent:
    def __init__(self, link: socket.socket, patience_s: float) -> None:
        self._link = link
        self._patience_s = patience_s
        self._wanted = 1

    def _ready(self, writing: bool, deadline: float) -> bool:
        """Wait until there is something to do; False when the time is up."""
        poll = select.poll()
        poll.register(self._link, select.POLLOUT if writing else select.POLLIN)
        return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))

    def _want(self, size: int) -> None:
        """Be woken when this many bytes are there (TCP only), and not at each packet: a bulk body costs half as much
        processor time then. The end of the stream wakes at once."""
        size = max(1, min(size, _GULP))
        if size != self._wanted:
            self._wanted = size
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _silence(self) -> TimeoutError:
        return TimeoutError(f"the client was silent for {self._patience_s:g} s")

    def recv_into(self, buffer: memoryview) -> int:
        deadline = time.monotonic() + self._patience_s
        waiting = True
        while True:
            try:
                return self._link.recv_into(buffer)  # after the deadline, too: a slow client is not a silent one
            except BlockingIOError:
                if not waiting:
                    raise self._silence() from None
                self._want(len(buffer))
                waiting = self._ready(False, deadline)

    def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            deadline = time.monotonic() + self._patience_s
            try:
                view = view[self._link.send(view) :]
            except BlockingIOError:
                if not self._ready(True, deadline):
                    raise self._silence() from None


class TlsStream(Stream):
    """The same over TLS."""

    def __init__(self, link: socket.socket, context: ssl.SSLContext, *, patience_s: float) -> None:
        super().__init__(link, patience_s=patience_s)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    async def handshake(self) -> None:
        """To be awaited first. Errors: OSError (ssl.SSLError is one), TimeoutError."""
        async with asyncio.timeout(self._patience_s):
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._flush()
                    if not await self._fill():
                        raise ConnectionResetError("the client left during the handshake") from None
            await self._flush()

    async def recv(self, most: int) -> bytes:
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:_TLS_CHUNK]) :]
            await self._flush()

    def blocking(self) -> Lent:
        return _LentTls(self._link, self._patience_s, self._tls, self._in, self._out)

    async def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client has not said good-bye yet: it need not
            self._tls.unwrap()
        with contextlib.suppress(OSError, TimeoutError):
            await self._flush()
        await super().close()

    async def _flush(self) -> None:
        if data := self._out.read():
            await super().send(data)

    async def _fill(self) -> bool:
        data = await super().recv(_TLS_CHUNK)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return bool(data)


class _LentTls(_Lent):
    def __init__(
        self, link: socket.socket, patience_s: float, tls: ssl.SSLObject, inside: ssl.MemoryBIO, outside: ssl.MemoryBIO
    ) -> None:
        super().__init__(link, patience_s)
        self._tls = tls
        self._in = inside
        self._out = outside
        self._buffer = bytearray(1 << 18)

    def _want(self, size: int) -> None:
        """Nothing: how many encrypted bytes will come is not known, and waiting for too many is waiting long."""

    def recv_into(self, buffer: memoryview) -> int:
        while True:
            try:
                return cast(int, self._tls.read(len(buffer), buffer))
            except ssl.SSLWantReadError:
                self._flush()
                got = super().recv_into(memoryview(self._buffer))
                if not got:
                    return 0
                self._in.write(memoryview(self._buffer)[:got])
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:_TLS_CHUNK]) :]
            self._flush()

    def _flush(self) -> None:
        if data := self._out.read():
            super().send(data)
