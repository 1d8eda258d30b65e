"""`up` as a plan, in the order of the architecture: boxes and cables, control plane, network node, hosts, a guest.

Every line of it is a promise with a check (see step.py); the needs between them say what may happen at once.
"""

from xenstack.cloud.deployment import Deployment
from xenstack.cloud.step import Step
from xenstack.cloud.steps import boxes, control, databases, demo, hosts, isolation, network


def plan(cloud: Deployment) -> list[Step]:
    return [
        *boxes.steps(cloud),
        *isolation.steps(cloud),
        *databases.steps(cloud),
        *control.steps(cloud),
        *network.steps(cloud),
        *hosts.steps(cloud),
        *demo.steps(cloud),
    ]
