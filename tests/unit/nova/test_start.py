"""Starting the driver: what is wrong is told in one line, and Nova finds the driver."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nova.conf
import nova.virt
import pytest
from nova.virt import driver as virt
from tests.kit.daemon import free_port
from tests.unit.nova.cloud import VirtAPI

from xenstack.nova import options
from xenstack.nova.capabilities import CAPABILITIES, REFUSED
from xenstack.nova.driver import XenAPIDriver
from xenstack.nova.faults import BadConfiguration
from xenstack.nova.host import connect

CONF = nova.conf.CONF
ROOT = Path(__file__).parents[3]

WRONG = {
    "connection_url": ("http://127.0.0.1:{port}", r"connection_url http://127\.0\.0\.1"),
    "connection_password": ("wrong", "connection_username 'root' and connection_password are refused"),
    "connection_username": ("nobody", "connection_username 'nobody' and connection_password are refused"),
    "sr_matching_filter": ("name:no such SR", "sr_matching_filter 'name:no such SR' fits 0 SRs"),
    "ovs_integration_bridge": ("xenbr9", "ovs_integration_bridge 'xenbr9'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_clear_sentence(configured: None, name: str, caplog: pytest.LogCaptureFixture) -> None:
    value, words = WRONG[name]
    old = getattr(CONF.xenserver, name)
    CONF.set_override(name, value.format(port=free_port()), group="xenserver")
    try:
        with pytest.raises(BadConfiguration, match=words):
            connect(CONF.xenserver, lambda change: None)
        with pytest.raises(SystemExit):
            XenAPIDriver(VirtAPI()).init_host("domu-1")
    finally:
        CONF.set_override(name, old, group="xenserver")
    lines = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert len(lines) == 1
    assert "\n" not in lines[0]


@pytest.mark.parametrize("name", ["connection_url", "connection_password"])
def test_a_missing_setting_is_named(configured: None, name: str) -> None:
    old = getattr(CONF.xenserver, name)
    CONF.set_override(name, None, group="xenserver")
    try:
        with pytest.raises(BadConfiguration, match=f"{name} is not set"):
            connect(CONF.xenserver, lambda change: None)
    finally:
        CONF.set_override(name, old, group="xenserver")


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "https://127.0.0.1:1"])
def test_a_url_that_is_none_is_told(configured: None, url: str) -> None:
    old = CONF.xenserver.connection_url
    CONF.set_override("connection_url", url, group="xenserver")
    try:
        with pytest.raises(BadConfiguration, match="connection_url"):
            connect(CONF.xenserver, lambda change: None)
    finally:
        CONF.set_override("connection_url", old, group="xenserver")


def test_every_option_says_why() -> None:
    for option in options.OPTIONS:
        assert len(option.help) > 40, option.name
        if type(option).__name__ == "IntOpt":
            assert option.type.min is not None, option.name
            assert option.type.max is not None, option.name
            assert option.default is not None, option.name
    ((group, listed),) = options.list_opts()
    assert (group.name, listed) == ("xenserver", options.OPTIONS)


def test_capabilities_are_novas_and_refusals_name_real_methods() -> None:
    assert set(CAPABILITIES) >= set(virt.ComputeDriver.capabilities)
    for method, reason in REFUSED.items():
        assert hasattr(virt.ComputeDriver, method), method
        with pytest.raises(NotImplementedError, match=method):
            getattr(XenAPIDriver(VirtAPI()), method)()
        assert len(reason) > 10


def test_every_method_of_nova_is_answered_refused_or_novas_own_default() -> None:
    """A method that Nova's base only refuses must be ours, or be in the table with its reason."""
    ours = {name for cls in XenAPIDriver.__mro__ if cls is not virt.ComputeDriver for name in vars(cls)}
    bare: list[str] = []
    for name, method in vars(virt.ComputeDriver).items():
        if name.startswith("_") or not callable(method) or name in ours:
            continue
        code: Any = getattr(method, "__code__", None)
        if code is not None and "NotImplementedError" in code.co_names:
            bare.append(name)
    assert bare in ([], ["instance_exists"])


def test_stock_nova_loads_the_driver_from_the_wheel(tmp_path: Path) -> None:
    """The wheel's shim lies inside Nova's own package, as an installation puts it there."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / "README.md").write_text("xenstack\n")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    built = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    assert not (site / "nova" / "__init__.py").exists()
    assert not (site / "nova" / "virt" / "__init__.py").exists()
    program = (
        "import sys, nova.virt\n"
        f"nova.virt.__path__.append({str(site / 'nova' / 'virt')!r})\n"
        "from nova.virt import driver\n"
        "made = driver.load_compute_driver(None, 'xenapi.XenAPIDriver')\n"
        "import xenstack.nova\n"
        "print(type(made).__module__, xenstack.nova.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(site), "PATH": ""}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    module, where = done.stdout.split()
    assert module == "xenstack.nova.driver"
    assert Path(where).is_relative_to(site)
