"""Every adapter of the storage port, one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.kit.images import pieces, uuid

from xenstack.host.storage.file import FileStorage
from xenstack.host.storage.port import Format, Storage, Vdi
from xenstack.host.storage.simulated import SimulatedStorage


@dataclass
class Bench:
    """A storage with one attached SR, and what every test does with it."""

    storage: Storage
    sr: str

    def create(self, size: int, format: Format = Format.QCOW2) -> str:
        vdi = uuid()
        self.storage.create(self.sr, vdi, virtual_size=size, format=format)
        return vdi

    def put(self, vdi: str, body: bytes, format: Format = Format.RAW, length: int | None = None) -> Vdi:
        with self.storage.import_vdi(self.sr, vdi, format=format, length=length) as writer:
            for piece in pieces(body):
                writer.write(piece)
            return writer.finish()

    def get(self, vdi: str, format: Format = Format.RAW) -> bytes:
        with self.storage.export_vdi(self.sr, vdi, format=format) as reader:
            body = b"".join(reader)
            assert len(body) == reader.length
            return body

    def filled(self, body: bytes, size: int | None = None, format: Format = Format.QCOW2) -> str:
        vdi = self.create(size or len(body), format)
        self.put(vdi, body)
        return vdi

    def used(self) -> int:
        return self.storage.space(self.sr).physical_utilisation


@pytest.fixture(params=["simulated", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    made: Storage = SimulatedStorage() if request.param == "simulated" else FileStorage(tmp_path / "srs")
    yield made
    made.close()


@pytest.fixture
def bench(storage: Storage) -> Bench:
    sr = uuid()
    storage.create_sr(sr)
    storage.attach_sr(sr)
    return Bench(storage, sr)


@pytest.fixture
def file_bench(tmp_path: Path) -> Iterator[Bench]:
    storage = FileStorage(tmp_path / "srs")
    sr = uuid()
    storage.create_sr(sr)
    storage.attach_sr(sr)
    yield Bench(storage, sr)
    storage.close()
