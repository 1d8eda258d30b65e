"""What each verb costs in round trips to the host, over the real wire. The old driver: 67-89 to spawn, 34 to destroy.

The table is the contract of docs/walkthroughs/nova-spawn.md: a verb that becomes dearer, or cheaper, changes it here.
"""

from collections.abc import Callable

from tests.unit.nova.cloud import MIB, make_instance
from tests.unit.nova.conftest import Compute

TABLE = {
    "spawn": 9,
    "spawn with a config drive": 15,
    "destroy": 3,
    "destroy with a config drive": 4,
    "power off": 1,
    "power on": 1,
    "hard reboot": 1,
    "pause": 1,
    "unpause": 1,
    "suspend": 1,
    "resume": 1,
    "console": 1,
}


def test_round_trips(compute: Compute) -> None:
    image = compute.images.add(b"\0" * MIB, "raw")
    compute.spawn(first := make_instance(image))
    compute.driver.destroy(None, first, None)
    plain, drive = make_instance(image), make_instance(image, config_drive="True")
    driver, cost = compute.driver, {}

    def count(verb: str, do: Callable[[], object]) -> None:
        before = driver.host.session.round_trips
        do()
        cost[verb] = driver.host.session.round_trips - before

    count("spawn", lambda: compute.spawn(plain))
    count("spawn with a config drive", lambda: compute.spawn(drive))
    count("power off", lambda: driver.power_off(plain))
    count("power on", lambda: driver.power_on(None, plain, None))
    count("hard reboot", lambda: driver.reboot(None, plain, None, "HARD"))
    count("pause", lambda: driver.pause(plain))
    count("unpause", lambda: driver.unpause(plain))
    count("suspend", lambda: driver.suspend(None, plain))
    count("resume", lambda: driver.resume(None, plain, None))
    count("console", lambda: driver.get_vnc_console(None, plain))
    count("destroy", lambda: driver.destroy(None, plain, None))
    count("destroy with a config drive", lambda: driver.destroy(None, drive, None))
    assert cost == TABLE
    assert cost["spawn with a config drive"] <= 15
    assert cost["destroy with a config drive"] <= 10
