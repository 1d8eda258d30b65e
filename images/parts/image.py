"""The order of a build, and the manifest that makes it idempotent and atomic.

The manifest is written last and names what it was built from; as long as that is unchanged and the files are there,
a build has nothing to do. Everything is made in a work folder inside the target and renamed into place.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from parts import archive, disk, packages, tree

OUTPUTS = ("vmlinuz", "initrd.gz", "disk.raw", "disk.qcow2", "disk.vhd")


def build(target: Path, *, files: Path) -> None:
    """Build the image into `target` from the packages and the folder `files`; says in one line what it did.

    Raises CommandFailed, OSError or SystemExit; `target` then holds the image it held before, or none.
    """
    if os.geteuid() != 0:
        raise SystemExit("images/build needs root: the files in the image belong to root")
    target.mkdir(parents=True, exist_ok=True)
    sources = _sources(files)
    manifest = target / "manifest.json"
    if _up_to_date(target, sources):
        print(f"{target}: up to date")
        return
    work = target / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        version = _make(target / "cache", files, work)
        files_made = {n: {"size": (work / n).stat().st_size, "sha256": _sha256(work / n)} for n in OUTPUTS}
        facts = {
            "kernel": version,
            "kernel_line": disk.KERNEL_LINE,
            "user": "xen",
            "memory_mib": 128,
            "disk_size": disk.SIZE,
            "sources": sources,
            "files": files_made,
        }
        manifest.unlink(missing_ok=True)
        for name in OUTPUTS:
            (work / name).replace(target / name)
        (work / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
        (work / "manifest.json").replace(manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{target}: built, kernel {version}, initrd {(target / 'initrd.gz').stat().st_size // 1024} KiB")


def _make(cache: Path, files: Path, work: Path) -> str:
    unpacked, root, parts = work / "packages", work / "root", work / "parts"
    version = packages.unpack(cache, unpacked)
    shutil.copy(unpacked / "boot" / f"vmlinuz-{version}", work / "vmlinuz")
    tree.make(unpacked, files, root, version)
    small = work / "initramfs"
    shutil.copytree(root, small, symlinks=True)
    os.chown(small / "home" / "xen", 1000, 1000)
    tree.without_disk_programs(small)
    archive.write(small, work / "initrd.gz")
    parts.mkdir()
    disk.make(root, work / "vmlinuz", work / "initrd.gz", parts, work / "disk.raw")
    disk.convert(work / "disk.raw", work / "disk.qcow2", "-O", "qcow2", "-c")
    # force_size: without it qemu-img rounds the virtual size to what cylinders and heads can say
    disk.convert(work / "disk.raw", work / "disk.vhd", "-O", "vpc", "-o", "subformat=dynamic,force_size=on")
    return version


def _up_to_date(target: Path, sources: str) -> bool:
    try:
        facts = json.loads((target / "manifest.json").read_text())
        same = facts["sources"] == sources
        return same and all((target / n).stat().st_size == facts["files"][n]["size"] for n in OUTPUTS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sources(files: Path) -> str:
    """One number for everything of ours that the image depends on: the guest's files and the builder itself."""
    digest = hashlib.sha256()
    for folder in (files, Path(__file__).parent):
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
            digest.update(f"{path.relative_to(folder)} {path.stat().st_mode & 0o111:o} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
