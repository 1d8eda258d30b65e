"""Neutron's privileged helpers from one warm process: each costs a tenth of the memory and starts at once.

The L3 and DHCP agents start a helper for each kind of privilege: six processes that import the same code anew, 120 MiB
and two seconds of processor time each. Here one process has that code; for each helper it forks, and the child becomes
oslo.privsep's own `helper_main`, unchanged. Two halves:

  * ``python -m xenstack.cloud.privsep SOCKET`` is that process, a service of the network box;
  * ``python3 -I -S privsep.py SOCKET --privsep_context … --privsep_sock_path …`` is what Neutron's `helper_command`
    names: standard library only, it hands its words over and ends with the helper's status.

The socket is root's alone; the server believes nothing but a list of words.
"""

import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path

# what the helpers run; imported once, before any fork
MODULES = (
    "oslo_privsep.daemon",
    "neutron.privileged.agent.linux.dhcp",
    "neutron.privileged.agent.linux.ethtool",
    "neutron.privileged.agent.linux.ip_lib",
    "neutron.privileged.agent.linux.netlink_lib",
    "neutron.privileged.agent.linux.tc_lib",
    "neutron.privileged.agent.linux.utils",
    "neutron.privileged.agent.ovsdb.native.helpers",
)
_LIMIT = 64 << 10  # bytes of words
_PATIENCE_S = 60.0  # how long a helper waits for the server: they start side by side


def serve(path: Path) -> None:
    """Import what helpers run, then fork one for each request; never returns."""
    import gc
    import importlib

    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page it shares with us
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as door:
        old = os.umask(0o177)
        door.bind(str(path))
        os.umask(old)
        door.listen(16)
        while True:
            client, _ = door.accept()
            with client:
                _answer(door, client)


def _answer(door: socket.socket, client: socket.socket) -> None:
    """One request: a JSON list of words on a line; the answer is the helper's exit status on a line."""
    client.settimeout(10)
    try:
        words = json.loads(client.makefile("rb").readline(_LIMIT))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"not a list of words: {words!r}")
    except (OSError, ValueError, RecursionError) as why:
        print(f"privsep: refused: {why}", file=sys.stderr, flush=True)
        return
    child = os.fork()
    if child == 0:
        door.close()
        client.close()
        _become_helper(words)
    _, status = os.waitpid(child, 0)
    try:
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    except OSError as why:
        print(f"privsep: nobody waits for the helper: {why}", file=sys.stderr, flush=True)


def _become_helper(words: list[str]) -> None:
    """In a child: oslo.privsep's program. It forks the helper proper and returns; neither may come back to `serve`."""
    from oslo_privsep import daemon

    status = 1
    try:
        sys.argv = ["privsep-helper", *words]
        daemon.helper_main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ask(path: str, words: list[str]) -> int:
    """Hand the words of a helper to the server and wait until the helper serves; its exit status."""
    deadline = time.monotonic() + _PATIENCE_S
    with socket.socket(socket.AF_UNIX) as server:
        while True:
            try:
                server.connect(path)
                break
            except OSError as why:
                if time.monotonic() > deadline:
                    print(f"privsep: {path} does not answer: {why}", file=sys.stderr)
                    return 1
                time.sleep(0.1)
        server.sendall(json.dumps(words).encode() + b"\n")
        answer = server.makefile("rb").readline(32)
    return int(answer) if answer else 1


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    serve(Path(sys.argv[1]))
