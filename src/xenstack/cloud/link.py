"""Makes the clone's code known to its virtual environment: what installing a wheel would do, without a copy.

Two links: a .pth file that names the clone's src folder, and nova/virt/xenapi, because Nova loads drivers only from
below nova.virt. Both are made again and again without harm; a wheel's own files are left alone.
"""

from pathlib import Path


def link(root: Path, venv: Path) -> bool:
    """Link the clone at `root` into the environment at `venv`; True when something was changed.

    Raises FileNotFoundError when the environment has no Nova.
    """
    packages = next(venv.glob("lib/python3*/site-packages"))
    drivers = packages / "nova" / "virt"
    if not drivers.is_dir():
        raise FileNotFoundError(f"{drivers} is missing: the virtual environment is not complete")
    changed = False
    path_file, line = packages / "xenstack.pth", f"{root / 'src'}\n"
    if not path_file.exists() or path_file.read_text() != line:
        path_file.write_text(line)
        changed = True
    shim, target = drivers / "xenapi", root / "src" / "nova" / "virt" / "xenapi"
    if shim.is_symlink() and shim.readlink() != target:
        shim.unlink()
    if not shim.exists():
        shim.unlink(missing_ok=True)  # a link to a clone that is gone
        shim.symlink_to(target)
        changed = True
    return changed
