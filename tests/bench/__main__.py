"""`./xenstack bench`: measure, keep the results, write docs/benchmarks.md.

    bench [--only NAME ...] [--lifecycle] [--rounds N] [--no-page]

Names: wire (XenAPI messages, simulated), import (images), create and memory (both need the running cloud).
--lifecycle also stops and starts the cloud. Each run replaces what it measured and keeps the rest; nothing fails
because a target is missed: the table says so.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.bench import create, http_import, import_image, lifecycle, memory, table, wire  # noqa: E402 - after the path
from tests.bench.table import Row  # noqa: E402

from xenstack.cloud.deployment import Deployment, known_hosts  # noqa: E402
from xenstack.cloud.step import NotYet  # noqa: E402

Bench = Callable[[], list[Row]]


def _import() -> list[Row]:
    directory = Path(tempfile.mkdtemp(prefix="xenstack-bench-"))
    try:
        result = import_image.measure(directory, rounds=5, flush=False)
    finally:
        shutil.rmtree(directory)
    what = "the same without HTTP, straight into the SR's writer"
    note = f"{result['writer_s']:.2f} s against {result['qemu_img_convert_s']:.2f} s"
    writer = Row(key="import.1 writer", section="Images", what=what, value=result["ratio"], unit="×", note=note)
    return [*http_import.rows(), replace(writer, better="more")]


def _cloud() -> Deployment:
    hosts = known_hosts(ROOT)
    if not hosts:
        raise NotYet("no cloud runs here; `./xenstack up` starts one")
    return Deployment(ROOT, hosts)


def _benches(rounds: int) -> dict[str, Bench]:
    return {
        "wire": wire.rows,
        "import": _import,
        "memory": lambda: memory.rows(_cloud()),
        "create": lambda: create.rows(_cloud(), rounds),
        "lifecycle": lambda: lifecycle.rows(ROOT),
        "noted": lambda: lifecycle.noted(ROOT),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=("wire", "import", "memory", "create"))
    parser.add_argument("--lifecycle", action="store_true", help="also stop and start the cloud")
    parser.add_argument("--rounds", type=int, default=5, help="servers created on each driver (default 5)")
    parser.add_argument("--no-page", action="store_true", help="print the page and write nothing")
    given = parser.parse_args()
    chosen = given.only or ["wire", "import", "memory", "create"]
    if given.lifecycle:
        chosen.append("lifecycle")
    chosen.append("noted")
    where, found, failed = table.machine(), [], []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found += _benches(given.rounds)[name]()
        except NotYet as why:  # the others can still be measured
            failed.append(f"{name}: {why}")
    if given.no_page:
        print(table.markdown(found, where))
    else:
        store = ROOT / "state" / "bench.json"
        store.parent.mkdir(exist_ok=True)
        page = ROOT / "docs" / "benchmarks.md"
        page.parent.mkdir(exist_ok=True)
        text = table.markdown(table.remember(store, found, where), where)
        page.write_text(text)
        print(text)
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
