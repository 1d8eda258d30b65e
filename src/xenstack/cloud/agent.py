"""Start a Neutron agent whose privileged calls run in its own process: ``python -m xenstack.cloud.agent PROGRAM …``.

Neutron starts a helper process of 120 MiB for each kind of privilege. Where the agent is root already, in a box of
its own, those helpers guard nothing. Only the OVS and the metadata agent may run so: the DHCP and L3 agents fork
workers that need the helpers.
"""

import importlib
import sys

AGENTS = {
    "neutron-openvswitch-agent": "neutron.cmd.agents.ovs_neutron_agent",
    "neutron-metadata-agent": "neutron.cmd.agents.metadata",
}


def main() -> None:
    program = sys.argv.pop(1)
    sys.argv[0] = program
    agent = importlib.import_module(AGENTS[program])  # first: it selects oslo.service's backend
    privileged = importlib.import_module("neutron.privileged")
    context = importlib.import_module("oslo_privsep.priv_context").PrivContext
    for value in vars(privileged).values():
        if isinstance(value, context):
            value.set_client_mode(False)
    sys.exit(agent.main())


if __name__ == "__main__":
    main()
