"""What a running cloud costs in memory: PSS of every process of every box, by service, without the guests."""

from collections import Counter

from tests.bench.table import Row

from xenstack.cloud.deployment import Deployment
from xenstack.cloud.verbs.status import look

SECTION = "Memory of the running cloud"
MIB = 1 << 20


def rows(cloud: Deployment) -> list[Row]:
    """One row for the whole, one for each kind of service of at least 10 MiB, the rest together."""
    usage: Counter[str] = Counter()
    for row in look(cloud):
        what = "supervisors, DHCP servers and what else a box runs" if row.service == "(box)" else row.service
        usage[what] += row.pss
    hosts = cloud.layout.hosts
    out = [
        Row(
            key="memory.000",
            section=SECTION,
            what=f"everything with {hosts} host{'s' if hosts > 1 else ''}, without guests",
            value=sum(usage.values()) / (1 << 30),
            unit="GiB PSS",
            target=3.6 if hosts == 1 else None,
        )
    ]
    small = sum(size for size in usage.values() if size < 10 * MIB)
    large = [(name, size) for name, size in usage.most_common() if size >= 10 * MIB]
    for place, (name, size) in enumerate([*large, ("services below 10 MiB", small)], start=1):
        out.append(Row(key=f"memory.{place:03}", section=SECTION, what=name, value=size / MIB, unit="MiB PSS"))
    return out
