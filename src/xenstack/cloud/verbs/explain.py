"""`explain`: the plan in words, without running any of it or needing anything installed."""

from pathlib import Path
from tempfile import TemporaryDirectory

from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.plan import plan


def explain(root: Path, hosts: int | None) -> int:
    """Print every step: what it promises, and what must hold before."""
    with TemporaryDirectory(prefix="xenstack-explain-") as scratch:
        # settings are made to be described, in a place that is thrown away
        cloud = Deployment(root, hosts if hosts is not None else known_hosts(root) or 1, state=Path(scratch))
        for number, step in enumerate(plan(cloud), 1):
            print(f"{number:3}. {step.name}: {step.title}")
            if step.needs:
                print(f"       after: {', '.join(step.needs)}")
    print(
        "\nEach step is looked at first and left alone when it holds; else it is made true, and looked at again until"
        "\nit is seen to work. Steps whose needs hold run at the same time."
    )
    return 0
