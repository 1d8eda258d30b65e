"""How fast a raw body becomes a VDI, against `qemu-img convert` of the same file, side by side.

    python tests/bench/import_image.py [--directory DIR] [--rounds N] [--json]

512 MiB of raw image with 200 MiB of data in 1 MiB islands go through the file SR's import writer in 1 MiB chunks, as
the HTTP edge hands them over. Both results are flushed to the disk or both are not (`--flush`: the time of `sync -f`
is counted). Rounds alternate, the medians are compared, and qemu-img compares the two images' content.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from xenstack.host.storage.file import FileStorage
from xenstack.host.storage.port import Format
from xenstack.run import run

MIB = 1 << 20
SIZE, DATA = 512 * MIB, 200 * MIB


def make_image(path: Path) -> None:
    """A sparse raw file whose data cannot be compressed or mistaken for zeros."""
    source = random.Random(1)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for number in sorted(source.sample(range(SIZE // MIB), DATA // MIB)):
            file.seek(number * MIB)
            file.write(source.randbytes(MIB))


def flushed(directory: Path, flush: bool) -> None:
    if flush:
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        os.sync()


def through_the_writer(storage: FileStorage, sr: str, image: Path) -> Path:
    """The VDI's file."""
    vdi = str(uuid4())
    storage.create(sr, vdi, virtual_size=SIZE)
    with image.open("rb") as file, storage.import_vdi(sr, vdi, format=Format.RAW, length=SIZE) as writer:
        while chunk := file.read(MIB):
            writer.write(chunk)
        writer.finish()
    opened = storage.activate(sr, vdi, "bench", read_only=True)
    storage.deactivate(sr, vdi, "bench")
    return opened.path


def measure(directory: Path, rounds: int, flush: bool) -> dict[str, float]:
    """Medians in seconds, and their ratio: above 1 the writer is faster."""
    image, target = directory / "image.raw", directory / "converted.qcow2"
    make_image(image)
    storage, sr = FileStorage(directory / "srs"), str(uuid4())
    storage.create_sr(sr)
    storage.attach_sr(sr)
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        made = through_the_writer(storage, sr, image)
        flushed(directory, flush)
        ours.append(time.perf_counter() - start)
        target.unlink(missing_ok=True)
        start = time.perf_counter()
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, target, timeout_s=300)
        flushed(directory, flush)
        theirs.append(time.perf_counter() - start)
        run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", made, target, timeout_s=300)
        storage.destroy(sr, made.stem)
    storage.close()
    writer_s, convert_s = statistics.median(ours), statistics.median(theirs)
    return {"writer_s": writer_s, "qemu_img_convert_s": convert_s, "ratio": convert_s / writer_s}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where to work; default: the directory for temporary files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flush", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="xenstack-bench-", dir=options.directory))
    try:
        result = measure(directory, options.rounds, options.flush)
    finally:
        shutil.rmtree(directory)
    if options.json:
        print(json.dumps(result))
    else:
        print(f"import of 512 MiB raw (200 MiB data) to qcow2: {result['writer_s']:.2f} s")
        print(f"qemu-img convert of the same file:             {result['qemu_img_convert_s']:.2f} s")
        print(f"speed against qemu-img convert:                {result['ratio']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
