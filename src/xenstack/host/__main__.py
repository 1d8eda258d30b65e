"""`python -m xenstack.host serve`: the host daemon in the foreground."""

import argparse
import asyncio
import logging
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

from xenstack.host import config as configs
from xenstack.host.config import Config, ConfigError, Listener
from xenstack.host.daemon import Daemon, serve, with_default_listener
from xenstack.host.hypervisor.port import HypervisorError
from xenstack.host.network.port import NetworkError
from xenstack.host.storage.port import StorageError

_CANNOT_START = (OSError, ValueError, sqlite3.Error, HypervisorError, NetworkError, StorageError)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="xenstack host", description="A XenAPI toolstack for this machine.")
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("serve", help="run the daemon in the foreground until SIGTERM")
    one.add_argument("--config", type=Path, metavar="FILE", help="TOML file; see --show-config for its fields")
    one.add_argument("--simulated", action="store_true", help="no libvirt, no root: simulated guests, disks and switch")
    one.add_argument("--listen", action="append", default=[], metavar="ADDRESS:PORT", help="answer here (repeatable)")
    one.add_argument("--tls", action="store_true", help="TLS on the --listen addresses")
    one.add_argument("--state", type=Path, metavar="DIR", help="the daemon's own folder")
    one.add_argument("--storage", choices=("file", "simulated"), help="where VDIs live (--simulated: in memory)")
    one.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    one.add_argument("--show-config", action="store_true", help="print what is in force, and end")
    return top


def configured(given: argparse.Namespace) -> Config:
    """The configuration of a command line. Errors: ConfigError."""
    if given.config is not None:
        config = configs.read(given.config)
    elif given.state is not None:
        config = Config(state=given.state.absolute())
    else:
        raise ConfigError("command line", ("give --config FILE, or --state DIR",))
    if given.state is not None:
        config = replace(config, state=given.state.absolute())
    if given.simulated:
        config = replace(config, hypervisor="simulated", network="simulated", storage="simulated")
    if given.storage:
        config = replace(config, storage=given.storage)
    if given.listen:
        config = replace(config, listeners=tuple(Listener(address=each, tls=given.tls) for each in given.listen))
    if given.log_level:
        config = replace(config, log_level=given.log_level)
    if not config.host_address:
        first = next((each for each in config.listeners if each.path is None and not each.problems()), None)
        config = replace(config, host_address=first.host_port[0] if first else "")
    if wrong := configs.problems(config):
        raise ConfigError(str(given.config or "command line"), tuple(wrong))
    return with_default_listener(config)


def announce(daemon: Daemon) -> None:
    """Tell a person at the terminal where the daemon is and how to log in."""
    for url in daemon.urls:
        print(f"XenAPI at {url}")
    print(f"user root, password in {daemon.config.password}", flush=True)
    if daemon.config.hypervisor == "simulated":
        print(f"password: {daemon.config.password.read_text(encoding='utf-8').splitlines()[0]}", flush=True)


def main(words: list[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    given = parser().parse_args(words)
    try:
        config = configured(given)
    except ConfigError as why:
        print(f"xenstack host: {why.source}:", *(f"  {each}" for each in why.problems), sep="\n", file=sys.stderr)
        return 2
    if given.show_config:
        print(configs.show(config), end="")
        return 0
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        asyncio.run(serve(config, announce))
    except _CANNOT_START as why:
        logging.debug("cannot go on", exc_info=True)
        print(f"xenstack host: {type(why).__name__}: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
