"""Write the reference pages from the code: `python docs/reference/make.py`."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "src"))

from xenstack.host.api import implicit  # noqa: E402 - after the path
from xenstack.host.calls.call import CALLS, load_all  # noqa: E402
from xenstack.host.database.store import Store  # noqa: E402
from xenstack.host.rules.vm import STATES  # noqa: E402
from xenstack.nova import options  # noqa: E402
from xenstack.xenapi.model import load  # noqa: E402

_DONE_BY_DISPATCH = ("event.", "session.login_with_password", "session.slave_local_login_with_password")
_GENERATED = "Written by `docs/reference/make.py`; do not edit.\n"


def main() -> None:
    load_all()
    (HERE / "messages.md").write_text("\n".join(messages()) + "\n")
    (HERE / "operations.md").write_text("\n".join(operations()) + "\n")
    (HERE / "driver-options.md").write_text("\n".join(driver_options()) + "\n")


def messages() -> Iterator[str]:
    """Per class: how many messages follow from the model, and which of the others have a handler."""
    model = load()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "db")
        # xapi serves records of `message` by hand; here they follow from the model like all others
        derivable = [m for m in model.messages.values() if m.implicit or m.cls == "message"]
        served = {m.full_name for m in derivable if m.state != "Removed" and implicit.plan(store, m)}
        store.close()
    done = served | {n for n in model.messages if n in CALLS or n.startswith(_DONE_BY_DISPATCH)}
    current = {n: m for n, m in model.messages.items() if m.state != "Removed"}
    by_hand = [n for n, m in current.items() if not m.implicit]
    yield "# XenAPI messages\n"
    yield _GENERATED
    yield (
        f"{len(current)} messages: {len(current) - len(by_hand)} follow from the data model, {len(by_hand)} have "
        f"work of their own, of which {len(done & set(by_hand))} are implemented. The others answer NOT_IMPLEMENTED.\n"
    )
    yield "| class | from the model | implemented by hand | not implemented |"
    yield "|---|---|---|---|"
    for cls in sorted({m.cls for m in current.values()}, key=str.lower):
        own = [m for m in current.values() if m.cls == cls]
        derived = sum(m.full_name in done for m in own if m.implicit)
        hand = [m.name for m in own if not m.implicit and m.full_name in done]
        missing = [m.name for m in own if not m.implicit and m.full_name not in done]
        yield f"| {cls} | {derived} | {', '.join(sorted(hand))} | {', '.join(sorted(missing))} |"


def operations() -> Iterator[str]:
    """The table of rules/vm.py."""
    states = ("Halted", "Paused", "Suspended", "Running")
    yield "# VM operations and power states\n"
    yield _GENERATED
    yield "The power states in which an operation may begin; whether the host implements it is another matter.\n"
    yield "| operation | " + " | ".join(states) + " |"
    yield "|---" * (len(states) + 1) + "|"
    for operation, allowed in STATES.items():
        yield f"| {operation} | " + " | ".join("yes" if s in allowed else "" for s in states) + " |"


def driver_options() -> Iterator[str]:
    """The options of nova.conf."""
    yield f"# Options of the driver: [{options.GROUP.name}] in nova.conf\n"
    yield _GENERATED
    for option in options.OPTIONS:
        yield f"**{option.name}** (default: {'none' if option.default is None else f'`{option.default}`'})  "
        yield f"{option.help}\n"


if __name__ == "__main__":
    main()
