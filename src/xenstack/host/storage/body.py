"""What both adapters ask of an import's body: its length, and its header as soon as it is in."""

from xenstack.host.storage.inspect import HEAD, Qcow2Header, qcow2_header, refuse_strange, vhd_footer
from xenstack.host.storage.port import (
    MAX_VIRTUAL_SIZE,
    SECTOR,
    BodyTruncated,
    Format,
    ImageRejected,
    ImageTooLarge,
)

_SLACK = 64 << 20  # metadata of an image, in bytes, whatever its size


class Body:
    """Counts a body's bytes and looks at its start. Invariant: `received` bytes were accepted so far."""

    def __init__(self, vdi: str, format: Format, virtual_size: int, length: int | None) -> None:
        self.format = format
        self.received = 0
        self._vdi = vdi
        self._virtual_size = virtual_size
        self._head = bytearray()
        self._checked = format is Format.RAW
        # XenAPI clients that do not know the length declare 1 PiB and end the stream when they are done
        self._declared = length if length is not None and length <= 2 * MAX_VIRTUAL_SIZE else None
        # an image may hold more than its virtual size (snapshots, tables), but not without end
        self._most = virtual_size if format is Format.RAW else 2 * virtual_size + _SLACK
        if self._declared is not None and self._declared > self._most:
            raise ImageTooLarge(vdi, virtual_size, self._declared)

    def take(self, chunk: bytes) -> None:
        """Raises ImageTooLarge, ImageRejected."""
        self.received += len(chunk)
        if self.received > self._most:
            raise ImageTooLarge(self._vdi, self._virtual_size, self.received)
        if self._declared is not None and self.received > self._declared:
            raise ImageRejected(f"more than the declared {self._declared} bytes")
        if not self._checked:
            self._head += chunk[: HEAD - len(self._head)]
            if len(self._head) == HEAD:
                self._check_head()

    def end(self) -> None:
        """The body is complete. Raises BodyTruncated, ImageTooLarge, ImageRejected."""
        if self._declared is not None and self.received < self._declared:
            raise BodyTruncated(self.received, self._declared)
        if not self._checked:
            self._check_head()

    def _check_head(self) -> None:
        self._checked = True
        head = bytes(self._head)
        if self.format is Format.QCOW2:
            self.check_size(self.qcow2(head).size)
        elif head.startswith(b"conectix"):  # of a fixed VHD the end tells
            self.check_size(vhd_footer(head[:SECTOR]).size)

    @staticmethod
    def qcow2(head: bytes) -> Qcow2Header:
        """A qcow2 header that is allowed. Raises ImageRejected."""
        header = qcow2_header(head)
        refuse_strange(header)
        return header

    def check_size(self, image_size: int) -> None:
        """Raises ImageTooLarge when the image does not fit the VDI."""
        if image_size > self._virtual_size:
            raise ImageTooLarge(self._vdi, self._virtual_size, image_size)
