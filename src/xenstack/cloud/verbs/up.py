"""`up`: perform the plan, a line per step, and end with what the operator wants to know next."""

import os
import sys
import time
from pathlib import Path

import yaml

from xenstack.cloud import guest, layout
from xenstack.cloud.api import ADMIN, DEMO, connected, credentials
from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.layout import dom0, domu
from xenstack.cloud.plan import plan
from xenstack.cloud.secrets import write_private
from xenstack.cloud.step import NotYet, Outcome, Report, run_plan
from xenstack.cloud.stopwatch import FRESH, note
from xenstack.cloud.turn import alone
from xenstack.install import INSTALLING


def up(root: Path, hosts: int | None) -> int:
    """Bring the cloud up. Returns the exit status: 0 when every step holds. Raises NotYet beside another command."""
    with alone(root, "up"):
        return _up(root, hosts)


def _up(root: Path, hosts: int | None) -> int:
    started = time.monotonic()
    running = known_hosts(root) or 0
    if hosts is not None and hosts < running:
        print(f"this cloud has {running} hosts; a smaller one needs `./xenstack down --purge` first", file=sys.stderr)
        return 2
    cloud = Deployment(root, hosts if hosts is not None else running or 1)
    cloud.remember()
    _clouds_yaml(cloud)
    steps = plan(cloud)
    width = max(len(step.name) for step in steps)
    print(f"xenstack: {cloud.layout.hosts} host{'s' if cloud.layout.hosts > 1 else ''}, {len(steps)} steps")

    def tell(report: Report) -> None:
        if report.outcome is Outcome.ALREADY:
            return
        word = "done" if report.outcome is Outcome.DONE else "FAILED"
        at = time.monotonic() - started
        print(f"{at:6.1f}s  {report.step.name:<{width}}  {word} in {report.seconds:4.1f}s", flush=True)
        if report.failure:
            print(f"\n{report.failure}\n", file=sys.stderr, flush=True)

    reports = run_plan(steps, tell)
    seconds = time.monotonic() - started
    failed = [r for r in reports if r.outcome is Outcome.FAILED]
    if failed:
        left = len(steps) - len(reports)
        print(f"\n{len(failed)} of {len(steps)} steps failed, {left} wait for them: {seconds:.0f} s", file=sys.stderr)
        return 1
    done = sum(r.outcome is Outcome.DONE for r in reports)
    if done:
        print(f"\nup: {done} steps done, {len(reports) - done} were already, {seconds:.0f} s")
    else:
        print(f"\nup already: all {len(reports)} steps hold, nothing was changed, {seconds:.0f} s")
    if installing := os.environ.pop(INSTALLING, ""):  # nothing was here when the command began
        note(root, FRESH, time.time() - float(installing))
    _summary(cloud)
    return 0


def _clouds_yaml(cloud: Deployment) -> None:
    text = yaml.safe_dump({"clouds": {who: credentials(cloud, who) for who in (ADMIN, DEMO)}}, sort_keys=False)
    path = cloud.layout.clouds_yaml
    if not path.exists() or path.read_text() != text:
        write_private(path, text)


def _summary(cloud: Deployment) -> None:
    where = cloud.layout
    lines = [
        "",
        "What runs where (a box is a set of namespaces; `./xenstack status` shows each service):",
        "  control    Keystone, Glance, Placement, Nova, Neutron, MariaDB, RabbitMQ",
        "  network    Neutron's routers, DHCP and metadata",
    ]
    for n in cloud.hosts:
        lines.append(f"  {dom0(n):<10} the XenAPI host daemon, libvirt with QEMU, Open vSwitch")
        lines.append(f"  {domu(n):<10} nova-compute with the XenAPI driver, Neutron's agent")
    try:
        with connected(cloud, DEMO) as api:
            fixed, floating = (f(api, guest.DEMO_SERVER) for f in (guest.fixed_address, guest.floating_address))
        lines += ["", f"Guest {guest.DEMO_SERVER}: {fixed} inside, {floating} outside; user {guest.user(cloud)}"]
    except NotYet as why:
        lines += ["", f"Guest {guest.DEMO_SERVER}: {why}"]
    lines += [
        "",
        "Next:",
        f"  ./xenstack ssh {guest.DEMO_SERVER}                      log in to the guest",
        "  ./xenstack shell -- openstack server list  OpenStack's client, as user demo",
        "  ./xenstack shell                           the same, as a shell",
        "  ./xenstack status                          every service, its health and memory",
        "  ./xenstack down                            stop everything; `up` starts it again",
        "",
        f"clouds.yaml: {where.clouds_yaml} (users admin and demo; APIs at {layout.CONTROL_ADDRESS}, from `shell` only)",
    ]
    print("\n".join(lines))
