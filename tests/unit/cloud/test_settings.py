"""The settings of a cloud: private files, no password where everyone can read it, nothing touched without need."""

import configparser
import stat
import time
from pathlib import Path

import pytest

from xenstack.cloud import layout
from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.settings.ini import ini
from xenstack.cloud.steps import isolation

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cloud(tmp_path: Path) -> Deployment:
    """A cloud of two hosts that is only described."""
    made = Deployment(ROOT, 2, state=tmp_path / "cloud")
    assert made.services
    return made


def files(cloud: Deployment) -> list[Path]:
    return [f for f in cloud.layout.cloud.rglob("*") if f.is_file()]


def test_every_file_is_root_s_alone(cloud: Deployment) -> None:
    open_ = [f for f in files(cloud) if stat.S_IMODE(f.stat().st_mode) & 0o077]
    assert files(cloud)
    assert not open_


def test_no_password_is_on_a_command_line_or_in_an_environment(cloud: Deployment) -> None:
    passwords = cloud.secrets._known.values()
    assert len(passwords) > 10
    shown = [" ".join([*s.command, *s.env.values()]) for s in cloud.services]
    assert not [line for line in shown for password in passwords if password in line]


def test_the_same_again_touches_nothing(cloud: Deployment) -> None:
    before = {f: f.stat().st_mtime_ns for f in files(cloud)}
    time.sleep(0.01)
    again = Deployment(ROOT, 2, state=cloud.layout.cloud)
    assert again.services
    assert {f: f.stat().st_mtime_ns for f in files(again)} == before


def test_passwords_differ_and_survive(cloud: Deployment) -> None:
    first = {n: cloud.secrets.password(n) for n in ("user nova", "user neutron", "host 1", "host 2", "bus")}
    assert len(set(first.values())) == len(first)
    again = Deployment(ROOT, 2, state=cloud.layout.cloud)
    assert {n: again.secrets.password(n) for n in first} == first


def test_a_host_knows_its_own_password_only(cloud: Deployment) -> None:
    for mine, other in ((1, 2), (2, 1)):
        for box in (layout.dom0(mine), layout.domu(mine)):
            text = "".join(f.read_text() for f in cloud.layout.etc(box).iterdir())
            assert cloud.secrets.password(f"host {mine}") in text
            assert cloud.secrets.password(f"host {other}") not in text


def test_dom0_knows_no_password_of_openstack(cloud: Deployment) -> None:
    text = "".join(f.read_text() for f in cloud.layout.etc("dom0-1").iterdir())
    others = [name for name, word in cloud.secrets._known.items() if word in text]
    assert others == ["host 1"]


def test_a_service_names_every_file_it_is_given(cloud: Deployment) -> None:
    """So that a changed file restarts it."""
    for service in cloud.services:
        given = {w for w in service.command if w.startswith(str(cloud.layout.cloud))}
        assert given <= {str(f) for f in service.config}, service.label


def test_boxes_start_their_services_by_hand(cloud: Deployment) -> None:
    """The plan decides the order; the supervisor only keeps alive what was started."""
    for box in cloud.boxes.values():
        if not box.services:
            continue
        cloud.layout.box_folder(box.name).mkdir(parents=True)
        assert box.write_supervisor()
        assert not box.write_supervisor()
        parsed = configparser.RawConfigParser()
        parsed.read(cloud.layout.box_folder(box.name) / "supervisord.conf")
        programs = [s for s in parsed.sections() if s.startswith("program:")]
        assert [p.partition(":")[2] for p in programs] == [s.name for s in box.services]
        assert {parsed[p]["autostart"] for p in programs} == {"false"}


def test_libvirtd_s_guests_are_not_stopped_with_it(cloud: Deployment) -> None:
    assert {s.name for s in cloud.boxes["dom0-1"].services if s.alone} == {"libvirtd", "host"}


def test_ini_spells_as_oslo_does(tmp_path: Path) -> None:
    path = ini(tmp_path / "x.conf", {"DEFAULT": {"yes": True, "many": ("a", "b"), "path": Path("/x"), "n": 3}})
    parsed = configparser.RawConfigParser()
    parsed.read(path)
    assert dict(parsed["DEFAULT"]) == {"yes": "true", "many": "a,b", "path": "/x", "n": "3"}


@pytest.mark.parametrize("hosts", [0, -1, layout.MAX_HOSTS + 1])
def test_an_impossible_number_of_hosts_is_refused(hosts: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hosts"):
        Deployment(ROOT, hosts, state=tmp_path)


def test_a_clone_without_a_cloud_has_no_hosts(tmp_path: Path) -> None:
    assert known_hosts(tmp_path) is None


def test_addresses_of_hosts_are_apart() -> None:
    hosts = range(1, layout.MAX_HOSTS + 1)
    taken = {layout.CONTROL_ADDRESS, layout.NETWORK_ADDRESS, layout.OPERATOR_ADDRESS}
    assert len({layout.domu_address(n) for n in hosts} - taken) == layout.MAX_HOSTS
    assert layout.NETWORK_TUNNEL not in {layout.tunnel_address(n) for n in hosts}


def test_every_filter_drops_what_it_does_not_name() -> None:
    for rules in (isolation.dom0_rules(), isolation.domu_rules(), isolation.network_rules(), isolation.outside_rules()):
        name, script = isolation.ruleset(rules)
        assert script.count("policy drop;") == script.count("table ") == script.count(name) == 2


def test_another_rule_is_another_table() -> None:
    packets, arp = isolation.dom0_rules()
    assert isolation.ruleset((packets, arp))[0] != isolation.ruleset((packets[:-1], arp))[0]
