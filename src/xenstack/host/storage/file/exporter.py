"""GET /export_raw_vdi from a file SR: a read-only user of the VDI and a stream made from its files."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self
from uuid import uuid4

from xenstack.host.storage.file.folder import Folder
from xenstack.host.storage.image.stream import stream
from xenstack.host.storage.port import Format


class FileExport:
    """Implements the port's `ExportReader`. Invariant: the claim is held until `close`."""

    def __init__(self, folder: Folder, vdi: str, format: Format) -> None:
        self._folder = folder
        self._vdi = vdi
        self._user = f"export {uuid4()}"
        with folder.lock:
            folder.node(vdi)
            folder.claims.take(vdi, self._user, read_only=True)
        try:
            with folder.failures():
                self._source = folder.open(vdi)
                try:
                    self._length, self._chunks = stream(self._source, format)
                except BaseException:
                    self._source.close()
                    raise
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        with self._folder.lock:
            self._folder.claims.drop(self._vdi, self._user)

    @property
    def length(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        with self._folder.failures():
            yield from self._chunks

    def close(self) -> None:
        self._source.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
