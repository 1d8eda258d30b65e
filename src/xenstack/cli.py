"""The command line: ``./xenstack VERB``. Each verb is a function of xenstack.cloud.verbs, or a program it starts.

Modules are imported by the verb that needs them: `help` and `explain` work on a machine where nothing is installed.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Verb = Callable[[Path, argparse.Namespace], int]
_DESCRIPTION = "OpenStack on XenAPI hosts: bring a cloud up on this machine, look at it, test it, take it down."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["host"]:  # its words are its own
        return _host(words[1:])
    words, command = _split(words)
    given = _parser().parse_args(words)
    given.command = command
    root = Path(os.environ.get("XENSTACK_ROOT") or Path(__file__).parents[2]).resolve()
    try:
        return int(given.run(root, given))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # threads that wait for something are not waited for
    except Exception as why:
        if type(why).__name__ not in ("NotYet", "CommandFailed", "ValueError", "PermissionError"):
            raise
        print(f"xenstack: {why}", file=sys.stderr)
        return 1


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What follows a lone -- is a command of its own."""
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xenstack", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Verb, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(run=run)
        return made

    one = verb("up", _up, "install what is missing, start the cloud, boot a guest and show it working")
    one.add_argument("--hosts", type=int, metavar="N", help="number of XenAPI hosts (default: as before, or 1)")
    one = verb("down", _down, "stop everything")
    one.add_argument("--purge", action="store_true", help="also delete the cloud's state (not what was installed)")
    one = verb("status", _status, "every service and host: healthy or not, and its memory")
    one.add_argument("--json", action="store_true", help="for programs")
    one = verb("logs", _logs, "show a service's log, or list the logs")
    one.add_argument("name", nargs="?", metavar="NAME", help="as in `status`: BOX/SERVICE, SERVICE or BOX")
    one.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    one = verb("ssh", _ssh, "log in to a guest over its floating IP: ssh SERVER [-- COMMAND]")
    one.add_argument("server", metavar="SERVER", help="name of a server of project demo")
    one = verb("shell", _shell, "a shell in which `openstack ...` works: shell [-- COMMAND]")
    one.add_argument("--admin", action="store_true", help="as user admin (default: demo)")
    one = verb("test", _test, "run the tests; everything when no group is named")
    one.add_argument("groups", nargs="*", metavar="GROUP", help="unit, contract, host or cloud")
    verb("check", _check, "format, lint, types, import rules and unit tests: under a minute")
    one = verb("explain", _explain, "print the plan of `up` without running it")
    one.add_argument("--hosts", type=int, metavar="N", help="for N hosts")
    verb("bench", _bench, "measure speed and size, as a table: bench [-- OPTIONS]")
    verb("host", _never, "the XenAPI host daemon by itself: host serve --help")
    return parser


def _up(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.up import up

    return up(root, given.hosts)


def _down(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.down import down

    return down(root, purge=given.purge)


def _status(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.status import status

    return status(root, as_json=given.json)


def _logs(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.inside import logs

    return logs(root, given.name, follow=given.follow)


def _ssh(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.inside import ssh

    return ssh(root, given.server, given.command)


def _shell(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.inside import shell

    return shell(root, given.command, as_admin=given.admin)


def _test(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.prove import test

    return test(root, given.groups, given.command)


def _check(root: Path, _: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.prove import check

    return check(root)


def _explain(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.explain import explain

    return explain(root, given.hosts)


def _bench(root: Path, given: argparse.Namespace) -> int:
    from xenstack.cloud.verbs.prove import bench

    return bench(root, given.command)


def _never(root: Path, given: argparse.Namespace) -> int:
    raise ValueError(f"{given.verb} is handed on before its words are read, in {root}")


def _host(words: list[str]) -> int:
    """Become `python -m xenstack.host`, with the words that follow."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "xenstack.host", *words])  # noqa: S606 - words, no shell


if __name__ == "__main__":
    sys.exit(main())
