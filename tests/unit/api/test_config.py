"""The configuration: what is wrong is told, all of it, and what is in force can be read back."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from xenstack.host.__main__ import configured, parser
from xenstack.host.config import Config, ConfigError, Listener, parse, problems, read, show


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({}, "state: missing"),
        ({"state": "relative"}, "state: must be an absolute path"),
        ({"state": 5}, "state: must be str, not int"),
        ({"state": "/x", "nothing": 1}, "nothing: no such field"),
        ({"state": "/x", "hypervisor": "vmware"}, "hypervisor: must be one of simulated, libvirt"),
        ({"state": "/x", "workers": 0}, "workers: must be 1 to 256"),
        ({"state": "/x", "workers": True}, "workers: must be int, not bool"),
        ({"state": "/x", "max_body": 1}, "max_body: must be"),
        ({"state": "/x", "host_name": "a b"}, "host_name: must be a host name"),
        ({"state": "/x", "listeners": {}}, "listeners: must be a list"),
        ({"state": "/x", "listeners": [{"tls": True}]}, r"listeners\[0\]: must be a table with address"),
        ({"state": "/x", "listeners": [{"address": "somewhere:80"}]}, "neither ADDRESS:PORT nor"),
        ({"state": "/x", "listeners": [{"address": "127.0.0.1:99999"}]}, "the port"),
        (
            {"state": "/x", "listeners": [{"address": "127.0.0.1:80", "serves": "x"}]},
            'serves: must be "all" or "consoles"',
        ),
        ({"state": "/x", "listeners": [{"address": "/" + "a" * 200}]}, "at most 100 bytes"),
    ],
)
def test_what_is_wrong_is_told_by_field(data: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse(data, "test")


def test_every_problem_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"state": "/x", "hypervisor": "x", "network": "y", "workers": 1000}, "test")
    assert len(caught.value.problems) == 3


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "absent")
    (tmp_path / "bad").write_text("= x")
    with pytest.raises(ConfigError, match="is not TOML"):
        read(tmp_path / "bad")


def test_what_is_shown_can_be_read_and_is_the_same() -> None:
    config = Config(
        state=Path("/var/lib/x"),
        listeners=(Listener(address="[::1]:80", tls=True), Listener(address="/run/x", serves="consoles")),
        sr_limit=5,
        host_name="a",
    )
    again = parse(tomllib.loads(show(config)), "shown")
    assert again.listeners == config.listeners
    assert (again.sr, again.password, again.kernels, again.run) == (
        config.sr,
        config.password,
        config.kernels,
        config.run,
    )
    assert show(again) == show(config)
    assert problems(config) == []


def test_the_command_line(tmp_path: Path) -> None:
    words = ["serve", "--simulated", "--listen", "127.0.0.1:80", "--listen", "/run/x", "--state", str(tmp_path)]
    config = configured(parser().parse_args(words))
    assert (config.hypervisor, config.network, config.storage) == ("simulated",) * 3
    assert [each.address for each in config.listeners] == ["127.0.0.1:80", "/run/x"]
    assert config.host_address == "127.0.0.1"
    alone = configured(parser().parse_args(["serve", "--state", str(tmp_path)]))
    assert [each.path for each in alone.listeners] == [tmp_path / "xapi.sock"]
    with pytest.raises(ConfigError, match="--state"):
        configured(parser().parse_args(["serve"]))
